"""Blocks as frames: a line per row and metric in full precision ("long", and CSV), or checkpoints × tasks ("wide")."""

from __future__ import annotations

import html as markup

import pandas as pd

from results import latex as tex
from results.model import Block, ColumnHead, Row, Tables
from results.render import all_parts, escaped, isolated, width
from transfer.runtime.errors import printable

_WORDS = {"*": "best", "+": "second", "≈": "not told from the best", "": ""}


def long(tables: Tables) -> pd.DataFrame:
    """One line per row and column of the blocks, in full precision; published values as numbers.

    Columns: block, task, task_version, engine, data_id, metric, checkpoint, kind, trainings, proven, mean, std, n,
    total, mark, seeds, runs, setting.
    """
    lines = [_line(block, row, place, head) for block, row, place, head in _cells(tables)]
    return pd.DataFrame(lines)


def _cells(tables: Tables) -> list[tuple[Block, Row, int, ColumnHead]]:
    return [
        (block, row, place, head)
        for block in tables.blocks
        for row in block.rows
        for place, head in enumerate(block.columns)
        if row.cells[place].state != "not run"
    ]


def _line(block: Block, row: Row, place: int, head: ColumnHead) -> dict[str, object]:
    cell = row.cells[place]
    published = cell.state == "published"
    finished = [(seed, run) for seed, value, run in cell.runs if value is not None]
    return {
        "block": block.key,
        "task": head.task,
        "task_version": head.task_version,
        "engine": block.engine,
        "data_id": head.data_id,
        "metric": head.metric,
        "checkpoint": row.label if published else row.name,
        "kind": row.kind,
        "trainings": row.trainings,
        "proven": not row.unproven,
        "mean": float(cell.text) if published else cell.mean,
        "std": cell.std,
        "n": cell.n,
        "total": cell.total,
        "mark": _WORDS[cell.mark],
        "seeds": " ".join(str(seed) for seed, _ in finished),
        "runs": " ".join(run for _, run in finished),
        "setting": block.published if published else block.setting,
    }


def grid(tables: Tables, layout: str) -> pd.DataFrame:
    """The same rounded, for people: every cell plain text, not escaped.

    Args:
        tables: what to show.
        layout: "long" or "wide": checkpoints × the first column of every task.
    """
    if layout == "long":
        rows = []
        for block, row, place, head in _cells(tables):
            parts = all_parts(block, row)[place]
            column = " ".join(word for word in (head.group, head.name) if word)
            spread = f"±{parts.std}" if parts.std else ""
            n = "" if row.kind == "published" else str(row.cells[place].n)
            rows.append((block.title, column, _name(row), parts.mean, spread, n, _WORDS[row.cells[place].mark]))
        return pd.DataFrame(rows, columns=["table", "column", "checkpoint", "mean", "std", "n", "mark"])
    cells: dict[str, dict[str, str]] = {}
    columns: dict[str, tuple[str, ColumnHead]] = {}
    for block, row, place, head in _cells(tables):
        if head.first and row.kind != "published":
            heading = f"{head.group or head.task} {head.name}"
            if columns.setdefault(heading, (block.title, head)) != (block.title, head):
                heading = f"{head.task} {block.engine} {heading}".replace("  ", " ")
                columns[heading] = (block.title, head)
            parts = all_parts(block, row)[place]
            shown = " ".join(part for part in (parts.mean, f"±{parts.std}" * bool(parts.std), parts.count) if part)
            cells.setdefault(_name(row), {})[heading] = shown + row.cells[place].mark
    rows_ = [[name, *(found.get(column, "–") for column in columns)] for name, found in cells.items()]
    return pd.DataFrame(rows_, columns=["checkpoint", *columns])


def _name(row: Row) -> str:
    return row.name + "?" * row.unproven + "†" * row.differs


def show(found: pd.DataFrame, form: str) -> str:
    """A grid as text, markdown, LaTeX or HTML; every cell is plain text and is escaped for the form."""
    lines = [list(map(str, found.columns)), *(list(map(str, row)) for row in found.itertuples(index=False))]
    if form == "md":
        made = ["| " + " | ".join(isolated(cell, escaped) for cell in line) + " |" for line in lines]
        return "\n".join([made[0], "|" + " --- |" * len(lines[0]), *made[1:]]) + "\n"
    if form == "latex":
        safe = found.map(tex.escape).rename(columns=tex.escape)
        return str(safe.style.hide(axis="index").to_latex(hrules=True))
    if form == "html":
        safe = found.map(lambda text: markup.escape(printable(text))).rename(columns=markup.escape)
        return str(safe.style.hide(axis="index").set_uuid("grid").to_html(exclude_styles=True))
    lines = [list(map(isolated, line)) for line in lines]
    sizes = [max(width(line[place]) for line in lines) for place in range(len(lines[0]))]
    shown = [
        "  ".join(cell + " " * (size - width(cell)) for cell, size in zip(line, sizes, strict=True)) for line in lines
    ]
    return (
        "\n".join([shown[0].rstrip(), "─" * (sum(sizes) + 2 * len(sizes) - 2), *(line.rstrip() for line in shown[1:])])
        + "\n"
    )
