"""VICReg: views agree, every dimension keeps its variance, and dimensions are decorrelated.

Sources, options, published schedules and what differs from them: `pretrain.presets.vicreg`.
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from pretrain.methods import Method, Outputs
from pretrain.networks import Branch, build_encoder, perceptron
from pretrain.presets.vicreg import PRESETS as PRESETS
from pretrain.presets.vicreg import PROTOCOLS as PROTOCOLS
from pretrain.presets.vicreg import Settings as Settings
from pretrain.recipe import EncoderSpec
from transfer.runtime.errors import UserError

EPSILON = 1e-4  # under the root of the standard deviation, whose gradient is else without bound at collapse


def vicreg_loss(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Invariance, variance and covariance terms as main_vicreg.py scales them.

    Invariance: mean squared difference of two views over images and dimensions, so 1/d of equation 5; the published
    weights of 25, 25 and 1 belong to this scale. Variance: max(0, 1 − √(Var + 1e-4)), mean over dimensions and views,
    half of equation 1's sum over two views. Covariance: Σ_{i≠j} C_ij² / d (equation 4), summed over two views.
    Var and C have the divisor n − 1.

    Args:
        z: [K ≥ 2, n ≥ 2, d] embeddings of the whole batch, not normalised.

    Returns:
        Three scalars, each 0 or more.
    """
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    _, n, d = z.shape
    invariance = torch.stack([(first - second).square().mean() for first, second in combinations(z, 2)]).mean()
    centred = z - z.mean(1, keepdim=True)
    spread = (centred.square().sum(1) / (n - 1) + EPSILON).sqrt()
    variance = (1 - spread).relu().mean()
    # One view at a time: with the published d a covariance takes 256 MiB.
    mixed = z.new_zeros(())
    for view in centred:
        covariance = view.mT @ view / (n - 1)
        mixed = mixed + (covariance - covariance.diagonal().diag()).square().sum() / d
    return invariance, variance, 2 * mixed / len(z)


class VICReg(Method):
    """One network for all views, trained by the statistics of the whole batch."""

    def __init__(self, network: EncoderSpec, settings: Settings) -> None:
        super().__init__()
        self.settings, self.forces = settings, settings.forces
        encoder, features = build_encoder(network, zero_init_residual=True)
        self.online = Branch(encoder, perceptron([features, *[settings.width] * 3], bias=True))
        self.branches = {"online": self.online}

    def forward(self, views: list[Tensor]) -> Outputs:
        """Embeddings [K, n, d], float32."""
        return (torch.stack([self.online(view) for view in views]).float(),)

    def loss(self, outputs: Outputs, labels: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Equation 6: the weighted sum of the three terms."""
        invariance, variance, covariance = vicreg_loss(outputs[0])
        weights = self.settings
        total = weights.invariance * invariance + weights.variance * variance + weights.covariance * covariance
        return total, {"invariance": invariance, "variance": variance, "covariance": covariance}


def build(network: EncoderSpec, settings: Settings) -> VICReg:
    """The method for one encoder.

    Raises:
        UserError: settings that make no sense.
    """
    if settings.views < 2:
        raise UserError(f"--views is {settings.views}", todo="give --views 2: two views are compared")
    if settings.width < 1:
        raise UserError(f"--width is {settings.width}", todo="give 1 or more (published: 8192)")
    for name in ("invariance", "variance", "covariance"):
        if getattr(settings, name) < 0:
            raise UserError(f"--{name} is {getattr(settings, name)}", todo="give 0 or more (published: 25, 25, 1)")
    return VICReg(network, settings)
