"""A full /dev/shm, said in words: PyTorch's data-loading processes hand images over through it.

Where it has no room, a worker is killed by a bus error (a page of the file cannot be had), or cannot make the file.
Containers have 64 MB of it by default (docs.docker.com: `--shm-size`).
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import shutil
import signal
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

from transfer.runtime.errors import TrainingError

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

    Asked before they start, which is when most runs meet it; what fills up later is seen by `_end_if_full`.
    """
    if not workers or not SHARED_MEMORY.is_dir():
        return
    Queue._on_queue_feeder_error = staticmethod(_end_if_full)  # type: ignore[attr-defined]
    free, wanted = shutil.disk_usage(SHARED_MEMORY).free, workers * LEAST_PER_WORKER
    if free < wanted:
        raise TrainingError(
            f"{workers} data-loading processes need room in shared memory ({SHARED_MEMORY})",
            found=f"{free / 2**20:.1f} MiB free, {wanted / 2**20:.0f} MiB wanted at least",
            todo=_WAY_OUT,
        )


def _full() -> bool:
    """Whether it is shared memory, not a disk, that has no space left: a semaphore that cannot be made has no name."""
    return SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free < 2**20


_usual = Queue._on_queue_feeder_error  # type: ignore[attr-defined]


def _end_if_full(error: Exception, batch: Any) -> None:
    """What a thread of a worker calls that could not hand over `batch`.

    It would print the error and go on, and the main process would wait for that batch for ever. A bus error, the other
    way in which a worker runs out of memory, is seen there.
    """
    if multiprocessing.parent_process() is not None and out_of_shared_memory(error):
        os.kill(os.getpid(), signal.SIGBUS)
    _usual(error, batch)


def out_of_shared_memory(error: BaseException) -> TrainingError | None:
    """The error for people if `error`, or what it came from, says that shared memory is full; None otherwise."""
    one: BaseException | None = error
    while one is not None:
        unnamed = isinstance(one, OSError) and one.errno == errno.ENOSPC and one.filename is None
        if (isinstance(one, (RuntimeError, OSError)) and _SIGNS.search(str(one))) or (unnamed and _full()):
            return TrainingError(
                "the data-loading processes ran out of shared memory (/dev/shm)",
                found=str(one).strip().splitlines()[-1][:200],
                todo=_WAY_OUT,
            )
        one = one.__cause__ or one.__context__
    return None
