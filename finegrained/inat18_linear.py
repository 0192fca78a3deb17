"""iNaturalist 2018, a linear classifier on the frozen backbone: 8,142 species.

VICReg: arXiv 2105.04906, appendix. Barlow Twins: arXiv 2103.03230, appendix. VISSL's protocol is not offered: it puts a
BatchNorm in front of the classifier (facebookresearch/vissl: vissl/models/heads/linear_eval_mlp.py), which makes it
another classifier.
"""

import dataclasses

from transfer.linear_classification import COMMON_SOURCES, LinearSgdRecipe, linear_task
from transfer.sgd_recipe import SgdRecipe

VICREG = LinearSgdRecipe(
    sgd=SgdRecipe(
        epochs=84,
        batch=256,
        lr=0.005,
        weight_decay=1e-4,
        momentum=0.9,
        schedule="steps",
        milestones=(24, 48, 72),
        factor=0.1,
        smallest=0.08,
        crop=224,
        resize=256,
    )
)
BARLOW_TWINS = LinearSgdRecipe(sgd=dataclasses.replace(VICREG.sgd, lr=0.01, weight_decay=5e-4))

_VICREG = "VICReg, arXiv 2105.04906, appendix"
_BARLOW = "Barlow Twins, arXiv 2103.03230, appendix: the settings of its Places205 protocol, 84 epochs"
_SGD = ("sgd.epochs", "sgd.batch", "sgd.lr", "sgd.weight_decay")
_STEPS = ("sgd.schedule", "sgd.milestones", "sgd.factor", "sgd.per_epoch")
_UNSTATED = {
    "sgd.smallest": "not stated; torchvision's default, as in VISSL's configuration",
    "sgd.nesterov": "not stated; its evaluate.py has none",
}
SOURCES = {
    "vicreg": COMMON_SOURCES | _UNSTATED | dict.fromkeys((*_SGD, *_STEPS), _VICREG),
    "barlowtwins": COMMON_SOURCES
    | _UNSTATED
    | dict.fromkeys(_SGD, _BARLOW)
    | dict.fromkeys(_STEPS, f"{_BARLOW}; where the rate falls is not stated, here as in VISSL"),
}

TASK = linear_task("inat18", "iNaturalist 2018", {"vicreg": VICREG, "barlowtwins": BARLOW_TWINS}, SOURCES)
