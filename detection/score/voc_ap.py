"""PASCAL VOC average precision at IoU .5:.95, or at any others, in one vectorised pass.

The definition is the VOC devkit's (VOCdevkit: VOCevaldet.m), the options' defaults those of the published tables of
self-supervised papers, which come from Detectron2's evaluator (facebookresearch/detectron2:
detectron2/evaluation/pascal_voc_evaluation.py). Both go over the detections one by one and once per threshold; here
every detection is matched once. That is possible because the devkit assigns a detection to the ground-truth box of
its class that it overlaps most, whatever the threshold; the threshold only decides whether that overlap is enough.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from detection.score.detections import demand_scorable
from transfer.datasets.boxes.detection import DetectionDataset, Detections
from transfer.runtime.errors import DataError

IOU_THRESHOLDS: NDArray[np.float64] = np.arange(50, 100, 5) / 100.0
# As the evaluators compute them: the level 0.3 is 0.30000000000000004, which a recall of 3/10 does not reach.
RECALL_LEVELS: NDArray[np.float64] = np.arange(0.0, 1.1, 0.1)
PAIRS_AT_ONCE = 1_000_000  # overlaps computed in one go; bounds the memory on crowded images

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class VocApOptions:
    """How VOC AP is computed; the defaults are the published tables'.

    Attributes:
        mode: "11point" averages the best precision at recall ≥ 0, 0.1, …, 1 (VOC2007); "area" is the area under the
            monotone precision–recall curve (VOC2010 and later).
        plus_one: widths are x2 − x1 + 1 in the devkit's 1-based inclusive coordinates, which is x2 − x1 for boxes
            with exclusive ends as `DetectionImage` holds them. Without it, areas are one pixel narrower and lower.
        strict: a match needs an IoU above the threshold; otherwise the threshold itself is enough.
        score_decimals: scores are rounded to this many decimals before sorting; None does not round.
        box_decimals: the same for the corners of detections, after their shift to 1-based coordinates.
    """

    mode: Literal["11point", "area"] = "11point"
    plus_one: bool = True
    strict: bool = True
    score_decimals: int | None = 3
    box_decimals: int | None = 1

    def __post_init__(self) -> None:
        if self.mode not in ("11point", "area"):
            raise ValueError(f"VOC AP has the modes '11point' and 'area', not {self.mode!r}")


@dataclass(frozen=True, eq=False)
class VocResult:
    """VOC AP of one set of detections.

    Attributes:
        classes: class names.
        by_class: float64 [classes, thresholds], AP in percent at each threshold; NaN for classes that have no ground
            truth to find. Those are left out of the means and named in `notes`; Detectron2 counts them as 0.
        ground_truth: int64 [classes], boxes to be found, that is without the difficult ones.
        difficult: int64 [classes], boxes that are ignored.
        detections: int64 [classes].
        options: how it was computed.
        notes: what to know when reading the means.
        thresholds: float64, rising; a match needs one of these overlaps. `ap` wants .5:.05:.95, the default.
    """

    classes: tuple[str, ...]
    by_class: Floats
    ground_truth: Ints
    difficult: Ints
    detections: Ints
    options: VocApOptions
    notes: tuple[str, ...] = field(default=())
    thresholds: Floats = field(default_factory=IOU_THRESHOLDS.copy)

    def at(self, threshold: float) -> float:
        """Mean AP over classes in percent at one of the IoU thresholds."""
        hits = np.flatnonzero(np.isclose(self.thresholds, threshold))
        if len(hits) != 1:
            raise ValueError(f"VOC AP was computed at {self.thresholds.tolist()}, not at {threshold}")
        return float(np.nanmean(self.by_class[:, hits[0]]))

    @property
    def ap(self) -> float:
        """Mean over classes and IoU .5:.95, in percent."""
        return float(np.nanmean(self.by_class))

    @property
    def ap50(self) -> float:
        """Mean over classes at IoU .5, in percent."""
        return self.at(0.5)

    @property
    def ap75(self) -> float:
        """Mean over classes at IoU .75, in percent."""
        return self.at(0.75)

    def metrics(self) -> dict[str, float]:
        """The three numbers of the tables, in percent."""
        return {"AP": self.ap, "AP50": self.ap50, "AP75": self.ap75}


def evaluate_voc(
    dataset: DetectionDataset,
    detections: Detections,
    options: VocApOptions = VocApOptions(),
    thresholds: Floats = IOU_THRESHOLDS,
) -> VocResult:
    """VOC AP of `detections` on `dataset` at `thresholds`, IoUs between 0 and 1 in rising order.

    A detection belongs to the ground-truth box of its class and image that it overlaps most (the first of equals).
    If their IoU passes the threshold, the best-scored such detection of every box is a true positive and the others
    are false positives; detections of difficult boxes count as neither. Of equal scores the lower image id goes
    first, then the higher unrounded score, so the result does not depend on the order of the detections.

    Raises:
        EngineError: detections that are not finite, or that name images or classes the data set does not have.
        DataError: the data set has no box to find at all.
    """
    demand_scorable(dataset, detections)
    truth = _ground_truth(dataset)
    classes = len(dataset.classes)
    positives = np.bincount(truth.labels[~truth.difficult], minlength=classes)
    if not positives.any():
        raise DataError(
            f"{dataset.name} has no box to find, so AP is not defined",
            found=f"{len(dataset)} images, {len(truth.labels)} boxes, all of them difficult"
            if len(truth.labels)
            else f"{len(dataset)} images without any box",
            todo="evaluate on an annotated split",
        )
    boxes, scores = _devkit_detections(detections, options)
    order = _score_order(detections, scores)
    labels = detections.labels[order]
    match, iou = _best_overlaps(truth, detections.image_ids[order], labels, boxes[order], options.plus_one)
    # Thresholds are nested: an overlap that passes one passes all below it, so one number says which it passes.
    passed = np.searchsorted(thresholds, iou, side="left" if options.strict else "right")
    true_positive, counted = _judge(match, passed, truth.difficult, len(thresholds))

    by_class = np.full((classes, len(thresholds)), np.nan)
    ends = np.searchsorted(labels, np.arange(classes + 1))
    for label in np.flatnonzero(positives):
        rows = slice(ends[label], ends[label + 1])
        precision_recall = true_positive[rows], counted[rows], int(positives[label])
        by_class[label] = 100.0 * average_precision(*precision_recall, mode=options.mode)
    absent = [name for name, count in zip(dataset.classes, positives, strict=True) if not count]
    return VocResult(
        classes=dataset.classes,
        by_class=by_class,
        ground_truth=positives,
        difficult=np.bincount(truth.labels[truth.difficult], minlength=classes),
        detections=np.bincount(detections.labels, minlength=classes),
        options=options,
        notes=(f"left out of the mean, without ground truth: {', '.join(absent)}",) if absent else (),
        thresholds=thresholds,
    )


def average_precision(true_positive: Bools, counted: Bools, positives: int, mode: Literal["11point", "area"]) -> Floats:
    """AP in [0, 1] of one class, for several thresholds at once.

    Args:
        true_positive: [m, t], for m detections in order of falling score and t thresholds.
        counted: [m, t], true or false positive; what is neither was ignored.
        positives: ground-truth boxes to be found, > 0.
        mode: see `VocApOptions`.

    Returns:
        [t].
    """
    if not len(true_positive):
        return np.zeros(true_positive.shape[1])
    found = np.cumsum(true_positive, axis=0)
    recall = found / positives
    precision = found / np.maximum(np.cumsum(counted, axis=0), 1)
    best_from_here = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    if mode == "area":
        steps = np.diff(recall, axis=0, prepend=0.0)
        return np.asarray((steps * best_from_here).sum(axis=0))
    # Precision is 0 at recall levels that are never reached: the row past the end.
    best_from_here = np.vstack([best_from_here, np.zeros((1, recall.shape[1]))])
    columns = np.arange(recall.shape[1])
    at_levels = [best_from_here[(recall < level).sum(axis=0), columns] for level in RECALL_LEVELS]
    return np.asarray(np.mean(at_levels, axis=0))


# -- preparation -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Truth:
    """All ground-truth boxes, sorted by (image, class); within those in the order of the annotation."""

    keys: Ints  # [g], image_id · classes + label
    labels: Ints  # [g]
    boxes: Floats  # [g, 4], 1-based inclusive
    difficult: Bools  # [g]
    classes: int


def _ground_truth(dataset: DetectionDataset) -> _Truth:
    images, classes = dataset.images, len(dataset.classes)
    ids = np.repeat([image.image_id for image in images], [len(image.labels) for image in images])
    labels = np.concatenate([np.zeros(0, np.int64), *(image.labels for image in images)])
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *(image.boxes for image in images)]).astype(np.float64)
    difficult = np.concatenate([np.zeros(0, np.bool_), *(image.difficult | image.crowd for image in images)])
    keys = ids.astype(np.int64) * classes + labels
    order = np.argsort(keys, kind="stable")
    return _Truth(
        keys[order], labels[order], (boxes + np.array([1.0, 1.0, 0.0, 0.0]))[order], difficult[order], classes
    )


def _devkit_detections(detections: Detections, options: VocApOptions) -> tuple[Floats, Floats]:
    """(boxes, scores) in 1-based inclusive coordinates, rounded as a devkit result file holds them."""
    # Detectron2 shifts in single precision and prints afterwards; so does this.
    boxes = (detections.boxes + np.array([1, 1, 0, 0], np.float32)).astype(np.float64)
    return _rounded(boxes, options.box_decimals), _rounded(detections.scores.astype(np.float64), options.score_decimals)


def _rounded(values: Floats, decimals: int | None) -> Floats:
    """What printing with that many decimals and reading back gives.

    The product of a float32 with 10^decimals is exact in double precision, so halves go where printing sends them.
    """
    return values if decimals is None else np.rint(values * 10.0**decimals) / 10.0**decimals


def _score_order(detections: Detections, scores: Floats) -> NDArray[np.intp]:
    """Sorted by class, then falling rounded score, then image, then falling full score, then box."""
    x1, y1, x2, y2 = detections.boxes.T
    return np.lexsort((y2, x2, y1, x1, -detections.scores, detections.image_ids, -scores, detections.labels))


# -- matching ----------------------------------------------------------------------------------------------------


def _best_overlaps(truth: _Truth, image_ids: Ints, labels: Ints, boxes: Floats, plus_one: bool) -> tuple[Ints, Floats]:
    """For every detection the ground-truth box of its image and class with the largest IoU, and that IoU.

    Returns:
        (match, iou), each [m]; match is −1 and iou 0 where image and class have no ground truth.
    """
    keys = image_ids * truth.classes + labels
    first = np.searchsorted(truth.keys, keys, side="left")
    candidates = np.searchsorted(truth.keys, keys, side="right") - first
    match, iou = np.full(len(keys), -1), np.zeros(len(keys))
    rows = np.flatnonzero(candidates)
    chunk_of_row = np.cumsum(candidates[rows]) // PAIRS_AT_ONCE
    for chunk in np.split(rows, np.flatnonzero(np.diff(chunk_of_row)) + 1) if len(rows) else []:
        counts = candidates[chunk]
        starts = np.cumsum(counts) - counts
        detection = np.repeat(chunk, counts)
        target = np.arange(len(detection)) + np.repeat(first[chunk] - starts, counts)
        overlaps = _iou(boxes[detection], truth.boxes[target], plus_one)
        best = np.maximum.reduceat(overlaps, starts)
        is_best = np.flatnonzero(overlaps == np.repeat(best, counts))
        _, first_best = np.unique(detection[is_best], return_index=True)
        match[chunk], iou[chunk] = target[is_best[first_best]], best
    return match, iou


def _iou(a: Floats, b: Floats, plus_one: bool) -> Floats:
    """IoU of a[i] with b[i], [n]; 0 where the union is empty. The order of operations is the devkit's."""
    extra = 1.0 if plus_one else 0.0
    width = np.maximum(np.minimum(a[:, 2], b[:, 2]) - np.maximum(a[:, 0], b[:, 0]) + extra, 0.0)
    height = np.maximum(np.minimum(a[:, 3], b[:, 3]) - np.maximum(a[:, 1], b[:, 1]) + extra, 0.0)
    both = width * height
    area_a = (a[:, 2] - a[:, 0] + extra) * (a[:, 3] - a[:, 1] + extra)
    area_b = (b[:, 2] - b[:, 0] + extra) * (b[:, 3] - b[:, 1] + extra)
    union = area_a + area_b - both
    return np.asarray(np.divide(both, union, out=np.zeros_like(both), where=union > 0))


def _judge(match: Ints, passed: Ints, difficult: Bools, levels: int) -> tuple[Bools, Bools]:
    """(true positive, counted), each [m, levels], for detections in order of falling score within each class.

    At threshold number k a box is claimed by its first detection that passes k. So a detection is the true positive
    at k exactly if it passes k and no earlier one of the same box does: with p thresholds passed by it and at most q
    by an earlier one, at q ≤ k < p.
    """
    rows = np.flatnonzero(match >= 0)
    rows = rows[np.argsort(match[rows], kind="stable")]
    box = match[rows]
    # A running maximum per box: offsets that grow from box to box keep the boxes apart in one accumulation.
    offset = box * (levels + 1)
    running = np.maximum.accumulate(passed[rows] + offset)
    earlier = np.zeros(len(match), np.int64)
    earlier[rows[1:]] = np.where(box[1:] == box[:-1], running[:-1] - offset[1:], 0)
    of_difficult = np.zeros(len(match), np.bool_)
    of_difficult[rows] = difficult[box]

    level = np.arange(levels)
    passes = level < passed[:, None]
    ignored = passes & of_difficult[:, None]
    return passes & (level >= earlier[:, None]) & ~ignored, ~ignored


__all__ = ["IOU_THRESHOLDS", "VocApOptions", "VocResult", "average_precision", "evaluate_voc"]
