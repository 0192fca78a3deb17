"""Places205, a linear classifier on the frozen backbone.

VICReg: arXiv 2105.04906, appendix. Barlow Twins: arXiv 2103.03230, appendix. VISSL's protocol and OBoW's are not
offered: both put a BatchNorm in front of the classifier (facebookresearch/vissl:
vissl/models/heads/linear_eval_mlp.py; valeoai/obow: README, --batch-norm), which makes it another classifier.
"""

from transfer.linear_classification import EVALUATE, linear_task

_VICREG = "VICReg, arXiv 2105.04906, appendix"
_BARLOW = "Barlow Twins, arXiv 2103.03230, appendix"

_CROPS = EVALUATE.but("not stated; torchvision's default, as in VISSL's configuration", smallest=0.08).but(
    "not stated; its evaluate.py has none", nesterov=False
)
VICREG = _CROPS.but(_VICREG, epochs=28, batch=256, lr=0.003, weight_decay=1e-4).but(
    f"{_VICREG}: divided by 10 at epochs 4, 8 and 12",
    schedule="steps",
    milestones=(4, 8, 12),
    factor=0.1,
    per_epoch=False,
)
BARLOW_TWINS = _CROPS.but(_BARLOW, epochs=14, batch=256, lr=0.01, weight_decay=5e-4).but(
    f"{_BARLOW}: divided by 10 twice; where is not stated, here after epochs 5 and 10",
    schedule="steps",
    milestones=(5, 10),
    factor=0.1,
    per_epoch=False,
)

TASK = linear_task("places205", "Places205", {"vicreg": VICREG, "barlowtwins": BARLOW_TWINS})
