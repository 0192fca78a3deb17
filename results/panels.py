"""Where things stand in the report's plots, in percent of their width and height; the template draws them as SVG."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from results.model import Cell
from results.render import MINUS
from results.statistics import LEVEL, POOLED_FROM, STANDS_ALONE, Column, student_quantile

POINTS = 120  # of a curve; a screen shows no more in a third of its width
LINES = 8  # of a panel; more cannot be told apart
TALL = 190  # pixels of a panel of curves
_LABEL = 15  # pixels between two labels at the ends of curves

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Axis:
    """A scale.

    Attributes:
        low, high: its ends; logarithms if `log`.
        ticks: (place in percent from the low end, text).
    """

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def place(self, value: float) -> float:
        """Percent from the low end."""
        shown = math.log10(value) if self.log else value
        return round(100 * (shown - self.low) / (self.high - self.low), 2)


def axis(values: Iterable[float], count: int = 4, log: bool = False, symmetric: bool = False) -> Axis:
    """A scale that holds all the values with a margin, and ticks at 1, 2 or 5 times a power of ten.

    Args:
        values: at least one; above 0 if `log`.
        count: of ticks, roughly; more if `symmetric`, where half of them are on either side.
        log: powers of ten with 2 and 5 between them.
        symmetric: 0 in the middle.
    """
    found = [math.log10(value) if log else value for value in values]
    low, high = min(found), max(found)
    if symmetric:
        high = max(abs(low), abs(high))
        low = -high
    spread = (high - low) or max(abs(high) * 0.05, 0.5)
    low, high = low - 0.06 * spread, high + 0.06 * spread
    if log:
        powers = range(math.floor(low), math.ceil(high) + 1)
        marks = [math.log10(digit * 10.0**power) for power in powers for digit in (1, 2, 5)]
        marks = [mark for mark in marks if low <= mark <= high]
        texts = [f"{10**mark:g}" for mark in marks]
    else:
        step = _step((high - low) / (6 if symmetric else count))
        marks = [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
        texts = [_tick(mark, step, symmetric) for mark in marks]
    scale = Axis(low, high, (), log)
    places = [round(100 * (mark - low) / (high - low), 2) for mark in marks]
    return Axis(scale.low, scale.high, tuple(zip(places, texts, strict=True)), log)


def _step(least: float) -> float:
    power = 10.0 ** math.floor(math.log10(least))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= least)


def _tick(mark: float, step: float, signed: bool) -> str:
    if abs(mark) >= 1000 and step >= 100:
        text = f"{mark / 1000:g}k"
    else:
        text = f"{mark:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"
    plus = "+" if signed and mark > step / 2 else ""
    return plus + text.replace("-", MINUS)


# -- dots


def interval_of_mean(cell: Cell, column: Column[Any], row: Any) -> tuple[float, float] | None:
    """95 % interval of a mean over seeds by Student's t; None for single runs and runs that are all equal.

    With the noise that decides the marks of the column: from five rows on the pooled one, never below the row's own,
    which stands alone where it is over twice as large; with fewer rows, and for rows that do not compete, its own.
    """
    if cell.mean is None or not cell.std:
        return None
    error, degrees = cell.std / math.sqrt(cell.n), cell.n - 1
    if row in column.rows and len(column.rows) >= POOLED_FROM and column.variance:
        pooled = math.sqrt(column.variance / cell.n)
        if error <= STANDS_ALONE * pooled:
            error, degrees = max(error, pooled), column.degrees
    reach = student_quantile(degrees, LEVEL) * error
    return cell.mean - reach, cell.mean + reach


# -- curves


def curves(title: str, series: Mapping[str, Points], log: bool = False, floor: float | None = None) -> dict[str, Any]:
    """A panel of lines.

    Args:
        title: above it.
        series: name → finite (x, y) in order; names may come from files. At least one, none empty.
        log: of the y axis, whose values are above 0.
        floor: a level below which things go wrong.

    Returns:
        What the template draws: `paths` in a box of 100 × 100, labels in percent from the top, both axes' ticks.
    """
    shown = {name: _thinned(points) for name, points in list(series.items())[:LINES]}
    levels = [y for points in shown.values() for _, y in points] + ([floor] if floor is not None else [])
    across, up = axis(x for points in shown.values() for x, _ in points), axis(levels, log=log)
    places = {
        name: [(across.place(x), round(100 - up.place(y), 2)) for x, y in points] for name, points in shown.items()
    }
    labels = apart([points[-1][1] for points in places.values()])
    lines = [
        {"name": name, "kind": number, "path": "M" + "L".join(f"{x:g} {y:g}" for x, y in points), "label": label}
        for number, ((name, points), label) in enumerate(zip(places.items(), labels, strict=True))
    ]
    return {
        "title": title,
        "lines": lines,
        "left_out": len(series) - len(lines),
        "x": across.ticks,
        "y": [(round(100 - place, 2), text) for place, text in up.ticks],
        "floor": None if floor is None else (round(100 - up.place(floor), 2), f"{floor:g}"),
    }


def _thinned(points: Points) -> list[tuple[float, float]]:
    """At most `POINTS` of them: means of runs of neighbours, at the last one's x."""
    if len(points) <= POINTS:
        return list(points)
    parts = np.array_split(np.array(points, dtype=float), POINTS)
    return [(float(part[-1, 0]), float(part[:, 1].mean())) for part in parts]


def apart(places: Sequence[float]) -> list[float]:
    """Places in percent, moved so that neighbours keep the height of a line between them, in their order."""
    least = 100 * _LABEL / TALL
    order = sorted(range(len(places)), key=places.__getitem__)
    moved: list[float] = list(places)
    for before, after in itertools.pairwise(order):
        moved[after] = max(moved[after], moved[before] + least)
    moved[order[-1]] = min(moved[order[-1]], 100.0)
    for after, before in itertools.pairwise(reversed(order)):  # what slid over the edge pushes back what is above it
        moved[before] = min(moved[before], moved[after] - least)
    return [round(place, 2) for place in moved]


def scatter(
    title: str, points: Sequence[tuple[float, float, str, str]], across: str, up: str, level: tuple[float, str] | None
) -> dict[str, Any]:
    """A panel of points, x on a logarithmic axis.

    Args:
        points: (x above 0, y, group, name of the point); at least one.
        across, up: what the axes show.
        level: a height that all points are measured by, and its name.
    """
    heights = [each[1] for each in points] + ([level[0]] if level else [])
    x, y = axis((each[0] for each in points), log=True), axis(heights, count=3)
    groups = list(dict.fromkeys(group for _, _, group, _ in points))
    return {
        "title": title,
        "across": across,
        "up": up,
        "groups": groups,
        "level": (round(100 - y.place(level[0]), 2), level[1]) if level else None,
        "points": [(x.place(a), round(100 - y.place(b), 2), groups.index(group), name) for a, b, group, name in points],
        "x": x.ticks,
        "y": [(round(100 - place, 2), text) for place, text in y.ticks],
    }
