"""BatchNorm over the images of all processes."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


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
