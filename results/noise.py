"""How far a number moves when a run is done again: what decides its last digits, and what that came to where measured.

`repeat_noise.csv` holds one row a run: one task, engine, test set and seed, the same recipe and weights, under other
conditions (threads, instruction set). Rounding is all that differs between such runs; a training amplifies it.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from transfer.runtime.conditions import NAMES

FILE = Path(__file__).with_name("repeat_noise.csv")
_ABOUT = ("task", "engine", "test_sha256", "seed", "conditions", "source")


@dataclass(frozen=True)
class RepeatNoise:
    """Sample standard deviation of each metric over `runs` repetitions of one seed, in percentage points."""

    runs: int
    std: dict[str, float]

    def reach(self, metric: str, pairs: int) -> float | None:
        """Twice the standard deviation that it gives to the mean difference of so many pairs; None if not measured."""
        return 2 * math.sqrt(2 / pairs) * self.std[metric] if metric in self.std else None

    def line(self) -> str:
        """For captions."""
        found = ", ".join(f"{metric} {value:.1f}" for metric, value in self.std.items())
        return (
            f"Repeat noise, the standard deviation of {self.runs} runs of one seed under other threads or instructions "
            f"(results/{FILE.name}): {found}."
        )


@cache
def measured(file: Path = FILE) -> dict[tuple[str, str, str], RepeatNoise]:
    """(task, engine, sha256 of the test set) → the noise of its repetitions."""
    with file.open(encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    groups: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault((row["task"], row["engine"], row["test_sha256"]), []).append(row)
    found = {}
    for key, members in groups.items():
        metrics = [name for name in members[0] if name not in _ABOUT]
        columns = {name: [float(row[name]) for row in members] for name in metrics}
        found[key] = RepeatNoise(len(members), {name: _std(values) for name, values in columns.items()})
    return found


def _std(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def repeat_noise(task: str, engine: str, test_sha256: str) -> RepeatNoise | None:
    """Of runs on the same test set by the same engine; None where nobody measured it."""
    return measured().get((task, engine, test_sha256))


def about_conditions(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """In what the conditions of runs differ, and how many did not record them; nothing if they are all equal."""
    unknown = sum(not conditions for conditions in found)
    if unknown:
        which = "these runs" if unknown == len(found) else f"{unknown} of these runs"
        yield f"Threads and instruction set of {which} were not recorded."
    known = [conditions for conditions in found if conditions]
    for name in sorted({name for conditions in known for name in conditions}):
        values = sorted({str(conditions.get(name, "not recorded")) for conditions in known})
        if len(values) > 1:
            yield f"These runs differ in {NAMES.get(name, name)}: {', '.join(values)}."
