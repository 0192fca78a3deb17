"""A trunk and its pyramid as a backbone under a name that MMDetection's configs use, and their norm."""

from __future__ import annotations

from typing import Any

from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor

from detection.engines.forms import build
from detection.engines.trunk import ChannelNorm


class TransferTrunk(BaseModule):  # type: ignore[misc]  # mmengine is untyped
    """A backbone that needs no neck: images that have been padded → maps of strides 4 … 64."""

    def __init__(self, *, options: dict[str, Any]) -> None:
        super().__init__()
        self.trunk, self.pyramid = build(options)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        maps: tuple[Tensor, ...] = self.pyramid(self.trunk(images))
        return maps


def register() -> None:
    """Let configs name them."""
    for part in (TransferTrunk, ChannelNorm):
        MODELS.register_module(module=part, force=True)
