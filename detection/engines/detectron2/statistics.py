"""Batch-norm statistics for an evaluation, and a model that does not notice that it was evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage
from torch import nn

from detection.engines.detectron2.checkpoint import loss_normalizer, set_loss_normalizer
from detection.engines.detectron2.data import train_batches
from detection.engines.precise_bn import update_bn_statistics
from detection.recipe import DetectionJob


def precise_bn_batches(cfg: CfgNode) -> int:
    """How many batches the statistics are averaged over; 0 if they stay those of the training."""
    return int(cfg.TEST.PRECISE_BN.NUM_ITER) if cfg.TEST.PRECISE_BN.ENABLED else 0


def renew_statistics(cfg: CfgNode, job: DetectionJob, model: nn.Module) -> int:
    """PreciseBN: the statistics of every trained batch norm, averaged over training batches, in full precision.

    The batches come from a plan of their own, the same after every resume.

    Returns:
        The number of layers renewed.
    """
    batches = precise_bn_batches(cfg)
    if batches == 0:
        return 0
    seed = job.seed + 1  # another stream of images, the same one as in the mmdet engine
    model.train()
    with EventStorage():  # the losses, not used here, are reported to it
        return update_bn_statistics(model, train_batches(cfg, job, seed, 0, batches), model, batches, job.world)


@contextmanager
def put_back(model: nn.Module) -> Iterator[None]:
    """Whatever an evaluation does to statistics, loss normaliser and mode of the model is undone afterwards."""
    buffers = [buffer.clone() for buffer in model.buffers()]
    normalizer, was_training = loss_normalizer(model), model.training
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in zip(model.buffers(), buffers, strict=True):
                buffer.copy_(before)
        set_loss_normalizer(model, normalizer)
        model.train(was_training)
