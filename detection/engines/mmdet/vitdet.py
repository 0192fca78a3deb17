"""ViTDet's backbone and its norm under names that MMDetection's configs use."""

from __future__ import annotations

from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor

from detection.engines.vitdet import ChannelNorm, SimplePyramid, WindowedViT
from transfer.checkpoints.families.vit import vit_of


class TransferViTDet(BaseModule):  # type: ignore[misc]  # mmengine is untyped
    """Trunk and pyramid, a backbone that needs no neck; images have been padded to the canvas."""

    def __init__(
        self,
        *,
        arch: str,
        canvas: int,
        window: int,
        global_blocks: tuple[int, ...],
        drop_path: float,
        out_channels: int,
    ) -> None:
        super().__init__()
        self.trunk = WindowedViT(vit_of(arch), canvas, window, global_blocks, drop_path)
        self.pyramid = SimplePyramid(self.trunk.embed_dim, out_channels)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Canvas [n, 3, side, side] → maps of strides 4 … 64."""
        maps: tuple[Tensor, ...] = self.pyramid(self.trunk(images))
        return maps


def register() -> None:
    """Let configs name them."""
    for part in (TransferViTDet, ChannelNorm):
        MODELS.register_module(module=part, force=True)
