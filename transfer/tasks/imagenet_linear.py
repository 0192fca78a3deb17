"""ImageNet, a linear classifier on the frozen backbone: the first column of every paper's first table.

VICReg: arXiv 2105.04906, appendix, "Linear evaluation". Barlow Twins: arXiv 2103.03230, appendix, and its evaluate.py.
Both report the best epoch on the validation images; this reports the last, which nothing was chosen by.
"""

import dataclasses

from transfer.linear_classification import COMMON_SOURCES, LinearSgdRecipe, linear_task
from transfer.sgd_recipe import SgdRecipe

VICREG = LinearSgdRecipe(
    sgd=SgdRecipe(
        epochs=100,
        batch=256,
        lr=0.02,
        weight_decay=1e-6,
        momentum=0.9,
        schedule="cosine",
        per_epoch=True,
        smallest=0.2,
        crop=224,
        resize=256,
    )
)
BARLOW_TWINS = LinearSgdRecipe(sgd=dataclasses.replace(VICREG.sgd, lr=0.3, smallest=0.08))

_VICREG = "VICReg, arXiv 2105.04906, appendix"
_BARLOW = "Barlow Twins, facebookresearch/barlowtwins: evaluate.py"
_SGD = COMMON_SOURCES | {
    "sgd.nesterov": "evaluate.py: torch.optim.SGD's default, none",
    "sgd.schedule": "evaluate.py: CosineAnnealingLR",
    "sgd.milestones": "none with a cosine",
    "sgd.factor": "none with a cosine",
    "sgd.per_epoch": "evaluate.py: scheduler.step() after every epoch",
}
SOURCES = {
    "vicreg": _SGD
    | dict.fromkeys(("sgd.epochs", "sgd.batch", "sgd.lr", "sgd.weight_decay"), _VICREG)
    | {"sgd.smallest": f"{_VICREG}: crops of 0.2 to 1 of the area (its evaluate.py leaves torchvision's 0.08)"},
    "barlowtwins": _SGD
    | dict.fromkeys(("sgd.epochs", "sgd.batch", "sgd.lr", "sgd.weight_decay"), _BARLOW)
    | {"sgd.smallest": f"{_BARLOW}: RandomResizedCrop with torchvision's default"},
}

TASK = linear_task("imagenet", "ImageNet", {"vicreg": VICREG, "barlowtwins": BARLOW_TWINS}, SOURCES)
