"""Precision–recall curves of COCO's measure as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from detection.score.coco_ap import CocoResult
from transfer.runtime.files import write_atomically
from transfer.runtime.letters import plottable

CLASSES_UP_TO = 10  # curves in one panel; of more classes, that many from the best to the worst
THRESHOLDS = ((0, "IoU 0.5"), (5, "IoU 0.75"))  # places in the first axis of `CocoResult.precision`
COLOURS = matplotlib.colormaps["tab10"](range(10))


def draw_curves(result: CocoResult, path: Path) -> None:
    """Write a PNG: the mean curves over classes at IoU .5 and .75, and single classes at IoU .5.

    The precision at a recall level is the best at that level or beyond, as COCO's AP averages it; the mean of a curve
    over its 101 levels is the AP in the legend. Classes without an object are left out, as in the means.

    Args:
        result: of boxes or of masks.
        path: the PNG, written whole or not at all.
    """
    figure = Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    recall = np.linspace(0, 1, result.precision.shape[1])
    present = np.flatnonzero(~np.isnan(result.precision[0, 0, :, 0]))
    for (place, name), colour in zip(THRESHOLDS, COLOURS, strict=False):
        _curve(left, recall, result.precision[place, :, :, 0][:, present].mean(axis=1), name, colour)
    _finish(left, f"mean over classes ({len(present)})", "lower left")
    chosen = _choose(result.precision[0, :, :, 0].mean(axis=0), present)
    for label, colour in zip(chosen, COLOURS, strict=False):
        _curve(right, recall, result.precision[0, :, label, 0], result.classes[label], colour)
    which = "" if len(chosen) == len(present) else f": {len(chosen)} of {len(present)}, from the best to the worst"
    _finish(right, f"classes at IoU 0.5{which}", "outside")
    figure.suptitle(f"precision and recall of {'masks' if result.kind == 'segm' else 'boxes'}", fontsize=12)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))


def _choose(ap: NDArray[np.float64], present: NDArray[np.intp]) -> NDArray[np.intp]:
    """Class indices from the best AP to the worst; of more than ten, ten at even steps of rank."""
    ranked = present[np.argsort(-ap[present], kind="stable")]
    if len(ranked) <= CLASSES_UP_TO:
        return ranked
    return ranked[np.linspace(0, len(ranked) - 1, CLASSES_UP_TO).round().astype(np.intp)]


def _curve(panel: Any, recall: NDArray[np.float64], precision: NDArray[np.float64], name: str, colour: Any) -> None:
    label = f"{100 * precision.mean():5.1f}  {plottable(name)}"
    panel.plot(recall, precision, color=colour, linewidth=1.8, label=label, clip_on=False)


def _finish(panel: Any, title: str, legend: str) -> None:
    panel.set_title(title, loc="left", fontsize=10, fontweight="bold")
    panel.set_xlabel("recall")
    panel.set_ylabel("precision")
    panel.set_xlim(0, 1)
    panel.set_ylim(0, 1)
    panel.set_aspect("equal")
    panel.grid(color="0.92")
    panel.spines[["top", "right"]].set_visible(False)
    place = {"loc": "upper left", "bbox_to_anchor": (1.02, 1)} if legend == "outside" else {"loc": legend}
    panel.legend(frameon=False, fontsize=9, title="AP (percent)", alignment="left", **place)
