"""Supervised training by cross-entropy: the yardstick of every self-supervised method.

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition" (CVPR 2016, section 3.4). Published settings:
pytorch/examples, imagenet/main.py, which trained torchvision's first ResNet weights: SGD with momentum 0.9, learning
rate 0.1 at a batch of 256, divided by 10 every 30 epochs, weight decay 1e-4 on every parameter, 90 epochs, crop and
flip. A training of fewer epochs falls along a cosine with `--factor 1 --milestones`.

The checkpoint's branch holds the encoder alone; the classifier is kept beside it, with what else a method remembers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tyro.conf import OmitArgPrefixes

from pretrain.forces import Forces
from pretrain.recipe import Recipe, demo


@dataclass(frozen=True)
class Settings:
    """Options of supervised training.

    Attributes:
        views: number of views of an image, 1 as published; with more the loss is their mean.
        forces: the two dispersing forces, on the pooled features.
    """

    views: int = 1
    forces: OmitArgPrefixes[Forces] = field(default_factory=Forces)


PROTOCOLS: dict[str, tuple[Recipe, Settings]] = {
    "90": (
        Recipe(
            augmentation="crop",
            epochs=90,
            warmup_epochs=0,
            batch=256,
            optimizer="sgd",
            lr=0.1,
            milestones=(30, 60),
            factor=0.1,
            weight_decay=1e-4,
            decay_all=True,
        ),
        Settings(),
    ),
}
PRESETS: dict[str, tuple[Recipe, Settings]] = {
    # Not a protocol: a minute on two CPU cores.
    "demo": (
        demo(augmentation="crop", optimizer="sgd", lr=0.2, weight_decay=1e-4, decay_all=True),
        Settings(),
    ),
}
