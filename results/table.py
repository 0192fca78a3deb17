"""The tables people read: one block per task, a checkpoint × task grid where there are several tasks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from results.layout import Block, Footnotes
from results.noise import about_conditions, repeat_noise
from results.rows import Row, metric_names, primary_metric
from transfer.errors import UserError
from transfer.record import Record

_BY_SIZE = re.compile(r"AP[sml]$|AR100$")


def blocks(rows: Sequence[Row], metrics: Sequence[str] = ()) -> list[Block]:
    """Everything that `python -m results table` shows of the project's own runs.

    Args:
        rows: as `results.rows.group` orders them.
        metrics: show these columns only; a task that has none of them keeps its primary metric.

    Raises:
        UserError: runs have finished, and none of `metrics` occurs in any.
    """
    _check_metrics(rows, metrics)
    by_task: dict[str, list[Row]] = {}
    for row in rows:
        by_task.setdefault(row.variant.task, []).append(row)
    # One series of marks for the whole document: the grid refers to the same footnotes.
    footnotes = Footnotes()
    parts = [_task_block(task, members, metrics, footnotes) for task, members in by_task.items()]
    if len(by_task) > 1:
        parts.append(_grid(by_task, footnotes))
    return parts


def _check_metrics(rows: Sequence[Row], wanted: Sequence[str]) -> None:
    present = {name for row in rows for record in row.finished for name in record.metrics}
    if wanted and present and not present.intersection(wanted):
        raise UserError(
            f"no run has the metric {' or '.join(wanted)}",
            found=", ".join(sorted(present)),
            todo="give --metrics some of these, or leave it out",
        )


def _task_block(task: str, rows: Sequence[Row], wanted: Sequence[str], footnotes: Footnotes) -> Block:
    columns, aside = _columns(rows, wanted)
    marks = [_marks(row, rows, footnotes) for row in rows]
    lines = tuple(
        (_name(row), row.variant.engine or "–", row.runs_text(), *(row.cell_text(metric) for metric in columns), mark)
        for row, mark in zip(rows, marks, strict=True)
    )
    used = {mark for row_marks in marks for mark in row_marks.split(", ")}
    return Block(
        title=task,
        lines=(_caption(rows), *_data_caption(rows), _reading(rows, columns), *_repeat_noise(rows), *aside),
        headers=("checkpoint", "engine", "runs", *columns, "notes"),
        rows=lines,
        footnotes=tuple((mark, text) for mark, text in footnotes.items() if mark in used),
    )


def _columns(rows: Sequence[Row], wanted: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """The metrics to show, and a line that names those kept aside: COCO's by size of object, unless asked for."""
    columns = metric_names(rows, wanted)
    by_size = [] if wanted else [name for name in columns[1:] if _BY_SIZE.search(name)]
    if not by_size:
        return columns, ()
    return [name for name in columns if name not in by_size], (f"Not shown (--metrics does): {', '.join(by_size)}.",)


def _name(row: Row) -> str:
    return f"{row.label} ({row.records[0].checkpoint['arch']})"


def _caption(rows: Sequence[Row]) -> str:
    versions = sorted({row.variant.task_version for row in rows})
    protocols = sorted({row.variant.protocol for row in rows})
    return (
        f"Version {_listed(versions)} of the task, protocol {_listed(protocols)}"
        + ("" if len(protocols) == 1 else " (the notes say which)")
        + "."
    )


def _data_caption(rows: Sequence[Row]) -> tuple[str, ...]:
    return (_data_text(rows[0].records[0]),) if len({row.variant.data for row in rows}) == 1 else ()


def _reading(rows: Sequence[Row], columns: Sequence[str]) -> str:
    if not any(row.finished for row in rows):
        return "No run has finished."
    several = any(cell.n > 1 for row in rows for metric in columns if (cell := row.cell(metric)))
    if several:
        return "Percent; mean ± sample standard deviation over runs that differ in their seed alone."
    return "Percent; single runs, so nothing is known about the noise of seeds."


def _repeat_noise(rows: Sequence[Row]) -> tuple[str, ...]:
    found = {row.variant.engine: repeat_noise(row.records[0]) for row in rows}
    return tuple(f"{engine}: {noise.line()}" for engine, noise in found.items() if noise is not None)


def _data_text(record: Record) -> str:
    splits = []
    for split in sorted(record.data, key=lambda name: (not name.startswith("train"), name)):
        fingerprint = record.data[split]
        names = sorted(fingerprint.keys() - {"name", "sha256"}, key=lambda name: (name != "images", name))
        facts = (
            [f"{fingerprint[name]} {name}" for name in names]
            + _used(record, split)
            + [f"sha256 {fingerprint['sha256'][:8]}…"]
        )
        splits.append(f"{split} {fingerprint['name']} ({', '.join(facts)})")
    return "Data: " + "; ".join(splits) + "." if splits else "Data: none recorded."


def _used(record: Record, split: str) -> list[str]:
    """How many of a detection set's boxes count, where not all do; older records do not say."""
    objects = record.details.get("objects", {}).get(split, {})
    words = (("trained_on", "trained on"), ("to_find", "to be found"))
    return [
        f"{objects[key]} of {objects['annotated']} objects {text}"
        for key, text in words
        if objects.get(key, 0) != objects.get("annotated", 0) and key in objects
    ]


# -- footnotes


def _marks(row: Row, rows: Sequence[Row], footnotes: Footnotes) -> str:
    texts = [*_variant_texts(row, rows), *_run_texts(row, rows)]
    return ", ".join(footnotes.mark(text) for text in texts)


def _variant_texts(row: Row, rows: Sequence[Row]) -> list[str]:
    """In what this row is another experiment than the protocol, and than its neighbours."""
    variant = row.variant
    said = []
    if variant.differences:
        changes = "; ".join(f"{what} {ours} (published: {theirs})" for what, theirs, ours in variant.differences)
        said.append(f"Differs from protocol {variant.protocol}: {changes}.")
    elif len({other.variant for other in rows}) > 1:
        said.append(f"As published in protocol {variant.protocol}.")
    if len({other.variant.task_version for other in rows}) > 1:
        said.append(f"Version {variant.task_version} of {variant.task}.")
    if len({other.variant.data for other in rows}) > 1:
        said.append(_data_text(row.records[0]))
    twins = [
        other for other in rows
        if other.variant.recipe != variant.recipe
        and (other.variant.protocol, other.variant.differences) == (variant.protocol, variant.differences)
    ]  # fmt: skip
    if twins:
        said.append(f"Recipe {variant.recipe[:8]}: {_recipe_difference(row.records[0], twins)}.")
    return said


def _recipe_difference(record: Record, twins: Sequence[Row]) -> str:
    ours = _flat(record.recipe)
    others = [_flat(twin.records[0].recipe) for twin in twins]
    absent = object()
    return "; ".join(
        f"{key} {value}" for key, value in ours.items() if any(other.get(key, absent) != value for other in others)
    ) or "lacks values that other rows have"  # fmt: skip


def _flat(recipe: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in recipe.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _run_texts(row: Row, rows: Sequence[Row]) -> list[str]:
    """What a reader should know about the runs behind the numbers."""
    records = row.records
    said = []
    if len({other.identity for other in rows if other.label == row.label}) > 1:
        checkpoint = records[0].checkpoint
        said.append(f"Weights {checkpoint['sha256'][:8]}, branch {checkpoint['branch']}, {checkpoint['arch']}.")
    said += [_sentence(note) for note in dict.fromkeys(note for record in records for note in record.notes)]
    if any(record.git_dirty for record in records):
        said.append("Made by code that no commit holds (uncommitted changes, or no repository).")
    commits = sorted({record.git_commit[:12] for record in records})
    if len(commits) > 1:
        said.append(f"The runs of this row were made by {len(commits)} commits: {', '.join(commits)}.")
    said += _version_texts(records)
    said += about_conditions(records)
    said += [f"Seed {record.seed} failed: {_failure_text(record)}" for record in row.failed]
    return said


def _version_texts(records: Sequence[Record]) -> list[str]:
    names = sorted({name for record in records for name in record.versions})
    found = {name: sorted({record.versions.get(name, "absent") for record in records}) for name in names}
    mixed = [f"{name} {_listed(versions)}" for name, versions in found.items() if len(versions) > 1]
    return [f"The runs of this row were made with different versions: {'; '.join(mixed)}."] if mixed else []


def _failure_text(record: Record) -> str:
    message = record.failure["message"].strip().splitlines()
    return _sentence(f"{record.failure['kind']}: {message[0]}" if message else record.failure["kind"])


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else text + "."


def _listed(values: Sequence[Any]) -> str:
    *first, last = map(str, values)
    return f"{', '.join(first)} and {last}" if first else last


# -- checkpoint × task


def _grid(by_task: Mapping[str, Sequence[Row]], footnotes: Footnotes) -> Block:
    """Primary metric of every checkpoint on every task; a second variant takes a second line, never the same cell."""
    cells: dict[tuple[str, str], dict[str, list[str]]] = {}
    engines: dict[str, str] = {}  # checkpoint → the engine whose line also takes the tasks that need none
    for row in (row for rows in by_task.values() for row in rows if row.variant.engine):
        engines.setdefault(_name(row), row.variant.engine)
    for task, rows in by_task.items():
        primary = primary_metric(rows)
        for row in rows:
            marks = _marks(row, rows, footnotes)
            text = row.cell_text(primary, alone=True) + (f" [{marks}]" if marks else "")
            engine = row.variant.engine or engines.get(_name(row), "–")
            cells.setdefault((_name(row), engine), {}).setdefault(task, []).append(text)
    lines = []
    for (name, engine), found in cells.items():
        for line in range(max(map(len, found.values()))):
            texts = (found[task][line] if line < len(found.get(task, ())) else "–" for task in by_task)
            lines.append((name, engine, *texts))
    return Block(
        title="All tasks",
        lines=(
            "The primary metric of each task, n runs each; – is not run. Letters are the notes above. "
            "Tasks without an engine stand on the first line of their checkpoint.",
        ),
        headers=("checkpoint", "engine", *(f"{task} {primary_metric(rows)}" for task, rows in by_task.items())),
        rows=tuple(lines),
    )
