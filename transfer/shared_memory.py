"""A full /dev/shm, said in words: PyTorch's data-loading processes hand images over through it.

Where it has no room, a worker is killed by a bus error (a page of the file cannot be had), or cannot make the file.
Containers have 64 MB of it by default (docs.docker.com: `--shm-size`).
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from transfer.errors import TrainingError

SHARED_MEMORY = Path("/dev/shm")
# Two batches ahead of 64 images of 224×224 float32 pixels, and each worker: 77 MB; small images need far less.
LEAST_PER_WORKER = 8 * 2**20
_WAY_OUT = (
    "type the same command with --workers 0 or fewer workers, which changes no number; or make room: "
    "in a container `docker run --shm-size 8g …`, elsewhere `mount -o remount,size=8g /dev/shm`"
)

_SIGNS = re.compile(r"Bus error|unable to (?:allocate|open|write|mmap)[^\n]*shared memory|/torch_\d+_\d+|/dev/shm")


def demand_shared_memory(workers: int) -> None:
    """Raise `TrainingError` if /dev/shm has no room for so many workers.

    Asked before they start: a worker that cannot hand over its batch says so in a thread of its own, and PyTorch's
    main process waits for that batch for ever.
    """
    if not workers or not SHARED_MEMORY.is_dir():
        return
    free, wanted = shutil.disk_usage(SHARED_MEMORY).free, workers * LEAST_PER_WORKER
    if free < wanted:
        raise TrainingError(
            f"{workers} data-loading processes need room in shared memory ({SHARED_MEMORY})",
            found=f"{free / 2**20:.1f} MiB free, {wanted / 2**20:.0f} MiB wanted at least",
            todo=_WAY_OUT,
        )


def out_of_shared_memory(error: BaseException) -> TrainingError | None:
    """The error for people if `error`, or what it came from, says that shared memory is full; None otherwise."""
    one: BaseException | None = error
    while one is not None:
        if isinstance(one, (RuntimeError, OSError)) and _SIGNS.search(str(one)):
            return TrainingError(
                "the data-loading processes ran out of shared memory (/dev/shm)",
                found=str(one).strip().splitlines()[-1][:200],
                todo=_WAY_OUT,
            )
        one = one.__cause__ or one.__context__
    return None
