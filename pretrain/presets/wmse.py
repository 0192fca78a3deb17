"""W-MSE: views agree after the batch's embeddings were whitened, so that they cannot collapse.

Ermolov, Siarohin, Sangineto, Sebe, "Whitening for Self-Supervised Representation Learning" (ICML 2021). Published
settings: htdt/self-supervised, cfg.py (defaults), train.py and the commands in README.md.

The learning rate grows for 500 steps and is multiplied by 0.2 at 50 and again at 25 epochs before the end. The authors'
colour jitter comes before the crop, here after it. Settings for the whole of ImageNet are not in their code.

Sub-batches: the authors draw them at random; the images of a batch come in random order here, so its consecutive parts
are such a draw, equal on every process and in a resumed run. More than one round regroups them by fixed permutations.

Numbers: the head runs in float32 also under autocast, and whitening in float64 (d is small, so this costs little): the
covariance has the square of the embeddings' condition number, too much for float32. Where embeddings have collapsed so
far that whitening would blow up rounding errors, training stops with an error; nothing is added in silence.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tyro.conf import OmitArgPrefixes

from pretrain.forces import Forces
from pretrain.recipe import Recipe, demo


@dataclass(frozen=True)
class Settings:
    """Options of W-MSE.

    Attributes:
        views: K, the number of views of an image; 2 and 4 in the paper.
        forces: the two dispersing forces, on the embeddings before whitening.
        hidden: units of the head's hidden layer.
        dimensions: d, length of an embedding.
        whitening_size: images that are whitened together, about 2 d; the batch must be a multiple of it.
        whitening_rounds: how often a batch is cut into such parts, each time otherwise, for a steadier loss.
        whitening_eps: ε in (1 − ε)·covariance + ε·I, 0 as published.
    """

    views: int = 2
    forces: OmitArgPrefixes[Forces] = field(default_factory=Forces)
    hidden: int = 1024
    dimensions: int = 64
    whitening_size: int = 128
    whitening_rounds: int = 1
    whitening_eps: float = 0.0


def _imagenet100(batch: int) -> Recipe:
    # Adam at 2e-3 whatever the batch: Recipe.lr is for 256 images. Its weight decay is an L2 penalty on everything.
    # The colours of README.md's command (crop from 0.08, jitter .8 .8 .8 .2, grey .2; blur in datasets/imagenet.py)
    # are SimCLR's.
    return Recipe(
        arch="resnet18",
        augmentation="simclr",
        epochs=240,
        warmup_epochs=0,
        warmup_steps=500,
        warmup_inclusive=True,
        batch=batch,
        optimizer="adam",
        lr=2e-3 * 256 / batch,
        milestones=(240 - 50, 240 - 25),
        factor=0.2,
        weight_decay=1e-6,
        decay_all=True,
    )


def _cifar(batch: int) -> Recipe:
    # Adam at 3e-3 whatever the batch, as above.
    return Recipe(
        arch="resnet18",
        stem="cifar",
        crop=32,
        augmentation="wmse",
        epochs=1000,
        warmup_epochs=0,
        warmup_steps=500,
        warmup_inclusive=True,
        batch=batch,
        optimizer="adam",
        lr=3e-3 * 256 / batch,
        milestones=(1000 - 50, 1000 - 25),
        factor=0.2,
        weight_decay=1e-6,
        decay_all=True,
    )


PROTOCOLS: dict[str, tuple[Recipe, Settings]] = {
    # README.md: ImageNet-100 and CIFAR-10/100, W-MSE 2 with batches of 512, W-MSE 4 with batches of 256.
    "240": (_imagenet100(512), Settings(dimensions=128, whitening_size=256)),
    "240-views4": (_imagenet100(256), Settings(views=4, dimensions=128, whitening_size=256)),
    "1000": (_cifar(512), Settings()),
    "1000-views4": (_cifar(256), Settings(views=4)),
}
PRESETS: dict[str, tuple[Recipe, Settings]] = {
    # Not a protocol: a minute or two on two CPU cores.
    "demo": (
        demo(augmentation="wmse", optimizer="adam", lr=4e-3, weight_decay=1e-6),
        Settings(hidden=256, dimensions=12, whitening_size=32),
    ),
}
