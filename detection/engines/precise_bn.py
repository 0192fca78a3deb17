"""Batch-norm statistics computed anew before an evaluation (PreciseBN).

Source of the procedure: Detectron2's `TEST.PRECISE_BN` (detectron2/engine/hooks.py, fvcore/nn/precise_bn.py): with
fixed weights, average the batch means and batch variances of `iterations` training batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from transfer.runtime.world import ALONE, World


@torch.no_grad()
def update_bn_statistics(
    model: nn.Module,
    batches: Iterable[Any],
    forward: Callable[[Any], object],
    iterations: int,
    world: World = ALONE,
) -> int:
    """Replace the running statistics of every trained batch norm by averages over `iterations` batches.

    Args:
        model: in training mode; its parameters are not changed.
        batches: at least `iterations` training batches.
        forward: runs the model on one batch in training mode; its result is ignored.
        iterations: how many batches to average, on every process; 0 does nothing.
        world: the processes whose averages are averaged; each sees its own batches. Left to themselves they would end
            with different statistics each (facebookresearch/detectron2#5398), so equality is checked afterwards.

    Returns:
        The number of batch-norm layers updated (layers in eval mode, that is frozen ones, are left alone).
    """
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    layers = [m for m in layers if m.track_running_stats]
    if not layers or iterations == 0:
        return 0
    momenta = [layer.momentum for layer in layers]
    means = [torch.zeros_like(layer.running_mean) for layer in layers]  # type: ignore[arg-type]
    variances = [torch.zeros_like(layer.running_var) for layer in layers]  # type: ignore[arg-type]
    for layer in layers:
        layer.momentum = 1.0  # running statistics become those of the last batch
    try:
        done = 0
        for batch in batches:
            if done == iterations:
                break
            forward(batch)
            done += 1
            for layer, mean, variance in zip(layers, means, variances, strict=True):
                mean += (layer.running_mean - mean) / done  # type: ignore[operator]
                variance += (layer.running_var - variance) / done  # type: ignore[operator]
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
    if done < iterations:
        raise ValueError(f"precise BN wants {iterations} batches, got {done}")
    world.average([*means, *variances])
    for layer, mean, variance in zip(layers, means, variances, strict=True):
        layer.running_mean.copy_(mean)  # type: ignore[union-attr]
        layer.running_var.copy_(variance)  # type: ignore[union-attr]
    world.demand_equal("batch-norm statistics", [*means, *variances])
    return len(layers)


@contextmanager
def put_back(model: nn.Module) -> Iterator[None]:
    """Whatever happens inside to statistics and mode of the model is undone afterwards."""
    buffers, was_training = [buffer.clone() for buffer in model.buffers()], model.training
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in zip(model.buffers(), buffers, strict=True):
                buffer.copy_(before)
        model.train(was_training)
