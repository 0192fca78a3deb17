"""Barlow Twins: the cross-correlation of two views' embeddings is driven to the identity.

Zbontar, Jing, Misra, LeCun, Deny, "Barlow Twins: Self-Supervised Learning via Redundancy Reduction" (ICML 2021).
Published settings: facebookresearch/barlowtwins, main.py, and issue 9 there (300 epochs have those of 1000).

The authors' code and their paper differ twice, the code is followed: λ is 0.0051 (paper: 0.005), weight decay 1e-6
(paper, section 2.2: 1.5e-6). They train in half precision, which `--precision` sets here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tyro.conf import OmitArgPrefixes

from pretrain.forces import Forces
from pretrain.recipe import Recipe, demo


@dataclass(frozen=True)
class Settings:
    """Options of Barlow Twins.

    Attributes:
        views: number of views of an image, 2 in the paper; with more the loss is the mean over pairs (not published).
        forces: the two dispersing forces.
        width: units of each of the projector's three layers; the last is d, length of an embedding.
        redundancy: λ, weight of the off-diagonal elements.
    """

    views: int = 2
    forces: OmitArgPrefixes[Forces] = field(default_factory=Forces)
    width: int = 8192
    redundancy: float = 0.0051


def _recipe(epochs: int) -> Recipe:
    # adjust_learning_rate: linear over 10 epochs from 0, then a cosine to 0.001 of the peak; LARS without decay and
    # adaptation of vectors, which have a learning rate of their own.
    return Recipe(
        augmentation="byol",
        epochs=epochs,
        start_lr=0.0,
        batch=2048,
        lr=0.2,
        bias_lr=0.0048,
        final_lr=0.001,
        weight_decay=1e-6,
    )


PROTOCOLS: dict[str, tuple[Recipe, Settings]] = {
    "300": (_recipe(300), Settings()),
    "1000": (_recipe(1000), Settings()),
}
PRESETS: dict[str, tuple[Recipe, Settings]] = {
    # Not a protocol: a minute or two on two CPU cores. Adam, because the loss is a sum over d² elements and SGD would
    # need a learning rate of its own for every width.
    "demo": (
        demo(augmentation="byol", optimizer="adam", lr=4e-3),
        Settings(width=512),
    ),
}
