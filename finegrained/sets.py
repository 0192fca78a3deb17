"""The fine-grained sets: two tasks for each set of the catalogue that names its metric, and for a user's own images.

All share the protocols of "How Well Do Self-Supervised Models Transfer?" (`transfer.classification.ssl_transfer`).
"""

from __future__ import annotations

import dataclasses

from transfer.classification.ssl_transfer import (
    CPU_FINE_TUNE,
    CPU_LINEAR,
    CPU_VIEW,
    END_OF_FIT,
    FINE_TUNE,
    LINEAR,
    START_OF_CLASSIFIER,
    FineTune,
    Linear,
    for_cpu,
)
from transfer.datasets.labels.catalogue import CATALOGUE, Metric
from transfer.protocol import OURS
from transfer.task import Task

# The sets whose metric is ssl-transfer's; of any other one it is our choice.
_ITS = ("aircraft", "caltech101", "cars196", "cifar10", "cifar100", "dtd", "flowers102", "food101", "pets", "sun397")


def _source(dataset: str | None, place: str) -> str:
    code = "linusericsson/ssl-transfer"
    return f"{code}: {place}" if dataset in _ITS else f"{OURS}: {code} has not this set"


def _tasks(dataset: str | None, title: str, metric: Metric) -> dict[str, Task]:
    """Name → task of a set of the catalogue; None: of own images."""
    name = f"finegrained.{dataset or 'own'}"
    linear = LINEAR.but(_source(dataset, "linear.py, LINEAR_DATASETS"), metric=metric)
    tuned = FINE_TUNE.but(_source(dataset, "finetune.py, FINETUNE_DATASETS"), metric=metric)
    return {
        f"{name}_linear": Linear(
            dataset=dataset,
            title=f"{title}, logistic regression on frozen features",
            primary=metric,
            published={"ssl-transfer": linear},
            presets={"cpu": (CPU_LINEAR, dataclasses.replace(linear.recipe, view=CPU_VIEW))},
            departures=(END_OF_FIT,),
        ),
        f"{name}_finetune": FineTune(
            dataset=dataset,
            title=f"{title}, fine-tuning",
            primary=metric,
            published={"ssl-transfer": tuned},
            presets={"cpu": (CPU_FINE_TUNE, for_cpu(tuned.recipe))},
            departures=(START_OF_CLASSIFIER,),
        ),
    }


TASKS = _tasks(None, "Own images (--dataset, --image-folder or --csv)", "top1")
for _name, _entry in CATALOGUE.items():
    if _entry.metric is not None:
        TASKS |= _tasks(_name, _entry.title, _entry.metric)
