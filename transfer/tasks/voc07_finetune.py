"""VOC07 classification: fine-tuning with a binary cross-entropy for each class.

Protocol: Ericsson et al., CVPR 2021, arXiv 2011.13377 (linusericsson/ssl-transfer: finetune.py), after Kornblith et
al., CVPR 2019, arXiv 1805.08974. SimCLR (arXiv 2002.05709, app. B.8.1) and BYOL (arXiv 2006.07733, app. D) fine-tuned
on VOC2007 too, but do not say how the learning rate falls nor how small a training crop may be: no protocols of theirs.
"""

from __future__ import annotations

from dataclasses import dataclass

from transfer.classification.multilabel import LABELS, RECALL_0, MultilabelRecipe, mean_precision, report_precisions
from transfer.classification.ssl_transfer import (
    CPU_FINE_TUNE,
    FINE_TUNE,
    START_OF_CLASSIFIER,
    Judge,
    SearchRecipe,
    SearchTask,
    for_cpu,
)


@dataclass(frozen=True, kw_only=True)
class VocFineTuneRecipe(MultilabelRecipe, SearchRecipe):
    """Backbone and classifier trained together, rate and decay searched."""


SSL_TRANSFER = (
    FINE_TUNE.of(VocFineTuneRecipe)
    .but("linusericsson/ssl-transfer: finetune.py, FINETUNE_DATASETS and voc_ap", metric="mAP_11point")
    .but(LABELS, difficult="absent")
)


class VocFineTune(SearchTask):
    """Images of several labels."""

    def judge(self, recipe: VocFineTuneRecipe) -> Judge:
        """Mean average precision, of logits as they are."""
        return Judge(
            recipe.metric,
            None,
            lambda logits, val: mean_precision(
                logits.numpy(), val.labels.astype("int8"), recipe.metric, recipe.difficult
            ),
            lambda logits, test: report_precisions(logits, test.labels.astype("int8"), test.classes, recipe.difficult),
        )


TASK = VocFineTune(
    dataset="voc07_val",
    title="VOC07 classification, fine-tuning (or any multi-label set in VOC layout)",
    primary="mAP_11point",
    published={"ssl-transfer": SSL_TRANSFER},
    presets={"cpu": (CPU_FINE_TUNE, for_cpu(SSL_TRANSFER.recipe))},
    multilabel=True,
    departures=(START_OF_CLASSIFIER, RECALL_0),
)
