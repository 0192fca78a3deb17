"""`torch.save`, whole or not at all, without a second copy in memory, and with the true error of a full disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import torch

from transfer.runtime.files import write_atomically


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
    target = _Remembering(file)
    try:
        torch.save(content, target)  # type: ignore[arg-type]  # all that torch needs of a file is `write`
    except (RuntimeError, OSError) as error:
        if target.error is not None:
            raise target.error from error
        raise
