"""A folder that one process works in at a time."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transfer.errors import UserError


@contextmanager
def locked(folder: Path, what: str, todo: str, name: str = "lock") -> Iterator[None]:
    """Hold the folder's lock; the operating system lets go of it however the process ends.

    Args:
        folder: made if absent.
        what, todo: the message if another process holds it.
        name: of the lock file.

    Raises:
        UserError: another process holds it, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / name).open("w")
    except OSError as error:
        raise UserError(f"cannot write to {folder}", found=error.strerror or str(error)) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(what, todo=todo) from error
        yield
