"""ViTDet's backbone: a vision transformer with windows, and a pyramid made of its last map.

Li et al., arXiv 2203.16527, section 3. The trunk is timm's `VisionTransformerSAM` (huggingface/pytorch-image-models:
timm/models/vision_transformer_sam.py), the windowed form of a ViT. Its positions are resized once, when it is made, to
the grid of the canvas: what is computed does not depend on the size of an image. With the windows off, at the size that
the checkpoint was trained at, it computes what the family's own module does without CLS token and registers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from timm.layers import Mlp, SwiGLUPacked
from timm.models.vision_transformer_sam import Block, VisionTransformerSAM
from torch import Tensor, nn

from detection.engines.trunk import ChannelNorm, DetectorTrunk, in_strides_of_16
from detection.vitdet import KEPT, PATCH, seen
from transfer.checkpoints.backbone import Backbone
from transfer.checkpoints.families import family_of
from transfer.checkpoints.families.vit import Vit, positions, vit_of
from transfer.checkpoints.verify import normalised, probe_image, stages_seen


class WindowedViT(VisionTransformerSAM, DetectorTrunk):  # type: ignore[misc]  # timm is untyped
    """Canvas [n, 3, side, side] → map [n, width, side / 16, side / 16] behind the last block."""

    recomputed: ClassVar[tuple[type[nn.Module], ...]] = (Block,)

    def __init__(self, arch: str, canvas: int, window: int, global_blocks: tuple[int, ...], drop_path: float) -> None:
        vit = vit_of(arch)
        side = seen(canvas, vit.patch)
        super().__init__(
            img_size=side, patch_size=vit.patch, num_classes=0, embed_dim=vit.width, depth=vit.depth,
            num_heads=vit.heads, qkv_bias=vit.bias, init_values=1e-5 if vit.scale else None,
            mlp_ratio=(vit.hidden * (2 if vit.swiglu else 1) + 0.5) / vit.width,  # as in families/vit.py
            mlp_layer=SwiGLUPacked if vit.swiglu else Mlp, act_layer=nn.SiLU if vit.swiglu else nn.GELU,
            norm_layer=partial(nn.LayerNorm, eps=vit.eps), drop_path_rate=drop_path, use_rel_pos=True,
            window_size=window, global_attn_indexes=tuple(global_blocks), neck_chans=0,
        )  # fmt: skip
        self.neck, self.head = nn.Identity(), nn.Identity()
        self.side, self.vit = canvas, vit
        self.options = {
            "arch": arch,
            "canvas": canvas,
            "window": window,
            "global_blocks": global_blocks,
            "drop_path": drop_path,
        }

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """See the class."""
        if images.shape[2:] != (self.side, self.side):
            raise ValueError(f"images of {tuple(images.shape[2:])} on a canvas of {self.side}")
        tokens: Tensor = self.blocks(self.patch_embed(in_strides_of_16(images, self.vit.patch)) + self.pos_embed)
        return (tokens.permute(0, 3, 1, 2).contiguous(),)

    def placed(self, backbone: Backbone) -> dict[str, Tensor]:
        """See `DetectorTrunk`: positions for the grid of the canvas [1, side, side, C]."""
        state = {name: tensor for name, tensor in backbone.state.items() if name.startswith(KEPT)}
        return {"pos_embed": _table(backbone, self.vit, self.side // PATCH), **state}

    @property
    def sides(self) -> tuple[int, int]:
        """See `DetectorTrunk`."""
        return self.side, self.side

    def watched(self) -> Mapping[str, nn.Module]:
        """See `DetectorTrunk`."""
        return _watched(self)

    def as_trained(self, backbone: Backbone) -> Mapping[str, Tensor]:
        """See `DetectorTrunk`: windows off. Stretched tables of relative positions are 0."""
        table, windows = _table(backbone, self.vit, self.vit.grid), [block.window_size for block in self.blocks]
        images = normalised(probe_image(self.vit.image, self.vit.image), backbone.input).to(self.pos_embed.device)
        try:
            for block in self.blocks:
                block.window_size = 0
            with stages_seen(self.watched()) as seen:
                self.blocks(self.patch_embed(images) + table.to(images.device))
        finally:
            for block, window in zip(self.blocks, windows, strict=True):
                block.window_size = window
        return _as_plain(seen, self.vit)

    def of_family(self, backbone: Backbone) -> Mapping[str, Tensor]:
        """See `DetectorTrunk`: of patches alone."""
        vit = self.vit
        arch = replace(vit, cls=False, registers=0).arch
        family = family_of(arch)
        network = family.build(arch).eval()
        state = {name: tensor for name, tensor in backbone.state.items() if name not in ("cls_token", "reg_token")}
        network.load_state_dict(state | {"pos_embed": _table(backbone, vit, vit.grid).flatten(1, 2)})
        image = normalised(probe_image(vit.image, vit.image), backbone.input)
        with torch.no_grad(), stages_seen(_watched(network)) as seen:
            family.outputs(network, image, family.poolings(arch)[:1])
        return _as_plain(seen, vit)

    def layer(self, name: str) -> int:
        """See `DetectorTrunk`."""
        return family_of(self.vit.arch).layer(self.vit.arch, name)


class SimplePyramid(nn.Module):
    """Map [n, C, h, w] of stride 16 → five maps of strides 4 … 64, each made of that one map (section 3 of the paper).

    Two deconvolutions make it four times as large, one twice, a max-pooling half; each is followed by a convolution of
    1 × 1 and one of 3 × 3 with norms. The coarsest is every second position of the one before it.
    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        half, quarter = channels // 2, channels // 4
        scaled: dict[str, tuple[list[nn.Module], int]] = {
            "p2": ([_twice(channels, half), ChannelNorm(half), nn.GELU(), _twice(half, quarter)], quarter),
            "p3": ([_twice(channels, half)], half),
            "p4": ([], channels),
            "p5": ([nn.MaxPool2d(2)], channels),
        }
        self.levels = nn.ModuleDict(
            {
                level: nn.Sequential(
                    *layers,
                    *(nn.Conv2d(wide, out, 1, bias=False), ChannelNorm(out)),
                    *(nn.Conv2d(out, out, 3, padding=1, bias=False), ChannelNorm(out)),
                )
                for level, (layers, wide) in scaled.items()
            }
        )

    def forward(self, maps: tuple[Tensor]) -> tuple[Tensor, ...]:
        """See the class; contiguous, as regions are cut out of them."""
        made = [level(maps[0]).contiguous() for level in self.levels.values()]
        return (*made, made[-1][:, :, ::2, ::2].contiguous())


def _twice(inputs: int, outputs: int) -> nn.Module:
    return nn.ConvTranspose2d(inputs, outputs, 2, stride=2)


def _table(backbone: Backbone, vit: Vit, side: int) -> Tensor:
    """The patches' positions [1, side, side, C], by the rule of those who trained them."""
    return positions(backbone.state["pos_embed"], vit, side, side)[:, int(vit.cls) :].reshape(1, side, side, -1)


def _watched(trunk: nn.Module) -> dict[str, nn.Module]:
    blocks: Any = trunk.get_submodule("blocks")
    return {"patch_embed": trunk.get_submodule("patch_embed")} | {f"blocks.{i}": each for i, each in enumerate(blocks)}


def _as_plain(seen: Mapping[str, Tensor], vit: Vit) -> dict[str, Tensor]:
    """Tokens [1, patches, C] under names that say how they were computed."""
    return {f"{name}, windows off at {vit.image}": out.reshape(1, -1, vit.width) for name, out in seen.items()}
