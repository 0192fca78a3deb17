"""COCO's `segmentation`, in every form that occurs, as a `Mask`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as coco_mask
from numpy.typing import NDArray

from transfer.datasets.boxes.box_limits import TOLERANCE
from transfer.datasets.boxes.coco_records import CocoImage
from transfer.datasets.boxes.mask_files import read_object
from transfer.datasets.boxes.masks import Mask
from transfer.datasets.wording import counted, few
from transfer.runtime.errors import DataError


@dataclass
class MaskReader:
    """Reads segmentations of one file and keeps what it found odd.

    Attributes:
        folder: the JSON's; paths of PNG files are relative to it.
        clip: accept polygons that reach further than a pixel beyond the image; drawing them cuts them off.
    """

    folder: Path
    clip: bool
    crowds: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    beyond: list[str] = field(default_factory=list)
    slashed: list[str] = field(default_factory=list)

    def read(self, segmentation: Any, crowd: bool, image: CocoImage, where: str) -> Mask:
        """The mask of one object.

        Args:
            segmentation: a list of polygons, run lengths {size, counts} with a list or a compressed string, or the
                path of a PNG file that is not zero where the object is.
            crowd: COCO's flag; its own crowds have run lengths.
            image: the object's image.
            where: the annotation and its file, for errors and notes.

        Raises:
            DataError: none of these, or not one that fits the image.
        """
        if isinstance(segmentation, str):
            file = self.folder / segmentation
            if "\\" in segmentation and not file.exists():
                self.slashed.append(where)
                file = self.folder / segmentation.replace("\\", "/")
            pixels = read_object(file, image.width, image.height, where)
            return Mask.from_pixels(pixels)
        if isinstance(segmentation, dict):
            return _from_runs(segmentation, image, where)
        if not isinstance(segmentation, list):
            raise _broken(where, f"a {type(segmentation).__name__}", "write polygons, run lengths or a file's path")
        polygons = self._polygons(segmentation, image, where)
        if crowd:
            self.crowds.append(where)
        return Mask(image.height, image.width, polygons=polygons)

    def _polygons(self, segmentation: list[Any], image: CocoImage, where: str) -> tuple[NDArray[np.float64], ...]:
        kept = []
        for number, polygon in enumerate(segmentation, 1):
            if not isinstance(polygon, np.ndarray) or polygon.ndim != 1:
                raise _broken(where, f"polygon {number} is no list of numbers", "write [[x1, y1, x2, y2, …], …]")
            if len(polygon) % 2:
                raise _broken(where, f"polygon {number} has {len(polygon)} coordinates", "write pairs of x and y")
            # Two points enclose nothing; Detectron2 drops such parts too (data/datasets/coco.py).
            if len(polygon) >= 6:
                self._demand_inside(polygon, image, where, number)
                kept.append(polygon.astype(np.float64, copy=False))
        if not kept:
            raise _broken(where, "no polygon with three points or more", "draw the object again, or remove it")
        if len(kept) < len(segmentation):
            self.lines.append(where)
        return tuple(kept)

    def _demand_inside(self, polygon: NDArray[Any], image: CocoImage, where: str, number: int) -> None:
        x, y = polygon[::2], polygon[1::2]
        left, right, top, bottom = x.min(), x.max(), y.min(), y.max()
        # Written so that NaN, which passes no comparison, does not pass.
        inside_x = left >= -TOLERANCE and right <= image.width + TOLERANCE
        if inside_x and top >= -TOLERANCE and bottom <= image.height + TOLERANCE:
            return
        if not np.isfinite(polygon).all():
            raise _broken(where, f"polygon {number} has a coordinate that is no number", "correct this polygon")
        beyond = max(-left, -top, right - image.width, bottom - image.height)
        # Drawing takes memory for every pixel that an outline passes, also those outside: what is further away than the
        # image is large is a mistake.
        if not self.clip or beyond > max(image.width, image.height):
            raise DataError(
                f"the polygon of {where} lies outside the image",
                found=f"polygon {number} reaches {beyond:.1f} pixels beyond {image.width} × {image.height}",
                todo="correct the annotation; what is nearer than the image is large can be clipped with --clip-boxes",
            )
        self.beyond.append(where)

    def notes(self) -> list[str]:
        """One note for each kind of oddity."""
        kinds = (
            ("{} with polygons instead of run lengths", self.crowds, ("crowd", "crowds")),
            ("{} had parts of fewer than three points, which were dropped", self.lines, ("object", "objects")),
            ("{} in a file whose name has backslashes, read as slashes", self.slashed, ("mask", "masks")),
            ("{} beyond the image, cut off at its border (--clip-boxes)", self.beyond, ("polygon", "polygons")),
        )
        return [text.format(counted(len(odd), *nouns)) + f": {few(odd)}" for text, odd, nouns in kinds if odd]


def run_lengths(counts: bytes) -> NDArray[np.int64]:
    """COCO's compressed string → lengths of the runs, background first.

    Five bits a character from "0" on, the lowest first, bit 5 set where more follow, the last one's bit 4 the sign;
    from the fourth on each number is the difference to the last but one (cocoapi: common/maskApi.c, rleFrString).
    The libraries' decoders do not check and read beyond the string's end.

    Raises:
        ValueError: no such string.
    """
    codes = np.frombuffer(counts, np.uint8).astype(np.int64) - ord("0")
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("no compressed run lengths")
    ends = np.flatnonzero(codes & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    places = np.arange(len(codes)) - np.repeat(starts, ends - starts + 1)
    if places.max() > 6:  # 35 bits; a length has 32 at most
        raise ValueError("a run length of more than 32 bits")
    lengths = np.add.reduceat((codes & 31) << (5 * places), starts)
    lengths -= ((codes[ends] & 16) >> 4) << (5 * (places[ends] + 1))
    lengths[1::2] = lengths[1::2].cumsum()
    lengths[2::2] = lengths[2::2].cumsum()
    return lengths


def _from_runs(segmentation: dict[str, Any], image: CocoImage, where: str) -> Mask:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    expected = [image.height, image.width]
    if size != expected:
        raise _broken(where, f"run lengths of size {size}, the image has {expected} (height, width)", "correct them")
    if isinstance(counts, str):
        try:
            counts = counts.encode("ascii")
            lengths = run_lengths(counts)
        except ValueError as error:  # also a character that is not ASCII
            raise _broken(where, f"run lengths that cannot be decoded: {error}", "export them again") from error
    elif isinstance(counts, np.ndarray) and counts.ndim == 1 and counts.dtype.kind in "iu":
        lengths = counts
    else:
        raise _broken(where, f"counts {repr(counts)[:60]}", "write whole numbers or COCO's compressed string")
    pixels = image.width * image.height
    if lengths.min(initial=0) < 0 or lengths.max(initial=0) > pixels or lengths.sum() != pixels:
        found = f"run lengths from {lengths.min(initial=0)} to {lengths.max(initial=0)} that add up to {lengths.sum()}"
        raise _broken(where, f"{found}, the image has {pixels} pixels", "export them again")
    if not lengths[1::2].any():
        raise _broken(where, "run lengths without a pixel of the object", "draw the object, or remove it")
    if not isinstance(counts, bytes):
        counts = bytes(coco_mask.frPyObjects({"size": expected, "counts": lengths.tolist()}, *expected)["counts"])
    return Mask(image.height, image.width, counts=counts)


def _broken(where: str, found: str, todo: str) -> DataError:
    return DataError(f"broken segmentation of {where}", found=found, todo=todo)
