"""An index of a records folder, kept beside the records, so that files that have not changed need not be read again.

A file is known by its path below the folder, its size and the times of its last change (mtime and ctime). Whatever
differs is read and checked anew, run id included. A file that changed less than two seconds before it was read is read
again next time: clocks of file systems are coarse, and a later change could bear the same time.

The index is only a memory: a folder that cannot be written has none, one that cannot be read or was written by other
code is made anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from transfer import record as records
from transfer.record import Record, RecordError, read_record
from transfer.runtime.errors import UserError
from transfer.runtime.files import write_atomically

logger = logging.getLogger(__name__)

FILE = ".results-index"  # not .json: whoever looks for records must not find it
FROM = 100  # files; fewer are read in a moment, and a small folder stays as it is
_COARSE = 2_000_000_000  # nanoseconds
_SHARED = ("differences", "data", "conditions", "verification", "versions", "notes", "command", "device")

Columns = dict[str, list[Any]]  # name → a value for each record
Stamp = list[int]  # size, mtime and ctime in nanoseconds


def read_folder(folder: Path, row_of: Callable[[Record], dict[str, Any]]) -> tuple[Columns, list[tuple[str, str]]]:
    """Every record below `folder` as `row_of` gives it, column by column, with "path"; in no particular order.

    Args:
        folder: must exist.
        row_of: record → plain JSON values, of equal keys.

    Returns:
        The columns ({} if there are no records), and (path, message) of each file that is none, in order of path.
    """
    names, stamps, seen, columns = _read(folder / FILE)
    places = {name: place for place, name in enumerate(names)}
    kept, fresh, faults = [], [], []
    for path, name, stamp in sorted(_files(folder), key=lambda found: found[1]):
        place = places.get(name)
        if place is not None and stamps[place] == stamp and stamp[2] <= seen[place] - _COARSE:
            kept.append(place)
            continue
        now = time.time_ns()
        try:
            fresh.append((name, stamp, now, row_of(read_record(Path(path)))))
        except RecordError as error:
            faults.append((path, str(error)))
    changed = bool(fresh) or len(kept) < len(names)
    if len(kept) < len(names):
        names, stamps = [names[place] for place in kept], [stamps[place] for place in kept]
        seen = [seen[place] for place in kept]
        columns = {key: [values[place] for place in kept] for key, values in columns.items()}
    for name, stamp, now, row in fresh:
        names.append(name)
        stamps.append(stamp)
        seen.append(now)
        for key, value in row.items():
            columns.setdefault(key, []).append(value)
    if changed and len(names) >= FROM:
        _write(folder / FILE, names, stamps, seen, columns)
    start = f"{folder}{os.sep}"
    return (columns | {"path": [start + name for name in names]} if names else {}), faults


def _files(folder: Path) -> Iterator[tuple[str, str, Stamp]]:
    """(path, path below the folder, stamp) of every *.json, whatever order."""
    start = len(str(folder)) + 1
    waiting = [str(folder)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif entry.name.endswith(".json"):
                    yield entry.path, entry.path[start:], _stamp(entry)


def _stamp(entry: os.DirEntry[str]) -> Stamp:
    try:
        found = entry.stat()
    except OSError:  # gone since, or a link to nowhere: reading it says what is wrong
        return [-1, -1, time.time_ns()]
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


@cache
def _code() -> str:
    """Digest of the code that makes rows: an index of other code is not read."""
    digest = hashlib.sha256()
    for file in (Path(__file__), Path(__file__).with_name("frame.py"), Path(records.__file__)):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _read(file: Path) -> tuple[list[str], list[Stamp], list[int], Columns]:
    try:
        head, _, body = file.read_bytes().partition(b"\n")
        if head.decode() != f"{_code()} {hashlib.sha256(body).hexdigest()}":
            logger.debug("%s is of other code, or damaged: made anew", file)
            return [], [], [], {}
        content = json.loads(body)
    except (OSError, ValueError) as error:
        logger.debug("no index: %s", error)
        return [], [], [], {}
    shared, columns = content["shared"], content["columns"]
    for key in _SHARED:
        columns[key] = [shared[place] for place in columns[key]]
    return content["names"], content["stamps"], content["seen"], columns


def _write(file: Path, names: list[str], stamps: list[Stamp], seen: list[int], columns: Columns) -> None:
    places: dict[str, int] = {}
    shared: list[Any] = []
    slim = dict(columns)
    for key in _SHARED:  # most runs have these in common with others
        slim[key] = []
        for value in columns[key]:
            text = json.dumps(value, sort_keys=True)
            if text not in places:
                places[text] = len(shared)
                shared.append(value)
            slim[key].append(places[text])
    content = {"names": names, "stamps": stamps, "seen": seen, "shared": shared, "columns": slim}
    body = json.dumps(content, separators=(",", ":")).encode()
    head = f"{_code()} {hashlib.sha256(body).hexdigest()}\n".encode()
    try:
        write_atomically(file, lambda opened: opened.write(head + body))
    except UserError as error:
        logger.debug("no index is kept: %s", error)
