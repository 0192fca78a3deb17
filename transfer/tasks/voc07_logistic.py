"""VOC07 classification: a logistic regression for each class on frozen features, one penalty for all classes.

Protocol: Ericsson et al., CVPR 2021, arXiv 2011.13377 (linusericsson/ssl-transfer: linear.py), after Kornblith et al.,
CVPR 2019, arXiv 1805.08974. The source calls scikit-learn's multinomial form on two classes: the penalty falls on both
rows of weights, which is half of that penalty on a single sigmoid's; penalties here are the source's, in its form.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transfer.classification.multilabel import LABELS, RECALL_0, MultilabelRecipe, mean_precision, report_precisions
from transfer.classification.score import Scores
from transfer.classification.ssl_transfer import (
    CPU_LINEAR,
    CPU_VIEW,
    END_OF_FIT,
    LINEAR,
    LogisticRecipe,
    LogisticTask,
    Report,
)
from transfer.datasets.labels.labelled import PRESENT
from transfer.task import Run

if TYPE_CHECKING:
    from transfer.classification.probes.penalty import SharedChoice
    from transfer.classification.splits import Rows


@dataclass(frozen=True, kw_only=True)
class VocLogisticRecipe(MultilabelRecipe, LogisticRecipe):
    """A logistic regression for each class on frozen features."""


SSL_TRANSFER = (
    LINEAR.of(VocLogisticRecipe)
    .but("linusericsson/ssl-transfer: linear.py, LINEAR_DATASETS and voc_ap", metric="mAP_11point")
    .but(LABELS, difficult="absent")
)


class VocLogistic(LogisticTask):
    """One logistic regression a class."""

    def choose(self, run: Run, fit: Rows, val: Rows, test: Rows) -> SharedChoice:
        """By the mean over classes of the recipe's metric."""
        import torch

        from transfer.classification.probes.penalty import choose_shared_penalty

        recipe: VocLogisticRecipe = run.recipe
        device, known = torch.device(run.device), val.labels.astype("int8")
        (features, labels), (val_features, val_labels) = (rows.tensors(recipe.pooling, device) for rows in (fit, val))
        return choose_shared_penalty(
            features, labels == PRESENT, val_features, val_labels == PRESENT, test.tensors(recipe.pooling, device)[0],
            classes=fit.images.classes, penalties=recipe.penalties,
            score=lambda odds: mean_precision(odds.cpu().numpy(), known, recipe.metric, recipe.difficult),
        )  # fmt: skip

    def report(self, recipe: VocLogisticRecipe, scores: Scores, test: Rows) -> Report:
        """Both mean average precisions, of log-odds."""
        return report_precisions(scores, test.labels.astype("int8"), test.images.classes, recipe.difficult)


TASK = VocLogistic(
    dataset="voc07_val",
    title="VOC07 classification, logistic regressions on frozen features (or any multi-label set in VOC layout)",
    primary="mAP_11point",
    published={"ssl-transfer": SSL_TRANSFER},
    presets={"cpu": (CPU_LINEAR, dataclasses.replace(SSL_TRANSFER.recipe, view=CPU_VIEW))},
    multilabel=True,
    departures=(END_OF_FIT, RECALL_0),
)
