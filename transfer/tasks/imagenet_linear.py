"""ImageNet, a linear classifier on the frozen backbone: the first column of every paper's first table.

VICReg: arXiv 2105.04906, appendix, "Linear evaluation". Barlow Twins: arXiv 2103.03230, appendix, and its evaluate.py.
Both report the best epoch on the validation images; this reports the last, which nothing was chosen by.
"""

from transfer.linear_classification import EVALUATE, linear_task

_VICREG = "VICReg, arXiv 2105.04906, appendix"
_BARLOW = "Barlow Twins, facebookresearch/barlowtwins: evaluate.py"

_COSINE = (
    EVALUATE.but("evaluate.py: torch.optim.SGD's default, none", nesterov=False)
    .but("evaluate.py: CosineAnnealingLR", schedule="cosine")
    .but("none with a cosine", milestones=(), factor=1.0)
    .but("evaluate.py: scheduler.step() after every epoch", per_epoch=True)
)
VICREG = _COSINE.but(_VICREG, epochs=100, batch=256, lr=0.02, weight_decay=1e-6).but(
    f"{_VICREG}: crops of 0.2 to 1 of the area (its evaluate.py leaves torchvision's 0.08)", smallest=0.2
)
BARLOW_TWINS = _COSINE.but(_BARLOW, epochs=100, batch=256, lr=0.3, weight_decay=1e-6).but(
    f"{_BARLOW}: RandomResizedCrop with torchvision's default", smallest=0.08
)

TASK = linear_task("imagenet", "ImageNet", {"vicreg": VICREG, "barlowtwins": BARLOW_TWINS})
