"""VOC07 classification: a logistic regression for each class on frozen features, one penalty for all classes.

Protocol: Ericsson et al., CVPR 2021, arXiv 2011.13377 (linusericsson/ssl-transfer: linear.py), after Kornblith et al.,
CVPR 2019, arXiv 1805.08974. The source calls scikit-learn's multinomial form on two classes: the penalty falls on both
rows of weights, which is half of that penalty on a single sigmoid's; penalties here are the source's, in its form.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from transfer.classification.multilabel import LABELS, RECALL_0, MeanPrecision, mean_precision, report_precisions
from transfer.classification.score import Difficult
from transfer.classification.ssl_transfer import (
    CPU_LINEAR,
    CPU_VIEW,
    END_OF_FIT,
    LINEAR,
    LogisticRecipe,
    LogisticTask,
    logistic_outcome,
)
from transfer.classification.task import Loaded
from transfer.datasets.labels.labelled import PRESENT
from transfer.task import Run, TaskOutcome


@dataclass(frozen=True, kw_only=True)
class VocLogisticRecipe(LogisticRecipe):
    """A logistic regression for each class on frozen features.

    Attributes:
        metric: that the penalty of all classes is chosen by: a mean over classes of validation images.
        difficult: what an image of difficult objects alone is in the numbers of their class: absent, or ignored as by
            VOC2007's development kit. In training it is absent.
    """

    metric: MeanPrecision
    difficult: Difficult


SSL_TRANSFER = (
    LINEAR.of(VocLogisticRecipe)
    .but("linusericsson/ssl-transfer: linear.py, LINEAR_DATASETS and voc_ap", metric="mAP_11point")
    .but(LABELS, difficult="absent")
)


class VocLogistic(LogisticTask):
    """One logistic regression a class."""

    def measure(self, run: Run) -> TaskOutcome:
        """Extract, choose the penalty on the validation part, refit on all training images, report on test."""
        import torch

        from transfer.classification.probes.penalty import choose_shared_penalty
        from transfer.classification.splits import frozen_splits

        recipe: VocLogisticRecipe = run.recipe
        loaded: Loaded = run.data
        frozen = frozen_splits(run, recipe.view, (recipe.pooling,), recipe.precision)
        fit, val = frozen.to_choose(recipe.holdout, run.seed)
        classes, device = loaded.splits.train.classes, torch.device(run.device)
        (features, labels), (val_features, val_labels) = (rows.tensors(recipe.pooling, device) for rows in (fit, val))
        known = val.labels.astype("int8")
        chosen = choose_shared_penalty(
            features, labels == PRESENT, val_features, val_labels == PRESENT,
            frozen.test.tensors(recipe.pooling, device)[0],
            classes=classes, penalties=recipe.penalties,
            score=lambda odds: mean_precision(odds.cpu().numpy(), known, recipe.metric, recipe.difficult),
        )  # fmt: skip
        reported = report_precisions(
            chosen.scores.cpu().numpy(), frozen.test.labels.astype("int8"), classes, recipe.difficult
        )
        return logistic_outcome(loaded, frozen, val, chosen, reported, chosen.unconverged)


TASK = VocLogistic(
    dataset="voc07_val",
    title="VOC07 classification, logistic regressions on frozen features (or any multi-label set in VOC layout)",
    primary="mAP_11point",
    published={"ssl-transfer": SSL_TRANSFER},
    presets={"cpu": (CPU_LINEAR, dataclasses.replace(SSL_TRANSFER.recipe, view=CPU_VIEW))},
    multilabel=True,
    departures=(END_OF_FIT, RECALL_0),
)
