"""Where the runs of a suite may be at one time: cores of this processor, or its GPUs."""

from __future__ import annotations

import os

from transfer.cli import GPU_GIGABYTES, check_machine
from transfer.runtime.errors import UserError
from transfer.suites.pool import Slot
from transfer.suites.processes import in_a_process

ALIKE = 1.02  # GPUs of one model differ by less: a share of the memory is kept by the driver


def cpu_slots(jobs: int, gpus: tuple[int, ...], per_gpu: int, workers: int) -> list[Slot]:
    """So many at a time on the cores.

    Raises:
        UserError: an option that is about GPUs.
    """
    check_machine("cpu", workers)
    if gpus or per_gpu != 1:
        raise UserError(
            f"--{'gpus' if gpus else 'per-gpu'} on a CPU", todo="leave it out; --jobs says how many at a time"
        )
    return [Slot()] * jobs


def gpu_slots(jobs: int, gpus: tuple[int, ...], per_gpu: int, processes: int, workers: int) -> list[Slot]:
    """So many at a time on each GPU, or on each group of `processes` of them.

    Recipes are fitted to the memory of a GPU, so those of one suite have the same, and runs that share one share it.

    Raises:
        UserError: no such GPUs, too few for a run, or of unequal memory.
    """
    check_machine("cuda", workers)
    if jobs != 1:
        raise UserError(f"--jobs {jobs} on GPUs", todo="give --gpus and --per-gpu; --device cpu computes on the cores")
    memories: list[float] = in_a_process(gpu_memories)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = visible.split(",") if visible else [str(number) for number in range(len(memories))]
    unknown = [number for number in gpus if number not in range(len(memories))]
    if unknown:
        raise UserError(
            f"there is no GPU {unknown[0]}", found=f"PyTorch sees {len(memories)}", todo="they count from 0"
        )
    chosen = gpus or tuple(range(len(memories)))
    largest, smallest = max(memories[number] for number in chosen), min(memories[number] for number in chosen)
    if largest > ALIKE * smallest:
        raise UserError(
            "GPUs of unequal memory would do the same task by unequal recipes",
            found=", ".join(f"GPU {number}: {memories[number]:.0f} GB" for number in chosen),
            todo="choose equal ones with --gpus, and a --runs folder of its own for the others",
        )
    groups = [chosen[at : at + processes] for at in range(0, len(chosen), processes)]
    whole = [",".join(names[number] for number in group) for group in groups if len(group) == processes]
    if not whole:
        raise UserError(
            f"--processes {processes}, one a GPU", found=f"{len(chosen)} GPUs", todo="give --processes fewer"
        )
    share = {GPU_GIGABYTES: f"{smallest / per_gpu:.2f}"}
    return [Slot(f"GPU {group}", {"CUDA_VISIBLE_DEVICES": group, **share}) for _ in range(per_gpu) for group in whole]


def gpu_memories() -> list[float]:
    """GB of each GPU that PyTorch sees."""
    import torch

    return [torch.cuda.get_device_properties(each).total_memory / 1e9 for each in range(torch.cuda.device_count())]
