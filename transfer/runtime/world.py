"""Several processes that work as one: started by `torchrun`, joined by gloo on CPUs and NCCL on GPUs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from transfer.runtime.errors import UserError

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

    def mean(self, numbers: Sequence[float], device: torch.device) -> list[float]:
        """Each number averaged over all processes; NaN if it is so on one of them."""
        if self.size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        averaged: list[float] = (total / self.size).tolist()
        return averaged

    @torch.no_grad()
    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over all processes, in one message."""
        if self.size > 1 and tensors:
            self.add_up(tensors)
            for tensor in tensors:
                tensor.div_(self.size)

    def demand_equal(self, what: str, tensors: Iterable[Tensor]) -> None:
        """Compare the bytes of tensors over all processes.

        Raises:
            UserError: they differ.
        """
        if self.size == 1:
            return
        digest = hashlib.sha256()
        for tensor in tensors:
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        found = self.collect(digest.hexdigest())
        if len(set(found)) > 1:
            raise UserError(
                f"{what} differ between the processes that train together",
                found=", ".join(f"process {rank}: {value[:8]}" for rank, value in enumerate(found)),
                todo="this is a fault of the program: please report it",
            )

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()


ALONE = World()


def world_size() -> int:
    """How many processes `torchrun` has started, before they have joined; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def world(device: torch.device) -> Iterator[tuple[World, torch.device]]:
    """Join the processes that `torchrun` started; alone otherwise. Gives the device of this process too.

    Raises:
        UserError: more processes on a machine than it has GPUs.
    """
    size = world_size()
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
    # Optimisers import torch._dynamo and with it this module, whose functions take the group of that moment for their
    # defaults: imported once processes have joined, it keeps the group alive behind its end, and gloo's threads with
    # it. One of them that lets go of a tensor while Python ends has ended finished runs by SIGABRT (PyTorch 2.11).
    import_module("torch.distributed.nn.functional")
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield World(dist.get_rank(), size), device
    finally:
        dist.destroy_process_group()
