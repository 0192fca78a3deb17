"""SimSiam: a predictor and a stopped gradient keep two views of one network from collapsing.

Chen and He, "Exploring Simple Siamese Representation Learning" (CVPR 2021). Published settings:
facebookresearch/simsiam, main_simsiam.py (with --fix-pred-lr, as in its README) and simsiam/builder.py.

The authors' model for detection ("optimal" in table 5) is `--protocol 200 --lr 0.5 --weight-decay 1e-5`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tyro.conf import OmitArgPrefixes

from pretrain.forces import Forces
from pretrain.recipe import Recipe, demo


@dataclass(frozen=True)
class Settings:
    """Options of SimSiam.

    Attributes:
        views: number of views of an image; 2.
        forces: the two dispersing forces, which act on the predictions.
        dimensions: d, length of an embedding; the projector's two hidden layers are as wide as the encoder's feature.
        bottleneck: units of the predictor's hidden layer.
    """

    views: int = 2
    forces: OmitArgPrefixes[Forces] = field(default_factory=Forces)
    dimensions: int = 2048
    bottleneck: int = 512


def _recipe(epochs: int, batch: int) -> Recipe:
    # Section 3, baseline settings: SGD, cosine without warm-up, decay of 1e-4 on all parameters.
    return Recipe(
        augmentation="moco",
        epochs=epochs,
        warmup_epochs=0,
        batch=batch,
        optimizer="sgd",
        lr=0.05,
        per_epoch=True,  # main_simsiam.py: adjust_learning_rate, once an epoch
        weight_decay=1e-4,
        decay_all=True,
    )


PROTOCOLS: dict[str, tuple[Recipe, Settings]] = {
    "100": (_recipe(100, 512), Settings()),
    # Table 4: the longer trainings have batches of 256.
    "200": (_recipe(200, 256), Settings()),
    "400": (_recipe(400, 256), Settings()),
    "800": (_recipe(800, 256), Settings()),
}
PRESETS: dict[str, tuple[Recipe, Settings]] = {
    # Not a protocol: a minute or two on two CPU cores. A high learning rate, because there are few steps.
    "demo": (
        demo(augmentation="moco", optimizer="sgd", lr=2.0, weight_decay=1e-5),
        Settings(dimensions=512, bottleneck=128),
    ),
}
