"""Batch-norm statistics for an evaluation, and a model that does not notice that it was looked at."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from detection.engines.mmdet.data import deliver_together, training_batches
from detection.engines.plan import seed_for_iteration
from detection.engines.precise_bn import update_bn_statistics
from detection.recipe import DetectionJob


def renew_statistics(job: DetectionJob, model: Any) -> int:
    """PreciseBN over batches of a plan of its own, so that a resumed run averages the same ones; in full precision.

    Returns:
        The number of layers renewed.
    """
    batches = job.recipe.precise_bn
    if batches == 0:
        return 0
    seed, numbers = job.seed + 1, itertools.count()  # another stream of images, the same one as in the other engine

    def forward(batch: Any) -> None:
        seed_for_iteration(seed, next(numbers), job.world.rank)
        model(**model.data_preprocessor(batch, True), mode="loss")

    model.train()
    loader = training_batches(job, seed, 0, batches)
    return update_bn_statistics(model, deliver_together(loader, job.world, job.device), forward, batches, job.world)


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
