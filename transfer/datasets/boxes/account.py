"""Which objects of a detection set count, and why the others do not."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transfer.datasets.boxes.detection import DetectionDataset
from transfer.datasets.split_check import SplitSummary
from transfer.datasets.wording import counted
from transfer.runtime.errors import DataError

logger = logging.getLogger(__name__)

CROWD, DIFFICULT = "marked iscrowd", "marked difficult"
MANY_CROWDS = 0.1  # of the objects: COCO has 1 in 86 (train2017: 10,016 of 860,001)
CVAT = (
    "iscrowd 1 marks crowds, which are neither trained on nor to be found, and CVAT writes it for masks: "
    "set it to 0 where the object is a single one, or export polygons"
)
# Reason → how to get such objects counted.
WAYS = {
    CROWD: CVAT,
    DIFFICULT: "objects marked difficult are not to be found: set <difficult> to 0 where they should be",
    "without area": "boxes without width or height were dropped: draw them again, or check the columns of the export",
    "outside of the image": "boxes outside of their image were dropped: run without --clip-boxes to see the first",
    "without a pixel": "objects without a pixel in the masks were dropped: check the numbers in the PNG files",
}


@dataclass(frozen=True)
class Account:
    """Of one side of a run: what was annotated, what became of it.

    Attributes:
        name: of the data set.
        to_train: whether it is the side that is trained on; else the one to report on.
        images: how many.
        annotated: objects in the annotations.
        left_out: reason → how many of them do not count; the others do.
        used: how many objects count.
        used_images: images with such an object.
        clipped: boxes that were cut at the border of the image, and count.
    """

    name: str
    to_train: bool
    images: int
    annotated: int
    left_out: Mapping[str, int]
    used: int
    used_images: int
    clipped: int

    def details(self) -> dict[str, int]:
        """For the record."""
        verb = "trained_on" if self.to_train else "to_find"
        return {
            "annotated": self.annotated,
            **self.left_out,
            **({"clipped": self.clipped} if self.clipped else {}),
            verb: self.used,
            f"images_{verb}": self.used_images,
        }

    def notes(self) -> tuple[str, ...]:
        """One sentence if some do not count; also logged."""
        if not self.left_out:
            return ()
        verb = "trained on" if self.to_train else "measured on"
        note = (
            f"{self.name}: {verb} {self.used:,} of {counted(self.annotated, 'object', 'objects')}, in "
            f"{self.used_images:,} of {counted(self.images, 'image', 'images')}; not counted are {self._reasons()}"
        )
        if self.left_out.get(CROWD, 0) > MANY_CROWDS * self.annotated:
            note += f"; {CVAT}"
        logger.warning("%s", note)
        return (note,)

    def demand_some(self) -> None:
        """Refuse a side of which no object counts.

        Raises:
            DataError: none does; says which reasons left how many out, and the way out of each.
        """
        if self.used:
            return
        what = "boxes to train on" if self.to_train else "object to find"
        found = f"{counted(self.images, 'image', 'images')}, {counted(self.annotated, 'object', 'objects')}"
        raise DataError(
            f"{self.name} has no {what}",
            found=found + (f": {self._reasons()}" if self.left_out else ""),
            todo="\n".join(WAYS[reason] for reason in self.left_out) or "annotate objects, or name another split",
        )

    def _reasons(self) -> str:
        return ", ".join(f"{count:,} {reason}" for reason, count in self.left_out.items())


def account(dataset: DetectionDataset, to_train: bool) -> Account:
    """Count the objects of a data set. Crowds are not trained on; crowds and difficult objects are not to be found."""
    crowd, difficult = _joined(dataset, "crowd"), _joined(dataset, "difficult")
    flags = {CROWD: int(crowd.sum()), DIFFICULT: 0 if to_train else int((difficult & ~crowd).sum())}
    left_out = {reason: count for reason, count in {**flags, **dataset.left_out}.items() if count}
    annotated = len(crowd) + sum(dataset.left_out.values())
    used = [_counting(image.crowd, image.difficult, to_train) for image in dataset.images]
    return Account(
        dataset.name,
        to_train,
        len(dataset),
        annotated,
        left_out,
        sum(int(flags.sum()) for flags in used),
        sum(bool(flags.any()) for flags in used),
        dataset.clipped,
    )


def summary(dataset: DetectionDataset, to_train: bool) -> SplitSummary:
    """What is compared of a data set with its other side."""
    images = dataset.images
    counting = np.concatenate(
        [np.zeros(0, np.bool_), *(_counting(image.crowd, image.difficult, to_train) for image in images)]
    )
    labels = np.concatenate([np.zeros(0, np.int64), *(image.labels for image in images)])
    counts = np.bincount(labels[counting], minlength=len(dataset.classes)).tolist()
    frames = np.repeat([float(image.width * image.height) for image in images], [len(image.labels) for image in images])
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *(image.boxes for image in images)]).astype(np.float64)
    box_areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    areas = np.concatenate([np.zeros(0), *(image.areas for image in images)])
    crowd, difficult = _joined(dataset, "crowd"), _joined(dataset, "difficult")
    values = {
        "sides of images": np.sqrt([float(image.width * image.height) for image in images]),
        "objects per image": np.array([len(image.labels) for image in images], dtype=np.float64),
        "sides of boxes": np.sqrt(box_areas),
        "sides of boxes in % of the image's": 100 * np.sqrt(box_areas / frames),
        "areas in % of the box": 100 * areas / box_areas,
    }
    shares = {
        "images without objects": (sum(not len(image.labels) for image in images), len(images)),
        "crowds": (int(crowd.sum()), len(crowd)),
        "difficult": (int(difficult.sum()), len(crowd)),
    }
    return SplitSummary(
        dataset.name, "object", len(images), dict(zip(dataset.classes, counts, strict=True)), values, shares
    )


def _joined(dataset: DetectionDataset, flag: str) -> NDArray[np.bool_]:
    return np.concatenate([np.zeros(0, np.bool_), *(getattr(image, flag) for image in dataset.images)])


def _counting(crowd: NDArray[np.bool_], difficult: NDArray[np.bool_], to_train: bool) -> NDArray[np.bool_]:
    return ~crowd if to_train else ~(crowd | difficult)
