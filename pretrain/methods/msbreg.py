"""MSBReg: BYOL's online and target networks, K views, and the three forces of `pretrain.losses`.

Sources, options, published schedules and what differs from them: `pretrain.presets.msbreg`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pretrain.losses import multiview_centroid_loss
from pretrain.methods import Method, Outputs
from pretrain.networks import Branch, build_encoder, decay_at, follow, mlp, slow_copy
from pretrain.presets.msbreg import PRESETS as PRESETS
from pretrain.presets.msbreg import PROTOCOLS as PROTOCOLS
from pretrain.presets.msbreg import Settings as Settings
from pretrain.recipe import EncoderSpec, at_least
from transfer.runtime.errors import UserError


class OnlineAndTarget(Method):
    """An online network with a predictor, and a target that follows it slowly and gives the centroids."""

    def __init__(self, network: EncoderSpec, settings: Settings) -> None:
        super().__init__()
        self.settings, self.forces = settings, settings.forces
        encoder, features = build_encoder(network)
        hidden, d = settings.hidden, settings.dimensions
        self.online = Branch(encoder, mlp(features, hidden, d), mlp(d, hidden, d))
        self.target = slow_copy(self.online)
        self.branches = {"online": self.online, "target": self.target}

    def forward(self, views: list[Tensor]) -> Outputs:
        """Online predictions z and target projections t, unit vectors [K, n, d] in float32.

        The target's BatchNorm uses the batch too, as in BYOL.
        """
        z = torch.stack([self.online(view) for view in views])
        with torch.no_grad():
            t = torch.stack([self.target(view) for view in views])
        return normalize(z.float(), dim=-1), normalize(t.float(), dim=-1)

    def embeddings(self, outputs: Outputs) -> Tensor:
        """z, which `forward` has normalised."""
        return outputs[0]

    def loss(self, outputs: Outputs, labels: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The centroid loss."""
        z, t = outputs
        attraction = multiview_centroid_loss(z, t, self.settings.centroid)
        return attraction, {"centroid": attraction}

    def after_step(self, progress: float, outputs: Outputs) -> dict[str, float]:
        """Moves the target towards the online network."""
        decay = decay_at(progress, self.settings.ema)
        follow(self.target, self.online, decay)
        return {"ema": decay}


def check(settings: Settings) -> None:
    """Refuse settings that make no sense.

    Raises:
        UserError: says which.
    """
    if settings.views < 2:
        raise UserError(f"--views is {settings.views}", todo="give --views 2 or more: a centroid needs another view")
    if not 0 <= settings.ema <= 1:
        raise UserError(f"--ema is {settings.ema}", todo="give --ema between 0 and 1")
    at_least(settings, {"hidden": 1, "dimensions": 1})


def build(network: EncoderSpec, settings: Settings) -> OnlineAndTarget:
    """The method for one encoder.

    Raises:
        UserError: settings that make no sense.
    """
    check(settings)
    return OnlineAndTarget(network, settings)
