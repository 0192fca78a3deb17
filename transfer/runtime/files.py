"""Files that are written whole or not at all, and folders that one process works in at a time."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from transfer.runtime.errors import UserError

logger = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parents[2]  # of the checkout


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Call `write(file)` on a temporary file beside `path`, flush it to disk, then rename it over `path`.

    A kill at any moment leaves either the old file or the new one, never half of one.

    Raises:
        UserError: the disk is full or the folder cannot be written; the old file is still there.
    """
    path = Path(path)
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; results are meant to be read by others in the lab.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise UserError(
            f"cannot write {path}",
            found=error.strerror or str(error),
            todo="choose a folder that you can write, or free some space, then type the same command again",
        ) from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def clear_parts(path: Path) -> None:
    """Delete what kills left of this file while it was being written; "*" as its name: of all files of the folder."""
    for leftover in path.parent.glob(f".{path.name}.*.part"):
        leftover.unlink()


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as strict, indented JSON (NaN and infinity are refused), whole or not at all."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


class _Remembering:
    """A file whose own error survives: torch reports whatever `write` raises as an internal error of its zip writer."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def save_torch(content: Any, path: Path) -> None:
    """`torch.save(content, path)`, tensor by tensor; a kill at any moment leaves the old file or the new one.

    Raises:
        UserError: the disk is full or the folder cannot be written; the old file is still there.
    """
    write_atomically(path, lambda file: _write(content, file))


def _write(content: Any, file: BinaryIO) -> None:
    import torch  # takes seconds, which tables need not wait for

    target = _Remembering(file)
    try:
        torch.save(content, target)  # type: ignore[arg-type]  # all that torch needs of a file is `write`
    except (RuntimeError, OSError) as error:
        if target.error is not None:
            raise target.error from error
        raise


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
