"""Pictures: the primary metric of every row with its seeds as points, and the loss curves of runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from results.rows import Row, primary_metric
from transfer.atomic import write_atomically
from transfer.errors import UserError
from transfer.letters import plottable

COLOURS = plt.get_cmap("tab10").colors
FORMATS = ("png", "pdf", "svg")


def plot_metric(rows: Sequence[Row], out: Path, metric: str | None = None) -> None:
    """One panel per task: a point per seed, a bar at the mean, ± one sample standard deviation as a band.

    Args:
        rows: as `results.rows.group` orders them.
        out: png, pdf or svg.
        metric: instead of each task's primary metric.
    """
    by_task: dict[str, list[Row]] = {}
    for row in rows:
        by_task.setdefault(row.variant.task, []).append(row)
    labels = list(dict.fromkeys(row.label for row in rows))
    colours = {label: COLOURS[position % len(COLOURS)] for position, label in enumerate(labels)}
    heights = [1.0 + 0.55 * len(members) for members in by_task.values()]
    figure, panels = plt.subplots(
        len(by_task), 1, figsize=(8, sum(heights)), height_ratios=heights, squeeze=False, layout="constrained"
    )
    for panel, (task, members) in zip(panels[:, 0], by_task.items(), strict=True):
        name = metric or primary_metric(members)
        if not any(row.cell(name) for row in members):
            plt.close(figure)
            raise UserError(
                f"no finished run of {task} has the metric {name}", todo="choose others by --task and --metric"
            )
        _metric_panel(panel, members, name, colours)
        panel.set_title(task, loc="left", fontsize=11, fontweight="bold")
    figure.supxlabel("points: seeds · bars: means · bands: ± one sample standard deviation", fontsize=8, color="0.3")
    _save(figure, out)


def _metric_panel(panel: Any, rows: Sequence[Row], metric: str, colours: Mapping[str, Any]) -> None:
    panel.use_sticky_edges = False  # a band at the edge must not cut the points in it
    for position, row in enumerate(rows):
        colour = colours[row.label]
        cell = row.cell(metric)
        if cell is None:
            text = f"  {row.cell_text(metric)}" if row.failed else "  –"
            panel.text(0.0, position, text, va="center", color="0.4", transform=panel.get_yaxis_transform())
            continue
        values = [record.metrics[metric] for record in row.finished if metric in record.metrics]
        if cell.std is not None:
            panel.barh(position, 2 * cell.std, left=cell.mean - cell.std, height=0.5, color=colour, alpha=0.2)
        panel.plot([cell.mean, cell.mean], [position - 0.3, position + 0.3], color=colour, linewidth=2.5)
        panel.plot(values, [position] * len(values), "o", color=colour, markersize=5, markeredgecolor="white")
        said = row.cell_text(metric, alone=True).strip() + (f", {len(row.failed)} failed" if row.failed else "")
        above = {"xytext": (0, 2), "textcoords": "offset points", "ha": "center", "va": "bottom"}
        panel.annotate(said, (cell.mean, position - 0.3), fontsize=8, color="0.3", **above)
    panel.set_yticks(range(len(rows)), [_row_name(row, rows) for row in rows], fontsize=9)
    panel.tick_params(axis="y", length=0)
    panel.set_ylim(len(rows) - 0.5, -0.8)
    panel.margins(x=0.12)
    panel.set_xlabel(f"{plottable(metric)} (percent)", fontsize=9)
    panel.grid(axis="x", color="0.9")
    panel.set_axisbelow(True)
    panel.spines[["top", "right", "left"]].set_visible(False)


def _row_name(row: Row, rows: Sequence[Row]) -> str:
    """Label, and under it what tells the row from the others."""
    variant, others = row.variant, [other.variant for other in rows]
    below = [variant.engine] if variant.engine else []
    if len({other.protocol for other in others}) > 1:
        below.append(variant.protocol)
    if len({other.differences for other in others}) > 1:
        count = len(variant.differences)
        below.append(f"{count} difference{'' if count == 1 else 's'}" if count else "as published")
    # Whatever still looks alike is told apart by its hash.
    alike = [
        other for other in others if (other.protocol, other.differences) == (variant.protocol, variant.differences)
    ]
    below += [f"recipe {variant.recipe[:6]}"] if len({other.recipe for other in alike}) > 1 else []
    below += [f"data {variant.data[:6]}"] if len({other.data for other in alike}) > 1 else []
    below += [f"version {variant.task_version}"] if len({other.task_version for other in others}) > 1 else []
    name = plottable(row.label)
    return f"{name}\n{', '.join(below)}" if below else name


def plot_curves(rows: Sequence[Row], work: Path, out: Path) -> list[str]:
    """Training loss over steps, one panel per task, one colour per row, one line per seed.

    Thin lines are the logged values, thick ones their running mean over a twentieth of the run.

    Args:
        rows: whose runs to draw.
        work: the folder with <task>/<run id>/metrics.jsonl (of fine-tuning: …/final/metrics.jsonl).
        out: png, pdf or svg.

    Returns:
        One sentence per run that has no curve.

    Raises:
        UserError: no run has one, or a curve is not as runs write it.
    """
    by_task: dict[str, list[tuple[Row, int, pd.DataFrame]]] = {}
    absent = []
    for row in rows:
        for record in row.records:
            path = work / record.task / record.run_id / "metrics.jsonl"
            if not path.is_file() and (final := path.parent / "final" / path.name).is_file():
                path = final  # of the last training of a search
            if path.is_file():
                by_task.setdefault(record.task, []).append((row, record.seed, read_curve(path)))
            else:
                absent.append(f"{record.label}, seed {record.seed}: no {path}")
    if not by_task:
        raise UserError(
            "none of these runs has a loss curve",
            found="\n".join(absent[:4]),
            todo="curves stay where the run was made; --work DIR names that folder",
        )
    figure, panels = plt.subplots(len(by_task), 1, figsize=(8, 4 * len(by_task)), squeeze=False, layout="constrained")
    for panel, (task, curves) in zip(panels[:, 0], by_task.items(), strict=True):
        _curve_panel(panel, task, curves)
    _save(figure, out)
    return absent


def _curve_panel(panel: Any, task: str, curves: Sequence[tuple[Row, int, pd.DataFrame]]) -> None:
    rows = list(dict.fromkeys((row.label, row.variant) for row, _, _ in curves))
    members = list({(row.label, row.variant): row for row, _, _ in curves}.values())
    named: set[tuple[str, Any]] = set()
    for row, _, curve in curves:
        key = (row.label, row.variant)
        colour = COLOURS[rows.index(key) % len(COLOURS)]
        window = max(1, len(curve) // 20)
        smooth = curve["loss"].rolling(window, min_periods=1).mean()
        panel.plot(curve["step"], curve["loss"], color=colour, linewidth=0.6, alpha=0.35)
        name = None if key in named else _row_name(row, members).replace("\n", " · ")
        panel.plot(curve["step"], smooth, color=colour, linewidth=1.6, label=name)
        named.add(key)
    panel.set_title(task, loc="left", fontsize=11, fontweight="bold")
    panel.set_xlabel("step")
    panel.set_ylabel("training loss")
    panel.set_ylim(bottom=0)
    panel.grid(color="0.92")
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, fontsize=8)


def read_curve(path: Path) -> pd.DataFrame:
    """The lines of a training in a curve, as a frame of "step" and "loss".

    Raises:
        UserError: a whole line is none of a curve, or none has a loss; the message has its number.
    """
    from transfer.curve import not_a_line, read  # tables need no curves

    rows = []
    for number, row in enumerate(read(path), start=1):
        try:
            if "loss" in row or len(row) == 1:  # others are of an evaluation or a probe on the way
                rows.append({"step": row["step"], "loss": float(row["loss"])})
        except (KeyError, TypeError, ValueError) as error:
            raise not_a_line(path, number, json.dumps(row)) from error
    if not rows:
        raise UserError(f"{path} holds no whole line", todo="wait until the run has logged one")
    return pd.DataFrame(rows).astype({"loss": np.float64})


def _save(figure: Any, out: Path) -> None:
    kind = out.suffix.lstrip(".").lower()
    if kind not in FORMATS:
        plt.close(figure)
        raise UserError(
            f"cannot draw {out}", found=f"the ending {out.suffix!r}", todo=f"end --out in .{' or .'.join(FORMATS)}"
        )
    write_atomically(out, lambda file: figure.savefig(file, format=kind, dpi=150))
    plt.close(figure)
