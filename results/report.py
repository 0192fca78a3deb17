"""`python -m results report`: the frame as one HTML file that needs nothing else. `results/page/` holds how it looks.

Everything is computed here, so that the page's script draws and rounds nothing of its own: it only shows what is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from results import provenance, sources
from results.blocks import tables as make_tables
from results.compare import signed
from results.export import shortened
from results.frame import Problem
from results.latex import latex
from results.model import Block, Cell, ColumnHead, Tables
from results.panels import axis, interval_of_mean
from results.ranking import of_tables
from results.render import all_parts, number
from results.standing import (
    Line,
    Pair,
    Place,
    answer,
    column_of,
    heats,
    lines_of,
    pair,
    short_title,
    task_name,
    tasks_of,
    title_of,
)  # fmt: skip
from results.statistics import Column, Gap, Ranking
from results.tidy import long
from results.words import ENGINES
from transfer.runtime.errors import UserError, printable
from transfer.runtime.files import write_text

PAGE = Path(__file__).resolve().parent / "page"
WORDS = {
    "*": "best, beyond the noise of seeds",
    "+": "second, beyond the noise of seeds",
    "≈": "not told from the best",
}


def write(
    frame: pd.DataFrame,
    out: Path,
    trainings: bool = False,
    work: Path | None = None,
    pretraining: Sequence[Path] = (),
    pictures: bool = True,
) -> Path:
    """Write the page.

    Args:
        frame: of `results.load`.
        out: the HTML file.
        trainings: several checkpoints of one label, one a seed, are one row.
        work: folder with <task>/<run id>/ of the runs, for learning curves and contact sheets.
        pretraining: folders with the metrics.jsonl of pretrainings, for their health.
        pictures: take contact sheets in, made smaller.

    Raises:
        UserError: there is nothing to show, or the file cannot be written.
    """
    page = render(context(frame, trainings, work, pretraining, pictures))
    try:
        write_text(out, page)
    except OSError as error:
        raise UserError(f"cannot write {out}", found=error.strerror or str(error), todo="name another file") from error
    return out


def render(values: Mapping[str, Any]) -> str:
    """The page's template, filled."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # help and tables need not wait for it
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    read = {name: Markup((PAGE / f"page.{name}").read_text(encoding="utf-8")) for name in ("css", "js")}
    return environment.get_template("page.html.j2").render(**values, **read)


def context(
    frame: pd.DataFrame,
    trainings: bool = False,
    work: Path | None = None,
    pretraining: Sequence[Path] = (),
    pictures: bool = True,
) -> dict[str, Any]:
    """What the template shows; see `write`."""
    problems: Sequence[Problem] = frame.attrs.get("problems", ())
    folders = [Path(folder) for folder in frame.attrs.get("folders", ())]
    if frame.empty:
        raise UserError(
            "there is no record to report on",
            found=f"nothing readable in {', '.join(map(str, folders)) or 'any folder'}",
            todo="run a task first, or give --records the folder with records",
        )
    tables = make_tables(frame, trainings=trainings)
    places = [
        Place(block, number) for block in tables.blocks for number, head in enumerate(block.columns) if head.first
    ]
    ranking = of_tables(tables)
    lines = lines_of(places, ranking)
    columns = [column_of(lines, number) for number in range(len(places))]
    cells = _Cells(frame)
    shown_tables = [_table(block, cells, tables) for block in tables.blocks]
    pairs = {
        (first, second): pair(lines[first], lines[second], columns)
        for first in range(len(lines))
        for second in range(first + 1, len(lines))
    }
    pairs = {key: each for key, each in pairs.items() if any(each.gaps)}
    found = sources.gather(tables.blocks, work, pretraining, folders, pictures)
    said = [*(str(problem) for problem in problems), *found.problems]
    return {
        "answer": answer(lines, places, pairs, ranking),
        "facts": _facts(frame, tables, places),
        "cautions": _cautions(frame, tables, problems),
        "problems": [shortened(printable(text)) for text in said],
        "overview": _overview(lines, places, columns, ranking, cells),
        "compare": _compare(lines, places, pairs),
        "tables": shown_tables,
        "dots": [
            _dots(lines, number, task_name(place, places), place, columns[number])
            for number, place in enumerate(places)
        ],
        "rank": _rank(ranking, len(places)),
        "curves": found.curves,
        "health": found.health,
        "ablations": found.ablations,
        "sheets": found.sheets,
        "data": cells.data(),
        "legend": _legend(tables.blocks),
        "hidden": tables.hidden_line.partition(";")[0].replace("not", "Not", 1),
        "number": number,
        "signed": signed,
    }


def _facts(frame: pd.DataFrame, tables: Tables, places: Sequence[Place]) -> list[str]:
    shown = len(frame) - len(tables.hidden)
    runs = f"{len(frame)} run{'' if len(frame) == 1 else 's'}"
    said = [
        f"{runs} on {tasks_of(len(places))}"
        if shown == len(frame)
        else f"{shown} of {runs} compared, on {tasks_of(len(places))}"
    ]
    wanted = {run for block in tables.blocks for row in block.rows for cell in row.cells for _, _, run in cell.runs}
    used = frame[frame["id"].isin(wanted)]
    if (used["preset"] != "").all():
        presets = ", ".join(sorted(used["preset"].unique()))
        said.append(f"all by preset {presets}: they compare with each other, not with published numbers")
    elif all(len(differences) for differences in used["differences"]):
        said.append("none follows its protocol in full: they compare with each other, not with published numbers")
    return said


def _cautions(frame: pd.DataFrame, tables: Tables, problems: Sequence[Problem]) -> list[str]:
    said = []
    lost = sum(problem.kind == "unreadable" for problem in problems)
    if lost:
        said.append(f"{lost} file{' is' if lost == 1 else 's are'} not in what is shown: see Broken records.")
    elif problems:
        said.append("Something about these records looks wrong: see Broken records.")
    dirty = int(frame["dirty"].sum())
    if dirty:
        said.append(f"{dirty} of {len(frame)} runs were made by code that no commit holds.")
    if tables.same:
        names = " and ".join(tables.same)
        verb = "stands" if len(tables.same) == 1 else "stand"
        said.append(f"{names} {verb} for several checkpoints, one a seed: --trainings makes them one row.")
    return said


def _legend(blocks: Iterable[Block]) -> list[tuple[str, str]]:
    return list(dict.fromkeys(each for block in blocks for each in block.legend))


# -- cells, and what is behind them


class _Cells:
    """Numbers every cell that has runs, once for the table and the overview."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.frame = frame
        self.runs: dict[str, int] = {}
        self.items: list[dict[str, Any]] = []
        self._known: dict[int, dict[str, Any]] = {}
        self._kept: list[Cell] = []  # so that no `id` is given twice

    def of(self, cell: Cell, row: str, block: Block, head: ColumnHead, parts: Any) -> dict[str, Any]:
        """What the template needs for a cell."""
        column = f"{head.group} {head.name}".strip()
        count = f"{cell.n} seeds" if cell.n == cell.total else f"{cell.n} of {cell.total} seeds"
        count = "single run" if cell.total == 1 else count
        spread = f" ± {parts.std}" if parts.std else ""
        mark = WORDS.get(cell.mark, "")
        shown: dict[str, Any] = {"state": cell.state, "mean": parts.mean, "std": parts.std, "count": parts.count,
                                 "mark": cell.mark, "value": cell.mean, "place": None, "label": parts.mean,
                                 "key": f"{row}|{head.task}|{head.metric}"}  # fmt: skip
        if cell.state in ("measured", "failed") and cell.runs:
            value = f"{parts.mean}{spread}, {count}" if cell.state == "measured" else "failed"
            shown["label"] = ", ".join(word for word in (f"{row}, {column}: {value}", mark) if word)
            shown["place"] = len(self.items)
            where = ", ".join(word for word in (block.title, column, ENGINES.get(block.engine, block.engine)) if word)
            members = [self.runs.setdefault(run, len(self.runs)) for _, _, run in cell.runs]
            self.items.append({"row": row, "where": where, "mean": parts.mean, "more": f"{spread} ({count})".strip(),
                               "mark": mark, "metric": head.metric, "runs": members})  # fmt: skip
        self._known[id(cell)] = shown
        self._kept.append(cell)
        return shown

    def known(self, cell: Cell) -> dict[str, Any]:
        """The same, of a cell that a table has."""
        return self._known[id(cell)]

    def data(self) -> dict[str, Any]:
        """For the page's script."""
        found, shared = provenance.runs(self.frame, self.runs)
        return {"cells": self.items, "runs": found, "shared": shared}


def _table(block: Block, cells: _Cells, tables: Tables) -> dict[str, Any]:
    groups: list[list[Any]] = []
    for head in block.columns:
        if groups and groups[-1][0] == head.group:
            groups[-1][1] += 1
        else:
            groups.append([head.group, 1])
    rows = [
        {
            "name": row.name, "unproven": row.unproven, "differs": row.differs, "kind": row.kind,
            "cells": [
                cells.of(cell, row.name, block, head, parts)
                for cell, head, parts in zip(row.cells, block.columns, all_parts(block, row), strict=True)
            ],
        }
        for row in block.rows
    ]  # fmt: skip
    parts = {
        "ours": [row for row in rows if row["kind"] in ("competitor", "other recipe")],
        "scale": [row for row in rows if row["kind"] == "baseline"],
        "published": [row for row in rows if row["kind"] == "published"],
    }
    alone = Tables((block,), (), tables.runs)
    runs = {run for row in block.rows for cell in row.cells for _, _, run in cell.runs}
    dirty = int(cells.frame.loc[cells.frame["id"].isin(runs), "dirty"].sum())
    warned = f"% {dirty} of these {len(runs)} runs were made by code that no commit holds.\n" if dirty else ""
    return {
        "block": block,
        "title": title_of(block, tables.blocks),
        "groups": groups if any(name for name, _ in groups) else [],
        **parts,
        "latex": warned + latex(alone),
        "csv": long(alone).to_csv(index=False),
    }


def _overview(
    lines: Sequence[Line], places: Sequence[Place], columns: Sequence[Column[str]], ranking: Ranking[str], cells: _Cells
) -> dict[str, Any]:
    groups: list[list[Any]] = []
    for at, place in enumerate(places):
        if at and places[at - 1].block is place.block:
            groups[-1][1] += 1
        else:
            groups.append([short_title(place, places), 1])
    heat = [heats(column) for column in columns]
    ranks = {each.row: number(each.mean, 1) for each in ranking.rows}
    rows = []
    for line in lines:
        shown = [
            {
                "cell": cells.known(line.cells[at]),
                "heat": None if at in line.differs else heat[at].get(line.name),
                "differs": at in line.differs,
                "single": line.cells[at].n == 1,
            }
            if at in line.cells
            else None
            for at in range(len(places))
        ]
        rows.append({"line": line, "cells": shown, "rank": ranks.get(line.name, "")})
    starts = [not at or places[at - 1].block is not place.block for at, place in enumerate(places)]
    return {"groups": groups, "places": places, "starts": starts, "rows": rows, "ranked": bool(ranks),
            "heat": any(heat), "left_out": ranking.left_out if ranks else ()}  # fmt: skip


# -- plots


def _compare(
    lines: Sequence[Line], places: Sequence[Place], pairs: Mapping[tuple[int, int], Pair]
) -> dict[str, Any] | None:
    """Every pair as rows of percent and text, for the select boxes of the page."""
    if not pairs:
        return None
    found = {}
    for (first, second), each in pairs.items():
        reach = [end for gap in each.gaps if gap is not None for end in gap.interval() or ()]
        scale = axis(reach, symmetric=True)
        rows = [None if gap is None else _gap(gap, told, scale) for gap, told in zip(each.gaps, each.told, strict=True)]
        found[f"{first}-{second}"] = {
            "rows": rows,
            "ticks": scale.ticks,
            "counts": each.counts,
            "alone": len(each.alone),
        }
    used = sorted({place for key in pairs for place in key})
    return {"names": {place: lines[place].name for place in used}, "pairs": found,
            "tasks": [task_name(place, places) for place in places]}  # fmt: skip


def _gap(gap: Gap, told: bool, scale: Any) -> list[Any]:
    """Places of low end, difference and high end; the two ends and the difference as text; whether it is told."""
    low, high = gap.interval() or (gap.difference, gap.difference)
    return [*(round(value, 2) for value in (low, gap.difference, high)), int(told), gap.n,
            [scale.place(value) for value in (low, gap.difference, high)]]  # fmt: skip


def _dots(lines: Sequence[Line], at: int, title: str, place: Place, column: Column[str]) -> dict[str, Any]:
    """One task: every row's seeds, mean and interval, published numbers of its method, on one scale."""
    published: dict[str, list[tuple[float, str]]] = {}
    for row in place.block.of("published"):
        cell = row.cells[place.column]
        if cell.state == "published":
            published.setdefault(row.label.casefold(), []).append(
                (float(cell.text), f"{row.name}: {cell.text}, published")
            )
    shown = [line for line in lines if at in line.cells]
    own = {line.name: published.pop(line.name.casefold(), []) for line in shown}
    others = [each for values in published.values() for each in values]
    values = [value for line in shown for value in line.cells[at].values.values()]
    values += [value for each in (*own.values(), others) for value, _ in each]
    ends = {line.name: interval_of_mean(line.cells[at], column, line.name) for line in shown}
    values += [end for each in ends.values() for end in each or ()]
    if not values:
        return {"title": title, "rows": [], "ticks": (), "band": None, "others": []}
    scale = axis(values)
    marked = [line.cells[at] for line in shown if line.cells[at].mark == "≈"]
    tied = [cell.mean for cell in marked if cell.mean is not None]
    rows = []
    for line in shown:
        cell, interval = line.cells[at], ends[line.name]
        rows.append({
            "name": line.name, "baseline": line.baseline, "differs": at in line.differs, "mark": cell.mark,
            "failed": cell.mean is None,
            "seeds": [(scale.place(value), f"seed {seed}: {number(value, 2)}") for seed, value in cell.values.items()],
            "interval": None if interval is None else [scale.place(end) for end in interval],
            "mean": None if cell.mean is None else scale.place(cell.mean),
            "text": _dot_text(line.name, cell, interval),
            "published": [(scale.place(value), text) for value, text in own[line.name]],
        })  # fmt: skip
    band = (scale.place(min(tied)), scale.place(max(tied))) if len(tied) > 1 else None
    return {"title": title, "rows": rows, "ticks": scale.ticks, "band": band,
            "others": [(scale.place(value), text) for value, text in others]}  # fmt: skip


def _dot_text(name: str, cell: Cell, interval: tuple[float, float] | None) -> str:
    if cell.mean is None:
        return f"{name}: failed"
    said = f"{name}: {number(cell.mean, 2)}"
    if interval is None:
        return f"{said}, {'single run' if cell.n == 1 else f'{cell.n} seeds'}"
    return f"{said}, 95 % interval {number(interval[0], 2)} to {number(interval[1], 2)}, {cell.n} seeds"


def _rank(ranking: Ranking[str], count: int) -> dict[str, Any] | None:
    if not ranking.rows:
        return None
    scale = axis([end for each in ranking.rows for end in (each.wide_low, each.wide_high)])
    rows = [
        {"name": each.row, "mean": scale.place(each.mean), "thick": [scale.place(each.low), scale.place(each.high)],
         "thin": [scale.place(each.wide_low), scale.place(each.wide_high)],
         "text": f"{number(each.mean, 1)} [{number(each.low, 1)}, {number(each.high, 1)}]"}
        for each in ranking.rows
    ]  # fmt: skip
    return {"rows": rows, "ticks": scale.ticks, "tasks": len(ranking.tasks), "of": count, "left_out": ranking.left_out}
