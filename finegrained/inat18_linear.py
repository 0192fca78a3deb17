"""iNaturalist 2018, a linear classifier on the frozen backbone: 8,142 species.

VICReg: arXiv 2105.04906, appendix. Barlow Twins: arXiv 2103.03230, appendix. VISSL's protocol is not offered: it puts a
BatchNorm in front of the classifier (facebookresearch/vissl: vissl/models/heads/linear_eval_mlp.py), which makes it
another classifier.
"""

from transfer.linear_classification import EVALUATE, linear_task

_VICREG = "VICReg, arXiv 2105.04906, appendix"
_BARLOW = "Barlow Twins, arXiv 2103.03230, appendix: the settings of its Places205 protocol, 84 epochs"

_CROPS = EVALUATE.but("not stated; torchvision's default, as in VISSL's configuration", smallest=0.08).but(
    "not stated; its evaluate.py has none", nesterov=False
)
VICREG = _CROPS.but(
    _VICREG,
    epochs=84,
    batch=256,
    lr=0.005,
    weight_decay=1e-4,
    schedule="steps",
    milestones=(24, 48, 72),
    factor=0.1,
    per_epoch=False,
)
BARLOW_TWINS = _CROPS.but(_BARLOW, epochs=84, batch=256, lr=0.01, weight_decay=5e-4).but(
    f"{_BARLOW}; where the rate falls is not stated, here as in VISSL",
    schedule="steps",
    milestones=(24, 48, 72),
    factor=0.1,
    per_epoch=False,
)

TASK = linear_task("inat18", "iNaturalist 2018", {"vicreg": VICREG, "barlowtwins": BARLOW_TWINS})
