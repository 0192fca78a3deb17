"""SimSiam: a predictor and a stopped gradient keep two views of one network from collapsing.

Sources, options, published schedules and what differs from them: `pretrain.presets.simsiam`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from pretrain.methods import Method, Outputs
from pretrain.networks import build_encoder, perceptron
from pretrain.presets.simsiam import PRESETS as PRESETS
from pretrain.presets.simsiam import PROTOCOLS as PROTOCOLS
from pretrain.presets.simsiam import Settings as Settings
from pretrain.recipe import EncoderSpec
from transfer.runtime.errors import UserError


class Siamese(nn.Module):
    """Images [n, 3, H, W] → predictions p and projections z, [n, d] each; BatchNorm sees one view at a time.

    Source: simsiam/builder.py. The projector's last BatchNorm has neither scale nor shift, and takes away the (there
    frozen) bias of the layer before it, which is therefore left out.
    """

    def __init__(self, network: EncoderSpec, d: int, bottleneck: int) -> None:
        super().__init__()
        self.encoder, features = build_encoder(network, zero_init_residual=True)
        layers = perceptron([features, features, features, d], bias=False)
        self.projector = nn.Sequential(*layers, nn.BatchNorm1d(d, affine=False))
        self.predictor = nn.Sequential(
            nn.Linear(d, bottleneck, bias=False),
            nn.BatchNorm1d(bottleneck),
            nn.ReLU(inplace=True),
            nn.Linear(bottleneck, d),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """p and z of one view."""
        z = self.projector(self.encoder(images))
        return self.predictor(z), z


class SimSiam(Method):
    """One network with a predictor, whose learning rate does not decay (table 1, last row)."""

    def __init__(self, network: EncoderSpec, settings: Settings) -> None:
        super().__init__()
        self.settings, self.forces = settings, settings.forces
        self.online = Siamese(network, settings.dimensions, settings.bottleneck)
        self.branches = {"online": self.online}
        self.constant_rate = (self.online.predictor,)

    def forward(self, views: list[Tensor]) -> Outputs:
        """Predictions p, and projections z without their gradient: unit vectors [2, n, d] in float32."""
        p, z = (torch.stack(parts) for parts in zip(*(self.online(view) for view in views), strict=True))
        return normalize(p.float(), dim=-1), normalize(z.detach().float(), dim=-1)

    def embeddings(self, outputs: Outputs) -> Tensor:
        """p, which `forward` has normalised."""
        return outputs[0]

    def loss(self, outputs: Outputs, labels: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """−½·⟨p_1, z_2⟩ − ½·⟨p_2, z_1⟩, mean over images, −1 to 1 (equation 4)."""
        p, z = outputs
        attraction = -(p * z.detach().flip(0)).sum(-1).mean()
        return attraction, {"cosine": attraction}


def build(network: EncoderSpec, settings: Settings) -> SimSiam:
    """The method for one encoder.

    Raises:
        UserError: settings that make no sense.
    """
    if settings.views != 2:
        raise UserError(f"--views is {settings.views}", todo="give --views 2: SimSiam compares two views")
    if min(settings.dimensions, settings.bottleneck) < 1:
        raise UserError(
            "--dimensions and --bottleneck must be positive", todo="give 1 or more (published: 2048 and 512)"
        )
    return SimSiam(network, settings)
