"""Barlow Twins: the cross-correlation of two views' embeddings is driven to the identity.

Zbontar, Jing, Misra, LeCun, Deny, "Barlow Twins: Self-Supervised Learning via Redundancy Reduction" (ICML 2021).
Published settings: facebookresearch/barlowtwins, main.py, and issue 9 there (300 epochs have those of 1000).

The authors' code and their paper differ twice, the code is followed: λ is 0.0051 (paper: 0.005), weight decay 1e-6
(paper, section 2.2: 1.5e-6). They train in half precision, which `--precision` sets here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations

import torch
from torch import Tensor
from tyro.conf import OmitArgPrefixes

from pretrain.losses import Forces
from pretrain.methods import Method, Outputs
from pretrain.networks import Branch, Network, build_encoder, perceptron
from pretrain.recipe import Recipe, demo
from transfer.errors import UserError

EPSILON = 1e-5  # added to a variance, as in BatchNorm, with which the authors standardise


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
    # adjust_learning_rate: linear over 10 epochs, then a cosine to 0.001 of the peak; LARS without decay and adaptation
    # of vectors, which have a learning rate of their own.
    return Recipe(
        augmentation="byol", epochs=epochs, batch=2048, lr=0.2, bias_lr=0.0048, final_lr=0.001, weight_decay=1e-6
    )


PRESETS: dict[str, tuple[Recipe, Settings]] = {
    "300": (_recipe(300), Settings()),
    "1000": (_recipe(1000), Settings()),
    # Not a protocol: a minute or two on two CPU cores. Adam, because the loss is a sum over d² elements and SGD would
    # need a learning rate of its own for every width.
    "demo": (
        demo(augmentation="byol", optimizer="adam", lr=4e-3),
        Settings(width=512),
    ),
}


def barlow_twins_loss(z: Tensor) -> tuple[Tensor, Tensor]:
    """The two terms of equation 1, Σ_i (1 − C_ii)² and Σ_i Σ_{j≠i} C_ij², as a mean over pairs of views.

    C is the cross-correlation of two views over all n images. Every dimension is centred and divided by
    √(variance + 1e-5), its variance with divisor n (main.py: `self.bn`), so C_ii stays a little below 1.

    Args:
        z: [K ≥ 2, n, d] embeddings, not normalised.

    Returns:
        Two scalars, each 0 or more; the first is 0 for views that agree, d for views that have nothing in common.
    """
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    centred = z - z.mean(1, keepdim=True)
    standard = centred * (centred.square().mean(1, keepdim=True) + EPSILON).rsqrt()
    pairs = list(combinations(standard, 2))
    invariance, redundancy = z.new_zeros(()), z.new_zeros(())
    for first, second in pairs:
        correlation = first.mT @ second / len(first)
        diagonal = correlation.diagonal()
        invariance = invariance + (1 - diagonal).square().sum()
        redundancy = redundancy + (correlation - diagonal.diag()).square().sum()
    return invariance / len(pairs), redundancy / len(pairs)


class BarlowTwins(Method):
    """One network for all views, trained by their cross-correlation over the whole batch."""

    def __init__(self, network: Network, settings: Settings) -> None:
        super().__init__()
        self.settings, self.forces = settings, settings.forces
        encoder, features = build_encoder(network, zero_init_residual=True)
        self.online = Branch(encoder, perceptron([features, *[settings.width] * 3], bias=False))
        self.branches = {"online": self.online}

    def forward(self, views: list[Tensor]) -> Outputs:
        """Embeddings [K, n, d], float32."""
        return (torch.stack([self.online(view) for view in views]).float(),)

    def loss(self, outputs: Outputs, labels: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Equation 1: invariance + λ · redundancy."""
        invariance, redundancy = barlow_twins_loss(outputs[0])
        total = invariance + self.settings.redundancy * redundancy
        return total, {"invariance": invariance, "redundancy": redundancy}


def build(network: Network, settings: Settings) -> BarlowTwins:
    """The method for one ResNet.

    Raises:
        UserError: settings that make no sense.
    """
    if settings.views < 2:
        raise UserError(f"--views is {settings.views}", todo="give --views 2: two views are correlated")
    if settings.width < 1:
        raise UserError(f"--width is {settings.width}", todo="give 1 or more (published: 8192)")
    if settings.redundancy < 0:
        raise UserError(f"--redundancy is {settings.redundancy}", todo="give 0 or more (published: 0.0051)")
    return BarlowTwins(network, settings)
