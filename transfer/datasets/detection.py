"""The one dataset object for detection: both engines train from it and the evaluators score against it."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class DetectionImage:
    """One image and its objects.

    Attributes:
        image_id: 1-based position in the sorted data set; the `image_id` of detections.
        name: unique stem inside the data set, for example "VOC2007/000005".
        path: the image file.
        width, height: pixels.
        boxes: float32 [n, 4], (x1, y1, x2, y2), 0-based with x2, y2 exclusive: a box over the whole image is
            (0, 0, width, height). VOC's 1-based inclusive (xmin, ymin, xmax, ymax) is (xmin − 1, ymin − 1, xmax, ymax).
        labels: int64 [n], index into the data set's classes.
        difficult: bool [n], VOC's flag: trained on, ignored by the evaluation.
    """

    image_id: int
    name: str
    path: Path
    width: int
    height: int
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    difficult: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class DetectionDataset:
    """An ordered, immutable set of annotated images.

    Attributes:
        name: for people, for example "voc_2007_trainval+voc_2012_trainval".
        classes: class names; `labels` index into them.
        images: sorted by name, `images[i].image_id == i + 1`.
        notes: what the reader mended or found odd (dropped boxes, wrong counts); goes into the record.
    """

    name: str
    classes: tuple[str, ...]
    images: tuple[DetectionImage, ...]
    notes: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.images)

    def box_counts(self) -> dict[str, int]:
        """Boxes per class name, classes without boxes included."""
        counts: Counter[int] = Counter()
        for image in self.images:
            counts.update(image.labels.tolist())
        return {name: counts.get(index, 0) for index, name in enumerate(self.classes)}

    def with_objects(self) -> DetectionDataset:
        """The images that have at least one box; what detectors are trained on (both engines drop the others)."""
        kept = tuple(image for image in self.images if len(image.boxes))
        return DetectionDataset(self.name, self.classes, kept, self.notes)

    def fingerprint(self) -> dict[str, object]:
        """sha256 over classes and, image by image, name, pixel and byte size, and annotation contents; with counts.

        Two data sets, or two states of one, never share it: changed boxes, a re-encoded or a missing image show.
        """
        digest = hashlib.sha256("\n".join(self.classes).encode())
        for image in sorted(self.images, key=lambda image: image.name):
            size = image.path.stat().st_size
            digest.update(f"\n{image.name} {image.width}x{image.height} {size} ".encode())
            digest.update(np.ascontiguousarray(image.boxes, dtype="<f4").tobytes())
            digest.update(np.ascontiguousarray(image.labels, dtype="<i8").tobytes())
            digest.update(np.ascontiguousarray(image.difficult, dtype="u1").tobytes())
        boxes = sum(len(image.boxes) for image in self.images)
        return {"name": self.name, "sha256": digest.hexdigest(), "images": len(self.images), "boxes": boxes}


@dataclass(frozen=True, eq=False)
class Detections:
    """Scored boxes in arrays; `to_coco` gives the same as a COCO result list.

    Attributes:
        image_ids: int64 [m], `DetectionImage.image_id`.
        labels: int64 [m], index into the data set's classes (COCO's `category_id` is label + 1).
        boxes: float32 [m, 4], (x1, y1, x2, y2) in pixels of the original image, coordinates as in `DetectionImage`.
        scores: float32 [m], in [0, 1].
    """

    image_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.scores)

    @staticmethod
    def concatenate(parts: list[Detections]) -> Detections:
        """All parts in order; no parts give an empty set."""
        if not parts:
            parts = [
                Detections(
                    np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
                )
            ]
        return Detections(
            np.concatenate([part.image_ids for part in parts]).astype(np.int64),
            np.concatenate([part.labels for part in parts]).astype(np.int64),
            np.concatenate([part.boxes for part in parts]).astype(np.float32).reshape(-1, 4),
            np.concatenate([part.scores for part in parts]).astype(np.float32),
        )

    def to_coco(self) -> list[dict[str, object]]:
        """COCO result form: image_id, category_id (label + 1), bbox (x, y, width, height), score."""
        widths_heights = self.boxes[:, 2:] - self.boxes[:, :2]
        xywh = np.concatenate([self.boxes[:, :2], widths_heights], axis=1).astype(float).tolist()
        rows = zip(self.image_ids.tolist(), self.labels.tolist(), xywh, self.scores.tolist(), strict=True)
        return [{"image_id": i, "category_id": c + 1, "bbox": b, "score": s} for i, c, b, s in rows]
