"""Small methods, views and numbers that the tests of single methods share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pretrain.methods import Method, barlow_twins, find_method, supervised, swav, vicreg, wmse
from pretrain.recipe import EncoderSpec

NAMES = ("barlow_twins", "supervised", "swav", "vicreg", "wmse")
SMALL: dict[str, Any] = {
    "barlow_twins": barlow_twins.Settings(width=6),
    "supervised": supervised.Settings(),
    "swav": swav.Settings(
        small_views=2, small_crop=16, hidden=8, dimensions=6, prototypes=5, freeze=2, queue=8, queue_from=0.0
    ),
    "vicreg": vicreg.Settings(width=6),
    "wmse": wmse.Settings(hidden=16, dimensions=3, whitening_size=8),
}


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(name: str, **changes: Any) -> Method:
    torch.manual_seed(0)
    method: Method = find_method(name).build(EncoderSpec("resnet18", classes=3), replace(SMALL[name], **changes))
    return method


def some_views(method: Method, images: int = 8, seed: int = 0) -> list[Tensor]:
    options = method.settings
    small = getattr(options, "small_views", 0)
    sides = [32] * options.views + [16] * small
    return [numbers(images, 3, side, side, seed=seed + k).float() for k, side in enumerate(sides)]


LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
