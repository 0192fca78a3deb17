"""A picture of a run: its loss, the health of the particles, the forces on them, and what probes say."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from transfer.runtime.curve import FILE, read
from transfer.runtime.errors import UserError
from transfer.runtime.files import write_atomically

Rows = Sequence[dict[str, Any]]


def lines(*names: str, log: bool = False) -> Callable[[Axes, Rows], None]:
    """A panel that draws these columns over the steps; absent ones are left out."""

    def draw(axes: Axes, rows: Rows) -> None:
        for name in names:
            points = [(row["step"], row[name]) for row in rows if name in row]
            if points:
                axes.plot(*zip(*points, strict=True), label=name, marker="." if len(points) < 30 else None)
        if log:
            axes.set_yscale("log")
        axes.set_xlabel("step", fontsize=8)

    return draw


def spectra(axes: Axes, rows: Rows) -> None:
    """Singular values of the embeddings, at the first, a middle and the last logged step."""
    found = [row for row in rows if "spectrum" in row]
    for row in [found[0], found[len(found) // 2], found[-1]] if found else []:
        places = [i / max(1, len(row["spectrum"]) - 1) for i in range(len(row["spectrum"]))]
        axes.plot(places, row["spectrum"], label=f"step {row['step']}")
    axes.set_xlabel("j / min(n, d)", fontsize=8)
    axes.set_ylim(bottom=0)


def std(axes: Axes, rows: Rows) -> None:
    """Mean over dimensions, and the range between the least and the most spread one."""
    lines("std")(axes, rows)
    found = [row for row in rows if "std_min" in row]
    if found:
        steps, low, high = ([row[name] for row in found] for name in ("step", "std_min", "std_max"))
        axes.fill_between(steps, low, high, alpha=0.2, label="least to most spread dimension")


PANELS: tuple[tuple[str, Callable[[Axes, Rows], None]], ...] = (
    ("loss and its terms", lines("loss", "centroid", "brownian", "invariance", "variance")),
    ("singular value loss", lines("singular")),
    ("probes on frozen features, %", lines("knn", "linear")),
    ("spread per dimension (1: uniform)", std),
    ("effective rank (RankMe)", lines("effective_rank")),
    ("singular values / largest", spectra),
    ("alignment, distance to centroid", lines("alignment", "centroid_distance")),
    ("uniformity", lines("uniformity")),
    ("tangential share of each force", lines("tangential_own", "tangential_singular", "tangential_brownian")),
    ("force beside the method's own", lines("force_singular", "force_brownian", log=True)),
    ("learning rate", lines("lr")),
    ("images per second", lines("images_per_second")),
)


def plot(run: Path) -> Path:
    """Draw `run`/metrics.jsonl into `run`/curves.png and return that; panels without anything to show are left out.

    Raises:
        UserError: there are no curves.
    """
    rows = read(run / FILE)
    if not rows:
        raise UserError(f"no curves in {run}", todo="name the --out folder of a run that has logged a step")
    figure = Figure(figsize=(13, 10), layout="constrained")
    panels = figure.subplots(4, 3).flat
    for axes, (title, draw) in zip(panels, PANELS, strict=True):
        draw(axes, rows)
        if not axes.has_data():
            axes.set_axis_off()
            continue
        axes.set_title(title, fontsize=10)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(fontsize=8)
    path = run / "curves.png"
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    write_atomically(path, lambda file: file.write(picture.getbuffer()))
    return path
