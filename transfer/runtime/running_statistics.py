"""Batch norms that compute a second time what they have seen: it must not count in their running statistics again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

BatchNorm = nn.modules.batchnorm._BatchNorm


def batch_norms(module: nn.Module) -> list[BatchNorm]:
    """Those within `module`, synchronised ones too."""
    return [each for each in module.modules() if isinstance(each, BatchNorm)]


@contextmanager
def statistics_left(norms: Sequence[BatchNorm]) -> Iterator[None]:
    """Running statistics stay as they are: momentum 0, of which every kind of batch norm here takes notice.

    The counter of batches is put back; outputs are those of training.
    """
    momenta = [norm.momentum for norm in norms]
    counts = [None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone() for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None and count is not None:
                norm.num_batches_tracked.copy_(count)
