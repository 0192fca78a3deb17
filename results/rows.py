"""Rows of a table: runs that differ in nothing but their seed. Nothing else is ever averaged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from transfer.record import Record, content_hash


@dataclass(frozen=True)
class Cell:
    """A metric over the finished runs of a row: mean, sample standard deviation (None for one run), their number."""

    mean: float
    std: float | None
    n: int

    def text(self) -> str:
        """ "41.3 ± 0.2", or "41.3" for a single run, padded so that columns line up."""
        return f"{self.mean:4.1f}" + ("" if self.std is None else f" ± {self.std:.1f}")


@dataclass(frozen=True)
class Variant:
    """What makes runs of one task comparable; two rows of different variants are different experiments.

    Attributes:
        protocol: its name, with † where it was chosen as that of the checkpoint's authors (`Record.authors_own`).
        recipe, data: `content_hash` of each.
        differences: (what, in the protocol, in the run), as recorded.
    """

    task: str
    task_version: int
    engine: str
    protocol: str
    recipe: str
    data: str
    differences: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Row:
    """All runs of one checkpoint in one variant, ordered by seed."""

    label: str
    identity: str
    variant: Variant
    records: tuple[Record, ...]

    @property
    def finished(self) -> tuple[Record, ...]:
        """The runs that have numbers."""
        return tuple(record for record in self.records if record.status == "finished")

    @property
    def failed(self) -> tuple[Record, ...]:
        """The runs that have none."""
        return tuple(record for record in self.records if record.status == "failed")

    def cell(self, metric: str) -> Cell | None:
        """The metric over the finished runs that have it; None if none has."""
        values = pd.Series(
            [record.metrics[metric] for record in self.finished if metric in record.metrics], dtype=float
        )
        if values.empty:
            return None
        return Cell(float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else None, len(values))

    def runs_text(self) -> str:
        """ "5", "4, 1 failed" or "2 failed"."""
        parts = [str(len(self.finished))] if self.finished else []
        return ", ".join(parts + ([f"{len(self.failed)} failed"] if self.failed else []))

    def cell_text(self, metric: str, alone: bool = False) -> str:
        """What the table shows; `alone` adds the number of runs, for cells without a column that says it."""
        cell = self.cell(metric)
        if cell is None:
            return "–" if self.finished else f"failed ({len(self.failed)})"
        counted = alone or cell.n != len(self.finished)
        return cell.text() + (f" (n={cell.n})" if counted else "")


def variant_of(record: Record) -> Variant:
    """The variant that a run belongs to."""
    differences = tuple((item["what"], item["protocol"], item["run"]) for item in record.differences)
    return Variant(
        record.task, record.task_version, record.engine, record.protocol + (" †" if record.authors_own else ""),
        content_hash(record.recipe), content_hash(record.data), differences,
    )  # fmt: skip


def identity_of(record: Record) -> str:
    """What says that two checkpoints are the same one: the file's hash and the branch taken from it.

    Random initialisations of one architecture are one baseline, whichever seed drew the weights.
    """
    checkpoint = record.checkpoint
    if checkpoint["format"] == "random":
        return f"random {checkpoint['arch']}"
    return f"{checkpoint['sha256']} {checkpoint['branch']} {checkpoint['arch']}"


def group(records: Iterable[Record]) -> list[Row]:
    """Rows in reading order: by task, random baselines first, then by label, engine and closeness to the protocol."""
    groups: dict[tuple[str, str, Variant], list[Record]] = {}
    for record in records:
        groups.setdefault((record.label, identity_of(record), variant_of(record)), []).append(record)
    rows = [
        Row(label, identity, variant, tuple(sorted(members, key=lambda record: (record.seed, record.run_id))))
        for (label, identity, variant), members in groups.items()
    ]
    return sorted(rows, key=_reading_order)


def _reading_order(row: Row) -> tuple[Any, ...]:
    variant = row.variant
    trained = not row.identity.startswith("random ")
    return (
        variant.task, trained, row.label, variant.engine, len(variant.differences), variant.protocol,
        variant.task_version, variant.recipe, variant.data, row.identity,
    )  # fmt: skip


def metric_names(rows: Sequence[Row], wanted: Sequence[str] = ()) -> list[str]:
    """Columns for these rows: the primary metric first, then the others by name.

    With `wanted`, those of them that occur in a finished run; the primary metric alone where none does.
    """
    present = {name for row in rows for record in row.finished for name in record.metrics}
    primary = primary_metric(rows)
    if wanted:
        return [name for name in wanted if name in present] or [primary]
    return [primary, *sorted(present - {primary})]


def primary_metric(rows: Sequence[Row]) -> str:
    """The metric that the task's latest version puts first."""
    latest = max((record for row in rows for record in row.records), key=lambda record: record.task_version)
    return latest.primary_metric


def tidy(rows: Sequence[Row], wanted: Sequence[str] = ()) -> pd.DataFrame:
    """One line per row and metric, in full precision: what the CSV file holds.

    Columns: task, task_version, checkpoint, arch, sha256, branch, engine, protocol, recipe, data, metric, mean, std,
    n, finished, failed, seeds, differences. A row without a finished run keeps one line, with empty numbers.
    """
    lines: list[dict[str, Any]] = []
    for row in rows:
        checkpoint, variant = row.records[0].checkpoint, row.variant
        hashes = sorted({record.checkpoint["sha256"] for record in row.records})
        common = {
            "task": variant.task,
            "task_version": variant.task_version,
            "checkpoint": row.label,
            "arch": checkpoint["arch"],
            "sha256": " ".join(hashes),
            "branch": checkpoint["branch"],
            "engine": variant.engine,
            "protocol": variant.protocol,
            "recipe": variant.recipe,
            "data": variant.data,
        }
        after = {
            "finished": len(row.finished),
            "failed": len(row.failed),
            "seeds": " ".join(str(record.seed) for record in row.finished),
            "differences": "; ".join(f"{what}: {theirs} -> {ours}" for what, theirs, ours in variant.differences),
        }
        cells = {metric: row.cell(metric) for metric in metric_names([row], wanted)}
        if not row.finished:
            cells = {row.records[0].primary_metric: None}
        for metric, cell in cells.items():
            numbers = {"mean": None, "std": None, "n": 0} if cell is None else vars(cell)
            lines.append({**common, "metric": metric, **numbers, **after})
    return pd.DataFrame(lines)
