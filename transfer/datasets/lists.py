"""Lists in text and JSON files, and whether the files that they name are there."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transfer.datasets.wording import few_lines
from transfer.runtime.errors import DataError


def read_lines(path: Path, todo: str) -> list[str]:
    """Lines of a text file in UTF-8, without blank ones and without white space at their ends.

    Raises:
        DataError: it cannot be read, is not text, or has no line; `todo` says what to do.
    """
    try:
        lines = [line.strip() for line in path.read_text("utf-8-sig").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}", found=str(error), todo=todo) from error
    kept = [line for line in lines if line]
    if not kept:
        raise DataError(f"{path} is empty", todo=todo)
    return kept


def read_columns(path: Path, columns: int, todo: str, separator: str | None = None) -> list[list[str]]:
    """Rows of a text file with `columns` fields, as `str.split(separator, columns - 1)` finds them.

    Raises:
        DataError: as `read_lines`; or a row with fewer fields.
    """
    rows = [line.split(separator, columns - 1) for line in read_lines(path, todo)]
    short = [separator.join(row) if separator else " ".join(row) for row in rows if len(row) < columns]
    if short:
        raise DataError(
            f"{len(short)} of {len(rows)} lines of {path} have fewer than {columns} fields",
            found=few_lines(short),
            todo=todo,
        )
    return rows


def read_json(path: Path, todo: str) -> Any:
    """Contents of a JSON file.

    Raises:
        DataError: it cannot be read, or is no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}", found=str(error), todo=todo) from error


def absent(root: Path, paths: Sequence[str]) -> list[str]:
    """Those of `paths` (below `root`, or absolute) that no folder lists: one listing a folder, no look at the files."""
    listings: dict[str, frozenset[str]] = {}
    missing = []
    for path in paths:
        folder, _, base = path.rpartition("/")
        if folder not in listings:
            listings[folder] = _listing(root / (folder or ("/" if path.startswith("/") else "")))
        if base not in listings[folder]:
            missing.append(path)
    return missing


def _listing(folder: Path) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a zero byte in the path
        return frozenset()
    except OSError as error:
        raise DataError(f"cannot list the folder {folder}", found=str(error)) from error
