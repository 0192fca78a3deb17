"""COCO's `area`, by which an object is small, medium or large, held against the box and the mask."""

from __future__ import annotations

from dataclasses import dataclass, field

from transfer.datasets.boxes.box_limits import Corners
from transfer.datasets.boxes.mask_files import area_of
from transfer.datasets.boxes.masks import Mask
from transfer.datasets.wording import counted, few

SHARE = 0.05  # of the objects: so many contradictions are said; of COCO's own, 0 of 954 contradict (tests' photographs)
DRAWN = 2_000  # masks that are measured at most; drawing all of COCO's would take as long as reading them


@dataclass
class AreaCheck:
    """Counts areas that cannot be those of their objects.

    A connected object has at least as many pixels as the longer side of its box, and no more than the box. Within these
    limits a scratch is as good as a plate, so that only masks tell more: COCO's areas are theirs.

    Attributes:
        every: measure the mask of every such object.
    """

    every: int = 1
    areas: list[float] = field(default_factory=list)
    drawn: int = 0
    against_box: list[str] = field(default_factory=list)
    against_mask: list[str] = field(default_factory=list)
    small: list[str] = field(default_factory=list)

    def look(self, name: str, area: float, box: Corners, mask: Mask | None) -> None:
        """Takes note of one object that is no crowd and lies inside its image.

        Args:
            name: the object, for the note.
            area: as annotated, pixels².
            box: (x1, y1, x2, y2) in pixels.
            mask: its mask, if it has one.
        """
        width, height = box[2] - box[0], box[3] - box[1]
        text = f"{name} (area {area:g}, box {width:g} × {height:g}"
        if mask is not None and len(self.areas) % self.every == 0:
            self.drawn += 1
            pixels = area_of(mask)
            if not area / 2 - 16 <= pixels <= 2 * area + 16:  # where a border is drawn makes more for small objects
                self.against_mask.append(f"{text}, mask {pixels:g} pixels)")
        self.areas.append(area)
        if not max(width, height) / 2 <= area + 0.5 or area > 1.1 * width * height + 4:
            self.against_box.append(f"{text})")
        elif area * 25 < width * height:
            self.small.append(f"{text})")

    def notes(self) -> list[str]:
        """One note if more than `SHARE` contradict the boxes, else the masks, or if most are small in their boxes."""
        number = len(self.areas)
        if len(self.against_box) > SHARE * number:
            what = f"contradicts the box of {len(self.against_box):,} of {counted(number, 'object', 'objects')}"
            shown = self.against_box
        elif len(self.against_mask) > SHARE * self.drawn:
            what = (
                f"contradicts {len(self.against_mask):,} of {counted(self.drawn, 'mask', 'masks')} that were measured"
            )
            shown = self.against_mask
        elif not self.drawn and len(self.small) > number / 2:
            what = (
                f"is less than a 25th of the box in {len(self.small):,} of {counted(number, 'object', 'objects')}, "
                "which are very thin or were measured on smaller images"
            )
            shown = self.small
        else:
            return []
        least, most = min(self.areas), max(self.areas)
        values = f"all are {least:g}" if least == most else f"they go from {least:g} to {most:g}"
        return [
            f"`area` {what} ({values}): {few(shown, 3)}; the APs of small, medium and large objects go by it, as in "
            "pycocotools, and say nothing where it is wrong; take `area` out of the file to have the objects measured"
        ]
