"""A full /dev/shm, said in words: PyTorch's data-loading processes hand images over through it.

Where it has no room, a worker is killed by a bus error (a page of the file cannot be had), or cannot make the file.
Containers have 64 MB of it by default (docs.docker.com: `--shm-size`).
"""

from __future__ import annotations

import re

from transfer.errors import TrainingError

_SIGNS = re.compile(r"Bus error|unable to (?:allocate|open|write|mmap)[^\n]*shared memory|/torch_\d+_\d+|/dev/shm")


def out_of_shared_memory(error: BaseException) -> TrainingError | None:
    """The error for people if `error`, or what it came from, says that shared memory is full; None otherwise."""
    one: BaseException | None = error
    while one is not None:
        if isinstance(one, (RuntimeError, OSError)) and _SIGNS.search(str(one)):
            return TrainingError(
                "the data-loading processes ran out of shared memory (/dev/shm)",
                found=str(one).strip().splitlines()[-1][:200],
                todo="type the same command with --workers 0 or fewer workers, which changes no number; or make room: "
                "in a container `docker run --shm-size 8g …`, elsewhere `mount -o remount,size=8g /dev/shm`",
            )
        one = one.__cause__ or one.__context__
    return None
