"""ImageNet, a linear classifier on the frozen backbone: the first column of every paper's first table.

No published learning rate suits all checkpoints: good ones differ a hundredfold with the size of the features
(facebookresearch/swav#38). So the default is one search of the rate for every checkpoint, on held-out training images;
only so can checkpoints be compared. The other protocols are each its authors' own, to reproduce their number.

Papers report the best epoch on the validation images; this reports the last, which nothing was chosen by.
"""

from transfer.classification.linear import EVALUATE, linear_task
from transfer.protocol import OURS

_VICREG = "VICReg, arXiv 2105.04906, app. C.2"
_BARLOW = "Barlow Twins, arXiv 2103.03230, app. B.1"
_MOCO = "facebookresearch/moco: main_lincls.py"
_SIMSIAM = "facebookresearch/simsiam: main_lincls.py"
_SIMCLR = "SimCLR, arXiv 2002.05709, app. B.6, as in B.5"
_SIMCLR_CODE = "google-research/simclr"
_BYOL = "BYOL, arXiv 2006.07733, app. C.1"
_BYOL_CODE = "google-deepmind/deepmind-research: byol"
_SWAV = "facebookresearch/swav: eval_linear.py"
_DINO = "facebookresearch/dino: eval_linear.py"
_OBOW = "valeoai/obow: main_linear_classification.py"
_TORCHVISION = "RandomResizedCrop with torchvision's default"

_COSINE = (
    EVALUATE.but("evaluate.py: torch.optim.SGD's default, none", nesterov=False)
    .but("evaluate.py: CosineAnnealingLR", schedule="cosine")
    .but("none with a cosine", milestones=(), factor=1.0)
    .but("evaluate.py: scheduler.step() after every epoch", per_epoch=True)
    .but(f"evaluate.py: {_TORCHVISION}", smallest=0.08)
)
SEARCH = _COSINE.but(
    f"{OURS}: one search for every checkpoint, ten rates over four decades around all published ones",
    lrs=(0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0),
    lr=0.3,
    holdout=0.01,
    weight_decay=0.0,
    epochs=100,
    batch=256,
)
VICREG = _COSINE.but(_VICREG, epochs=100, batch=256, lr=0.02, weight_decay=1e-6).but(
    f"{_VICREG}: crops of 0.2 to 1 of the area (its evaluate.py leaves torchvision's 0.08)", smallest=0.2
)
BARLOW_TWINS = _COSINE.but(_BARLOW, epochs=100, batch=256, lr=0.3, weight_decay=1e-6)
MOCO = _COSINE.but(
    f"{_MOCO}; README",
    epochs=100,
    batch=256,
    lr=30.0,
    weight_decay=0.0,
    schedule="steps",
    milestones=(60, 80),
    factor=0.1,
).but(f"{_MOCO}: {_TORCHVISION}", smallest=0.08)
SIMSIAM = _COSINE.but(
    f"{_SIMSIAM}; README: --lars, batch 4096, 0.1 per 256", epochs=90, batch=4096, lr=1.6, weight_decay=0.0
).but(f"{_SIMSIAM}: NVIDIA/apex's LARC without clipping", optimizer="lars", trust=0.001)
SIMCLR = (
    _COSINE.but(f"{_SIMCLR}: 0.1 per 256", epochs=90, batch=4096, lr=1.6, weight_decay=0.0, nesterov=True)
    .but(f"{_SIMCLR_CODE}: model_util.py, learning_rate_schedule", schedule="cosine", per_epoch=False)
    .but(f"{_SIMCLR_CODE}: data_util.py, crop_and_resize, center_crop", smallest=0.08, interpolation="bicubic")
)
BYOL = (
    _COSINE.but(_BYOL, epochs=80, batch=1024, weight_decay=0.0, momentum=0.9, nesterov=True, interpolation="bicubic")
    .but(f"{_BYOL_CODE}/configs/eval.py: 0.2 per 256; the paper sweeps 0.05 to 0.4", lr=0.8)
    .but(f"{_BYOL_CODE}/utils/schedules.py", schedule="cosine", per_epoch=False)
    .but(f"{_BYOL_CODE}/utils/dataset.py", smallest=0.08)
)
SWAV = _COSINE.but(f"{_SWAV}; README: 8 GPUs of 32", epochs=100, batch=256, lr=0.3, weight_decay=1e-6)
DINO = _COSINE.but(f"{_DINO}; README: 0.001 per 256, 8 GPUs of 128", epochs=100, batch=1024, lr=0.004, weight_decay=0.0)
OBOW = _COSINE.but("valeoai/obow: README, ImageNet command", epochs=100, batch=1024, lr=10.0, weight_decay=0.0).but(
    _OBOW, momentum=0.9, nesterov=False
)

TASK = linear_task(
    "imagenet",
    "ImageNet",
    {
        "search": SEARCH,
        "vicreg": VICREG,
        "barlowtwins": BARLOW_TWINS,
        "moco": MOCO,
        "simsiam": SIMSIAM,
        "simclr": SIMCLR,
        "byol": BYOL,
        "swav": SWAV,
        "dino": DINO,
        "obow": OBOW,
    },
    version=2,
)
