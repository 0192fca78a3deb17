"""ImageNet, a linear classifier on the frozen backbone: the first column of every paper's first table.

No published learning rate suits all checkpoints: good ones differ a hundredfold with the size of the features
(facebookresearch/swav#38). So the default is one search of the rate for every checkpoint, on held-out training images;
only so can checkpoints be compared. The other protocols are each its authors' own, to reproduce their number.

Papers report the best epoch on the validation images; this reports the last, which nothing was chosen by.

Vision transformers have protocols of their own: which tokens a classifier sees is part of them. DINOv2 and iBOT train
many classifiers at once and choose the best on ImageNet's validation images; here it is chosen on held-out training
images. MSN's and I-JEPA's are missing: the first puts a norm and a length of 1 in front, of the second no code is
public.
"""

from transfer.classification.linear import EVALUATE, LinearSgdRecipe, linear_task
from transfer.classification.sgd.recipe import TokenSgdRecipe
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

_MAE = "facebookresearch/mae: main_linprobe.py"
_MOCO_V3 = "facebookresearch/moco-v3: main_lincls.py"
_DINOV2 = "facebookresearch/dinov2: dinov2/eval/linear.py"
_IBOT = "bytedance/ibot: evaluation/eval_linear_multi.py, run.sh"
_CHOSEN = f"{OURS}: chosen on 1 % of the training images; there on ImageNet's validation images"
_TOKENS = (
    _COSINE.of(LinearSgdRecipe, {"sgd": TokenSgdRecipe})
    .but("as all of them: random crops in every epoch, no autocast", form="crops", precision="fp32")
    .but("RandomResizedCrop(224) with its default, CenterCrop(224)", crop=224, smallest=0.08)
    .but("Resize(256)", resize=256)
    .but("the backbone is frozen", lr_backbone=0.0)
    .but("torch.optim.SGD's default, and MAE's LARS: none", nesterov=False)
    .but("none with a cosine", milestones=(), factor=1.0)
    .but("a linear layer alone", head="linear", head_eps=1e-5, head_momentum=0.1)
    .but("no warm-up", warmup_epochs=0)
    .but("plain SGD", adapt_biases=True)
)
DINO_VIT_SMALL = (
    _TOKENS.but(f"{_DINO}; README: 0.001 per 256, 8 GPUs of 128", epochs=100, batch=1024, lr=0.004, weight_decay=0.0)
    .but(f"{_DINO}: Resize(256, interpolation=3)", test_interpolation="bicubic")
    .but(f"{_DINO}: --n_last_blocks 4, each behind the final norm", poolings=("cls4",))
)
DINO_VIT_BASE = DINO_VIT_SMALL.but(
    f"{_DINO}; README: --n_last_blocks 1 --avgpool_patchtokens true", poolings=("cls+patches",)
)
IBOT_VIT_SMALL = (
    DINO_VIT_SMALL.but(
        f"{_IBOT}: 45 rates per 256, 8 GPUs of 128",
        lrs=tuple(round(4 * n * 10.0**power, 6) for power in range(-4, 1) for n in range(1, 10)),
    )
    .but(_CHOSEN, holdout=0.01)
    .but(f"{_IBOT}: Resize(256, interpolation=3)", test_interpolation="bicubic")
    .but(f"{_IBOT}: ViT-S, --n_last_blocks 4", poolings=("cls4",))
)
IBOT_VIT_BASE = IBOT_VIT_SMALL.but(f"{_IBOT}: ViT-B and -L, CLS and average of patches", poolings=("cls+patches",))
DINOV2 = (
    _TOKENS.but(f"{_DINOV2}: 10 epochs of 1,250 steps", epochs=0, steps=12_500, per_epoch=False, schedule="cosine")
    .but(f"{_DINOV2}: 8 GPUs of 128", batch=1024)
    .but(
        f"{_DINOV2}: 13 rates per 256, as many",
        lrs=tuple(
            round(4 * rate, 6) for rate in (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
        ),
        lr=0.4,
        weight_decay=0.0,
        momentum=0.9,
    )
    .but(
        f"{_DINOV2}: last block and last four, with and without the average of patches",
        poolings=("cls", "cls+patches", "cls4", "cls4+patches"),
    )
    .but(_CHOSEN, holdout=0.01)
    .but("facebookresearch/dinov2: dinov2/data/transforms.py", interpolation="bicubic", test_interpolation="bicubic")
)
MAE = (
    _TOKENS.but(f"{_MAE}; FINETUNE.md: 0.1 per 256", epochs=90, batch=16_384, lr=6.4, weight_decay=0.0)
    .but("facebookresearch/mae: util/lars.py", optimizer="lars", trust=0.001, momentum=0.9, adapt_biases=False)
    .but("facebookresearch/mae: util/lr_sched.py", schedule="cosine", per_epoch=False, warmup_epochs=10)
    .but(f"{_MAE}: BatchNorm1d without affine", head="batchnorm_no_affine", head_eps=1e-6, head_momentum=0.1)
    .but(f"{_MAE}: interpolation=3", interpolation="bicubic", test_interpolation="bicubic")
    .but(
        f"{OURS}: torchvision's crops; MAE's own do not draw again where a side is too long (util/crop.py)",
        smallest=0.08,
    )
    .but(f"{OURS}: one norm over the whole batch; there over the 512 images of each of 32 GPUs", processes=1)
    .but(f"{_MAE}: --cls_token, behind the final norm", poolings=("cls",))
)
MAE_LARGE = MAE.but("facebookresearch/mae: FINETUNE.md: L and H", epochs=50)
MOCO_V3 = (
    _TOKENS.but(f"{_MOCO_V3}; CONFIG.md: 3 per 256", epochs=90, batch=1024, lr=12.0, weight_decay=0.0, per_epoch=True)
    .but(f"{_MOCO_V3}: torchvision's default, bilinear", test_interpolation="bilinear")
    .but(f"{_MOCO_V3}: the output of the network, its CLS token", poolings=("cls",))
)
_OF_VITS = {
    "dino_vit_small": DINO_VIT_SMALL,
    "dino_vit_base": DINO_VIT_BASE,
    "ibot_vit_small": IBOT_VIT_SMALL,
    "ibot_vit_base": IBOT_VIT_BASE,
    "dinov2": DINOV2,
    "mae": MAE,
    "mae_large": MAE_LARGE,
    "moco_v3": MOCO_V3,
}

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
        **_OF_VITS,
    },
    version=2,
    families=dict.fromkeys(_OF_VITS, ("vit",)),
)
