"""Annotations and EXIF orientation: in which frame were the boxes drawn, and how do they turn with the picture.

Pictures are always read as seen (`transfer/datasets/images.py`). Some tools annotate them so, others the pixels as they
are stored. Where the orientation swaps the sides (5 to 8), the annotated width and height tell which; where it does not
(2 to 4, squares, annotations without size), nothing in the files does, and `--exif` has to say.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from transfer.datasets.boxes.detection import DetectionImage
from transfer.datasets.boxes.turning import turn_boxes, turn_mask
from transfer.datasets.images import Header
from transfer.datasets.wording import counted, few
from transfer.runtime.errors import DataError

ExifFrame = Literal["seen", "stored"]


@dataclass
class Frames:
    """Decides picture by picture, and keeps what it decided for notes and for one error.

    Attributes:
        exif: the frame of the annotations that their sizes cannot tell; None asks for it.
    """

    exif: ExifFrame | None
    stored: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)

    def turn(self, name: str, header: Header, size: tuple[float, float] | None, objects: bool) -> int:
        """The orientation by which the annotations of one picture are to be turned; 1: they are on the picture as seen.

        Args:
            name: of the picture, for notes and errors.
            header: of the picture.
            size: annotated (width, height), that of the stored or that of the seen picture; None: not annotated.
            objects: whether there is anything to turn; if not, nothing is asked.
        """
        if header.orientation == 1 or not objects:
            return 1
        if header.seen != header.stored and size is not None:
            on_stored = size == header.stored
            (self.stored if on_stored else self.seen).append(name)
            return header.orientation if on_stored else 1
        reason = "no size is annotated" if size is None else "both sizes are equal"
        (self.unclear if self.exif is None else self.told).append(
            f"{name} (orientation {header.orientation}, {reason})"
        )
        return header.orientation if self.exif == "stored" else 1

    def demand_clear(self, where: str) -> None:
        """Raise if pictures were left over that nothing tells the frame of.

        Raises:
            DataError: naming them, why, and the option.
        """
        if not self.unclear:
            return
        hints = [
            f"{counted(len(names), 'other picture', 'other pictures')} of it: {text}"
            for names, text in (
                (self.stored, "boxes on the pixels as stored, by their sizes"),
                (self.seen, "boxes on the picture as seen, by their sizes"),
            )
            if names
        ]
        raise DataError(
            f"{counted(len(self.unclear), 'picture', 'pictures')} of {where} are turned by their EXIF orientation, and "
            "nothing tells whether the boxes are too",
            found="\n".join([few(self.unclear), *hints]),
            todo="look at one of them in a viewer that turns pictures: --exif seen if the boxes fit what it shows,\n"
            "--exif stored if they were drawn on the pixels as they are stored",
        )

    def notes(self) -> list[str]:
        """How many were turned, and by whose word; nothing if no picture has an orientation."""
        told = f"--exif {self.exif}"
        kinds = (
            ("{} turned by EXIF, boxes with them: drawn on the pixels as stored, by their sizes", self.stored),
            ("{} turned by EXIF, boxes as they are: drawn on the picture as seen, by their sizes", self.seen),
            (f"{{}} turned by EXIF, whose boxes are by {told} on the picture as {self.exif}", self.told),
        )
        return [
            text.format(counted(len(names), "picture", "pictures")) + f": {few(names)}"
            for text, names in kinds
            if names
        ]


def read_as(header: Header) -> str:
    """`DetectionImage.decoding` of a picture; "" where decoding alone gives its pixels."""
    turned = f"orientation {header.orientation}" if header.orientation != 1 else ""
    return " ".join(part for part in (turned, "upper byte of 16 bits" if header.deep else "") if part)


def as_seen(image: DetectionImage, header: Header, turn: int) -> DetectionImage:
    """The image with its annotations turned by `turn`, in the frame of the picture as seen.

    Args:
        image: annotations in the frame in which they were drawn.
        header: of its file.
        turn: as `Frames.turn` says.
    """
    return dataclasses.replace(
        image,
        width=header.width,
        height=header.height,
        boxes=turn_boxes(image.boxes, image.width, image.height, turn),
        masks=None if image.masks is None else tuple(turn_mask(mask, turn) for mask in image.masks),
        decoding=read_as(header),
        turned=turn,
    )
