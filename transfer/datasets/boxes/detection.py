"""The one dataset object for detection: both engines train from it and the evaluators score against it."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from transfer.datasets.boxes.masks import Mask
from transfer.datasets.boxes.turning import BACK, turn_boxes, turn_mask


def _box_areas(boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    sides = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64)
    return np.asarray(sides.prod(axis=1))


@dataclass(frozen=True, eq=False)
class DetectionImage:
    """One image and its objects.

    Attributes:
        image_id: 1-based position in the sorted data set; the `image_id` of detections.
        name: unique stem inside the data set, for example "VOC2007/000005".
        path: the image file.
        width, height: pixels of the picture as seen (EXIF orientation applied), the frame of boxes and masks.
        boxes: float32 [n, 4], (x1, y1, x2, y2), 0-based with x2, y2 exclusive: a box over the whole image is
            (0, 0, width, height). VOC's 1-based inclusive (xmin, ymin, xmax, ymax) is (xmin − 1, ymin − 1, xmax, ymax).
        labels: int64 [n], index into the data set's classes.
        difficult: bool [n], VOC's flag: trained on, ignored by the evaluation.
        crowd: bool [n], COCO's flag: not trained on, ignored by the evaluation; default: none is.
        areas: float64 [n], pixels²; COCO calls an object small, medium or large by it; default: those of the boxes.
        masks: one for each box; None where the data set has none.
        source_id: the image's id in a COCO file; default: `image_id`.
        decoding: what reading does to the pixels beyond decoding them, for example "orientation 6"; "" for nothing.
        turned: the EXIF orientation by which the annotations were turned to the picture as seen; 1: not at all.
    """

    image_id: int
    name: str
    path: Path
    width: int
    height: int
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    difficult: NDArray[np.bool_]
    crowd: NDArray[np.bool_] = None  # type: ignore[assignment]  # filled below, as are the next and the last
    areas: NDArray[np.float64] = None  # type: ignore[assignment]
    masks: tuple[Mask, ...] | None = None
    source_id: int = -1
    decoding: str = ""
    turned: int = 1

    def __post_init__(self) -> None:
        if self.crowd is None:
            object.__setattr__(self, "crowd", np.zeros(len(self.labels), np.bool_))
        if self.areas is None:
            object.__setattr__(self, "areas", _box_areas(self.boxes))
        if self.source_id < 0:  # 0 is an id that COCO files may have
            object.__setattr__(self, "source_id", self.image_id)
        for name in ("boxes", "difficult", "crowd", "areas", "masks"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.labels):
                raise ValueError(f"{self.name}: {len(values)} {name} for {len(self.labels)} labels")

    def without_crowds(self) -> DetectionImage:
        """The same image with those objects only that are trained on."""
        if not self.crowd.any():
            return self
        kept = np.flatnonzero(~self.crowd)
        return dataclasses.replace(
            self,
            boxes=self.boxes[kept],
            labels=self.labels[kept],
            difficult=self.difficult[kept],
            crowd=self.crowd[kept],
            areas=self.areas[kept],
            masks=None if self.masks is None else tuple(self.masks[index] for index in kept),
        )


@dataclass(frozen=True, eq=False)
class DetectionDataset:
    """An ordered, immutable set of annotated images.

    Attributes:
        name: for people, for example "voc_2007_trainval+voc_2012_trainval".
        classes: class names; `labels` index into them.
        images: sorted by name, `images[i].image_id == i + 1`.
        notes: what the reader mended or found odd (dropped boxes, wrong counts); goes into the record.
        category_ids: the classes' ids in a COCO file; default: 1, 2, …
        left_out: reason → how many annotated objects the reader dropped for it; they are in none of the images.
        clipped: how many boxes the reader cut at the border of their image.
    """

    name: str
    classes: tuple[str, ...]
    images: tuple[DetectionImage, ...]
    notes: tuple[str, ...] = field(default=())
    category_ids: tuple[int, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    clipped: int = 0

    def __post_init__(self) -> None:
        if not self.category_ids:
            object.__setattr__(self, "category_ids", tuple(range(1, len(self.classes) + 1)))
        if len(self.category_ids) != len(self.classes):
            raise ValueError(f"{self.name}: {len(self.category_ids)} category ids for {len(self.classes)} classes")

    def __len__(self) -> int:
        return len(self.images)

    def box_counts(self) -> dict[str, int]:
        """Boxes per class name, classes without boxes included."""
        counts: Counter[int] = Counter()
        for image in self.images:
            counts.update(image.labels.tolist())
        return {name: counts.get(index, 0) for index, name in enumerate(self.classes)}

    @property
    def has_masks(self) -> bool:
        """Whether every object has a mask."""
        return all(image.masks is not None for image in self.images)

    def with_objects(self) -> DetectionDataset:
        """The images that have at least one box."""
        return dataclasses.replace(self, images=tuple(image for image in self.images if len(image.boxes)))

    def for_training(self) -> DetectionDataset:
        """What detectors are trained on: no crowds, and of the images those that have a box left.

        Both engines' own readers do the same (Detectron2: `filter_images_with_only_crowd_annotations`).
        """
        images = tuple(image.without_crowds() for image in self.images)
        return dataclasses.replace(self, images=images).with_objects()

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
            if image.decoding:
                digest.update(f"decoding {image.decoding}".encode())
            if image.crowd.any():
                digest.update(b"crowd" + np.ascontiguousarray(image.crowd, dtype="u1").tobytes())
            if not np.array_equal(image.areas, _box_areas(image.boxes)):
                digest.update(b"areas" + np.ascontiguousarray(image.areas, dtype="<f8").tobytes())
            if image.masks is not None:
                digest.update(b"masks")
                for mask in image.masks:
                    digest.update(mask.counts + b"".join(polygon.astype("<f8").tobytes() for polygon in mask.polygons))
        boxes = sum(len(image.boxes) for image in self.images)
        return {"name": self.name, "sha256": digest.hexdigest(), "images": len(self.images), "boxes": boxes}


@dataclass(frozen=True, eq=False)
class Detections:
    """Scored boxes in arrays; `to_coco` gives the same as a COCO result list.

    Attributes:
        image_ids: int64 [m], `DetectionImage.image_id`.
        labels: int64 [m], index into the data set's classes.
        boxes: float32 [m, 4], (x1, y1, x2, y2) in pixels of the original image, coordinates as in `DetectionImage`.
        scores: float32 [m], in [0, 1].
        masks: [m] compressed run lengths (`Mask.counts`) in the original image; None from detectors without masks.
    """

    image_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    masks: tuple[bytes, ...] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    @staticmethod
    def concatenate(parts: Sequence[Detections]) -> Detections:
        """All parts in order; no parts give an empty set.

        Raises:
            ValueError: some parts have masks and some have not.
        """
        if not parts:
            nothing = np.zeros(0, np.int64)
            return Detections(nothing, nothing, np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
        masks = [part.masks for part in parts if part.masks is not None]
        if masks and len(masks) != len(parts):
            raise ValueError("detections with and without masks cannot be joined")
        return Detections(
            np.concatenate([part.image_ids for part in parts]).astype(np.int64),
            np.concatenate([part.labels for part in parts]).astype(np.int64),
            np.concatenate([part.boxes for part in parts]).astype(np.float32).reshape(-1, 4),
            np.concatenate([part.scores for part in parts]).astype(np.float32),
            tuple(itertools.chain.from_iterable(masks)) if masks else None,
        )

    def to_coco(self, dataset: DetectionDataset) -> list[dict[str, object]]:
        """COCO result form, with the ids and in the frame of the data set's own file: bbox is (x, y, width, height).

        Where the file's boxes are drawn on stored pixels (`DetectionImage.turned`), these are turned back to them:
        COCO's own tools compare the two.
        """
        images = {image.image_id: image for image in dataset.images}
        boxes = self._boxes_as_annotated(images)
        widths_heights = boxes[:, 2:] - boxes[:, :2]
        xywh = np.concatenate([boxes[:, :2], widths_heights], axis=1).astype(float).tolist()
        rows: list[dict[str, object]] = [
            {"image_id": images[i].source_id, "category_id": dataset.category_ids[c], "bbox": b, "score": s}
            for i, c, b, s in zip(
                self.image_ids.tolist(), self.labels.tolist(), xywh, self.scores.tolist(), strict=True
            )
        ]
        for row, image_id, counts in zip(rows, self.image_ids.tolist(), self.masks or (), strict=False):
            image = images[image_id]
            mask = turn_mask(Mask(image.height, image.width, counts=counts), BACK.get(image.turned, image.turned))
            row["segmentation"] = {"size": [mask.height, mask.width], "counts": mask.counts.decode("ascii")}
        return rows

    def _boxes_as_annotated(self, images: dict[int, DetectionImage]) -> NDArray[np.float32]:
        boxes = self.boxes.copy()
        for image in (image for image in images.values() if image.turned != 1):
            rows = self.image_ids == image.image_id
            back = BACK.get(image.turned, image.turned)
            boxes[rows] = turn_boxes(boxes[rows], image.width, image.height, back)
        return boxes
