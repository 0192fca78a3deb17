"""Supervised training by cross-entropy: the yardstick of every self-supervised method.

Sources, options, published schedules and what differs from them: `pretrain.presets.supervised`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pretrain.methods import Method, Outputs
from pretrain.networks import Branch, build_encoder
from pretrain.presets.supervised import PRESETS as PRESETS
from pretrain.presets.supervised import PROTOCOLS as PROTOCOLS
from pretrain.presets.supervised import Settings as Settings
from pretrain.recipe import EncoderSpec
from transfer.runtime.errors import UserError

NEEDS_LABELS = True


class Supervised(Method):
    """An encoder and its linear classifier, both as torchvision (timm, of a transformer) initialises them."""

    def __init__(self, network: EncoderSpec, settings: Settings) -> None:
        super().__init__()
        self.settings, self.forces = settings, settings.forces
        encoder, features = build_encoder(network, zero_init_residual=False)
        self.online = Branch(encoder)
        self.classifier = nn.Linear(features, network.classes)
        self.branches = {"online": self.online}

    def forward(self, views: list[Tensor]) -> Outputs:
        """Pooled features [K, n, f] and logits [K, n, classes], float32."""
        features = torch.stack([self.online(view) for view in views])
        return features.float(), self.classifier(features).float()

    def loss(self, outputs: Outputs, labels: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy with `labels` [n], class numbers, as a mean over images and views."""
        if labels is None:
            raise ValueError("supervised training needs labels")
        logits = outputs[1]
        found = cross_entropy(logits.flatten(0, 1), labels.repeat(len(logits)))
        return found, {"cross_entropy": found}


def build(network: EncoderSpec, settings: Settings) -> Supervised:
    """The method for one encoder.

    Raises:
        UserError: settings that make no sense, or images of fewer than two classes.
    """
    if settings.views < 1:
        raise UserError(f"--views is {settings.views}", todo="give --views 1")
    if network.classes < 2:
        raise UserError(
            "supervised training needs labelled images of two classes or more",
            found=f"{network.classes} classes",
            todo="give a folder with one folder of images per class, or choose a method that needs no labels",
        )
    return Supervised(network, settings)
