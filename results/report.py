"""`python -m results report`: the frame as one HTML file that needs nothing else. `results/page/` holds how it looks.

Everything is computed here, so that the page's script draws and rounds nothing of its own: it only shows what is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from results import provenance, sources
from results.blocks import Block, Cell, Head, Tables
from results.blocks import tables as make_tables
from results.compare import signed
from results.export import shortened
from results.frame import Problem
from results.latex import latex
from results.panels import axis, interval_of_mean
from results.ranking import of_tables
from results.render import all_parts, number
from results.statistics import LEVEL, Column, Gap, Ranking, holm, paired
from results.tidy import long
from results.words import ENGINES
from transfer.atomic import write_text
from transfer.errors import UserError, printable

PAGE = Path(__file__).resolve().parent / "page"
HEATS = 5  # steps of colour in the overview
WORDS = {"*": "best, beyond the noise of seeds", "+": "second, beyond the noise of seeds", "≈": "not told from the best"}


@dataclass(frozen=True)
class Place:
    """A column of the overview: the first column of a task in a block. One engine, task version, data and recipe."""

    block: Block
    column: int

    @property
    def head(self) -> Head:
        """Of the block's column."""
        return self.block.columns[self.column]

    @property
    def name(self) -> str:
        """Short, below the block's title."""
        return self.head.group or self.head.name


@dataclass(eq=False)
class Line:
    """A row of the overview: a checkpoint, by its name in the tables.

    Attributes:
        cells: place of the column → cell; `differs`: those that are of another recipe.
    """

    name: str
    baseline: bool
    unproven: bool = False
    cells: dict[int, Cell] = field(default_factory=dict)
    differs: set[int] = field(default_factory=set)

    @property
    def said(self) -> list[tuple[str, bool]]:
        """In a sentence, as (text, bold)."""
        return [(self.name, True), *([(" weights", False)] if self.name == "random" else [])]


@dataclass(frozen=True)
class Pair:
    """Two rows over all columns.

    Attributes:
        gaps: of every column; None where nothing can be said: fewer than two common seeds, or no noise between them.
        told: whether a gap is beyond the noise, by Holm over the columns.
    """

    gaps: tuple[Gap | None, ...]
    told: tuple[bool, ...]

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Columns in which the first is better, undecided, worse, and not comparable."""
        known = [(gap, told) for gap, told in zip(self.gaps, self.told, strict=True) if gap is not None]
        better = sum(told and gap.difference > 0 for gap, told in known)
        worse = sum(told and gap.difference < 0 for gap, told in known)
        return better, len(known) - better - worse, worse, len(self.gaps) - len(known)

    @property
    def alone(self) -> list[int]:
        """Columns that would count by themselves, and do not after the correction."""
        both = enumerate(zip(self.gaps, self.told, strict=True))
        return [place for place, (gap, told) in both if gap is not None and gap.p <= LEVEL and not told]


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
    lines = _lines(places, ranking)
    columns = [_column(lines, number) for number in range(len(places))]
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
        "answer": _answer(lines, places, pairs, ranking),
        "facts": _facts(frame, tables, places),
        "cautions": _cautions(frame, tables, problems),
        "problems": [shortened(printable(text)) for text in said],
        "overview": _overview(lines, places, columns, ranking, cells),
        "compare": _compare(lines, places, pairs),
        "tables": shown_tables,
        "dots": [_dots(lines, number, _task(place, places), place, columns[number]) for number, place in enumerate(places)],
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


# -- rows and columns of the overview


def _lines(places: Sequence[Place], ranking: Ranking[str]) -> list[Line]:
    """Rows by name: competitors in order of their mean rank, then baselines."""
    found: dict[str, Line] = {}
    for number_, place in enumerate(places):
        for row in place.block.of("competitor", "baseline"):
            line = found.setdefault(row.name, Line(row.name, row.kind == "baseline"))
            if row.cells[place.column].state != "not run":
                line.cells[number_] = row.cells[place.column]
                line.unproven |= row.unproven
    for number_, place in enumerate(places):
        for row in place.block.of("other recipe"):
            cell = row.cells[place.column]
            line = found.setdefault(row.name, Line(row.name, False))
            if cell.state != "not run" and number_ not in line.cells:
                line.cells[number_] = cell
                line.differs.add(number_)
                line.unproven |= row.unproven
    lines = [line for line in found.values() if line.cells]
    means = [[line.cells[n].mean if n in line.cells else None for n in range(len(places))] for line in lines]
    ranks = pd.DataFrame(means, dtype="float64").rank(ascending=False).mean(axis=1).fillna(len(lines) + 1)
    ranked = {each.row: place for place, each in enumerate(ranking.rows)}

    def order(place: int) -> tuple[bool, int, float, str]:
        line = lines[place]
        return line.baseline, ranked.get(line.name, len(ranked)), float(ranks[place]), line.name

    return [lines[place] for place in sorted(range(len(lines)), key=order)]


def _column(lines: Sequence[Line], place: int) -> Column[str]:
    """The column's noise and marks: of what competes by the block's recipe."""
    return Column(
        {
            line.name: line.cells[place].values
            for line in lines
            if place in line.cells and place not in line.differs and not line.baseline
        }
    )


def heats(column: Column[str]) -> dict[str, int]:
    """Row → its group from the best down, 0 to `HEATS` − 1: those not told from the group's highest are in it."""
    found: dict[str, int] = {}
    left, group = column.order if len(column.rows) > 1 else [], 0
    while left:
        told = column.told(left[0], left[1:])
        found |= {row: group for row in left if not told.get(row)}
        left, group = [row for row in left if told.get(row)], min(group + 1, HEATS - 1)
    return found


def pair(first: Line, second: Line, columns: Sequence[Column[str]]) -> Pair:
    """The gaps first − second. Two competitors are told by the noise of their column, others by their own pairs."""
    gaps: list[Gap | None] = []
    for place, column in enumerate(columns):
        gap = None
        if place not in first.differs | second.differs and {place} <= first.cells.keys() & second.cells.keys():
            ours, theirs = first.cells[place].values, second.cells[place].values
            if first.name in column.rows and second.name in column.rows:
                gap = column.gap(first.name, second.name)
            elif ours and theirs:
                gap = paired(ours, theirs)
        gaps.append(gap if gap is not None and gap.error is not None else None)
    known = [gap.p for gap in gaps if gap is not None]
    corrected = iter(holm(known))
    return Pair(tuple(gaps), tuple(gap is not None and next(corrected) <= LEVEL for gap in gaps))


# -- the answer


def _answer(
    lines: Sequence[Line], places: Sequence[Place], pairs: Mapping[tuple[int, int], Pair], ranking: Ranking[str]
) -> dict[str, Any]:
    """The headline as (text, bold) pieces, what the cards say, and the two rows that are compared first."""
    competing = [place for place, line in enumerate(lines) if not line.baseline]
    rivals = [key for key in pairs if key[0] in competing and key[1] in competing]
    against = [key for key in pairs if key[0] in competing and lines[key[1]].baseline]
    if rivals:
        chosen = [min(rivals)]
    elif against and len({first for first, _ in against}) == 1:
        chosen = sorted(against, key=lambda key: (-sum(pairs[key].counts[:3]), key))
    else:
        chosen = against[:1]
    if not chosen:
        several = "no two checkpoints have two or more seeds in common on a task"
        return {"said": [("Nothing is known yet", True), (f": {several}.", False)], "pair": None, "leader": "unknown",
                "why": several[0].upper() + several[1:] + ", so that a gap cannot be told from noise.", "rank": "", "alone": []}  # fmt: skip
    first, second = chosen[0]
    better, undecided, worse, _ = pairs[chosen[0]].counts
    if better and worse:
        leader = "depends on the task"
    else:
        leader = lines[first].name if better else lines[second].name if worse else "undecided"
    said = [("Undecided: ", True)] if leader == "undecided" and len(chosen) == 1 else []
    said += [(lines[first].name, True)]
    for number_, key in enumerate(chosen):
        said += [(", and " if number_ else " ", False), *_stands(pairs[key].counts, lines[key[1]].said)]
    tasks = better + undecided + worse
    alone = [_task(places[n], places) for n in pairs[chosen[0]].alone]
    why = f"Against {lines[second].name}: better on {better}, worse on {worse}, undecided on {undecided} of {_tasks(tasks)}."
    if leader == "undecided":
        why = _undecided([gap for gap in pairs[chosen[0]].gaps if gap is not None])
    return {"said": [*said, (".", False)], "pair": chosen[0], "leader": leader, "why": why, "alone": alone,
            "rank": _places(ranking)}  # fmt: skip


def _undecided(gaps: Sequence[Gap]) -> str:
    """How large the gaps are, and how large the noise."""
    sizes = sorted(abs(gap.difference) for gap in gaps)
    reaches = sorted((high - low) / 2 for low, high in filter(None, (gap.interval() for gap in gaps)))
    seeds = sorted({gap.n for gap in gaps})
    span = [f"{number(each[0], 1)} to {number(each[-1], 1)}" if len(each) > 1 else number(each[0], 1) for each in (sizes, reaches)]
    return (
        f"Gaps of {span[0]} points; with {'–'.join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))} seeds their 95 % intervals reach {span[1]} "
        "points to either side."
    )


def _stands(counts: tuple[int, int, int, int], other: Sequence[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """How the headline's row stands to another, in words; every "better" and "worse" is beyond the noise."""
    better, undecided, worse, _ = counts
    total = better + undecided + worse
    if not better and not worse:
        where = "on the one task that both have" if total == 1 else f"on any of {total} tasks"
        return [("cannot be told from ", False), *other, (f" {where}", False)]
    of = "the one task that both have" if total == 1 else f"{{}} of {_tasks(total)}"
    first, second = ("better", better), ("worse", worse)
    (word, count), (less, few) = (first, second) if better else (second, first)
    said = f" on {of.format(count)}" + (f" and {less} on {few}" if few else "") + ", beyond the noise of seeds"
    said += f" ({undecided} undecided)" if undecided else ""
    return [(f"is {word} than ", False), *other, (said, False)]


def _tasks(count: int) -> str:
    return f"{count} task{'' if count == 1 else 's'}"


def _places(ranking: Ranking[str]) -> str:
    if not ranking.rows:
        return ""
    said = [
        f"{each.row} {number(each.mean, 1)} [{number(each.low, 1)} – {number(each.high, 1)}]"
        for each in ranking.rows[:2]
    ]
    return f"Mean rank over {_tasks(len(ranking.tasks))}: {said[0]}; next {said[1]}."


def _facts(frame: pd.DataFrame, tables: Tables, places: Sequence[Place]) -> list[str]:
    shown = len(frame) - len(tables.hidden)
    said = [f"{len(frame)} run{'' if len(frame) == 1 else 's'}, {shown} of them compared, {_tasks(len(places))}"]
    wanted = {run for block in tables.blocks for row in block.rows for cell in row.cells for _, _, run in cell.runs}
    runs = frame[frame["id"].isin(wanted)]
    if (runs["preset"] != "").all():
        presets = ", ".join(sorted(runs["preset"].unique()))
        said.append(f"all by preset {presets}: they compare with each other, not with published numbers")
    elif all(len(differences) for differences in runs["differences"]):
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

    def of(self, cell: Cell, row: str, block: Block, head: Head, parts: Any) -> dict[str, Any]:
        """What the template needs for a cell."""
        column = f"{head.group} {head.name}".strip()
        count = "single run" if cell.total == 1 else f"{cell.n} of {cell.total} seeds" if cell.n < cell.total else f"{cell.n} seeds"  # fmt: skip
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
    return {"block": block, "groups": groups if any(name for name, _ in groups) else [], **parts,
            "latex": latex(alone), "csv": long(alone).to_csv(index=False)}  # fmt: skip


def _overview(
    lines: Sequence[Line], places: Sequence[Place], columns: Sequence[Column[str]], ranking: Ranking[str], cells: _Cells
) -> dict[str, Any]:
    groups: list[list[Any]] = []
    for number_, place in enumerate(places):
        if number_ and places[number_ - 1].block is place.block:
            groups[-1][1] += 1
        else:
            groups.append([_short(place.block, places), 1])
    heat = [heats(column) for column in columns]
    ranks = {each.row: number(each.mean, 1) for each in ranking.rows}
    rows = []
    for line in lines:
        shown = []
        for number_, place in enumerate(places):
            cell = line.cells.get(number_)
            if cell is None:
                shown.append(None)
                continue
            shown.append(
                {
                    "cell": cells.known(cell),
                    "heat": None if number_ in line.differs else heat[number_].get(line.name),
                    "differs": number_ in line.differs,
                    "single": cell.n == 1,
                }
            )
        rows.append({"line": line, "cells": shown, "rank": ranks.get(line.name, "")})
    starts = [not number_ or places[number_ - 1].block is not place.block for number_, place in enumerate(places)]
    return {"groups": groups, "places": places, "starts": starts, "rows": rows, "ranked": bool(ranks),
            "heat": any(heat), "left_out": ranking.left_out if ranks else ()}  # fmt: skip


def _short(block: Block, places: Sequence[Place]) -> str:
    """A block's title above the overview; with its engine where two engines have blocks."""
    engines = {place.block.engine for place in places if place.block.engine}
    words = [block.title.partition(":")[0]]
    words += [ENGINES.get(block.engine, block.engine)] if block.engine and len(engines) > 1 else []
    return ", ".join(words)


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
        found[f"{first}-{second}"] = {"rows": rows, "ticks": scale.ticks, "counts": each.counts, "alone": len(each.alone)}
    used = sorted({place for key in pairs for place in key})
    return {"names": {place: lines[place].name for place in used}, "pairs": found,
            "tasks": [_task(place, places) for place in places]}  # fmt: skip


def _gap(gap: Gap, told: bool, scale: Any) -> list[Any]:
    """Places of low end, difference and high end; the two ends and the difference as text; whether it is told."""
    low, high = gap.interval() or (gap.difference, gap.difference)
    return [*(round(value, 2) for value in (low, gap.difference, high)), int(told), gap.n,
            [scale.place(value) for value in (low, gap.difference, high)]]  # fmt: skip


def _task(place: Place, places: Sequence[Place]) -> str:
    return f"{_short(place.block, places)}, {f'{place.head.group} {place.head.name}'.strip()}"


def _dots(
    lines: Sequence[Line], number_: int, title: str, place: Place, column: Column[str]
) -> dict[str, Any]:
    """One task: every row's seeds, mean and interval, published numbers of its method, on one scale."""
    published: dict[str, list[tuple[float, str]]] = {}
    for row in place.block.of("published"):
        cell = row.cells[place.column]
        if cell.state == "published":
            published.setdefault(row.label.casefold(), []).append((float(cell.text), f"{row.name}: {cell.text}, published"))
    shown = [line for line in lines if number_ in line.cells]
    own = {line.name: published.pop(line.name.casefold(), []) for line in shown}
    others = [each for values in published.values() for each in values]
    values = [value for line in shown for value in line.cells[number_].values.values()]
    values += [value for each in (*own.values(), others) for value, _ in each]
    ends = {line.name: interval_of_mean(line.cells[number_], column, line.name) for line in shown}
    values += [end for each in ends.values() for end in each or ()]
    if not values:
        return {"title": title, "rows": [], "ticks": (), "band": None, "others": []}
    scale = axis(values)
    tied = [line.cells[number_].mean for line in shown if line.cells[number_].mark == "≈"]
    rows = []
    for line in shown:
        cell, interval = line.cells[number_], ends[line.name]
        rows.append({
            "name": line.name, "baseline": line.baseline, "differs": number_ in line.differs, "mark": cell.mark,
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
