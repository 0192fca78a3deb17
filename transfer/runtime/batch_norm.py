"""Batch norm over several processes whose inputs may differ in number and size, as the published detectors have it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


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


def sync_batchnorm(network: nn.Module, device: torch.device) -> nn.Module:
    """The network with BatchNorm layers whose statistics are those of all processes together."""
    if device.type == "cuda":
        synced: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return synced
    for name, child in network.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(network, name, GlobalBatchNorm.like(child))
        else:
            sync_batchnorm(child, device)
    return network


def _sum(part: Tensor) -> Tensor:
    """The sum over all processes, through which gradients flow."""
    whole: Tensor = all_reduce(part)  # type: ignore[no-untyped-call]
    return whole


class GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm over the batches of all processes, for CPUs, where torch's SyncBatchNorm does not run.

    Every process must hold equally many images. Values and gradients equal those of one process with the whole batch.
    """

    @classmethod
    def like(cls, layer: nn.modules.batchnorm._BatchNorm) -> GlobalBatchNorm:
        """The same layer, sharing its parameters and running statistics."""
        made = cls(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
        made.weight, made.bias = layer.weight, layer.bias
        made.running_mean, made.running_var = layer.running_mean, layer.running_var
        made.num_batches_tracked = layer.num_batches_tracked
        return made.train(layer.training)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"expected [n, channels, …], not {list(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """Normalise [n, channels, …] per channel."""
        if not self.training or dist.get_world_size() == 1:
            return super().forward(input)
        wide = input.float()
        axes = [axis for axis in range(input.ndim) if axis != 1]
        shape = [1, -1] + [1] * (input.ndim - 2)
        count = wide.numel() / wide.shape[1] * dist.get_world_size()
        # Two passes (mean, then variance about it): the difference of two large sums would lose digits.
        mean = _sum(wide.sum(axes)) / count
        centred = wide - mean.view(shape)
        variance = _sum(centred.square().sum(axes)) / count
        self._track(mean.detach(), variance.detach() * count / (count - 1))
        normal = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        result: Tensor = normal.to(input.dtype)
        return result

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


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
