"""Who stands where: checkpoints over all tasks, any two of them against each other, and the report's first sentence."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from results.model import Block, Cell, ColumnHead
from results.render import number
from results.statistics import LEVEL, Column, Gap, Ranking, holm, paired, seeds_to_settle
from results.words import ENGINES

MANY = 1000  # seeds; `seeds_to_settle` looks no further
HEATS = 5  # steps of colour in the overview
Said = list[tuple[str, bool]]  # a sentence as (text, whether it is bold)


@dataclass(frozen=True)
class Place:
    """A column of the overview: the first column of a task in a block. One engine, task version, data and recipe."""

    block: Block
    column: int

    @property
    def head(self) -> ColumnHead:
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
    def said(self) -> Said:
        """In a sentence."""
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
    def tasks(self) -> int:
        """How many can be compared."""
        return sum(gap is not None for gap in self.gaps)

    @property
    def alone(self) -> list[int]:
        """Columns that would count by themselves, and do not after the correction."""
        both = enumerate(zip(self.gaps, self.told, strict=True))
        return [place for place, (gap, told) in both if gap is not None and gap.p <= LEVEL and not told]


# -- rows and columns of the overview


def lines_of(places: Sequence[Place], ranking: Ranking[str]) -> list[Line]:
    """Rows by name: competitors in order of their mean rank, then baselines."""
    found: dict[str, Line] = {}
    for at, place in enumerate(places):
        for row in place.block.of("competitor", "baseline"):
            line = found.setdefault(row.name, Line(row.name, row.kind == "baseline"))
            if row.cells[place.column].state != "not run":
                line.cells[at] = row.cells[place.column]
                line.unproven |= row.unproven
    for at, place in enumerate(places):
        for row in place.block.of("other recipe"):
            cell = row.cells[place.column]
            line = found.setdefault(row.name, Line(row.name, False))
            if cell.state != "not run" and at not in line.cells:
                line.cells[at] = cell
                line.differs.add(at)
                line.unproven |= row.unproven
    lines = [line for line in found.values() if line.cells]
    means = [[line.cells[n].mean if n in line.cells else None for n in range(len(places))] for line in lines]
    ranks = pd.DataFrame(means, dtype="float64").rank(ascending=False).mean(axis=1).fillna(len(lines) + 1)
    ranked = {each.row: place for place, each in enumerate(ranking.rows)}

    def order(place: int) -> tuple[bool, int, float, str]:
        line = lines[place]
        return line.baseline, ranked.get(line.name, len(ranked)), float(ranks[place]), line.name

    return [lines[place] for place in sorted(range(len(lines)), key=order)]


def column_of(lines: Sequence[Line], place: int) -> Column[str]:
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


def answer(
    lines: Sequence[Line], places: Sequence[Place], pairs: Mapping[tuple[int, int], Pair], ranking: Ranking[str]
) -> dict[str, Any]:
    """What is known, at most: the two best that can be compared, or the one that competes against each baseline.

    Args:
        lines: rows of the overview, in its order.
        pairs: (place, later place) of rows that can be compared.

    Returns:
        said: the first sentence; leader: a name, "undecided", "depends on the task" or "unknown"; why: what decides or
        what is in the way; rank: the first two mean ranks; pair: key of the pair to show first, or None; alone: tasks
        that would count by themselves, and do not after the correction.
    """
    rivals = [key for key in pairs if not lines[key[0]].baseline and not lines[key[1]].baseline]
    scaled = [key for key in pairs if not lines[key[0]].baseline and lines[key[1]].baseline]
    if rivals or len({first for first, _ in scaled}) > 1:
        chosen = [min(rivals or scaled)]
    else:
        chosen = sorted(scaled, key=lambda key: (-pairs[key].tasks, key))
    if not chosen:
        why = "no two checkpoints have two or more seeds in common on a task"
        said: Said = [("Nothing is known yet", True), (f": {why}.", False)]
        why = f"N{why[1:]}, so that a gap cannot be told from noise."
        return {"said": said, "leader": "unknown", "why": why, "rank": "", "pair": None, "alone": []}
    (first, second), both = chosen[0], pairs[chosen[0]]
    better, undecided, worse, _ = both.counts
    leader = lines[first].name if better else lines[second].name if worse else "undecided"
    leader = "depends on the task" if better and worse else leader
    why = f"Against {lines[second].name}: better on {better}, worse on {worse}, undecided on {undecided} of "
    why = _undecided(both) if leader == "undecided" else f"{why}{tasks_of(both.tasks)}."
    said = [("Undecided: ", True)] if leader == "undecided" and len(chosen) == 1 else []
    said += lines[first].said
    for place, key in enumerate(chosen):
        said += [(", and " if place else " ", False), *_stands(pairs[key], lines[key[1]].said)]
    alone = [task_name(places[place], places) for place in both.alone]
    rank = _places(ranking)
    return {
        "said": [*said, (".", False)],
        "leader": leader,
        "why": why,
        "rank": rank,
        "pair": chosen[0],
        "alone": alone,
    }


def _undecided(both: Pair) -> str:
    """How large the gaps are, and how large the noise."""
    known = [(gap, gap.interval()) for gap in both.gaps if gap is not None]
    sizes = _span([abs(gap.difference) for gap, _ in known], 1)
    reaches = _span([(interval[1] - interval[0]) / 2 for _, interval in known if interval], 1)
    seeds = _span([gap.n for gap, _ in known], 0)
    found = [
        seeds_to_settle(gap.difference, gap.error * math.sqrt(gap.n)) for gap, _ in known if gap.error and gap.n > 1
    ]
    needed = [each or MANY for each in found]
    said = f"Gaps of {sizes} points; with {seeds} seeds their 95 % intervals reach {reaches} points to either side."
    if not needed:
        return said
    takes = _span(needed, 0).replace(str(MANY), f"over {MANY}")
    return f"{said} If gaps of this size are real, it takes about {takes} seeds to tell."


def _span(values: Sequence[float], decimals: int) -> str:
    texts = dict.fromkeys(number(value, decimals) for value in (min(values), max(values)))
    return " to ".join(texts)


def _stands(both: Pair, other: Said) -> Said:
    """How the headline's row stands to another; every "better" and "worse" is beyond the noise."""
    better, undecided, worse, _ = both.counts
    if not better and not worse:
        where = "on the one task that both have" if both.tasks == 1 else f"on any of {both.tasks} tasks"
        return [("cannot be told from ", False), *other, (f" {where}", False)]
    word, count, rest = ("better", better, worse) if better else ("worse", worse, 0)
    where = "the one task that both have" if both.tasks == 1 else f"{count} of {tasks_of(both.tasks)}"
    said = f" on {where}" + (f" and worse on {rest}" if rest else "") + ", beyond the noise of seeds"
    return [(f"is {word} than ", False), *other, (said + (f" ({undecided} undecided)" if undecided else ""), False)]


def tasks_of(count: int) -> str:
    """ "1 task", "2 tasks"."""
    return f"{count} task{'' if count == 1 else 's'}"


def _places(ranking: Ranking[str]) -> str:
    if not ranking.rows:
        return ""
    said = [
        f"{each.row} {number(each.mean, 1)} [{number(each.low, 1)} – {number(each.high, 1)}]"
        for each in ranking.rows[:2]
    ]
    return f"Mean rank over {tasks_of(len(ranking.tasks))}: {said[0]}; next {said[1]}."


def title_of(block: Block, blocks: Iterable[Block]) -> str:
    """A block's title; with its engine where two engines have blocks."""
    several = len({each.engine for each in blocks if each.engine}) > 1
    return f"{block.title}, {ENGINES.get(block.engine, block.engine)}" if block.engine and several else block.title


def short_title(place: Place, places: Sequence[Place]) -> str:
    """For the overview, where the columns say the rest."""
    title = place.block.title.partition(":")[0].replace(" and segmentation", "")
    return title_of(dataclasses.replace(place.block, title=title), (each.block for each in places))


def task_name(place: Place, places: Sequence[Place]) -> str:
    """A column of the overview in a list of tasks."""
    return f"{short_title(place, places)}, {f'{place.head.group} {place.head.name}'.strip()}"
