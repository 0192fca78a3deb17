"""Every text file is opened with its encoding: no locale decides what is read (ruff's PLW1514 finds half of them)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("transfer", "detection", "segmentation", "finegrained", "results", "pretrain", "tests")
BINARY_OPENERS = ("Image", "gzip", "tarfile", "zipfile", "os", "archive", "store")  # their `open` is none of text


def unsaid(source: str) -> list[int]:
    """Lines that open a text file without an encoding."""
    return sorted(node.lineno for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and _lacks(node))


def _lacks(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    given = {keyword.arg for keyword in call.keywords}
    if "encoding" in given or None in given:
        return False
    if name == "read_text":
        return not call.args
    if name == "write_text":
        return isinstance(call.func, ast.Attribute) and len(call.args) == 1
    if name != "open":
        return False
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    if isinstance(owner, ast.Name) and owner.id in BINARY_OPENERS:
        return False
    texts = [part.value for part in _constants(call)]
    return not any(mode.strip("+") in ("rb", "wb", "ab", "xb", "r+b") or "b" in mode[:3] for mode in texts)


def _constants(call: ast.Call) -> Iterator[ast.Constant]:
    first = 0 if isinstance(call.func, ast.Attribute) else 1
    modes = [*call.args[first : first + 1], *(word.value for word in call.keywords if word.arg == "mode")]
    return (mode for mode in modes if isinstance(mode, ast.Constant) and isinstance(mode.value, str))


@pytest.mark.parametrize("room", ROOMS)
def test_text_files_are_opened_with_an_encoding(room: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / room).rglob("*.py"))
        for line in unsaid(path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("line", "bad"),
    [
        ("path.read_text()", True),
        ("path.read_text('utf-8')", False),
        ("path.write_text(text)", True),
        ("path.write_text(text, encoding='utf-8')", False),
        ("write_text(path, text)", False),  # this project's own, which says UTF-8 itself
        ("open(path)", True),
        ("open(path, 'rb')", False),
        ("path.open('a')", True),
        ("path.open(mode='r+b')", False),
        ("Image.open(path)", False),
    ],
)
def test_the_check_itself(line: str, bad: bool) -> None:
    assert bool(unsaid(line)) is bad
