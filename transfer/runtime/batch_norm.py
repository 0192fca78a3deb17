"""Batch norm over several processes whose inputs may differ in number and size, as the published detectors have it."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class NaiveSyncBatchNorm(nn.BatchNorm2d):
    """Normalises by the mean of the processes' means and of their mean squares, each process weighing the same.

    That is the statistics of all inputs together only where every process has equally many positions; detectors have
    other numbers of regions, and images of other sizes, on each. It is what "SyncBN" means in the published runs
    (facebookresearch/moco: detection/configs/Base-RCNN-C4-BN.yaml, naiveSyncBN; facebookresearch/detectron2:
    detectron2/layers/batch_norm.py, `NaiveSyncBatchNorm`). The running variance is the biased one, as there. Without
    a process group, with one process, or in eval mode it is `nn.BatchNorm2d`.

    Statistics of half precision inputs are computed in float32. No process may have an empty input.
    """

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, H, W] → the same shape and type."""
        if not self.training or not _several_processes():
            return super().forward(input)
        x = input if input.dtype == torch.float64 else input.float()
        statistics = torch.cat([x.mean((0, 2, 3)), (x * x).mean((0, 2, 3))])
        mean, mean_square = (_sum_over_processes(statistics) / dist.get_world_size()).chunk(2)
        variance = mean_square - mean * mean
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        self._average(mean.detach(), variance.detach())
        return (x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)).to(input.dtype)

    def _average(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        momentum = 0.1 if self.momentum is None else self.momentum
        self.num_batches_tracked += 1
        self.running_mean += momentum * (mean - self.running_mean)
        self.running_var += momentum * (variance - self.running_var)


class _SumOverProcesses(torch.autograd.Function):
    """Every process's output depends on every process's input; so do the gradients, the other way round."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        total = part.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def _sum_over_processes(part: Tensor) -> Tensor:
    total: Tensor = _SumOverProcesses.apply(part)  # type: ignore[no-untyped-call]
    return total


def _several_processes() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
