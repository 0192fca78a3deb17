"""Supervised training by cross-entropy: the yardstick of every self-supervised method.

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition" (CVPR 2016, section 3.4). Published settings:
pytorch/examples, imagenet/main.py, which trained torchvision's first ResNet weights: SGD with momentum 0.9, learning
rate 0.1 at a batch of 256, weight decay 1e-4 on every parameter, 90 epochs, crop and flip.

One thing differs: the published schedule divides the learning rate by 10 every 30 epochs, here it falls along a cosine,
as for all other methods.

The checkpoint's branch holds the encoder alone; the classifier is kept beside it, with what else a method remembers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tyro.conf import OmitArgPrefixes

from pretrain.losses import Forces
from pretrain.methods import Method, Outputs
from pretrain.networks import Branch, Network, build_encoder
from pretrain.recipe import Recipe, demo
from transfer.errors import UserError

NEEDS_LABELS = True


@dataclass(frozen=True)
class Settings:
    """Options of supervised training.

    Attributes:
        views: number of views of an image, 1 as published; with more the loss is their mean.
        forces: the two dispersing forces, on the pooled features.
    """

    views: int = 1
    forces: OmitArgPrefixes[Forces] = field(default_factory=Forces)


PRESETS: dict[str, tuple[Recipe, Settings]] = {
    "90": (
        Recipe(
            augmentation="crop",
            epochs=90,
            warmup_epochs=0,
            batch=256,
            optimizer="sgd",
            lr=0.1,
            weight_decay=1e-4,
            decay_all=True,
        ),
        Settings(),
    ),
    # Not a protocol: a minute on two CPU cores.
    "demo": (
        demo(augmentation="crop", optimizer="sgd", lr=0.2, weight_decay=1e-4, decay_all=True),
        Settings(),
    ),
}


class Supervised(Method):
    """A ResNet and its linear classifier, both as torchvision initialises them."""

    def __init__(self, network: Network, settings: Settings) -> None:
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


def build(network: Network, settings: Settings) -> Supervised:
    """The method for one ResNet.

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
