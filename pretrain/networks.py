"""Encoder, heads and the slow copy: what the methods are built from."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import timm
import torch
import torchvision
from torch import Tensor, nn

from pretrain.recipe import EncoderSpec
from transfer.checkpoints.families import vit


def build_encoder(
    network: EncoderSpec, *, zero_init_residual: bool | None = None, positions: str = "size"
) -> tuple[nn.Module, int]:
    """An encoder without its classifier, and the length of its feature.

    A ResNet is torchvision's and its feature the average of the last map, a vision transformer timm's and its feature
    the CLS token behind the final norm. So are the names in its `state_dict()`, and the trained encoder fills a
    detector's backbone or the family's module as it is. Its weights begin as these libraries begin them.

    Args:
        network: architecture and stem.
        zero_init_residual: whether residual branches start at zero. None: those of bottleneck blocks do, as in the
            Haiku ResNet that BYOL used.
        positions: how a transformer resizes its table for views of another size, one of `vit.POSITIONS`.
    """
    if network.patch:
        plain = vit.vit_of(network.transformer)
        return vit.FAMILY.build(replace(plain, positions=positions).arch), plain.width
    if zero_init_residual is None:
        zero_init_residual = network.arch in ("resnet50", "resnet101")
    if network.arch == "resnet18_quarter":  # timm's names are torchvision's
        widths = (16, 32, 64, 128)
        encoder = timm.create_model("resnet18", num_classes=0, channels=widths, zero_init_last=zero_init_residual)
        features: int = encoder.num_features
    else:
        encoder = torchvision.models.get_model(network.arch, weights=None, zero_init_residual=zero_init_residual)
        features = encoder.fc.in_features
        encoder.fc = nn.Identity()
    if network.stem == "cifar":
        encoder.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(encoder.conv1.weight, mode="fan_out", nonlinearity="relu")
        encoder.maxpool = nn.Identity()
    return encoder, features


def architecture(encoder: nn.Module, asked: str) -> str:
    """What a checkpoint calls an encoder: a transformer by its whole name, a ResNet as it was `asked` for.

    The whole name says the size of the table of positions and how it is resized, which no shape shows.
    """
    numbers = getattr(encoder, "vit", None)
    return numbers.arch if isinstance(numbers, vit.Vit) else asked


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


def perceptron(sizes: Sequence[int], bias: bool) -> nn.Sequential:
    """Linear, BatchNorm and ReLU for every layer but the last, which is linear without bias.

    Args:
        sizes: of the input and of each layer's output.
        bias: whether the linear layers before BatchNorm have one (VICReg's do, Barlow Twins' do not).
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes[:-1]):
        layers += [nn.Linear(inputs, outputs, bias=bias), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1], bias=False))


class Branch(nn.Module):
    """Images [n, 3, H, W] → encoder → projector (→ predictor): embeddings [n, d], not normalised."""

    def __init__(
        self, encoder: nn.Module, projector: nn.Module | None = None, predictor: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.encoder, self.projector, self.predictor = encoder, projector, predictor

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings of one view; BatchNorm sees that view alone, as in BYOL."""
        embeddings: Tensor = self.encoder(images)
        for head in (self.projector, self.predictor):
            embeddings = embeddings if head is None else head(embeddings)
        return embeddings


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
