"""`python -m transfer data`: which classification sets are there, and how to get the others."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from tyro.conf import Positional

from transfer.datasets.labels.catalogue import CATALOGUE, Entry, data_root, entry_of, missing_parts, read_set
from transfer.datasets.layouts import KNOWN, layouts, recognise
from transfer.runtime.command import Debug
from transfer.runtime.errors import DataError


@dataclass(frozen=True)
class DataOptions(Debug):
    """List the classification sets: where each is looked for, whether it is there, how to get it.

    Attributes:
        names: only these sets.
        dataset: a folder with a set of your own instead: say which layout it is in, and its splits.
        data_root: folder that holds the sets (default: $DETECTRON2_DATASETS, else datasets/ here).
        check: read the annotations of what is there and count images, instead of only looking for the folders.
    """

    names: Positional[tuple[str, ...]] = ()
    dataset: Path | None = None
    data_root: Path | None = None
    check: bool = False


def data_command(arguments: Sequence[str]) -> str:
    """Parse `[NAME …] [options]` and return the listing.

    Raises:
        DataError: a name is not in the catalogue, or the folder is in no layout.
    """
    options = tyro.cli(DataOptions, args=arguments, prog="python -m transfer data")
    if options.dataset is not None:
        return recognised(options.dataset)
    return listing(data_root(options.data_root), options.names or tuple(CATALOGUE), options.check)


def recognised(root: Path) -> str:
    """What a folder is taken for: a line for each layout that fits, with its splits and the options that name it.

    Raises:
        DataError: it is in no layout.
    """
    found = layouts(root) if root.is_dir() else []
    if not found:
        recognise(root, tuple(KNOWN), "the options of the task, see its --help")  # says what is there instead
    return "\n".join(
        f"{layout.title}\n  splits: {', '.join(layout.splits)}\n  named by: {layout.options(None, None)}"
        for layout in found
    )


def listing(root: Path, names: Sequence[str], check: bool = False) -> str:
    """A table of the sets, then remarks on those that were read, then how to get those that are missing.

    Raises:
        DataError: a name is not in the catalogue.
    """
    entries = {name: entry_of(name) for name in names}
    missing = [name for name, entry in entries.items() if missing_parts(entry, root)]
    remarks: dict[str, tuple[str, list[str]]] = {}  # name → state, and what is odd about it
    if check:
        remarks = {name: _read(name, root) for name in entries if name not in missing}
    lines = [f"below {root}", "", _row("set", "state", "folder", ("train", "val", "test", "classes"))]
    for name, entry in entries.items():
        state = "missing" if name in missing else remarks[name][0] if check else "found"
        counts = (entry.train, entry.val, entry.test, entry.classes)
        lines.append(_row(name, state, entry.needs[0], [f"{count:,}" if count else "–" for count in counts]))
    for name, (_, odd) in remarks.items():
        lines += ["", f"{name}:", *(f"  {line}" for line in odd)] if odd else []
    if missing:
        lines += ["", "how to get what is missing (D: or add --download to the command of a task):"]
        lines += [_way(name, entries[name], root) for name in missing]
    return "\n".join(lines)


def _row(name: str, state: str, folder: str, counts: Sequence[str]) -> str:
    train, val, test, classes = counts
    return f"{name:<12}{state:<9}{folder:<21}{train:>10}{val:>7}{test:>8}{classes:>9}".rstrip()


def _way(name: str, entry: Entry, root: Path) -> str:
    lacking = missing_parts(entry, root)
    partly = f" (there, but without {', '.join(lacking)})" if entry.needs[0] not in lacking else ""
    return f"{name:<12}{'D' if entry.download else ' '} {entry.how}{partly}"


def _read(name: str, root: Path) -> tuple[str, list[str]]:
    """State of a set that is there, and the notes of its splits or the reason why it cannot be read."""
    log = logging.getLogger("transfer.datasets")
    level = log.level
    log.setLevel(logging.ERROR)  # the notes are part of the listing, not to be logged beside it as well
    try:
        splits = read_set(name, root)
    except DataError as error:
        return "broken", str(error).split("\n")
    finally:
        log.setLevel(level)
    found = (splits.train, *splits.others())
    return "read", [f"{split.name}: {note}" for split in found for note in split.notes]
