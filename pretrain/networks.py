"""Encoder, heads and the slow copy: what the methods are built from."""

from __future__ import annotations

import copy
import math
from typing import Literal

import torch
import torchvision
from torch import Tensor, nn

Arch = Literal["resnet18", "resnet34", "resnet50", "resnet101"]


def build_encoder(arch: Arch) -> tuple[nn.Module, int]:
    """A torchvision ResNet (ImageNet stem) without its classifier, and the length of its pooled feature.

    The names in its `state_dict()` are torchvision's, so the trained encoder fills a detector's backbone as it is.
    Residual branches of bottleneck blocks start at zero, as in the Haiku ResNet that BYOL used.
    """
    bottleneck = arch in ("resnet50", "resnet101")
    encoder = torchvision.models.get_model(arch, weights=None, zero_init_residual=bottleneck)
    features: int = encoder.fc.in_features
    encoder.fc = nn.Identity()
    return encoder, features


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Linear, BatchNorm, ReLU, Linear without bias: BYOL's projector and predictor.

    Source: Grill et al. 2020, section 3.2 (4096 hidden units, output 256); google-deepmind/deepmind-research,
    byol/utils/networks.py.
    """
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, outputs, bias=False),
    )


class Branch(nn.Module):
    """Images [n, 3, H, W] → encoder → projector (→ predictor): embeddings [n, d], not normalised."""

    def __init__(self, arch: Arch, hidden: int, outputs: int, *, predictor: bool) -> None:
        super().__init__()
        self.encoder, features = build_encoder(arch)
        self.projector = mlp(features, hidden, outputs)
        self.predictor = mlp(outputs, hidden, outputs) if predictor else None

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings of one view; BatchNorm sees that view alone, as in BYOL."""
        embeddings: Tensor = self.projector(self.encoder(images))
        return embeddings if self.predictor is None else self.predictor(embeddings)


def slow_copy(online: Branch) -> Branch:
    """The target network: the same weights without the predictor, never reached by a gradient."""
    target = copy.deepcopy(online)
    target.predictor = None
    return target.requires_grad_(False)


@torch.no_grad()
def follow(target: nn.Module, online: nn.Module, decay: float) -> None:
    """θ_target ← decay · θ_target + (1 − decay) · θ_online, for the parameters that both have.

    BatchNorm's running statistics are not averaged: the target keeps those of its own forward passes.
    """
    source = dict(online.named_parameters())
    slow = dict(target.named_parameters())
    torch._foreach_lerp_(list(slow.values()), [source[name].detach() for name in slow], 1 - decay)


def decay_at(progress: float, base: float) -> float:
    """Decay of the slow copy, from `base` to 1 along a cosine (Grill et al. 2020, section 3.2).

    Args:
        progress: share of the training that is done, 0 to 1.
        base: decay at the start.
    """
    return 1 - (1 - base) * (math.cos(math.pi * progress) + 1) / 2
