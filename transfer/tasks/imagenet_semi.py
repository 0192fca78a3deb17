"""ImageNet, fine-tuning on 1 % or 10 % of it: SimCLR's subsets (google-research/simclr: imagenet_subsets/).

VICReg: arXiv 2105.04906, appendix, "Semi-supervised"; facebookresearch/vicreg: README, evaluate.py. Barlow Twins:
arXiv 2103.03230, appendix; facebookresearch/barlowtwins: evaluate.py. Both report the best epoch on the validation
images; this reports the last, which nothing was chosen by.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transfer.classification_task import Loaded, check_sgd, classification_task
from transfer.linear_classification import COMMON_SOURCES
from transfer.sgd_recipe import SgdRecipe
from transfer.task import RunContext, Task, TaskOutcome

if TYPE_CHECKING:
    from transfer.backbone import Backbone


@dataclass(frozen=True, kw_only=True)
class SemiRecipe:
    """Fine-tuning with a rate for the backbone and another for the classifier.

    Attributes:
        sgd: all of it.
    """

    sgd: SgdRecipe


_VICREG = "VICReg, arXiv 2105.04906, appendix"
_BARLOW = "Barlow Twins, arXiv 2103.03230, appendix"
_SHARED = SgdRecipe(
    epochs=20, batch=256, lr=0.0, lr_backbone=0.0, weight_decay=0.0, momentum=0.9, schedule="cosine", per_epoch=True,
    smallest=0.08, crop=224, resize=256, processes=8,
)  # fmt: skip
# (rate of the backbone, rate of the classifier)
_RATES = {"1": (0.03, 0.08), "10": (0.01, 0.1)}


def _vicreg(percent: str) -> SemiRecipe:
    backbone, head = _RATES[percent]
    return SemiRecipe(sgd=dataclasses.replace(_SHARED, lr=head, lr_backbone=backbone))


BARLOW_TWINS = SemiRecipe(
    sgd=dataclasses.replace(
        _SHARED, lr=0.5, lr_backbone=0.002, schedule="steps", per_epoch=False, milestones=(12, 16), factor=0.2
    )
)

_SGD = {name: source for name, source in COMMON_SOURCES.items() if name.startswith("sgd.")} | {
    "sgd.nesterov": "evaluate.py: torch.optim.SGD's default, none",
    "sgd.smallest": "evaluate.py: RandomResizedCrop with torchvision's default",
    "sgd.processes": "256 images on 8 GPUs, each with BatchNorm statistics of its own 32: evaluate.py does not "
    "synchronise them; the number of GPUs is this project's reading",
}
_RATE_NAMES = ("sgd.epochs", "sgd.batch", "sgd.lr", "sgd.lr_backbone", "sgd.weight_decay")
_SCHEDULE = ("sgd.schedule", "sgd.milestones", "sgd.factor", "sgd.per_epoch")
SOURCES = {
    "vicreg": _SGD
    | dict.fromkeys(_RATE_NAMES, _VICREG)
    | dict.fromkeys(_SCHEDULE, "facebookresearch/vicreg: evaluate.py, CosineAnnealingLR stepped every epoch"),
    "barlowtwins": _SGD
    | dict.fromkeys(_RATE_NAMES, _BARLOW)
    | dict.fromkeys(_SCHEDULE, f"{_BARLOW}: times 0.2 after epochs 12 and 16"),
}


def check(recipe: SemiRecipe, backbone: Backbone, loaded: Loaded, device: str, allow_slow: bool) -> None:
    """Refuse what cannot be trained, or would not end on this CPU."""
    check_sgd(recipe.sgd, backbone, len(loaded.splits.train), device, allow_slow, ["cpu"], passes=3)


def run(context: RunContext) -> TaskOutcome:
    """Fine-tune, report on test."""
    from transfer.frozen_splits import left_out_note, report, sgd_machine, whole_rows
    from transfer.sgd import evaluate, fine_tune

    recipe: SemiRecipe = context.recipe
    splits, machine = context.data.splits, sgd_machine(context)
    model = fine_tune(
        context.backbone, splits.train, recipe.sgd, seed=context.seed, folder=context.workdir, machine=machine
    )
    scores = evaluate(model, splits.test, recipe.sgd.evaluation_view(), machine=machine).numpy()
    metrics, details = report(scores, whole_rows(splits.test))
    details["duplicates"] = context.data.duplicates
    notes = (*context.data.notes(), *left_out_note(splits.train.name, model.left_out))
    return TaskOutcome(metrics=metrics, details=details, verification=model.prove(), notes=notes)


def _task(percent: str) -> Task:
    published = _vicreg(percent)
    small = dataclasses.replace(published.sgd, epochs=10, batch=64, crop=96, resize=96, processes=2)
    return classification_task(
        f"imagenet_{percent}",
        title=f"ImageNet, fine-tuning on {percent} % of it (SimCLR's subset)",
        primary="top1",
        protocols={"vicreg": published, "barlowtwins": BARLOW_TWINS},
        presets={"cpu": ("two CPU cores, small sets: 10 epochs at 96 pixels", SemiRecipe(sgd=small))},
        sources=SOURCES,
        run=run,
        check=check,
    )


TASKS = {"1": _task("1"), "10": _task("10")}
