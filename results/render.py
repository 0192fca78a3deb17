"""Blocks as text for a terminal, and as markdown. The only place where numbers are rounded."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from results.model import Block, Cell, ColumnHead, Row, Tables
from transfer.runtime.errors import printable

MINUS = "−"
_BOLD, _UNDER, _GREY, _END = "\x1b[1m", "\x1b[4m", "\x1b[90m", "\x1b[0m"
_ISOLATE = ("\u2068", "\u2069")  # a name that runs from right to left must not turn the numbers beside it


@dataclass(frozen=True)
class Parts:
    """A cell's text in pieces; empty where there is nothing to say."""

    mean: str
    std: str = ""
    count: str = ""


def cell_parts(cell: Cell, head: ColumnHead, first: Cell | None = None) -> Parts:
    """Mean, spread and number of seeds as shown; the rounding happens here.

    Args:
        cell, head: what and where.
        first: the row's cell that says the number for all columns of its runs, where it is not this one.
    """
    if cell.state == "published":
        return Parts(cell.text)
    if cell.state == "failed":
        return Parts("×")
    if cell.mean is None:
        return Parts("–")
    counted = head.first or first is None or (cell.n, cell.total) != (first.n, first.total)
    count = f"({cell.n})" if cell.n == cell.total else f"({cell.n}/{cell.total})"
    std = "" if cell.std is None else number(cell.std, head.decimals)
    return Parts(number(cell.mean, head.decimals), std, count if counted else "")


def number(value: float, decimals: int) -> str:
    """Rounded, with a true minus sign and no negative zero."""
    text = f"{value:.{decimals}f}"
    return text.lstrip("-") if not float(text) else text.replace("-", MINUS)


def all_parts(block: Block, row: Row) -> list[Parts]:
    """Of every cell of a row."""
    found, first = [], None
    for cell, head in zip(row.cells, block.columns, strict=True):
        if head.first:
            first = cell
        found.append(cell_parts(cell, head, first))
    return found


def marked_name(row: Row, escape: Callable[[str], str] = printable) -> str:
    """The name, escaped, with its ? and †, isolated if it runs from right to left."""
    return isolated(row.name, escape) + "?" * row.unproven + "†" * row.differs


def isolated(plain: str, escape: Callable[[str], str] = printable) -> str:
    """Text, escaped; what runs from right to left is kept from turning what stands beside it."""
    turned = any(unicodedata.bidirectional(letter) in ("R", "AL", "AN") for letter in plain)
    return escape(plain).join(_ISOLATE) if turned else escape(plain)


def width(text: str) -> int:
    """Columns that a terminal takes for it."""
    skipped = ("Mn", "Me", "Cf")
    return sum(
        0 if unicodedata.category(letter) in skipped else 1 + (unicodedata.east_asian_width(letter) in "WF")
        for letter in text
    )


def _fill(text: str, size: int, right: bool = False) -> str:
    gap = " " * max(0, size - width(text))
    return gap + text if right else text + gap


# -- terminal


def text(tables: Tables, columns: int = 120, colour: bool = False) -> str:
    """All blocks, no line of a table wider than `columns` if its parts can be stacked.

    Args:
        tables: what to print.
        columns: of the terminal.
        colour: bold, underline and grey by ANSI sequences; the marks stay.
    """
    said = [_block_text(block, columns, colour) for block in tables.blocks]
    names = " and ".join(tables.same)
    stand = "stand" if len(tables.same) > 1 else "stands"
    lines = [f"{names} {stand} for several checkpoints, one a seed: --trainings makes them one row"] * bool(names)
    lines += [tables.hidden_line] if tables.hidden_line else []
    return "\n\n\n".join(said + (["\n".join(map(printable, lines))] if lines else [])) + "\n"


def _block_text(block: Block, columns: int, colour: bool) -> str:
    name_size = max(width(marked_name(row)) for row in block.rows)
    name_size = max(name_size, len("checkpoint"))
    sizes = _sizes(block)
    lines = [_style(block.title, _BOLD, colour), *textwrap.wrap(printable(block.sentence), columns), ""]
    for number_, chosen in enumerate(_stacks(block, sizes, name_size, columns)):
        lines += [""] * bool(number_) + _stack_text(block, chosen, sizes, name_size, columns, colour)
    lines += [line for note in block.notes for line in textwrap.wrap(printable(note), columns, subsequent_indent="  ")]
    lines += textwrap.wrap(
        "   ".join(f"{mark}\u00a0{meaning}".replace(" ", "\u00a0") for mark, meaning in block.legend), columns
    )
    if block.setting:
        lines.append(f"python -m results explain {block.layout}   # differences in full, commands, versions, seeds")
    return "\n".join(line.replace("\u00a0", " ").rstrip() for line in lines)


def _stacks(block: Block, sizes: Sequence[int], name_size: int, columns: int) -> list[list[int]]:
    """Columns in groups that fit side by side; those of one data set stay together."""
    sets: list[list[int]] = []
    for place, head in enumerate(block.columns):
        same = sets and block.columns[sets[-1][0]].group == head.group
        if same and head.group:
            sets[-1].append(place)
        else:
            sets.append([place])
    stacks: list[list[int]] = [[]]
    for members in sets:
        taken = name_size + sum(sizes[place] + 2 for place in [*stacks[-1], *members])
        if stacks[-1] and taken > columns:
            stacks.append([])
        stacks[-1] += members
    return stacks


def _sizes(block: Block) -> list[int]:
    """Width of every column."""
    sizes = []
    for place, head in enumerate(block.columns):
        texts = [width(_cell_text(block, row, place, "")) for row in block.rows]
        sizes.append(max(*texts, len(head.name), 1))
    groups: dict[str, list[int]] = {}
    for place, head in enumerate(block.columns):
        groups.setdefault(head.group, []).append(place)
    for group, members in groups.items():  # a heading must fit above its columns
        total = sum(sizes[place] + 2 for place in members) - 2
        sizes[members[-1]] += max(0, width(group) - total)
    return sizes


def _cell_text(block: Block, row: Row, place: int, style: str) -> str:
    parts = all_parts(block, row)[place]
    whole = max(len(all_parts(block, other)[place].mean.partition(".")[0]) for other in block.rows)
    mean = parts.mean if parts.mean in "–×" else " " * (whole - len(parts.mean.partition(".")[0])) + parts.mean
    spread = f" ±{parts.std}" if parts.std else ""
    count = f" {parts.count}" if parts.count else ""
    cell = row.cells[place]
    shown = style + mean + (_END if style else "")
    return f"{shown}{spread}{count}{cell.mark}"


def _stack_text(
    block: Block, chosen: Sequence[int], sizes: Sequence[int], name_size: int, columns: int, colour: bool
) -> list[str]:
    total = name_size + sum(sizes[place] + 2 for place in chosen)
    rule = "─" * total
    lines = []
    if any(block.columns[place].group for place in chosen):
        above = _fill("", name_size)
        shown = ""
        for place in chosen:
            group = block.columns[place].group
            above = _fill(above, name_size + sum(sizes[each] + 2 for each in chosen[: chosen.index(place)]))
            above += "  " + group if group != shown else ""
            shown = group
        lines.append(above)
    heads = "".join("  " + _fill(block.columns[place].name, sizes[place]) for place in chosen)
    lines += [_fill("checkpoint", name_size) + heads, rule]

    def line(row: Row) -> str:
        cells = ""
        for place in chosen:
            mark = row.cells[place].mark
            style = {"*": _BOLD, "+": _UNDER}.get(mark, "") if colour else ""
            cells += "  " + _cell_text(block, row, place, style) + " " * (
                sizes[place] - width(_cell_text(block, row, place, ""))
            )  # fmt: skip
        return _style(
            (_fill(marked_name(row), name_size) + cells).rstrip(), _GREY if row.kind == "published" else "", colour
        )

    def any_cell(row: Row) -> bool:
        return any(row.cells[place].state != "not run" for place in chosen)

    def grey(said: str) -> list[str]:
        return [_style(each, _GREY, colour) for each in textwrap.wrap(said, columns, subsequent_indent="  ")]

    ours = [row for row in block.of("competitor", "other recipe") if any_cell(row)]
    scale = [row for row in block.of("baseline") if any_cell(row)]
    theirs = [row for row in block.of("published") if any_cell(row)]
    if ours or scale:
        lines += [*grey(f"measured · {printable(block.setting)}"), *map(line, ours)]
    if scale:
        lines += [*grey("· · · baselines, not ranked"), *map(line, scale)]
    if theirs:
        lines += [rule] * bool(ours or scale)
        lines += [*grey(f"published · {block.published}"), *map(line, theirs)]
    return [*lines, rule]


def _style(text_: str, style: str, colour: bool) -> str:
    return f"{style}{text_}{_END}" if colour and style else text_


# -- markdown


def markdown(tables: Tables) -> str:
    """All blocks as GitHub markdown."""
    said = [_block_markdown(block) for block in tables.blocks]
    lines = [tables.hidden_line] if tables.hidden_line else []
    return "\n\n".join([*said, *map(escaped, lines)]) + "\n"


def escaped(text_: str) -> str:
    """Plain text in markdown: nothing of it is markup, HTML included."""
    for letter in "\\`*_|<>[]~#":
        text_ = text_.replace(letter, "\\" + letter)
    return printable(text_).replace("&", "&amp;").replace("\n", " ")


def _block_markdown(block: Block) -> str:
    shown = ""
    heads = []
    for head in block.columns:
        heads.append(f"{escaped(head.group)}<br>{escaped(head.name)}" if head.group != shown else escaped(head.name))
        shown = head.group
    lines = ["| " + " | ".join(["checkpoint", *heads]) + " |", "| :-- |" + " --: |" * len(heads)]

    def rows(found: Sequence[Row], title: str, wrap: Callable[[str], str] = str) -> None:
        if found and title:
            lines.append("| " + " | ".join([f"*{title}*", *[""] * len(heads)]) + " |")
        for row in found:
            cells = [
                _cell_markdown(cell, parts, wrap) for cell, parts in zip(row.cells, all_parts(block, row), strict=True)
            ]
            lines.append("| " + " | ".join([wrap(marked_name(row, escaped)), *cells]) + " |")

    rows(block.of("competitor", "other recipe"), "")
    rows(block.of("baseline"), "baselines")
    rows(block.of("published"), "published", lambda value: value if value == "–" else f"*{value}*")
    facts = [f"Measured: {escaped(block.setting)}."] if block.setting else []
    facts += [f"Published: {escaped(block.published)}."] if block.published else []
    facts += [f"{escaped(note)}." for note in block.notes]
    words = {"*": "**best**", "+": "<ins>second</ins>"}
    legend = " · ".join(
        f"{words[mark]}, {meaning.partition(', ')[2]}" if mark in words else f"{mark} {meaning}"
        for mark, meaning in block.legend
    )
    return "\n\n".join(
        [f"**{escaped(block.title)}.** {escaped(block.sentence)}", "\n".join(lines), " ".join(facts) + "  \n" + legend]
    )


def _cell_markdown(cell: Cell, parts: Parts, wrap: Callable[[str], str]) -> str:
    mean = {"*": f"**{parts.mean}**", "+": f"<ins>{parts.mean}</ins>"}.get(cell.mark, wrap(parts.mean))
    spread = f" ± {parts.std}" if parts.std else ""
    return mean + spread + (f" {parts.count}" if parts.count else "") + (" ≈" if cell.mark == "≈" else "")
