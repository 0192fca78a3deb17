"""Tables as text: aligned for a terminal, or markdown. Knows nothing of what is in them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH = 110


class Footnotes:
    """Hands out the marks a, b, …, z, aa, ab, …; the same text keeps its mark."""

    def __init__(self) -> None:
        self._marks: dict[str, str] = {}

    def mark(self, text: str) -> str:
        """The mark of `text`, a new one if it is said for the first time."""
        return self._marks.setdefault(text, _letters(len(self._marks)))

    def items(self) -> tuple[tuple[str, str], ...]:
        """(mark, text) in order of the marks."""
        return tuple((mark, text) for text, mark in self._marks.items())


def _letters(number: int) -> str:
    letters = ""
    while number >= 0:
        number, rest = divmod(number, 26)
        letters, number = chr(ord("a") + rest) + letters, number - 1
    return letters


@dataclass(frozen=True)
class Block:
    """One table with what is said above and below it.

    Attributes:
        title: heading.
        lines: sentences under the heading.
        headers, rows: cells as text; numbers come padded, so that left-aligned columns line up at the decimal point.
        footnotes: (mark, text).
    """

    title: str
    lines: tuple[str, ...]
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    footnotes: tuple[tuple[str, str], ...] = ()


def as_text(blocks: Sequence[Block]) -> str:
    """All blocks for a terminal; only sentences are wrapped, tables keep their width."""
    return "\n\n\n".join(_block_text(block) for block in blocks) + "\n"


def _block_text(block: Block) -> str:
    parts = [block.title, *(_wrapped(line, "") for line in block.lines)]
    if block.rows:
        widths = [max(map(len, column)) for column in zip(block.headers, *block.rows, strict=True)]
        rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
        head, *body = (_aligned(row, widths) for row in (block.headers, *block.rows))
        parts += ["", head, rule, *body, rule]
    width = max((len(mark) for mark, _ in block.footnotes), default=0)
    parts += [_wrapped(text, f"{mark:<{width}}  ") for mark, text in block.footnotes]
    return "\n".join(parts)


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def _wrapped(text: str, start: str) -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent=start, subsequent_indent=" " * len(start), break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def as_markdown(blocks: Sequence[Block]) -> str:
    """All blocks as GitHub markdown."""
    return "\n\n".join(_block_markdown(block) for block in blocks) + "\n"


def _block_markdown(block: Block) -> str:
    parts = [f"### {_escaped(block.title)}", *(_escaped(line) for line in block.lines)]
    if block.rows:
        lines = [block.headers, ("---",) * len(block.headers), *block.rows]
        parts.append("\n".join("| " + " | ".join(_escaped(cell.strip()) for cell in row) + " |" for row in lines))
    if block.footnotes:
        parts.append("\n".join(f"- **{mark}**: {_escaped(text)}" for mark, text in block.footnotes))
    return "\n\n".join(parts)


def _escaped(text: str) -> str:
    for character in "\\|*_<":
        text = text.replace(character, "\\" + character)
    return text.replace("\n", " ")
