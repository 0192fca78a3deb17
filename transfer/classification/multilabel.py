"""What the protocols of "How Well Do Self-Supervised Models Transfer?" do otherwise on a multi-label set, VOC2007.

Source: linusericsson/ssl-transfer: datasets/voc2007.py (labels), linear.py and finetune.py (metric mAP). The official
splits train and val are there to fit and to choose on; in the end both are fitted on. An image that shows nothing but
difficult objects of a class counts as one without it, in training and in the test (`target == 1`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from transfer.classification.score import Difficult, Scores, average_precisions
from transfer.datasets.labels.labelled import PRESENT
from transfer.runtime.errors import UserError

MeanPrecision = Literal["mAP_11point", "mAP"]
LABELS = "linusericsson/ssl-transfer: datasets/voc2007.py, target == 1"
# scikit-learn's precision_recall_curve, which the source hands on, ends in a point of recall 0 and precision 1.
RECALL_0 = ("precision at recall 0 of the 11-point mAP", "1, whatever is found", "the best at any recall, as VOC2007's")


@dataclass(frozen=True, kw_only=True)
class MultilabelRecipe:
    """How a protocol chooses on a multi-label set, whatever it chooses.

    Attributes:
        metric: to choose by: a mean over classes of validation images.
        difficult: what an image of difficult objects alone is in the numbers of their class: absent, or ignored as by
            VOC2007's development kit. In training it is absent.
    """

    metric: MeanPrecision
    difficult: Difficult


def mean_precision(scores: Scores, labels: NDArray[np.int8], metric: MeanPrecision, difficult: Difficult) -> float:
    """The number to choose by, in percent, of scores and labels [n, classes].

    Raises:
        UserError: no class is in any image; and as `average_precisions`.
    """
    if not bool((labels == PRESENT).any()):
        raise UserError("no validation image shows any class", todo="look at how the split was read: its lists")
    return average_precisions(scores, labels, difficult).metrics()[metric]


def report_precisions(
    scores: Scores, labels: NDArray[np.int8], classes: tuple[str, ...], difficult: Difficult
) -> tuple[dict[str, float], dict[str, Any]]:
    """Metrics of the test images, both in percent, and each class's for the details of a record."""
    found = average_precisions(scores, labels, difficult)
    unseen = [name for name, value in zip(classes, found.area.tolist(), strict=True) if math.isnan(value)]
    details: dict[str, Any] = {**found.by_class(classes), "test_images": len(labels)}
    return found.metrics(), details | ({"classes_without_test_images": unseen} if unseen else {})
