"""ImageNet, fine-tuning on 1 % or 10 % of it: SimCLR's subsets (google-research/simclr: imagenet_subsets/).

Barlow Twins stand here twice: as their paper says, and as their command says, which gave 55.1 / 68.9. BYOL is not
offered: its paper sweeps rates and epochs and states no single recipe (app. C.1). Papers report the best epoch on the
validation images; this reports the last, which nothing was chosen by.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from transfer.classification.fine_tuning import TuningRecipe, tuning_task
from transfer.classification.linear import EVALUATE_PY
from transfer.protocol import Protocol
from transfer.task import Task

_VICREG = "VICReg, arXiv 2105.04906, app. C.2"
_BARLOW = "Barlow Twins, arXiv 2103.03230, app. B.2"
_SWAV = "facebookresearch/swav: eval_semisup.py"
_OBOW = "valeoai/obow: main_semisupervised.py"
_SIMCLR = "SimCLR, arXiv 2002.05709, app. B.5"
_TUNING = (
    Protocol(TuningRecipe)
    .but(EVALUATE_PY, optimizer="sgd", trust=0.0, momentum=0.9)
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
_TORCHVISION = "RandomResizedCrop with torchvision's default"


def _protocols(percent: Literal["1", "10"]) -> dict[str, Protocol[TuningRecipe]]:
    """Name → protocol; rates are (classifier, backbone)."""

    def rates(one: tuple[float, float], ten: tuple[float, float]) -> dict[str, float]:
        return dict(zip(("lr", "lr_backbone"), one if percent == "1" else ten, strict=True))

    vicreg = (
        _TUNING.but(_VICREG, rates((0.08, 0.03), (0.1, 0.01)), epochs=20, batch=256, weight_decay=0.0)
        .but(f"{_VICREG}: crops as in its linear evaluation", smallest=0.2)
        .but(
            "facebookresearch/vicreg: evaluate.py, CosineAnnealingLR stepped every epoch",
            schedule="cosine",
            milestones=(),
            factor=1.0,
            per_epoch=True,
        )
    )
    barlow_twins = _TUNING.but(_BARLOW, epochs=20, batch=256, lr=0.5, lr_backbone=0.002, weight_decay=0.0).but(
        f"{_BARLOW}: times 0.2 after epochs 12 and 16",
        schedule="steps",
        milestones=(12, 16),
        factor=0.2,
        per_epoch=False,
    )
    command = "facebookresearch/barlowtwins: README, semi-supervised command"
    if percent == "10":
        command += " for 1 %; the same for 10 %: facebookresearch/barlowtwins#14"
    barlow_twins_code = _TUNING.but(command, epochs=20, lr=0.5, lr_backbone=0.005, weight_decay=0.0).but(
        "facebookresearch/barlowtwins: evaluate.py",
        batch=256,
        schedule="cosine",
        milestones=(),
        factor=1.0,
        per_epoch=True,
    )
    swav = (
        _TUNING.but(f"{_SWAV}; README", rates((5.0, 0.02), (0.2, 0.01)), epochs=20, batch=256)
        .but(
            _SWAV,
            weight_decay=0.0,
            momentum=0.9,
            nesterov=False,
            schedule="steps",
            milestones=(12, 16),
            factor=0.2,
            per_epoch=False,
        )
        .but(f"{_SWAV}: {_TORCHVISION}", smallest=0.08)
        .but(f"{_SWAV}: SyncBatchNorm over 8 GPUs", processes=1)
    )
    obow = (
        _TUNING.but(
            "valeoai/obow: README, semi-supervised command",
            {"epochs": 40, "milestones": (24, 32)} if percent == "1" else {"epochs": 20, "milestones": (12, 16)},
            lr=0.5,
            lr_backbone=0.0002,
            weight_decay=0.0,
            factor=0.2,
        )
        .but(_OBOW, batch=256, momentum=0.9, nesterov=False, schedule="steps", per_epoch=False)
        .but(f"valeoai/obow: obow/datasets.py, {_TORCHVISION}", smallest=0.08)
        .but(f"{_OBOW}: SyncBatchNorm", processes=1)
    )
    simclr = (
        _TUNING.but(
            f"{_SIMCLR}: 0.05 per 256, all weights alike",
            epochs=60 if percent == "1" else 30,
            batch=4096,
            lr=0.8,
            lr_backbone=0.8,
            weight_decay=0.0,
            momentum=0.9,
            nesterov=True,
        )
        .but(
            "google-research/simclr: model_util.py, learning_rate_schedule",
            schedule="cosine",
            milestones=(),
            factor=1.0,
            per_epoch=False,
        )
        .but("google-research/simclr: data_util.py", smallest=0.08, interpolation="bicubic")
        .but("google-research/simclr: README, --global_bn=True", processes=1)
    )
    return {
        "vicreg": vicreg,
        "barlowtwins": barlow_twins,
        "barlowtwins_code": barlow_twins_code,
        "swav": swav,
        "obow": obow,
        "simclr": simclr,
    }


def _task(percent: Literal["1", "10"]) -> Task:
    protocols = _protocols(percent)
    small = dataclasses.replace(protocols["vicreg"].recipe.sgd, epochs=10, batch=64, crop=96, resize=96, processes=2)
    title = f"ImageNet, fine-tuning on {percent} % of it (SimCLR's subset)"
    return tuning_task(f"imagenet_{percent}", title, protocols, small, version=2)


TASKS = {"1": _task("1"), "10": _task("10")}
