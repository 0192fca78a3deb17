"""COCO average precision of boxes and masks, by faster-coco-eval or by pycocotools.

The definition is the COCO challenge's (cocodataset/cocoapi: PythonAPI/pycocotools/cocoeval.py): AP at IoU .50:.05:.95
over 101 recall levels, at most 100 detections per image and class, objects called small below 32² and large above 96²
pixels. Both libraries compute it from the same arrays and agree (a test says so); faster-coco-eval does so in C++.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core import mask as coco_mask
from numpy.typing import NDArray

from transfer.datasets.detection import DetectionDataset, Detections
from transfer.datasets.masks import sized
from transfer.errors import DataError, EngineError, UserError
from transfer.metrics.detections import demand_scorable

Floats = NDArray[np.float64]
Kind = Literal["bbox", "segm"]
AREAS = ("all", "small", "medium", "large")


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
        precision: float64 [10, 101, classes, 4], precision in [0, 1] at IoU .50:.05:.95, recall 0:.01:1, class, and
            all, small, medium and large objects, with at most 100 detections; NaN where there is no object to find.
        recall: float64 [10, classes, 4], the largest recall reached; NaN as above.
        notes: what to know when reading the means.
    """

    kind: Kind
    classes: tuple[str, ...]
    precision: Floats
    recall: Floats
    notes: tuple[str, ...] = field(default=())

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
    dataset: DetectionDataset, detections: Detections, kind: Kind, options: CocoApOptions = CocoApOptions()
) -> CocoResult:
    """COCO AP of `detections` on `dataset`.

    Objects marked `crowd` are ignored as COCO ignores them: detections that lie in them count as neither right nor
    wrong. VOC's `difficult` objects are treated alike, which COCO's own definition has no word for.

    Raises:
        EngineError: detections that are not finite, or name images or classes the data set does not have, or masks
            that do not decode.
        DataError: the data set has no object to find, or no masks.
        UserError: pycocotools was asked for and is not installed.
    """
    demand_scorable(dataset, detections)
    if not any((~(image.crowd | image.difficult)).any() for image in dataset.images):
        raise DataError(
            f"{dataset.name} has no object to find, so AP is not defined",
            found=f"{len(dataset)} images, {sum(len(image.labels) for image in dataset.images)} ignored objects",
            todo="evaluate on an annotated split",
        )
    if kind == "segm" and not dataset.has_masks:
        raise DataError(f"{dataset.name} has no masks to compare with", todo="read it with masks")
    if kind == "segm" and detections.masks is None:
        raise EngineError(f"the detections on {dataset.name} have no masks")
    coco_class, evaluator_class = _library(options.library)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports each step there
        truth = _indexed(coco_class, dataset, _truth(dataset, kind))
        found = _indexed(coco_class, dataset, _found(dataset, detections, kind))
        evaluator = evaluator_class(truth, found, kind)
        evaluator.evaluate()
        evaluator.accumulate()
    precision = np.asarray(evaluator.eval["precision"], np.float64)[..., -1]
    recall = np.asarray(evaluator.eval["recall"], np.float64)[..., -1]
    precision[precision < 0] = np.nan
    recall[recall < 0] = np.nan
    return CocoResult(kind, dataset.classes, precision, recall, _notes(dataset, precision))


def _library(name: str) -> tuple[Any, Any]:
    if name == "faster_coco_eval":
        return COCO, COCOeval_faster
    try:
        return (
            importlib.import_module("pycocotools.coco").COCO,
            importlib.import_module("pycocotools.cocoeval").COCOeval,
        )
    except ImportError as error:
        raise UserError(
            "pycocotools was asked for and cannot be imported",
            found=str(error),
            todo="pip install pycocotools, or leave --coco-metric.library out",
        ) from error


def _indexed(coco_class: Any, dataset: DetectionDataset, annotations: list[dict[str, Any]]) -> Any:
    images = [{"id": image.image_id, "height": image.height, "width": image.width} for image in dataset.images]
    categories = [{"id": index, "name": name} for index, name in enumerate(dataset.classes, 1)]
    coco = coco_class()
    coco.dataset = {"info": {}, "images": images, "categories": categories, "annotations": annotations}
    coco.createIndex()
    return coco


def _truth(dataset: DetectionDataset, kind: Kind) -> list[dict[str, Any]]:
    annotations: list[dict[str, Any]] = []
    for image in dataset.images:
        ignored = image.crowd | image.difficult
        for index, (label, ignore, area) in enumerate(
            zip(image.labels.tolist(), ignored.tolist(), image.areas.tolist(), strict=True)
        ):
            x1, y1, x2, y2 = image.boxes[index].astype(float).tolist()
            annotation: dict[str, Any] = {
                "id": len(annotations) + 1,  # 0 would read as "not matched"
                "image_id": image.image_id,
                "category_id": label + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": area,
                "iscrowd": int(ignore),
            }
            if kind == "segm" and image.masks is not None:
                annotation["segmentation"] = sized(image.masks[index].rle(), image.height, image.width)
            annotations.append(annotation)
    return annotations


def _found(dataset: DetectionDataset, detections: Detections, kind: Kind) -> list[dict[str, Any]]:
    images = {image.image_id: image for image in dataset.images}
    corners = detections.boxes.astype(np.float64)
    sides = corners[:, 2:] - corners[:, :2]
    boxes = np.concatenate([corners[:, :2], sides], axis=1).tolist()
    areas = sides.prod(axis=1).tolist()
    rows = zip(
        detections.image_ids.tolist(), detections.labels.tolist(), boxes, detections.scores.tolist(), strict=True
    )
    annotations: list[dict[str, Any]] = [
        {
            "id": number,
            "image_id": image_id,
            "category_id": label + 1,
            "bbox": box,
            "score": score,
            "area": area,
            "iscrowd": 0,
        }
        for number, ((image_id, label, box, score), area) in enumerate(zip(rows, areas, strict=True), 1)
    ]
    if kind == "segm" and detections.masks is not None:
        for annotation, counts in zip(annotations, detections.masks, strict=True):
            image = images[annotation["image_id"]]
            mask = sized(counts, image.height, image.width)
            annotation["segmentation"] = mask
            annotation["area"] = float(coco_mask.area(mask))
    return annotations


def _notes(dataset: DetectionDataset, precision: Floats) -> tuple[str, ...]:
    notes = []
    absent = [name for index, name in enumerate(dataset.classes) if np.isnan(precision[:, :, index, 0]).all()]
    if absent:
        notes.append(f"left out of the mean, without ground truth: {', '.join(absent)}")
    sizes = [name for index, name in enumerate(AREAS) if np.isnan(precision[..., index]).all()]
    if sizes:
        notes.append(f"no {' and no '.join(sizes)} objects")
    if any(image.difficult.any() for image in dataset.images):
        notes.append("COCO's AP ignores the objects marked difficult as it ignores crowds")
    return tuple(notes)
