"""COCO average precision of boxes and masks, by faster-coco-eval or by pycocotools.

The definition is the COCO challenge's (cocodataset/cocoapi: PythonAPI/pycocotools/cocoeval.py): AP at IoU .50:.05:.95
over 101 recall levels, at most 100 detections per image and class, objects called small below 32² and large above 96²
pixels. Both libraries compute it from the same arrays and agree (a test says so); faster-coco-eval does so in C++.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

from detection.score.detections import demand_scorable, mask_areas
from transfer.datasets.boxes.detection import DetectionDataset, Detections
from transfer.datasets.boxes.masks import sized
from transfer.runtime.errors import DataError, UserError

logging.getLogger("faster_coco_eval").setLevel(logging.WARNING)  # it reports every step of every evaluation

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
Kind = Literal["bbox", "segm"]
AREAS = ("all", "small", "medium", "large")
MOST_DETECTIONS = 100  # per image and class
IOU_THRESHOLDS: Floats = np.linspace(0.5, 0.95, 10)  # as cocoeval.py writes them, to the last bit
DETECTIONS_AT_ONCE = 100_000  # about 250 MB of annotations


@dataclass(frozen=True)
class CocoApOptions:
    """How COCO AP is computed.

    Attributes:
        library: faster_coco_eval, or pycocotools, the original, which must be installed then. Both give equal numbers.
    """

    library: Literal["faster_coco_eval", "pycocotools"] = "faster_coco_eval"


@dataclass(frozen=True, eq=False)
class CocoResult:
    """COCO AP of one set of detections.

    Attributes:
        kind: "bbox" or "segm".
        classes: class names.
        precision: float64 [thresholds, 101, classes, 4], precision in [0, 1] at each IoU, recall 0:.01:1, class, and
            all, small, medium and large objects, with at most 100 detections; NaN where there is no object to find.
        recall: float64 [thresholds, classes, 4], the largest recall reached; NaN as above.
        notes: what to know when reading the means.
        thresholds: float64, the IoUs; `metrics` and `per_class` want .50:.05:.95, the default.
    """

    kind: Kind
    classes: tuple[str, ...]
    precision: Floats
    recall: Floats
    notes: tuple[str, ...] = field(default=())
    thresholds: Floats = field(default_factory=IOU_THRESHOLDS.copy)

    def metrics(self) -> dict[str, float]:
        """AP, AP50, AP75, APs, APm, APl and AR100 in percent; a size that no object has is left out."""
        found = {"AP": self.precision[..., 0], "AP50": self.precision[0, ..., 0], "AP75": self.precision[5, ..., 0]}
        for letter, area in zip("sml", (1, 2, 3), strict=True):
            found[f"AP{letter}"] = self.precision[..., area]
        found["AR100"] = self.recall[..., 0]
        return {name: 100 * float(np.nanmean(values)) for name, values in found.items() if not np.isnan(values).all()}

    @property
    def per_class(self) -> dict[str, dict[str, float] | None]:
        """AP and AP50 of every class in percent; None where there was nothing to find."""
        table: dict[str, dict[str, float] | None] = {}
        for index, name in enumerate(self.classes):
            values = self.precision[:, :, index, 0]
            absent = np.isnan(values).all()
            table[name] = None if absent else {"AP": 100 * float(values.mean()), "AP50": 100 * float(values[0].mean())}
        return table


def evaluate_coco(
    dataset: DetectionDataset,
    detections: Detections,
    kind: Kind,
    options: CocoApOptions = CocoApOptions(),
    thresholds: Floats = IOU_THRESHOLDS,
) -> CocoResult:
    """COCO AP of `detections` on `dataset` at `thresholds`, IoUs between 0 and 1 in rising order.

    Objects marked `crowd` are ignored as COCO ignores them: detections that lie in them (intersection over the
    detection's own area, any number of them) count as neither right nor wrong. VOC's `difficult` objects are treated
    alike, because COCO's evaluation has no other flag that it does not overwrite; Detectron2's VOC evaluation compares
    the IoU there.

    Of equal scores in an image the first detection goes first; of equal scores in two images, that of the lower
    `source_id`. So do COCO's own tools when they read the run's `detections.json`.

    Raises:
        EngineError: detections that are not finite, that name images or classes the data set does not have, or whose
            masks are absent or do not decode to the size of their image.
        DataError: the data set has no object to find, or no masks.
        UserError: pycocotools was asked for and is not installed.
    """
    demand_scorable(dataset, detections)
    if all((image.crowd | image.difficult).all() for image in dataset.images):
        raise DataError(
            f"{dataset.name} has no object to find, so AP is not defined",
            found=f"{len(dataset)} images, {sum(len(image.labels) for image in dataset.images)} objects to be ignored",
            todo="evaluate on an annotated split",
        )
    if kind == "segm" and not dataset.has_masks:
        raise DataError(f"{dataset.name} has no masks to compare with", todo="read it with masks, or evaluate boxes")
    precision, recall = _precision_and_recall(dataset, detections, kind, thresholds, *_library(options.library))
    return CocoResult(kind, dataset.classes, precision, recall, _notes(dataset, precision), thresholds)


def _precision_and_recall(
    dataset: DetectionDataset,
    detections: Detections,
    kind: Kind,
    thresholds: Floats,
    coco_class: Any,
    evaluator_class: Any,
) -> tuple[Floats, Floats]:
    """See `CocoResult`. Classes do not meddle with each other: a few at a time bound the memory of the annotations."""
    # As the challenge's own: an unmatched detection is small or large by its box, or by its mask if masks are compared.
    sides = (detections.boxes[:, 2:] - detections.boxes[:, :2]).astype(np.float64)
    areas = sides.prod(axis=1) if kind == "bbox" else mask_areas(dataset, detections).astype(np.float64)
    ids = _image_numbers(dataset)
    groups = min(len(dataset.classes), 1 + len(detections) // DETECTIONS_AT_ONCE)
    precision, recall = [], []
    with _collector_paused(), contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports each step there
        truth = _indexed(coco_class, dataset, ids, _truth(dataset, ids, kind))
        for labels in np.array_split(np.arange(len(dataset.classes)), groups):
            rows = np.flatnonzero(np.isin(detections.labels, labels))
            found = _indexed(coco_class, dataset, ids, _found(dataset, detections, rows, areas, ids, kind))
            evaluator = evaluator_class(truth, found, kind)
            evaluator.params.maxDets = [MOST_DETECTIONS]  # 1 and 10 are for recalls that are not reported
            evaluator.params.catIds = (labels + 1).tolist()
            evaluator.params.iouThrs = thresholds
            evaluator.evaluate()
            evaluator.accumulate()
            precision.append(np.array(evaluator.eval["precision"], np.float64)[..., -1])
            recall.append(np.array(evaluator.eval["recall"], np.float64)[..., -1])
    joined = np.concatenate(precision, axis=2), np.concatenate(recall, axis=1)
    for values in joined:
        values[values < 0] = np.nan  # −1: nothing to find
    return joined


def _library(name: str) -> tuple[Any, Any]:
    """(COCO, COCOeval) of a library."""
    if name == "faster_coco_eval":
        # More threads wait for each other: two cores took 2.9 s with one and 3.9 s with eight.
        return COCO, functools.partial(COCOeval_faster, rle_iou_max_workers=1)
    try:
        coco, cocoeval = importlib.import_module("pycocotools.coco"), importlib.import_module("pycocotools.cocoeval")
    except ImportError as error:
        raise UserError(
            "pycocotools was asked for and cannot be imported",
            found=str(error),
            todo="pip install pycocotools, or leave --coco-metric.library out: faster_coco_eval gives equal numbers",
        ) from error
    return coco.COCO, cocoeval.COCOeval


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Python's cycle collector walks over the annotations again and again while they are made, and finds nothing."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


# -- the libraries' form -----------------------------------------------------------------------------------------


def _image_numbers(dataset: DetectionDataset) -> dict[int, int]:
    """`image_id` → number from 1 in the order of the annotation file's own ids, which decides between equal scores."""
    in_order = sorted(dataset.images, key=lambda image: (image.source_id, image.image_id))
    return {image.image_id: number for number, image in enumerate(in_order, 1)}


def _indexed(coco_class: Any, dataset: DetectionDataset, ids: dict[int, int], annotations: list[dict[str, Any]]) -> Any:
    coco = coco_class()
    coco.dataset = {
        "info": {},
        "images": [
            {"id": ids[image.image_id], "height": image.height, "width": image.width} for image in dataset.images
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(dataset.classes, 1)],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


def _truth(dataset: DetectionDataset, ids: dict[int, int], kind: Kind) -> list[dict[str, Any]]:
    annotations: list[dict[str, Any]] = []
    for image in dataset.images:
        columns = (image.labels, image.boxes.astype(np.float64), image.areas, image.crowd | image.difficult)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        for index, (label, (x1, y1, x2, y2), area, ignored) in enumerate(rows):
            annotation: dict[str, Any] = {
                "id": len(annotations) + 1,  # 0 would read as "not matched"
                "image_id": ids[image.image_id],
                "category_id": label + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": area,
                "iscrowd": int(ignored),
            }
            if kind == "segm" and image.masks is not None:
                annotation["segmentation"] = sized(image.masks[index].rle(), image.height, image.width)
            annotations.append(annotation)
    return annotations


def _found(
    dataset: DetectionDataset, detections: Detections, rows: Rows, areas: Floats, ids: dict[int, int], kind: Kind
) -> list[dict[str, Any]]:
    corners = detections.boxes[rows]
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).astype(np.float64)
    columns = (detections.image_ids[rows], detections.labels[rows], boxes, detections.scores[rows], areas[rows])
    annotations: list[dict[str, Any]] = [
        {
            "id": number,
            "image_id": ids[image_id],
            "category_id": label + 1,
            "bbox": box,
            "score": score,
            "area": area,
            "iscrowd": 0,
        }
        for number, (image_id, label, box, score, area) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True), 1
        )
    ]
    if kind == "segm" and detections.masks is not None:
        sizes = {ids[image.image_id]: (image.height, image.width) for image in dataset.images}
        for annotation, row in zip(annotations, rows.tolist(), strict=True):
            annotation["segmentation"] = sized(detections.masks[row], *sizes[annotation["image_id"]])
    return annotations


def _notes(dataset: DetectionDataset, precision: Floats) -> tuple[str, ...]:
    notes = []
    absent = [name for index, name in enumerate(dataset.classes) if np.isnan(precision[:, :, index, 0]).all()]
    if absent:
        notes.append(f"left out of the mean, without ground truth: {', '.join(absent)}")
    sizes = [name for index, name in enumerate(AREAS) if np.isnan(precision[..., index]).all()]
    if sizes:
        notes.append(f"no {' and no '.join(sizes)} objects to find, so no COCO AP of that size")
    if any(image.difficult.any() for image in dataset.images):
        notes.append("COCO's AP ignores the objects marked difficult as it ignores crowds")
    return tuple(notes)
