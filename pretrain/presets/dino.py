"""DINO: a student says of every view of an image what its moving average, the teacher, says of the large ones.

Caron, Touvron, Misra, Jégou, Mairal, Bojanowski, Joulin, "Emerging Properties in Self-Supervised Vision Transformers"
(ICCV 2021). Published settings: facebookresearch/dino, main_dino.py (defaults: the vanilla run of README.md, ViT-S/16,
100 epochs on 8 GPUs), README.md ("Boosting DINO performance": 300 epochs on 16 GPUs), vision_transformer.py (head),
utils.py (schedules, clipping, what is decayed). The authors evaluate the teacher, which is the branch "target" here.

What differs from the authors' code: no stochastic depth (there 0.1 in the student); the teacher's temperature rises
with every step, there from epoch to epoch; the scores and all behind them are float32. The authors train in half
precision, which `--precision` sets here. Small views need `--small-views 0` to be left out; the authors then crop from
0.14 of the image, not 0.4. A ResNet can be trained, too; its authors then take other optimisers, rates and crops.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tyro.conf import OmitArgPrefixes

from pretrain.forces import Forces
from pretrain.recipe import Recipe, demo


@dataclass(frozen=True)
class Settings:
    """Options of DINO.

    Attributes:
        views: large views of an image; the teacher sees these alone.
        small_views: small views, which only the student sees (multi-crop).
        small_crop: side of a small view in pixels; for a transformer a multiple of its patches.
        forces: the two dispersing forces, on the student's bottleneck of all views.
        hidden: units of the head's two hidden layers.
        dimensions: length of the head's bottleneck, which is made a unit vector.
        prototypes: outputs of the head (the paper's K).
        fixed_norm: the last layer's rows stay unit vectors; otherwise their lengths are learnt.
        temperature: of the student's distribution.
        teacher_temperature: of the teacher's distribution, after its warm-up.
        first_temperature: of the teacher's distribution at the start.
        temperature_warmup: share of the training in which the teacher's temperature goes from the one to the other.
        center_momentum: of the running mean of the teacher's outputs, which is taken away from them.
        ema: decay of the teacher at the start; rises to 1 along a cosine.
        final_decay: weight decay at the end, reached from --weight-decay along a cosine.
        clip_each: longest gradient of a single tensor; 0: not clipped.
        freeze: steps at the start in which the last layer does not move.
    """

    views: int = 2
    small_views: int = 8
    small_crop: int = 96
    forces: OmitArgPrefixes[Forces] = field(default_factory=Forces)
    hidden: int = 2048
    dimensions: int = 256
    prototypes: int = 65536
    fixed_norm: bool = True
    temperature: float = 0.1
    teacher_temperature: float = 0.04
    first_temperature: float = 0.04
    temperature_warmup: float = 0.0
    center_momentum: float = 0.9
    ema: float = 0.996
    final_decay: float = 0.4
    clip_each: float = 3.0
    freeze: int = 2502


def _recipe(epochs: int, batch: int) -> Recipe:
    # utils.py, cosine_scheduler: np.linspace from 0 over 10 epochs, then a cosine to --min_lr 1e-6.
    return Recipe(
        arch="vit_small",
        augmentation="dino",
        epochs=epochs,
        warmup_epochs=10,
        start_lr=0.0,
        warmup_inclusive=True,
        batch=batch,
        optimizer="adamw",
        lr=5e-4,
        final_lr=1e-6 / (5e-4 * batch / 256),
        weight_decay=0.04,
    )


PROTOCOLS: dict[str, tuple[Recipe, Settings]] = {
    # 64 images a GPU. The last layer rests for one epoch: 1,281,167 / 512 = 2502 or 1,281,167 / 1024 = 1251 steps.
    "100": (_recipe(100, 512), Settings()),
    "300": (
        _recipe(300, 1024),
        Settings(fixed_norm=False, teacher_temperature=0.07, temperature_warmup=30 / 300, freeze=1251),
    ),
}
# Not protocols. The teacher follows faster and its outputs are fewer, because there are few images and few steps.
_SMALL = Settings(small_views=4, small_crop=32, hidden=512, dimensions=128, prototypes=1024, ema=0.98, freeze=4)
PRESETS: dict[str, tuple[Recipe, Settings]] = {
    # A minute or two on two CPU cores.
    "demo": (
        demo(arch="vit_tiny", augmentation="dino", optimizer="adamw", lr=4e-3, weight_decay=0.04),
        _SMALL,
    ),
}
