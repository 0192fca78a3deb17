"""The arrows between rooms and files: who may import whom, no circle, no file too long to be read."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LONGEST = 600  # lines

# Room → what its files may import, beside each other. A room that is named within another is a room of its own.
MAY_IMPORT = {
    "transfer/runtime": (),
    "transfer/checkpoints/families": ("transfer/runtime",),
    "transfer/checkpoints": ("transfer/checkpoints/families", "transfer/runtime"),
    "transfer/checkpoints/formats": ("transfer/checkpoints", "transfer/checkpoints/families", "transfer/runtime"),
    "transfer/datasets": ("transfer/runtime",),
    "transfer/classification/probes": ("transfer/runtime",),
    "transfer/classification": (
        *("transfer/classification/probes", "transfer/checkpoints", "transfer/checkpoints/families"),
        *("transfer/datasets", "transfer/runtime", "transfer/task.py", "transfer/protocol.py", "transfer/record.py"),
    ),
    "transfer/tasks": (
        *("transfer/classification", "transfer/classification/probes", "transfer/checkpoints", "transfer/datasets"),
        *("transfer/runtime", "transfer/task.py", "transfer/protocol.py"),
    ),
    "transfer/suites": (
        *("transfer/checkpoints", "transfer/datasets", "transfer/runtime"),
        *("transfer/cli.py", "transfer/record.py", "transfer/task.py"),
    ),
    # Recipes find the formats by name, so the readers import the registry and nothing of the formats themselves.
    "transfer": (
        *("transfer/checkpoints", "transfer/checkpoints/formats/__init__.py", "transfer/checkpoints/families"),
        *("transfer/datasets", "transfer/runtime", "transfer/suites"),
    ),
    "detection": (
        *("transfer/checkpoints", "transfer/datasets", "transfer/runtime", "transfer/task.py", "transfer/protocol.py"),
        "transfer/checkpoints/formats",  # an engine places tensors under its library's names
        "transfer/checkpoints/families",
    ),
    "segmentation": ("detection", "transfer/runtime", "transfer/task.py", "transfer/protocol.py"),
    "finegrained": (
        *("transfer/classification", "transfer/datasets", "transfer/runtime"),
        *("transfer/task.py", "transfer/protocol.py"),
    ),
    "pretrain": (
        *("transfer/checkpoints/families", "transfer/classification/probes"),
        *("transfer/datasets", "transfer/runtime"),
    ),
    "results": ("transfer/runtime", "transfer/record.py"),
}
# An arrow of one file that the table does not show, with the reason.
ALSO = {
    ("transfer/checkpoints/read.py", "transfer/checkpoints/formats/__init__.py"): "reading asks every format",
    ("transfer/checkpoints/read.py", "transfer/checkpoints/formats/prefix.py"): "--prefix names no format",
    ("transfer/checkpoints/inspect.py", "transfer/checkpoints/formats/__init__.py"): "says of each why it declines",
    (
        "transfer/checkpoints/write.py",
        "transfer/checkpoints/formats/__init__.py",
    ): "asks each what it can be written as",
}


def files() -> dict[str, Path]:
    """Dotted name → file, of all production code."""
    found = {}
    for room in sorted({room.partition("/")[0] for room in MAY_IMPORT}):
        for path in (ROOT / room).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


FILES = files()


def imported(path: Path) -> Iterator[str]:
    """Files of this project that a file imports, anywhere in it: at its top, in a function, for types alone."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in FILES else str(node.module) for name in inner]
        else:
            continue
        yield from (FILES[name].relative_to(ROOT).as_posix() for name in names if name in FILES)


ARROWS = {path.relative_to(ROOT).as_posix(): sorted(set(imported(path))) for path in FILES.values()}


def room(file: str) -> str:
    """The innermost room that a file lies in."""
    return max((name for name in MAY_IMPORT if file.startswith(f"{name}/")), key=len)


def test_contributing_shows_this_table() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| `")]
    shown = {re.findall(r"`(.+?)`", row[0])[0]: set(re.findall(r"`(.+?)`", row[2])) for row in rows}
    named = {room: {target.removeprefix("transfer/") for target in targets} for room, targets in MAY_IMPORT.items()}
    assert shown == named


def test_all_rooms_are_there_and_have_files() -> None:
    assert {room(file) for file in ARROWS} == set(MAY_IMPORT)


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_a_room_imports_only_what_the_table_allows(name: str) -> None:
    allowed = MAY_IMPORT[name]
    refused = [
        f"{file} imports {target}"
        for file, targets in ARROWS.items()
        if room(file) == name
        for target in targets
        if room(target) != name and room(target) not in allowed and target not in allowed
        if (file, target) not in ALSO
    ]
    assert not refused


def test_every_exception_is_in_use() -> None:
    assert [pair for pair in ALSO if pair[1] not in ARROWS[pair[0]]] == []


def test_no_circle_of_files() -> None:
    left = {file: {target for target in targets if target != file} for file, targets in ARROWS.items()}
    while ends := [file for file, targets in left.items() if not targets & left.keys()]:
        for file in ends:
            del left[file]
    assert not left  # each of these imports another of them


def test_no_file_is_too_long() -> None:
    paths = [*FILES.values(), *(ROOT / "tests").rglob("*.py")]
    long = {
        str(path): count for path in paths if (count := len(path.read_text(encoding="utf-8").splitlines())) > LONGEST
    }
    assert not long


def test_a_file_imports_no_name_that_begins_with_an_underscore_from_another() -> None:
    private = [
        f"{file} takes {alias.name} from {node.module}"
        for file in ARROWS
        for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and str(node.module) in FILES
        for alias in node.names
        if alias.name.startswith("_")
    ]
    assert not private


# Classes that are one thing under one name in several files: what every preset of pretraining has to offer.
ONE_IN_EVERY_FILE = {"Settings"}


def test_no_two_classes_of_one_name() -> None:
    named: dict[str, list[str]] = {}
    for file in sorted(ARROWS):
        for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                named.setdefault(node.name, []).append(file)
    twice = {name: tuple(found) for name, found in named.items() if len(found) > 1}
    assert not {name: found for name, found in twice.items() if name not in ONE_IN_EVERY_FILE}
    assert twice.keys() >= ONE_IN_EVERY_FILE
