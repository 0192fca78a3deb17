"""A folder that one process works in at a time."""

from __future__ import annotations

import fcntl
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transfer.runtime.errors import UserError

logger = logging.getLogger(__name__)


@contextmanager
def locked(
    folder: Path, what: str, todo: str, name: str = "lock", patience: float = 0, notice: str = ""
) -> Iterator[None]:
    """Hold the folder's lock; the operating system lets go of it however the process ends.

    Children that a killed process left behind may hold it for a moment longer: it is tried for `patience` seconds.

    Args:
        folder: made if absent.
        what, todo: the message if another process holds it.
        name: of the lock file.
        patience: seconds.
        notice: logged once if there is something to wait for.

    Raises:
        UserError: another process holds it, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / name).open("w", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"cannot write to {folder}",
            found=error.strerror or str(error),
            todo="name a folder of your own (--runs DIR; --out DIR for pretraining), or make this one writable",
        ) from error
    with lock:
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise UserError(what, todo=todo) from error
                if notice:
                    logger.info(notice)
                    notice = ""
                time.sleep(0.2)
            except OSError as error:
                raise UserError(f"cannot lock {folder / name}", found=error.strerror or str(error)) from error
        yield
