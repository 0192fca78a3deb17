"""Masks of a data set in VOC layout: a PNG for each object, or VOC's own PNG for each image.

- `InstanceMasks/<image>_<k>.png`: not zero where object k is, the k-th <object> of the image's XML, from 1. Our own
  layout, for it lets masks overlap.
- `SegmentationObject/<image>.png`: value k where object k is, 0 background, 255 void (VOC2012 development kit,
  "Segmentation": the indices are those of the objects in the annotation file). Read if there is no `InstanceMasks`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from transfer.datasets.boxes.detection import DetectionImage
from transfer.datasets.boxes.mask_files import area_of, read_object, read_values
from transfer.datasets.boxes.masks import Mask
from transfer.datasets.boxes.voc_layout import INSTANCES, SEGMENTS, SplitImage
from transfer.datasets.lists import absent
from transfer.datasets.wording import counted, few
from transfer.runtime.errors import DataError

VOID = 255


@dataclass(frozen=True)
class Objects:
    """What one image's XML says. Attributes: entry: its files; width, height of the picture; total: of <object>."""

    entry: SplitImage
    width: int
    height: int
    total: int


@dataclass
class VocMasks:
    """Reads masks; `hidden` names the objects of which void or other objects leave no pixel."""

    hidden: list[str] = field(default_factory=list)

    def demand_files(self, pictures: Iterable[Objects]) -> None:
        """Find every missing file before anything is read.

        Raises:
            DataError: a VOC folder has no masks, or not those of all these images.
        """
        by_root: dict[Path, list[Objects]] = {}
        for picture in pictures:
            by_root.setdefault(picture.entry.root, []).append(picture)
        for root, own in by_root.items():
            folder = _folder(root)
            wanted = [name for picture in own for name in _file_names(picture, folder)]
            missing = absent(folder, wanted)
            if missing:
                raise DataError(
                    f"{len(missing)} of {len(wanted)} masks are missing in {folder}",
                    found=f"no file for {few(missing)}",
                    todo="complete the folder, or choose a split of images that have masks "
                    f"(VOC lists its own in ImageSets/Segmentation; copy such a list to {root / 'ImageSets' / 'Main'})",
                )

    def added(self, image: DetectionImage, picture: Objects, numbers: Sequence[int]) -> DetectionImage:
        """The image with masks and their areas; objects without a pixel in VOC's own PNG are left out.

        Args:
            image: boxes and labels.
            picture: the same image as its XML has it.
            numbers: which <object> each box was, from 1.

        Raises:
            DataError: a file is broken, empty or of another size, or has values that are no object's number.
        """
        masks = self._read(picture, numbers)
        kept = [index for index, mask in enumerate(masks) if mask is not None]
        return dataclasses.replace(
            image,
            boxes=image.boxes[kept],
            labels=image.labels[kept],
            difficult=image.difficult[kept],
            crowd=image.crowd[kept],
            areas=np.array([area_of(mask) for mask in masks if mask is not None], dtype=np.float64),
            masks=tuple(mask for mask in masks if mask is not None),
        )

    def _read(self, picture: Objects, numbers: Sequence[int]) -> list[Mask | None]:
        if not numbers:
            return []
        folder, stem = _folder(picture.entry.root), picture.entry.stem
        if folder.name == INSTANCES:
            return [_instance(picture, folder, number) for number in numbers]
        path = folder / f"{stem}.png"
        values = read_values(path, picture.width, picture.height, picture.entry.image.name)
        unknown = [str(value) for value in np.unique(values[values != VOID]).tolist() if value > picture.total]
        if unknown:
            raise DataError(
                f"{path} has values that are no object's number",
                found=f"{few(unknown)}; the XML has {counted(picture.total, 'object', 'objects')}",
                todo="number objects as in the XML from 1, with 0 for background and 255 for void; "
                "SegmentationClass, whose values are classes, is not read",
            )
        masks: list[Mask | None] = []
        for number in numbers:
            pixels = values == number
            masks.append(Mask.from_pixels(pixels) if pixels.any() else None)
            if masks[-1] is None:
                self.hidden.append(f"{picture.entry.name} object {number}")
        return masks

    def notes(self) -> list[str]:
        """What was left out."""
        if not self.hidden:
            return []
        return [f"{counted(len(self.hidden), 'object', 'objects')} without a pixel dropped: {few(self.hidden)}"]


def _folder(root: Path) -> Path:
    for name in (INSTANCES, SEGMENTS):
        if (root / name).is_dir():
            return root / name
    raise DataError(
        f"no masks in {root}",
        found=f"neither {INSTANCES} nor {SEGMENTS}",
        todo=f"put one PNG for each object into {root / INSTANCES}: <image name>_<number of the object in the XML>.png",
    )


def _file_names(picture: Objects, folder: Path) -> list[str]:
    stem = picture.entry.stem
    if folder.name == SEGMENTS:
        return [f"{stem}.png"] if picture.total else []
    return [f"{stem}_{number}.png" for number in range(1, picture.total + 1)]


def _instance(picture: Objects, folder: Path, number: int) -> Mask:
    path = folder / f"{picture.entry.stem}_{number}.png"
    what = f"object {number} of {picture.entry.image.name}"
    return Mask.from_pixels(read_object(path, picture.width, picture.height, what))
