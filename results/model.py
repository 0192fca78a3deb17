"""What tables are made of: columns, cells, rows and blocks. Data alone; `results.blocks` makes them of records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from results.statistics import Values

Kind = Literal["competitor", "other recipe", "baseline", "published"]
LEGEND = {
    "*": "best, beyond the noise of seeds",
    "+": "second, beyond it too",
    "≈": "not told from the best",
    "(n)": "seeds",
    "(2/3)": "2 of 3 seeds finished",
    "(1)": "single run, noise unknown",
    "–": "not run",
    "×": "failed",
    "?": "weights not proven",
    "†": "differs, not compared",
}


@dataclass(frozen=True)
class ColumnHead:
    """A column.

    Attributes:
        group: heading above it, "" for none; `name`: its own.
        decimals: of its numbers: 1, or 0 where the noise is 1 or more.
        first: whether its cells say the number of seeds for the columns of the same runs.
        best: place of the best row, None if there is none.
        undecided: whether several rows could be best.
    """

    task: str
    task_version: int
    data_id: str
    metric: str
    group: str
    name: str
    decimals: int = 1
    first: bool = False
    best: int | None = None
    undecided: bool = False


@dataclass(frozen=True)
class Cell:
    """A metric of a row.

    Attributes:
        mean: over the finished runs, in percent, full precision; `std`: sample standard deviation, None for one run.
        n: finished runs that have the metric; `total`: runs that were tried.
        mark: "*", "+", "≈" or "".
        runs: (seed, value or None, run id), by seed.
        text: of a published value, as printed in its source.
    """

    state: Literal["measured", "failed", "not run", "published"]
    mean: float | None = None
    std: float | None = None
    n: int = 0
    total: int = 0
    mark: str = ""
    runs: tuple[tuple[int, float | None, str], ...] = ()
    text: str = ""

    @property
    def values(self) -> Values:
        """Seed → value of the finished runs."""
        return {seed: value for seed, value, _ in self.runs if value is not None}


@dataclass(frozen=True)
class Row:
    """A checkpoint, or several trainings of one method.

    Attributes:
        name: as shown, without marks; `label`: the checkpoint's own.
        identities: trainings, as the frame's `identity`.
        trainings: how many stand in this row together, 1 if it is one.
        unproven: some run's record holds no proof that the weights arrived.
        differs: another recipe than the block's.
    """

    kind: Kind
    name: str
    label: str
    identities: tuple[str, ...]
    cells: tuple[Cell, ...]
    trainings: int = 1
    unproven: bool = False

    @property
    def differs(self) -> bool:
        """Whether the row carries a †."""
        return self.kind == "other recipe"

    @property
    def single(self) -> bool:
        """Whether every number of it is of one run."""
        return all(cell.n <= 1 for cell in self.cells)


@dataclass(frozen=True)
class Block:
    """One table.

    Attributes:
        key: no two blocks of a frame share it.
        layout: the paper's table that it follows, see `results.layouts`.
        sentence: which is better, and is it real.
        setting: engine, preset and recipe of the measured rows, in few words.
        published: the sources of the published rows, "" without any.
        notes: what † and × stand for here.
        legend: (mark, meaning) of the marks that occur.
    """

    key: str
    layout: str
    title: str
    sentence: str
    setting: str
    engine: str
    columns: tuple[ColumnHead, ...]
    rows: tuple[Row, ...]
    published: str = ""
    notes: tuple[str, ...] = ()
    legend: tuple[tuple[str, str], ...] = ()

    def of(self, *kinds: Kind) -> list[Row]:
        """The rows of these kinds."""
        return [row for row in self.rows if row.kind in kinds]


@dataclass(frozen=True)
class Tables:
    """All blocks of a frame.

    Attributes:
        hidden: (run id, why it is not shown).
        runs: of the frame.
        same: labels that stand for several checkpoints, one a seed, which `trainings` would make one row.
    """

    blocks: tuple[Block, ...]
    hidden: tuple[tuple[str, str], ...]
    runs: int
    same: tuple[str, ...] = field(default=())

    @property
    def hidden_line(self) -> str:
        """One sentence on the runs that are not shown, "" if all are."""
        if not self.hidden:
            return ""
        counts: dict[str, int] = {}
        for _, reason in self.hidden:
            counts[reason] = counts.get(reason, 0) + 1
        why = ", ".join(f"{count} {reason}" for reason, count in counts.items())
        return f"not shown: {len(self.hidden)} of {self.runs} runs ({why}); --all shows them"
