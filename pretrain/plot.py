"""A small picture of a run's curves."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.figure import Figure

from pretrain.curves import read_curves
from transfer.atomic import write_atomically
from transfer.errors import UserError

PANELS = (
    ("loss", ("loss", "centroid")),
    ("singular value loss", ("singular",)),
    ("learning rate", ("lr",)),
    ("spread (1: uniform)", ("std",)),
    ("effective rank", ("effective_rank",)),
    ("images per second", ("images_per_second",)),
)


def plot(run: Path) -> Path:
    """Draw `run`/metrics.jsonl into `run`/curves.png and return that.

    Raises:
        UserError: there are no curves.
    """
    rows = read_curves(run / "metrics.jsonl")
    if not rows:
        raise UserError(f"no curves in {run}", todo="name the --out folder of a run that has logged a step")
    figure = Figure(figsize=(10, 5), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(2, 3).flat, PANELS, strict=True):
        for name in names:
            points = [(row["step"], row[name]) for row in rows if name in row]
            if points:
                axes.plot(*zip(*points, strict=True), label=name)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
        if len(names) > 1:
            axes.legend(fontsize=8)
    path = run / "curves.png"
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    write_atomically(path, lambda file: file.write(picture.getbuffer()))
    return path
