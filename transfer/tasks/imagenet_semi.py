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
from transfer.linear_classification import EVALUATE_PY
from transfer.protocol import Protocol
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
_TUNING = (
    Protocol(SemiRecipe)
    .but(EVALUATE_PY, momentum=0.9)
    .but(f"{EVALUATE_PY}: RandomResizedCrop(224), CenterCrop(224)", crop=224)
    .but(f"{EVALUATE_PY}: Resize(256)", resize=256)
    .but(f"{EVALUATE_PY}: torchvision's default, bilinear", interpolation="bilinear")
    .but("evaluate.py: torch.optim.SGD's default, none", nesterov=False)
    .but("evaluate.py: RandomResizedCrop with torchvision's default", smallest=0.08)
    .but("epochs are given", steps=0)
    .but(
        "256 images on 8 GPUs, each with BatchNorm statistics of its own 32: evaluate.py does not synchronise them; "
        "the number of GPUs is this project's reading",
        processes=8,
    )
)
# (rate of the backbone, rate of the classifier)
_RATES = {"1": (0.03, 0.08), "10": (0.01, 0.1)}


def _vicreg(percent: str) -> Protocol[SemiRecipe]:
    backbone, head = _RATES[percent]
    return _TUNING.but(_VICREG, epochs=20, batch=256, lr=head, lr_backbone=backbone, weight_decay=0.0).but(
        "facebookresearch/vicreg: evaluate.py, CosineAnnealingLR stepped every epoch",
        schedule="cosine",
        milestones=(),
        factor=1.0,
        per_epoch=True,
    )


BARLOW_TWINS = _TUNING.but(_BARLOW, epochs=20, batch=256, lr=0.5, lr_backbone=0.002, weight_decay=0.0).but(
    f"{_BARLOW}: times 0.2 after epochs 12 and 16", schedule="steps", milestones=(12, 16), factor=0.2, per_epoch=False
)


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
    small = dataclasses.replace(published.recipe.sgd, epochs=10, batch=64, crop=96, resize=96, processes=2)
    return classification_task(
        f"imagenet_{percent}",
        title=f"ImageNet, fine-tuning on {percent} % of it (SimCLR's subset)",
        primary="top1",
        protocols={"vicreg": published, "barlowtwins": BARLOW_TWINS},
        presets={"cpu": ("two CPU cores, small sets: 10 epochs at 96 pixels", SemiRecipe(sgd=small))},
        run=run,
        check=check,
    )


TASKS = {"1": _task("1"), "10": _task("10")}
