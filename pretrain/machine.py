"""How a machine trains: nothing here moves a number beyond rounding, which a long training amplifies."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pretrain.recipe import Recipe, at_least
from transfer.runtime.conditions import THREADS, Conditions, settle
from transfer.runtime.errors import UserError

if TYPE_CHECKING:
    import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc, malloc.h
LOWEST = {"workers": 0, "threads": 1, "log_every": 1, "save_every": 1, "probe_every": 1, "unreadable": 0}


@dataclass(frozen=True)
class Machine:
    """How this machine does it; nothing here moves a number beyond rounding. What does is kept in the checkpoint.

    Attributes:
        device: cpu, cuda, or auto: the GPU where there is one. Several: start with torchrun --nproc-per-node N.
        workers: processes per device that decode and augment; 0: the training process does it.
        threads: of PyTorch on the CPU, the same on every machine unless given; more are faster and round otherwise.
        compile: compile the networks with torch.compile.
        log_every: steps between lines of metrics.jsonl.
        save_every: steps between checkpoints; there is always one at the end.
        unreadable: images that may turn out unreadable; each is listed and another is seen in its place. One more
            stops the training.
        probe_train: labelled images (as DATA) on whose frozen features kNN and linear probes are fitted while training.
        probe_test: labelled images on which they are tested.
        probe_every: epochs between probes; there is always one at the end.
    """

    device: str = "auto"
    workers: int = 8
    threads: int = THREADS
    compile: bool = False
    log_every: int = 20
    save_every: int = 500
    unreadable: int = 10
    probe_train: Path | None = None
    probe_test: Path | None = None
    probe_every: int = 10

    def check(self) -> None:
        """Refuse what no loop can do.

        Raises:
            UserError: a number is out of range, or one of the two probe sets is missing.
        """
        at_least(self, LOWEST)
        if (self.probe_train is None) != (self.probe_test is None):
            raise UserError("only one of --probe-train and --probe-test is given", todo="give both or none")

    def torch_device(self) -> torch.device:
        """The device.

        Raises:
            UserError: a GPU is asked for and there is none.
        """
        import torch

        available = torch.cuda.is_available()
        if self.device == "auto":
            return torch.device("cuda" if available else "cpu")
        if self.device.startswith("cuda") and not available:
            raise UserError("--device cuda, but PyTorch sees no GPU", todo="use --device cpu")
        try:
            return torch.device(self.device)
        except RuntimeError as error:
            raise UserError(f"unknown device {self.device!r}", todo="use --device cpu or --device cuda") from error


def prepare(device: torch.device, threads: int = THREADS) -> Conditions:
    """Settings of this process: its threads, and what makes training faster; returns what it computes with."""
    import torch

    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # shapes are fixed: the fastest algorithm is searched once
    libc = ctypes.CDLL(None)
    if device.type == "cpu" and hasattr(libc, "mallopt"):
        # glibc maps every large block anew and the kernel fills it with zeros, page by page, which costs every step
        # again. Freed memory is kept instead.
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    return settle(device, threads)


def check_precision(recipe: Recipe, device: torch.device) -> None:
    """Refuse a precision that the device does not have.

    Raises:
        UserError: fp16 on a CPU.
    """
    if recipe.precision == "fp16" and device.type != "cuda":
        raise UserError("--precision fp16 needs a GPU", todo="use --precision bf16 or fp32")
