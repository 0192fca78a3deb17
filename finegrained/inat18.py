"""iNaturalist 2018, 8,142 species: a linear classifier on the frozen backbone, or fine-tuning as VISSL configures it.

VISSL's head is the linear classifier's default: an affine BatchNorm of the pooled map in front of it. VICReg and Barlow
Twins were measured with VISSL; without that head people found 10 instead of 47 (facebookresearch/vicreg#17). `--head
linear` is the layer alone.
"""

from transfer.classification.fine_tuning import vissl_task
from transfer.classification.linear import linear_task, vissl
from transfer.protocol import OURS

_CONFIG = "facebookresearch/vissl: eval_resnet_8gpu_transfer_inaturalist18_linear.yaml"
_PIRL = "PIRL, arXiv 1912.01991, app. C"
_BARLOW = "Barlow Twins, arXiv 2103.03230, app. C.1"
_SWAV = "SwAV, arXiv 2006.09882, app. A.5"

VISSL = (
    vissl(_CONFIG)
    .but(_CONFIG, epochs=84, weight_decay=5e-4, milestones=(24, 48, 72))
    .but(f"{_CONFIG}: heads on res5 AvgPool2d(6, 1), 8,192 numbers, and on res5avg, 2,048", poolings=("grid", "avg"))
)
VICREG = VISSL.but(
    "VICReg, arXiv 2105.04906, app. C.3, by VISSL",
    epochs=84,
    batch=256,
    lr=0.005,
    weight_decay=1e-4,
    milestones=(24, 48, 72),
    factor=0.1,
)
_TWICE = "divided by 10 twice, at equal intervals of 84 epochs"
BARLOW_TWINS = (
    VISSL.but(f"{_BARLOW}, by VISSL with the settings of PIRL", epochs=84, lr=0.01, weight_decay=5e-4)
    .but(f"{_BARLOW}: {_TWICE}", milestones=(28, 56))
    .but(f"{_PIRL}: layers pooled to about 9,000 numbers", poolings=("grid",))
)
PIRL = (
    VISSL.but(_PIRL, epochs=84, lr=0.01, weight_decay=5e-4, momentum=0.9, factor=0.1)
    .but(f"{_PIRL}: {_TWICE}", milestones=(28, 56))
    .but(f"{_PIRL}: layers pooled to about 9,000 numbers", poolings=("grid",))
    .but(f"{OURS}: VISSL's; not stated", batch=256, nesterov=True)
    .but(
        f"{OURS}: VISSL's; {_PIRL} goes by arXiv 1905.01235, whose BatchNorm has no scale",
        head="batchnorm",
    )
)
SWAV = (
    VISSL.but(_SWAV, epochs=84, batch=256, lr=0.01, weight_decay=1e-4, momentum=0.9, factor=0.1, crop=224)
    .but(f"{OURS}: {_SWAV}: divided by 10 three times, at equal intervals of 84 epochs", milestones=(21, 42, 63))
    .but(f"{OURS}: VISSL's; not stated", head="batchnorm", nesterov=True, smallest=0.08, poolings=("grid",))
)

TASKS = {
    "linear": linear_task(
        "inat18",
        "iNaturalist 2018",
        {"vissl": VISSL, "vicreg": VICREG, "barlowtwins": BARLOW_TWINS, "pirl": PIRL, "swav": SWAV},
        version=2,
    ),
    "finetune": vissl_task(
        "inat18",
        "iNaturalist 2018, fine-tuning",
        "eval_resnet_8gpu_transfer_inat18_fulltune.yaml",
        epochs=24,
        milestones=(7, 14, 21),
    ),
}
