"""Places205, a linear classifier on the frozen backbone.

VISSL's head is the default: an affine BatchNorm of the pooled map in front of the classifier. VICReg and Barlow Twins
were measured with VISSL; without that head people found 41 instead of 54 (facebookresearch/vicreg#17). `--head linear`
is the layer alone. OBoW's head has a BatchNorm without scale and shift.
"""

from transfer.classification.linear import linear_task, vissl
from transfer.protocol import OURS

_CONFIG = "facebookresearch/vissl: eval_resnet_8gpu_transfer_places205_linear.yaml"
_PIRL = "PIRL, arXiv 1912.01991, app. C"
_BARLOW = "Barlow Twins, arXiv 2103.03230, app. C.1"
_OBOW = "valeoai/obow: main_linear_classification.py"

VISSL = (
    vissl(_CONFIG)
    .but(_CONFIG, epochs=14, weight_decay=5e-4, milestones=(4, 8, 12))
    .but(f"{_CONFIG}: res5, AvgPool2d(6, stride 1), 8,192 numbers", poolings=("grid",))
)
VICREG = VISSL.but(
    "VICReg, arXiv 2105.04906, app. C.3, by VISSL",
    epochs=28,
    batch=256,
    lr=0.003,
    weight_decay=1e-4,
    milestones=(4, 8, 12),
    factor=0.1,
)
_TWICE = "divided by 10 twice, at equal intervals, which is not exact for 14 epochs"
BARLOW_TWINS = (
    VISSL.but(f"{_BARLOW}, by VISSL with the settings of PIRL", epochs=14, lr=0.01, weight_decay=5e-4)
    .but(f"{_PIRL}: layers pooled to about 9,000 numbers", poolings=("grid",))
    .but(f"{OURS}: {_BARLOW}: {_TWICE}", milestones=(5, 10))
)
PIRL = (
    VISSL.but(_PIRL, epochs=14, lr=0.01, weight_decay=5e-4, momentum=0.9, factor=0.1)
    .but(f"{_PIRL}: layers pooled to about 9,000 numbers", poolings=("grid",))
    .but(f"{OURS}: {_PIRL}: {_TWICE}", milestones=(5, 10))
    .but(
        f"{OURS}: VISSL's; {_PIRL} goes by arXiv 1905.01235, whose BatchNorm has no scale",
        head="batchnorm",
    )
)
_SWAV = "SwAV, arXiv 2006.09882, app. A.5"
SWAV = (
    VISSL.but(_SWAV, epochs=28, batch=256, lr=0.01, weight_decay=1e-4, momentum=0.9, factor=0.1, crop=224)
    .but(f"{OURS}: {_SWAV}: divided by 10 three times, at equal intervals of 28 epochs", milestones=(7, 14, 21))
    .but(f"{OURS}: VISSL's; not stated", head="batchnorm", nesterov=True, smallest=0.08, poolings=("grid",))
)
OBOW = (
    VISSL.but(
        "valeoai/obow: README, Places205 command", epochs=28, batch=256, lr=0.01, weight_decay=1e-5, milestones=(10, 20)
    )
    .but(_OBOW, momentum=0.9, nesterov=False, factor=0.1)
    .but("valeoai/obow: obow/classification.py, PredictionHead, PyTorch's defaults", head_eps=1e-5, head_momentum=0.1)
    .but("valeoai/obow: obow/classification.py, BatchNorm2d(affine=False)", head="batchnorm_no_affine")
    .but("valeoai/obow: obow/datasets.py, Resize(256), RandomCrop(224)", smallest=0.0, crop=224, resize=256)
    .but("valeoai/obow: config/ImageNetFull/ResNet50_OBoW_full.yaml, global_pooling", poolings=("avg",))
    .but(f"{_OBOW}: SyncBatchNorm", processes=1)
)

TASK = linear_task(
    "places205",
    "Places205",
    {"vissl": VISSL, "vicreg": VICREG, "barlowtwins": BARLOW_TWINS, "pirl": PIRL, "swav": SWAV, "obow": OBOW},
    version=2,
)
