"""SimCLR: a view finds the other view of its image among all views of the batch.

Sources, options, published schedules and what differs from them: `pretrain.presets.simclr`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from pretrain.methods import Method, Outputs
from pretrain.networks import Branch, build_encoder, perceptron
from pretrain.presets.simclr import PRESETS as PRESETS
from pretrain.presets.simclr import PROTOCOLS as PROTOCOLS
from pretrain.presets.simclr import Settings as Settings
from pretrain.recipe import EncoderSpec
from transfer.runtime.errors import UserError


def projector(features: int, d: int) -> nn.Sequential:
    """Linear, BatchNorm, ReLU, Linear, BatchNorm without shift; no biases (simclr/model_util.py: projection_head)."""
    layers = perceptron([features, features, d], bias=False)
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
    last = nn.BatchNorm1d(d)
    last.bias.requires_grad_(False)  # stays at 0
    return nn.Sequential(*layers, last)


def nt_xent(z: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross-entropy, mean over all 2n views (Chen et al. 2020, equation 1, algorithm 1).

    Args:
        z: [2, n, d] unit vectors of the whole batch. Every view has one positive, the other view of its image, and
            2n − 2 negatives.
        temperature: τ, positive.

    Returns:
        A scalar; log(2n − 1) if all embeddings are the same.
    """
    _, n, _ = z.shape
    every = z.flatten(0, 1)
    similarity = every @ every.T / temperature
    similarity.fill_diagonal_(-torch.inf)  # a view is neither its own positive nor a negative
    positive = torch.arange(2 * n, device=z.device).roll(n)
    return cross_entropy(similarity, positive)


class SimCLR(Method):
    """One network; the negatives are all other images of the batch, on whatever process."""

    def __init__(self, network: EncoderSpec, settings: Settings) -> None:
        super().__init__()
        self.settings, self.forces = settings, settings.forces
        # resnet.py: the last scale of every residual branch starts at 0, also in blocks without a bottleneck.
        encoder, features = build_encoder(network, zero_init_residual=True)
        self.online = Branch(encoder, projector(features, settings.dimensions))
        self.branches = {"online": self.online}

    def forward(self, views: list[Tensor]) -> Outputs:
        """Embeddings, unit vectors [2, n, d] in float32. BatchNorm sees both views together (simclr/model.py)."""
        z = self.online(torch.cat(views))
        return (normalize(z.float(), dim=-1).view(len(views), -1, z.shape[-1]),)

    def embeddings(self, outputs: Outputs) -> Tensor:
        """z, which `forward` has normalised."""
        return outputs[0]

    def loss(self, outputs: Outputs, labels: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """NT-Xent."""
        contrast = nt_xent(outputs[0], self.settings.temperature)
        return contrast, {"nt_xent": contrast}


def build(network: EncoderSpec, settings: Settings) -> SimCLR:
    """The method for one encoder.

    Raises:
        UserError: settings that make no sense.
    """
    if settings.views != 2:
        raise UserError(f"--views is {settings.views}", todo="give --views 2: a view has one positive")
    if settings.temperature <= 0:
        raise UserError(f"--temperature is {settings.temperature}", todo="give a positive number (published: 0.1)")
    if settings.dimensions < 1:
        raise UserError(f"--dimensions is {settings.dimensions}", todo="give 1 or more (published: 128)")
    return SimCLR(network, settings)
