"""Barlow Twins: the cross-correlation of two views' embeddings is driven to the identity.

Sources, options, published schedules and what differs from them: `pretrain.presets.barlow_twins`.
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from pretrain.methods import Method, Outputs
from pretrain.networks import Branch, build_encoder, perceptron
from pretrain.presets.barlow_twins import PRESETS as PRESETS
from pretrain.presets.barlow_twins import PROTOCOLS as PROTOCOLS
from pretrain.presets.barlow_twins import Settings as Settings
from pretrain.recipe import EncoderSpec
from transfer.runtime.errors import UserError

EPSILON = 1e-5  # added to a variance, as in BatchNorm, with which the authors standardise


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

    def __init__(self, network: EncoderSpec, settings: Settings) -> None:
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


def build(network: EncoderSpec, settings: Settings) -> BarlowTwins:
    """The method for one encoder.

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
