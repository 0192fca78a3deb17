"""Puts chosen records among the published evidence, without the paths of the machine that made them."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from results.frame import RECORD_FOLDERS, ROOT
from transfer.record import Record, files_of_run, read_record, write_record
from transfer.runtime.errors import UserError

PUBLISHED = ROOT / "results" / "records"

# An absolute path of at least two parts that is a word of its own or follows a quote, "=", ":" or a bracket; the
# lookbehind keeps URLs ("//") and relative paths whole.
_ABSOLUTE = re.compile(r"(?<![\w./~…])(?:~|file://)?(?:/[^\s/'\"<>|:,;()\[\]{}]+){2,}/?")

_SAFE = r"[\w@%+=:,./…-]+"  # needs no quotes


def export(
    names: Sequence[str], to: Path = PUBLISHED, allow_dirty: bool = False, overwrite: bool = False
) -> list[Path]:
    """Copy records to `to/<task>/<run id>.json`; all are read and checked before the first is written.

    Args:
        names: record files, or run ids (or their beginnings) of records in `runs/records`.
        to: where the evidence lies.
        allow_dirty: also take runs of code that no commit holds.
        overwrite: replace a finished record by a failed one.

    Raises:
        UserError: a record cannot be found or read, or was made by code that no commit holds.
    """
    if not names:
        raise UserError("no record was named", todo=f"name record files, or ids of runs in {RECORD_FOLDERS[0]}")
    records = [read_record(_find(name)) for name in names]
    dirty = [f"{record.run_id} ({record.label}, {record.task})" for record in records if record.git_dirty]
    if dirty and not allow_dirty:
        raise UserError(
            "evidence must name the code that made it, and these runs were made by code that no commit holds",
            found="\n".join(dirty),
            todo="commit, and do the runs again; or say --allow-dirty, and the table will show it in a footnote",
        )
    return [write_record(without_machine(record), to, overwrite=overwrite) for record in records]


def _find(name: str) -> Path:
    path = Path(name)
    if path.suffix == ".json" or path.exists():
        return path
    folder = RECORD_FOLDERS[0]
    found = files_of_run(name, [folder])
    if len(found) != 1:
        raise UserError(
            f"{name} is neither a record file nor the id of one run in {folder}",
            found="\n".join(map(str, found)) or "no such run",
            todo="give the path of the record, or at least 4 characters of the run id",
        )
    return found[0]


def without_machine(record: Record) -> Record:
    """The record with every absolute path cut to "…/" and its last part, and the checkpoint's path to its file name.

    What the run id is made of (task, recipe, data, seed, hashes) stays as it is.
    """
    checkpoint = record.checkpoint | {"path": Path(record.checkpoint["path"]).name}
    texts = ("differences", "details", "verification", "notes", "failure", "device")
    return dataclasses.replace(
        record,
        checkpoint=checkpoint,
        command=command_without_machine(record.command),
        **{name: shortened(getattr(record, name)) for name in texts},
    )


def command_without_machine(command: str) -> str:
    """A command line with its absolute paths cut; word by word, so that quoted paths with spaces are found whole."""
    try:
        words = shlex.split(command)
    except ValueError:  # an unclosed quote: not a shell's command line, so treat it as text
        return str(shortened(command))
    return " ".join(_word(word) for word in words)


def _word(word: str) -> str:
    before, path = re.fullmatch(r"([\w-]+=)?(.*)", word, re.DOTALL).groups("")  # type: ignore[union-attr]
    if path.startswith(("/", "~/")) and Path(path).name:
        path = f"…/{Path(path).name}"
        return before + (path if re.fullmatch(_SAFE, path) else shlex.quote(path))
    word = str(shortened(word))
    return word if re.fullmatch(_SAFE, word) else shlex.quote(word)


def shortened(value: Any) -> Any:
    """Plain values with every absolute path in their texts cut to "…/" and its last part."""
    if isinstance(value, str):
        return _ABSOLUTE.sub(lambda found: "…/" + found.group().rstrip("/").rsplit("/", 1)[-1], value)
    if isinstance(value, list):
        return [shortened(item) for item in value]
    if isinstance(value, dict):
        return {key: shortened(item) for key, item in value.items()}
    return value
