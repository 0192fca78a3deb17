"""Numbers of classification: top-k, mean per-class and per-level accuracy, and the two average precisions of VOC07.

All in percent. None picks anything: what is predicted or scored is given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from transfer.datasets.labels.labelled import ABSENT, DIFFICULT, PRESENT, Level
from transfer.runtime.errors import UserError

Scores = NDArray[np.float32] | NDArray[np.float64]
Difficult = Literal["ignored", "absent"]  # what images of difficult objects alone are in the test of their class
RECALLS = np.linspace(0, 1, 11)  # of the 11-point metric (linusericsson/ssl-transfer: linear.py, voc_ap)


def top_k(scores: Scores, labels: NDArray[np.int64], k: int) -> float:
    """Share of rows whose class is among the k highest scores [n, classes], in percent.

    A class that ties with the label's counts as ahead of it: a constant classifier scores 0, not 100.

    Raises:
        UserError: scores that are not finite, or that do not fit the labels [n].
    """
    _check(scores, len(labels))
    own = scores[np.arange(len(labels)), labels][:, None]
    ahead = (scores >= own).sum(1) - 1
    return 100 * float((ahead < k).mean())


def per_class(predicted: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """Accuracy of each class in percent, [classes]; NaN for classes without rows."""
    counts = np.bincount(labels, minlength=classes)
    hits = np.bincount(labels[predicted == labels], minlength=classes)
    shares: NDArray[np.float64] = np.divide(hits, counts, out=np.full(classes, math.nan), where=counts > 0)
    return 100 * shares


def mean_per_class(predicted: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> float:
    """Mean of `per_class` over the classes that have rows: the convention of Pets, Flowers, Aircraft, Caltech-101."""
    return float(np.nanmean(per_class(predicted, labels, classes)))


def mean_per_class_error(predicted: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> float:
    """Standard error of `mean_per_class` over another draw of as many rows of each class, in percent."""
    counts = np.bincount(labels, minlength=classes)
    shares = per_class(predicted, labels, classes)[counts > 0] / 100
    variance = (shares * (1 - shares) / counts[counts > 0]).sum()
    return 100 * math.sqrt(variance) / len(shares)


def at_level(predicted: NDArray[np.int64], labels: NDArray[np.int64], level: Level) -> float:
    """Share of rows whose predicted class has the same parent as the true one, in percent."""
    return 100 * float((level.parent[predicted] == level.parent[labels]).mean())


def classification_metrics(scores: Scores, labels: NDArray[np.int64], levels: Mapping[str, Level]) -> dict[str, float]:
    """What every single-label task reports: `top1`, `top5`, `mean_per_class`, and `top1_<level>` of each level.

    Top-5 is left out for five classes or fewer.
    """
    _check(scores, len(labels))
    classes = scores.shape[1]
    predicted = scores.argmax(1)
    found = {"top1": 100 * float((predicted == labels).mean())}
    if classes > 5:
        found["top5"] = top_k(scores, labels, 5)
    found["mean_per_class"] = mean_per_class(predicted, labels, classes)
    return found | {f"top1_{name}": at_level(predicted, labels, level) for name, level in levels.items()}


@dataclass(frozen=True, eq=False)
class AveragePrecisions:
    """Average precision of each class in percent, [classes]; NaN where there is nothing to find.

    Attributes:
        area: under the monotone precision–recall curve (facebookresearch/vissl: vissl/utils/svm_utils/evaluate.py).
        eleven_point: mean of the best precision at recalls 0, 0.1, … 1 or beyond (VOC2007 development kit).
    """

    area: NDArray[np.float64]
    eleven_point: NDArray[np.float64]

    def by_class(self, classes: Sequence[str]) -> dict[str, dict[str, float | None]]:
        """For a record: `AP` (area) and `AP_11point` of each class; None where there is nothing to find."""
        area, eleven = (
            {name: None if math.isnan(value) else value for name, value in zip(classes, values.tolist(), strict=True)}
            for values in (self.area, self.eleven_point)
        )
        return {"AP": area, "AP_11point": eleven}

    def metrics(self) -> dict[str, float]:
        """`mAP` (area) and `mAP_11point`: the first reads 2 to 4 points higher, so neither name stands for both."""
        return {"mAP": float(np.nanmean(self.area)), "mAP_11point": float(np.nanmean(self.eleven_point))}


def average_precisions(scores: Scores, labels: NDArray[np.int8], difficult: Difficult = "ignored") -> AveragePrecisions:
    """Both metrics for scores [n, classes] and labels [n, classes] of present, difficult and absent.

    Difficult images are ignored, class by class, or count as absent. Rows of equal score enter together, so that their
    order cannot matter; without ties this is VISSL's number.

    Raises:
        UserError: scores that are not finite or do not fit.
    """
    _check(scores, len(labels))
    if scores.shape != labels.shape:
        raise UserError(
            "an average precision needs a score for every label",
            found=f"scores {list(scores.shape)}, labels {list(labels.shape)}",
        )
    if difficult == "absent":
        labels = np.where(labels == DIFFICULT, ABSENT, labels).astype(np.int8)
    pairs = [_average_precision(scores[:, c], labels[:, c]) for c in range(labels.shape[1])]
    area, eleven = (100 * np.array(values) for values in zip(*pairs, strict=True))
    return AveragePrecisions(area, eleven)


def _average_precision(scores: Scores, labels: NDArray[np.int8]) -> tuple[float, float]:
    kept = labels != DIFFICULT
    order = np.argsort(-scores[kept], kind="stable")
    ranked, wanted = scores[kept][order], labels[kept][order] == PRESENT
    if not wanted.any():
        return math.nan, math.nan
    last = np.append(ranked[1:] != ranked[:-1], True)  # of each group of equal scores
    found, seen = np.cumsum(wanted)[last], np.flatnonzero(last) + 1
    recall, precision = found / wanted.sum(), found / seen
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    area = float((np.diff(recall, prepend=0.0) * envelope).sum())
    # recall ends at 1, so every one of the eleven is reached
    eleven = float(envelope[np.searchsorted(recall, RECALLS, side="left")].mean())
    return area, eleven


def _check(scores: Scores, rows: int) -> None:
    if scores.ndim != 2 or len(scores) != rows or not rows:
        raise UserError("scores do not fit the labels", found=f"scores {list(scores.shape)}, {rows} labelled rows")
    bad = int((~np.isfinite(scores)).any(1).sum())
    if bad:
        raise UserError(
            "scores are not finite",
            found=f"NaN or infinity in {bad} of {rows} rows",
            todo="look at the classifier that made them: it diverged",
        )
