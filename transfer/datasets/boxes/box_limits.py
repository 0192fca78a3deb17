"""Boxes that reach beyond their image: refused, clipped or dropped, and always said."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from transfer.datasets.wording import counted, few
from transfer.runtime.errors import DataError

Corners = tuple[float, float, float, float]

TOLERANCE = 1.0  # pixels: what annotations that count from 0 overshoot
ROUNDING = 0.01  # pixels: COCO's x and width have two decimals, their sum may overshoot by one; not worth a note


@dataclass
class BoxLimits:
    """What a reader does about such boxes, and one text for each that it mended.

    Attributes:
        clip: clip boxes that reach further than `TOLERANCE` beyond the image instead of refusing them.
    """

    clip: bool
    empty: list[str] = field(default_factory=list)
    nudged: list[str] = field(default_factory=list)
    clipped: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def inside(self, corners: Corners, width: int, height: int, text: str, where: str) -> Corners | None:
        """The part of a box within the image, (x1, y1, x2, y2), 0-based with exclusive ends; None if nothing is.

        Args:
            corners: the box, in the same coordinates.
            width, height: pixels of the image.
            text: the box as it is annotated, for notes.
            where: the file, for an error.

        Raises:
            DataError: it reaches further than `TOLERANCE` beyond the image and `clip` is off.
        """
        x1, y1, x2, y2 = corners
        beyond = max(-x1, -y1, x2 - width, y2 - height)
        if beyond <= 0:
            return corners
        if beyond > TOLERANCE and not self.clip:
            raise DataError(
                f"box outside the image in {where}",
                found=f"{text} in an image of {width} × {height}",
                todo="correct the annotation, or clip all such boxes with --clip-boxes (how many goes into the record)",
            )
        x1, y1, x2, y2 = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
        if x2 <= x1 or y2 <= y1:
            self.outside.append(text)
            return None
        if beyond > ROUNDING:
            (self.clipped if beyond > TOLERANCE else self.nudged).append(text)
        return x1, y1, x2, y2

    def counts(self, hidden: int = 0) -> dict[str, Any]:
        """`left_out` and `clipped` of a `DetectionDataset`; `hidden` is the number of objects without a pixel."""
        dropped = {
            "without area": len(self.empty),
            "outside of the image": len(self.outside),
            "without a pixel": hidden,
        }
        return {
            "left_out": {reason: count for reason, count in dropped.items() if count},
            "clipped": len(self.nudged) + len(self.clipped),
        }

    def notes(self) -> list[str]:
        """One note for each kind of mending."""
        kinds = (
            ("{} without area dropped", self.empty),
            ("{} clipped that reached up to 1 pixel beyond the image", self.nudged),
            ("{} clipped at the border of the image (--clip-boxes)", self.clipped),
            ("{} dropped that lay outside of the image (--clip-boxes)", self.outside),
        )
        return [text.format(counted(len(boxes), "box", "boxes")) + f": {few(boxes)}" for text, boxes in kinds if boxes]
