"""What the engines do otherwise than the library that a recipe was published with; every record names it."""

from __future__ import annotations

from detection.recipe import DetectorRecipe, Maps, ViTFPN
from transfer.runtime.provenance import Difference


def differences(recipe: DetectorRecipe, engine: str, processes: int) -> tuple[Difference, ...]:
    """What an engine does otherwise than the library that the recipe was published with: (what, theirs, here)."""
    rows = _between(recipe) if engine != recipe.library else []
    turned = [(what, one, other) if recipe.library == "detectron2" else (what, other, one) for what, one, other in rows]
    return (*turned, *(_of_both(recipe, processes) if isinstance(recipe, Maps) else ()))


def _between(recipe: DetectorRecipe) -> list[Difference]:
    """(what, Detectron2, MMDetection)"""
    found: list[Difference] = []
    if recipe.family != "fcos":
        if recipe.neck != "simple_fpn":  # whose canvas is the image's own padding in both
            found.append(("anchors over the padding of a batch", "background samples", "left out"))
        if not isinstance(recipe, Maps):
            found.append(
                (
                    "box that a low-overlap anchor learns, if it is the best anchor of another box than it overlaps "
                    "most",
                    "the one it overlaps most",
                    "the one whose best anchor it is",
                )
            )
    if not recipe.regions:
        start = 300 if recipe.family == "fcos" else 100  # `_ema_update` in detectron2's fcos.py and retinanet.py
        found.append(
            (
                "losses are divided by the number of foreground positions",
                f"its running mean in each process, begun at {start}",
                "of this batch, averaged over processes"
                if recipe.family == "fcos"
                else "of this batch in each process",
            )
        )
    if recipe.family == "fcos":
        found.append(("box loss of a position", "weighs the same for all", "weighs as much as its centreness"))
    if recipe.masks:
        found.append(
            ("regions less than a pixel wide, as mask targets", "stretched to the mask", "taken for a pixel wide")
        )
    return found


def _of_both(recipe: Maps, processes: int) -> list[Difference]:
    """What neither engine here does as MMDetection 2 did, with which detectors on four maps were published."""
    found: list[Difference] = [
        ("resizing of images", "OpenCV's, which averages nothing", "Pillow's, which averages when it shrinks"),
        ("first weights of pyramid and heads", "MMDetection's, Xavier's rule", "Detectron2's, Caffe2's form of it"),
    ]
    if recipe.masks:
        found.append(("masks of objects with outlines", "drawn at the image's size first", "cut as outlines"))
    if isinstance(recipe, ViTFPN):
        trained = "" if recipe.train_positions else ", not trained"
        theirs = "resized to 42 × 68 once" if recipe.train_positions else "sines and cosines of 42 × 68 places"
        found.append(
            ("positions of patches", f"{theirs}{trained}, and from there", f"the checkpoint's, resized{trained}")
        )
        if recipe.norm == "SyncBN" and processes > 1:
            found.append(("a batch norm over processes", "weighs every position", "weighs every process"))
    return found
