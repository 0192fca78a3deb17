"""A picture of what a detector does: ground truth beside detections, image by image."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from detection.pictures.panels import NAMES_UP_TO, Shape, detected_mask, draw_pair, write_sheet
from transfer.datasets.boxes.detection import DetectionDataset, DetectionImage, Detections
from transfer.datasets.wording import counted
from transfer.runtime.errors import DataError


def draw_contact_sheet(
    dataset: DetectionDataset,
    detections: Detections,
    path: Path,
    images: int = 8,
    score_threshold: float = 0.3,
) -> None:
    """Write a PNG with pairs of pictures, ground truth on the left, detections on the right.

    The images are spread evenly over those that have objects (over all if none has), so that the same data set always
    shows the same ones. Masks are drawn where the data set or the detections have them. Objects that the evaluation
    ignores, VOC's difficult ones and COCO's crowds, are dashed.

    Args:
        dataset: what was predicted on.
        detections: any number, in any order.
        path: the PNG, written whole or not at all.
        images: how many pairs at most.
        score_threshold: detections below it are not drawn; the heading says so.

    Raises:
        DataError: there is no image, or one cannot be read.
    """
    chosen = _choose(dataset, images)
    pairs = []
    labels: set[int] = set()
    for image in chosen:
        truth = _objects(dataset, image)
        found = _detections(dataset, detections, image, score_threshold)
        labels.update(shape.label for shape in (*truth, *found))
        captions = (f"{image.name}: {counted(len(truth), 'object')}", counted(len(found), "detection"))
        pairs.append(draw_pair(image, truth, found, captions))
    dashed = _ignored_kinds(chosen)
    title = (
        f"{dataset.name}: {len(chosen)} of {counted(len(dataset), 'image')}; left ground truth"
        f"{f' (dashed: {dashed})' if dashed else ''}, right detections of score {score_threshold:g} and above"
    )
    write_sheet(path, dataset, title, labels, pairs)


def _choose(dataset: DetectionDataset, count: int) -> list[DetectionImage]:
    images = dataset.with_objects().images or dataset.images
    if not images or count < 1:
        raise DataError(f"no image of {dataset.name} to draw", found=f"{len(images)} images, {count} wanted")
    count = min(count, len(images))
    return [images[(2 * position + 1) * len(images) // (2 * count)] for position in range(count)]


def _ignored_kinds(images: list[DetectionImage]) -> str:
    kinds = ["difficult"] if any(image.difficult.any() for image in images) else []
    kinds += ["crowd"] if any(image.crowd.any() for image in images) else []
    return " or ".join(kinds)


def _objects(dataset: DetectionDataset, image: DetectionImage) -> list[Shape]:
    ignored = (image.difficult | image.crowd).tolist()
    return [
        Shape(
            tuple(image.boxes[index].tolist()),
            label,
            _label(dataset.classes[label], "", len(image.labels)),
            dashed=ignored[index],
            mask=None if image.masks is None else image.masks[index],
        )
        for index, label in enumerate(image.labels.tolist())
    ]


def _detections(
    dataset: DetectionDataset, detections: Detections, image: DetectionImage, threshold: float
) -> list[Shape]:
    """Lowest score first, so that the best lie on top."""
    rows = np.flatnonzero((detections.image_ids == image.image_id) & (detections.scores >= threshold))
    rows = rows[np.argsort(detections.scores[rows], kind="stable")]
    return [
        Shape(
            tuple(detections.boxes[row].tolist()),
            int(detections.labels[row]),
            _label(dataset.classes[int(detections.labels[row])], f"{detections.scores[row]:.2f}", len(rows)),
            mask=detected_mask(detections, row, image),
        )
        for row in rows.tolist()
    ]


def _label(name: str, score: str, shapes: int) -> str:
    return f"{name} {score}".strip() if shapes <= NAMES_UP_TO else score
