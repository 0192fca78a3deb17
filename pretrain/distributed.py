"""Several processes that train as one: started by `torchrun`, joined by gloo on CPUs and NCCL on GPUs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from transfer.errors import UserError

T = TypeVar("T")
PATIENCE = timedelta(hours=6)  # one process may fit a probe while the others wait


@dataclass(frozen=True)
class World:
    """This process among the others.

    Attributes:
        rank: 0, 1, …; 0 alone writes.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def gather(self, part: Tensor) -> Tensor:
        """The parts [K, n, …] of all processes, joined along dimension 1 in the order of ranks; without gradients."""
        part = part.detach().contiguous()
        if self.size == 1:
            return part
        parts = [torch.empty_like(part) for _ in range(self.size)]
        dist.all_gather(parts, part)
        return torch.cat(parts, dim=1)

    def collect(self, thing: Any) -> list[Any]:
        """A small object of every process, in the order of ranks."""
        if self.size == 1:
            return [thing]
        things: list[Any] = [None] * self.size
        dist.all_gather_object(things, thing)
        return things

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether it is so on one process at least."""
        if self.size == 1:
            return flag
        total = torch.tensor(int(flag), device=device)
        dist.all_reduce(total)
        return bool(total)

    def together(self, act: Callable[[], T]) -> T:
        """Do something that may fail on one process; then all raise its error, instead of waiting for it for ever.

        Raises:
            UserError: that of the lowest rank that has one.
        """
        error: UserError | None = None
        try:
            result = act()
        except UserError as caught:
            error = caught
        for other in self.collect(error):
            if other is not None:
                raise other
        return result

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in one message.

        Written out instead of DistributedDataParallel: its Reducer, if it is the last to let go of the process group,
        waits under Python's lock for a gloo thread that waits for that lock (seen with PyTorch 2.11: finished runs that
        never exit). What that class would hide, sending while the backward pass still runs, is 100 MB for a ResNet-50.
        """
        if self.size > 1:
            flat = torch.cat([tensor.flatten() for tensor in tensors])
            dist.all_reduce(flat)
            start = 0
            for tensor in tensors:
                tensor.copy_(flat[start : start + tensor.numel()].view(tensor.shape))
                start += tensor.numel()

    @torch.no_grad()
    def copy_from_leader(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite the tensors of all processes with those of rank 0."""
        if self.size > 1:
            for tensor in tensors:
                sent = tensor.contiguous()  # networks are channels_last
                dist.broadcast(sent, 0)
                tensor.copy_(sent)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def world(device: torch.device) -> Iterator[tuple[World, torch.device]]:
    """Join the processes that `torchrun` started; alone otherwise. Gives the device of this process too.

    Raises:
        UserError: more processes on a machine than it has GPUs.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(), device
        return
    local = int(os.environ["LOCAL_RANK"])
    if device.type == "cuda":
        if local >= torch.cuda.device_count():
            raise UserError(
                f"process {local} of this machine has no GPU of its own",
                found=f"{torch.cuda.device_count()} GPUs",
                todo="give torchrun --nproc-per-node no more than that, or --device cpu",
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield World(dist.get_rank(), size), device
    finally:
        dist.destroy_process_group()


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
