"""A picture of what a detector gets wrong: the images with most missed objects and confident false detections.

An aid to the eye, not a measure: boxes are compared whatever the detector's masks, and every object and detection is
looked at on its own, so a second detection of the same object is no error here, though it costs AP.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detection.pictures.panels import NAMES_UP_TO, Shape, detected_mask, draw_pair, write_sheet
from transfer.datasets.boxes.detection import DetectionDataset, DetectionImage, Detections
from transfer.datasets.wording import counted
from transfer.runtime.errors import DataError

IOU = 0.5
LEAST_SCORE = 0.05  # below it a detection does not save an object from being missed; the engines drop such ones
CONFIDENT = 0.5  # from here on a false detection is an error
NEAR = 0.1  # from here on an IoU that does not suffice is told

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Miss:
    """One error.

    Attributes:
        index: of an object within its image, or of a detection among all detections.
        why: for people, for example "taken for cat 0.81".
    """

    index: int
    why: str


@dataclass(frozen=True)
class ImageMisses:
    """The errors on one image.

    Attributes:
        image: where.
        missed: objects, neither difficult nor crowd, that no detection of their class of score ≥ .05 overlaps with
            IoU ≥ .5; in the order of the annotation.
        false: detections of score ≥ .5 that overlap no object of their class so, and do not lie by half or more in a
            difficult or crowd one of it; lowest score first.
    """

    image: DetectionImage
    missed: tuple[Miss, ...]
    false: tuple[Miss, ...]


def draw_misses(dataset: DetectionDataset, detections: Detections, path: Path, images: int = 8) -> None:
    """Write a PNG with pairs of pictures, missed objects on the left, confident false detections on the right.

    The images are those with most errors; of equals, those that come first in the data set. Where nothing is wrong the
    sheet says so.

    Args:
        dataset: what was predicted on.
        detections: any number, in any order, of the data set's images and classes.
        path: the PNG, written whole or not at all.
        images: how many pairs at most.

    Raises:
        DataError: there is no image, or one cannot be read.
    """
    if not len(dataset) or images < 1:
        raise DataError(f"no image of {dataset.name} to draw", found=f"{len(dataset)} images, {images} wanted")
    found = find_misses(dataset, detections)
    worst = sorted(found, key=lambda one: -len(one.missed) - len(one.false))[:images]
    missed, false = sum(len(one.missed) for one in found), sum(len(one.false) for one in found)
    title = (
        f"{dataset.name}: the {len(worst)} worst of {counted(len(found), 'image')} with errors (of {len(dataset)}); "
        f"left {counted(missed, 'object')} missed at IoU {IOU:g}, "
        f"right {counted(false, 'false detection')} of score {CONFIDENT:g} and above"
        if found
        else f"{dataset.name}: no missed object and no false detection of score {CONFIDENT:g} and above "
        f"in {counted(len(dataset), 'image')}"
    )
    labels: set[int] = set()
    pairs = []
    for one in worst:
        left, right = _missed_shapes(dataset, one), _false_shapes(dataset, one, detections)
        labels.update(shape.label for shape in (*left, *right))
        objects = int((~_ignored(one.image)).sum())
        captions = (
            f"{one.image.name}: {len(left)} of {counted(objects, 'object')} missed",
            counted(len(right), "false detection"),
        )
        pairs.append(draw_pair(one.image, left, right, captions))
    write_sheet(path, dataset, title, labels, pairs)


def find_misses(dataset: DetectionDataset, detections: Detections) -> list[ImageMisses]:
    """The images with at least one error, in the order of the data set."""
    order = np.argsort(detections.scores, kind="stable")
    order = order[np.argsort(detections.image_ids[order], kind="stable")]
    ids = detections.image_ids[order]
    found = []
    for image in dataset.images:
        start, end = np.searchsorted(ids, [image.image_id, image.image_id + 1])
        rows = order[start:end]
        one = _image_misses(dataset, image, detections, rows[detections.scores[rows] >= LEAST_SCORE])
        if one.missed or one.false:
            found.append(one)
    return found


def _image_misses(
    dataset: DetectionDataset, image: DetectionImage, detections: Detections, rows: NDArray[np.intp]
) -> ImageMisses:
    labels, scores = detections.labels[rows], detections.scores[rows]
    iou, inside = _overlaps(image.boxes.astype(np.float64), detections.boxes[rows].astype(np.float64))
    ignored = _ignored(image)
    same = image.labels[:, None] == labels
    overlap = np.where(ignored[:, None], inside, iou)  # as COCO's evaluation treats crowds
    hits = overlap >= IOU
    missed = [
        Miss(index, _why_missed(dataset, iou[index], same[index], labels, scores))
        for index in np.flatnonzero(~ignored & ~(hits & same).any(axis=1)).tolist()
    ]
    false = [
        Miss(int(rows[column]), _why_false(dataset, iou[:, column], same[:, column], image))
        for column in np.flatnonzero((scores >= CONFIDENT) & ~(hits & same).any(axis=0)).tolist()
    ]
    return ImageMisses(image, tuple(missed), tuple(false))


def _ignored(image: DetectionImage) -> NDArray[np.bool_]:
    return np.asarray(image.difficult | image.crowd)


def _overlaps(objects: Floats, found: Floats) -> tuple[Floats, Floats]:
    """IoU, and the part of the detection that lies in the object, each [objects, detections]; 0 for empty boxes."""
    low = np.maximum(objects[:, None, :2], found[:, :2])
    high = np.minimum(objects[:, None, 2:], found[:, 2:])
    both = np.maximum(high - low, 0).prod(axis=2)
    area, found_area = ((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (objects, found))
    union = area[:, None] + found_area - both
    iou = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    return iou, np.divide(both, found_area, out=np.zeros_like(both), where=found_area > 0)


def _why_missed(
    dataset: DetectionDataset,
    iou: Floats,
    same: NDArray[np.bool_],
    labels: NDArray[np.int64],
    scores: NDArray[np.float32],
) -> str:
    others = np.flatnonzero(~same & (iou >= IOU))
    if len(others):
        best = others[-1]  # detections come in order of rising score
        return f"taken for {dataset.classes[int(labels[best])]} {scores[best]:.2f}"
    return _nearest(iou[same], "not found")


def _why_false(dataset: DetectionDataset, iou: Floats, same: NDArray[np.bool_], image: DetectionImage) -> str:
    others = np.where(same, 0.0, iou)
    if len(others) and others.max() >= IOU:
        return f"is {dataset.classes[int(image.labels[int(others.argmax())])]}"
    return _nearest(iou[same], "nothing there")


def _nearest(iou: Floats, otherwise: str) -> str:
    """The best overlap with the right class, if there is one worth a word."""
    best = float(iou.max(initial=0.0))
    # Rounded down: what failed for 0.499 should not read 0.50.
    return f"best IoU {np.floor(100 * best) / 100:.2f}" if best >= NEAR else otherwise


def _missed_shapes(dataset: DetectionDataset, one: ImageMisses) -> list[Shape]:
    image, named = one.image, len(one.missed) <= NAMES_UP_TO
    return [
        Shape(
            tuple(image.boxes[miss.index].tolist()),
            int(image.labels[miss.index]),
            f"{dataset.classes[int(image.labels[miss.index])]}: {miss.why}" if named else "",
            mask=None if image.masks is None else image.masks[miss.index],
        )
        for miss in one.missed
    ]


def _false_shapes(dataset: DetectionDataset, one: ImageMisses, detections: Detections) -> list[Shape]:
    named = len(one.false) <= NAMES_UP_TO
    shapes = []
    for miss in one.false:
        label, score = int(detections.labels[miss.index]), f"{detections.scores[miss.index]:.2f}"
        text = f"{dataset.classes[label]} {score}: {miss.why}" if named else score
        corners = tuple(detections.boxes[miss.index].tolist())
        shapes.append(Shape(corners, label, text, mask=detected_mask(detections, miss.index, one.image)))
    return shapes
