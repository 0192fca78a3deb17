"""Places205, a linear classifier on the frozen backbone.

VICReg: arXiv 2105.04906, appendix. Barlow Twins: arXiv 2103.03230, appendix. VISSL's protocol and OBoW's are not
offered: both put a BatchNorm in front of the classifier (facebookresearch/vissl:
vissl/models/heads/linear_eval_mlp.py; valeoai/obow: README, --batch-norm), which makes it another classifier.
"""

import dataclasses

from transfer.linear_classification import COMMON_SOURCES, LinearSgdRecipe, linear_task
from transfer.sgd_recipe import SgdRecipe

VICREG = LinearSgdRecipe(
    sgd=SgdRecipe(
        epochs=28,
        batch=256,
        lr=0.003,
        weight_decay=1e-4,
        momentum=0.9,
        schedule="steps",
        per_epoch=False,
        milestones=(4, 8, 12),
        factor=0.1,
        smallest=0.08,
        crop=224,
        resize=256,
    )
)
BARLOW_TWINS = LinearSgdRecipe(
    sgd=dataclasses.replace(
        VICREG.sgd,
        epochs=14,
        lr=0.01,
        weight_decay=5e-4,
        milestones=(5, 10),
    )
)
_VICREG = "VICReg, arXiv 2105.04906, appendix"
_BARLOW = "Barlow Twins, arXiv 2103.03230, appendix"
_SGD = ("sgd.epochs", "sgd.batch", "sgd.lr", "sgd.weight_decay")
_STEPS = ("sgd.schedule", "sgd.milestones", "sgd.factor", "sgd.per_epoch")
_CROP = {"sgd.smallest": "not stated; torchvision's default, as in VISSL's configuration"}
SOURCES = {
    "vicreg": COMMON_SOURCES
    | _CROP
    | dict.fromkeys(_SGD, _VICREG)
    | dict.fromkeys(_STEPS, f"{_VICREG}: divided by 10 at epochs 4, 8 and 12")
    | {"sgd.nesterov": "not stated; its evaluate.py has none"},
    "barlowtwins": COMMON_SOURCES
    | _CROP
    | dict.fromkeys(_SGD, _BARLOW)
    | dict.fromkeys(_STEPS, f"{_BARLOW}: divided by 10 twice; where is not stated, here after epochs 5 and 10")
    | {"sgd.nesterov": "not stated; its evaluate.py has none"},
}

TASK = linear_task("places205", "Places205", {"vicreg": VICREG, "barlowtwins": BARLOW_TWINS}, SOURCES)
