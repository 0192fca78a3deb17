"""Pictures: the primary metric of every row with its seeds as points, and the loss curves of runs."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from results.model import Block, Row, Tables
from results.render import cell_parts, marked_name
from transfer.runtime.errors import UserError
from transfer.runtime.files import write_atomically
from transfer.runtime.letters import plottable

COLOURS = plt.get_cmap("tab10").colors
FORMATS = ("png", "pdf", "svg")


def plot_metric(tables: Tables, out: Path) -> None:
    """One panel per task: a point per seed, a bar at the mean, ± one sample standard deviation as a band; from 0.

    Args:
        tables: of `results.blocks.tables`; drawn is the first column of each task.
        out: png, pdf or svg.

    Raises:
        UserError: no run has finished, or the ending is not known.
    """
    panels_of = [(block, place) for block in tables.blocks for place, head in enumerate(block.columns) if head.first]
    panels_of = [(block, place) for block, place in panels_of if any(row.cells[place].runs for row in block.rows)]
    if not any(row.cells[place].n for block, place in panels_of for row in block.rows):
        raise UserError("no run has finished", todo="choose others by --task")
    labels = list(dict.fromkeys(row.label for block, _ in panels_of for row in block.rows))
    colours = {label: COLOURS[position % len(COLOURS)] for position, label in enumerate(labels)}
    heights = [1.4 + 0.55 * len(_measured(block, place)) for block, place in panels_of]
    figure, panels = plt.subplots(
        len(panels_of), 1, figsize=(8, sum(heights)), height_ratios=heights, squeeze=False, layout="constrained"
    )
    for panel, (block, place) in zip(panels[:, 0], panels_of, strict=True):
        _metric_panel(panel, block, place, colours)
    figure.supxlabel("points: seeds · bars: means · bands: ± one sample standard deviation", fontsize=8, color="0.3")
    _save(figure, out)


def _measured(block: Block, place: int) -> list[Row]:
    return [row for row in block.rows if row.cells[place].runs]


def _metric_panel(panel: Any, block: Block, place: int, colours: Mapping[str, Any]) -> None:
    rows, head = _measured(block, place), block.columns[place]
    for position, row in enumerate(rows):
        colour, cell = colours[row.label], row.cells[place]
        parts = cell_parts(cell, head)
        if cell.mean is None:
            said = f"failed ({cell.total})" if cell.state == "failed" else "–"
            panel.text(0.0, position, f"  {said}", va="center", color="0.4", transform=panel.get_yaxis_transform())
            continue
        if cell.std is not None:
            panel.barh(position, 2 * cell.std, left=cell.mean - cell.std, height=0.5, color=colour, alpha=0.2)
        panel.plot([cell.mean, cell.mean], [position - 0.3, position + 0.3], color=colour, linewidth=2.5)
        values = list(cell.values.values())
        panel.plot(
            values, [position] * len(values), "o", color=colour, markersize=5, markeredgecolor="white", clip_on=False
        )
        said = " ".join(part for part in (parts.mean, f"± {parts.std}" * bool(parts.std), parts.count) if part)
        above = {"xytext": (0, 2), "textcoords": "offset points", "ha": "center", "va": "bottom"}
        panel.annotate(said + cell.mark, (cell.mean, position - 0.3), fontsize=8, color="0.3", **above)
    heading = [block.title, *textwrap.wrap(block.setting, 88)]
    panel.set_title("\n".join(map(plottable, heading)), loc="left", fontsize=9)
    panel.set_yticks(range(len(rows)), [plottable(marked_name(row)) for row in rows], fontsize=9)
    panel.tick_params(axis="y", length=0)
    panel.set_ylim(len(rows) - 0.5, -0.8)
    panel.margins(x=0.12)
    panel.set_xlim(left=0)  # so that lengths compare; of seeds that lie close together the numbers are written out
    panel.set_xlabel(f"{plottable(f'{head.group} {head.name}'.strip())} (percent)", fontsize=9)
    panel.grid(axis="x", color="0.9")
    panel.set_axisbelow(True)
    panel.spines[["top", "right", "left"]].set_visible(False)


def plot_curves(frame: pd.DataFrame, work: Path, out: Path) -> list[str]:
    """Training loss over steps, one panel per task, one colour per checkpoint, engine and recipe, one line per seed.

    Thin lines are the logged values, thick ones their running mean over a twentieth of the run.

    Args:
        frame: of `results.load`; whose runs to draw.
        work: the folder with <task>/<run id>/metrics.jsonl (of fine-tuning: …/final/metrics.jsonl).
        out: png, pdf or svg.

    Returns:
        One sentence per run that has no curve.

    Raises:
        UserError: no run has one, or a curve is not as runs write it.
    """
    by_task: dict[str, list[tuple[str, pd.DataFrame]]] = {}
    absent = []
    for row in frame.itertuples():
        path = work / row.task / row.id / "metrics.jsonl"
        if not path.is_file() and (final := path.parent / "final" / path.name).is_file():
            path = final  # of the last training of a search
        if path.is_file():
            name = " · ".join(part for part in (row.label, row.engine, f"recipe {row.recipe[:6]}") if part)
            by_task.setdefault(row.task, []).append((name, read_curve(path)))
        else:
            absent.append(f"{row.label}, seed {row.seed}: no {path}")
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


def _curve_panel(panel: Any, task: str, curves: Sequence[tuple[str, pd.DataFrame]]) -> None:
    names = list(dict.fromkeys(name for name, _ in curves))
    named: set[str] = set()
    for name, curve in curves:
        colour = COLOURS[names.index(name) % len(COLOURS)]
        window = max(1, len(curve) // 20)
        smooth = curve["loss"].rolling(window, min_periods=1).mean()
        panel.plot(curve["step"], curve["loss"], color=colour, linewidth=0.6, alpha=0.35)
        label = None if name in named else plottable(name)
        panel.plot(curve["step"], smooth, color=colour, linewidth=1.6, label=label)
        named.add(name)
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
    from transfer.runtime.curve import not_a_line, read  # tables need no curves

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
