"""A trunk inside a detector, one module for every engine: its weights, the proof of them, and the rates it learns at.

Two comparisons prove it before anything is trained. On the image of the proof it computes what the same module computes
outside of the engine; at the size that the checkpoint was trained at, with what is the detector's own switched off, it
computes what the family's own module computes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detection.recipe import OnTrunk
from detection.vitdet import SHRUNK, seen
from transfer.checkpoints.backbone import Backbone
from transfer.checkpoints.verify import (
    Form,
    Verification,
    in_precision,
    normalised,
    own_precision,
    stages_seen,
    verify,
)

PLACE = "backbone.trunk"  # in the detector of every engine
STRIDES = (4, 8, 16, 32, 64)  # of the pyramid's maps
POSITIONS = ("pos_embed", "cls_token", "reg_token", "relative_position_bias_table")  # ends of names


class DetectorTrunk(ABC):
    """What a form of trunk adds to its module.

    Attributes:
        options: what it was made with, so that another can be made.
        recomputed: classes of what `--recompute` computes again.
    """

    options: Mapping[str, Any]
    recomputed: ClassVar[tuple[type[nn.Module], ...]]

    @abstractmethod
    def placed(self, backbone: Backbone) -> dict[str, Tensor]:
        """Name in the trunk → the checkpoint's tensor, as it is to lie there."""

    @property
    @abstractmethod
    def sides(self) -> tuple[int, int]:
        """(height, width) of the image of the proof."""

    @abstractmethod
    def watched(self) -> Mapping[str, nn.Module]:
        """What is compared, by names in the family's own module."""

    @abstractmethod
    def as_trained(self, backbone: Backbone) -> Mapping[str, Tensor]:
        """What is watched, at the size of the training and with what is the detector's own switched off."""

    @abstractmethod
    def of_family(self, backbone: Backbone) -> Mapping[str, Tensor]:
        """The same of the family's own module, outside of any engine."""

    @abstractmethod
    def layer(self, name: str) -> int:
        """How deep a parameter lies: 0 what sees the pixels, the blocks from 1 on."""


T = TypeVar("T", bound=nn.Module)


def load(trunk: T, backbone: Backbone) -> T:
    """Copy every tensor that has a place; those that are new stay as they are."""
    assert isinstance(trunk, DetectorTrunk)
    trunk.load_state_dict(trunk.state_dict() | trunk.placed(backbone))
    return trunk


def verify_trunk(
    trunk: Any,
    backbone: Backbone,
    engine: str,
    presented: Callable[[NDArray[np.uint8]], Tensor],
    amp: str = "off",
) -> Verification:
    """The two comparisons, and every tensor that has a place; see the module.

    Args:
        trunk: inside the detector.
        presented: RGB uint8 [h, w, 3] → [1, 3, h, w] as the detector's own preprocessing makes it.
        amp: the mixed precision that it trains in.

    Raises:
        EngineError: a tensor is absent or differs, or something else is computed.
    """
    device = next(trunk.parameters()).device

    def reference(image: NDArray[np.uint8]) -> Mapping[str, Tensor]:
        outside: Any = load(type(trunk)(**trunk.options), backbone).eval()
        with torch.no_grad(), stages_seen(outside.watched()) as seen:
            outside(normalised(image, backbone.input))
        return seen | dict(trunk.of_family(backbone))

    def inside(image: NDArray[np.uint8], precision: str = "off") -> Mapping[str, Tensor]:
        was_training = trunk.training
        trunk.eval()
        with torch.no_grad(), in_precision(device, precision):
            with stages_seen(trunk.watched()) as seen:
                trunk(presented(image))
            plain = trunk.as_trained(backbone)
        trunk.train(was_training)
        return seen | dict(plain)

    tensors, wanted = trunk.state_dict(), trunk.placed(backbone)
    return verify(
        backbone,
        engine,
        {name: (tensors[name], PLACE) for name in wanted if name in tensors},
        inside,
        precision=own_precision(device, amp),
        own=lambda image: inside(image, amp),
        form=Form(wanted, trunk.sides, reference),
    )


def parameter_groups(model: nn.Module, recipe: OnTrunk) -> list[dict[str, Any]]:
    """Groups of equal rate and decay for `torch.optim.AdamW`, those of the full rate first.

    A layer learns at the rate of the next one times `layer_decay`; pyramid and heads stand behind the last
    (detectron2/modeling/backbone/vit.py, get_vit_lr_decay_rate). Norms and layer scales have a decay of their own,
    biases and positions others.
    """
    trunk: Any = model.get_submodule(PLACE)
    inside = {name: trunk.layer(name) for name, _ in trunk.named_parameters()} if recipe.layer_decay != 1 else {}
    behind = 1 + max(inside.values(), default=0)
    found: dict[tuple[int, float], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            layer = inside.get(name.removeprefix(f"{PLACE}."), behind) if name.startswith(f"{PLACE}.") else behind
            found.setdefault((behind - layer, _decay(model, name, parameter, recipe)), []).append(parameter)
    return [
        {"params": parameters, "lr": recipe.lr * recipe.layer_decay**below, "weight_decay": decay}
        for (below, decay), parameters in sorted(found.items(), key=lambda entry: entry[0])
    ]


def _decay(model: nn.Module, name: str, parameter: Tensor, recipe: OnTrunk) -> float:
    if name.startswith(f"{PLACE}.") and name.endswith(POSITIONS):
        return recipe.weight_decay_positions
    if parameter.ndim > 1:
        return recipe.weight_decay
    owner, _, leaf = name.rpartition(".")
    weight = getattr(model.get_submodule(owner), "weight", None)
    of_layer = leaf == "bias" and isinstance(weight, Tensor) and weight.ndim > 1
    return recipe.weight_decay_bias if of_layer else recipe.weight_decay_norm


def adamw(model: nn.Module, recipe: OnTrunk) -> torch.optim.AdamW:
    """The optimiser, the same in every engine."""
    return torch.optim.AdamW(
        parameter_groups(model, recipe), lr=recipe.lr, betas=(recipe.momentum, recipe.second_momentum)
    )


def in_strides_of_16(images: Tensor, patch: int) -> Tensor:
    """Images [n, 3, H, W] as a trunk with patches of 14 sees them: smaller by 7/8, so that its maps have strides of 16.

    Its weights stay as they are; anchors and regions of both engines want strides that are powers of two.
    """
    if patch not in SHRUNK:
        return images
    size = [seen(side, patch) for side in images.shape[2:]]
    return nn.functional.interpolate(images, size, mode="bilinear", antialias=True)


class ChannelNorm(nn.Module):
    """Layer norm over the channels of every position of a map [n, C, h, w]."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, maps: Tensor) -> Tensor:
        """The map, normalised."""
        last = maps.permute(0, 2, 3, 1)
        return nn.functional.layer_norm(last, self.weight.shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)
