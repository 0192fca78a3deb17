"""ViTDet's backbone, one module for every engine: the trunk with the checkpoint's weights, and a pyramid on it.

Li et al., arXiv 2203.16527, section 3. The trunk is timm's `VisionTransformerSAM` (huggingface/pytorch-image-models:
timm/models/vision_transformer_sam.py), the windowed form of a ViT. Its positions are resized once, when it is made, to
the grid of the canvas: what is computed does not depend on the size of an image.

Two comparisons prove it before anything is trained. With windows and the canvas it computes what the same module
computes outside of the engine; with the windows off, at the size that the checkpoint was trained at, it computes what
the family's own module computes without CLS token and registers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.layers import Mlp, SwiGLUPacked
from timm.models.vision_transformer_sam import Block, VisionTransformerSAM
from torch import Tensor, nn
from torch.nn import functional as F

from detection.recipe import ViTDet
from detection.vitdet import KEPT, PATCH, demand_fitting
from transfer.checkpoints.backbone import Backbone
from transfer.checkpoints.families import family_of
from transfer.checkpoints.families.vit import Vit, positions, vit_of
from transfer.checkpoints.verify import (
    Form,
    Verification,
    in_precision,
    normalised,
    own_precision,
    probe_image,
    stages_seen,
    verify,
)

BLOCKS = (Block,)
STRIDES = (4, 8, 16, 32, 64)
PLACE = "backbone.trunk"  # in the detector of every engine
EPS = 1e-6  # of the norms over channels


class WindowedViT(VisionTransformerSAM):  # type: ignore[misc]  # timm is untyped
    """Canvas [n, 3, side, side] → map [n, width, side / 16, side / 16] behind the last block."""

    def __init__(self, vit: Vit, canvas: int, window: int, global_blocks: tuple[int, ...], drop_path: float) -> None:
        super().__init__(
            img_size=canvas, patch_size=vit.patch, num_classes=0, embed_dim=vit.width, depth=vit.depth,
            num_heads=vit.heads, qkv_bias=vit.bias, init_values=1e-5 if vit.scale else None,
            mlp_ratio=(vit.hidden * (2 if vit.swiglu else 1) + 0.5) / vit.width,  # as in families/vit.py
            mlp_layer=SwiGLUPacked if vit.swiglu else Mlp, act_layer=nn.SiLU if vit.swiglu else nn.GELU,
            norm_layer=partial(nn.LayerNorm, eps=vit.eps), drop_path_rate=drop_path, use_rel_pos=True,
            window_size=window, global_attn_indexes=tuple(global_blocks), neck_chans=0,
        )  # fmt: skip
        self.neck, self.head = nn.Identity(), nn.Identity()
        self.side = canvas

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        if images.shape[2:] != (self.side, self.side):
            raise ValueError(f"images of {tuple(images.shape[2:])} on a canvas of {self.side}")
        tokens: Tensor = self.blocks(self.patch_embed(images) + self.pos_embed)
        return tokens.permute(0, 3, 1, 2).contiguous()

    def plain(self, images: Tensor, table: Tensor) -> None:
        """Compute as the ViT that it was, with windows off and other positions [1, h, w, C]; for who watches it.

        Relative positions of another size are stretched: it is that ViT as long as they are zero.
        """
        windows = [block.window_size for block in self.blocks]
        try:
            for block in self.blocks:
                block.window_size = 0
            self.blocks(self.patch_embed(images) + table)
        finally:
            for block, window in zip(self.blocks, windows, strict=True):
                block.window_size = window


class ChannelNorm(nn.Module):
    """Layer norm over the channels of every position of a map [n, C, h, w]."""

    def __init__(self, channels: int, eps: float = EPS) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, maps: Tensor) -> Tensor:
        """The map, normalised."""
        last = maps.permute(0, 2, 3, 1)
        return F.layer_norm(last, self.weight.shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


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

    def forward(self, last: Tensor) -> tuple[Tensor, ...]:
        """See the class; contiguous, as regions are cut out of them."""
        maps = [level(last).contiguous() for level in self.levels.values()]
        return (*maps, maps[-1][:, :, ::2, ::2].contiguous())


def _twice(inputs: int, outputs: int) -> nn.Module:
    return nn.ConvTranspose2d(inputs, outputs, 2, stride=2)


def trunk_of(recipe: ViTDet, arch: str) -> WindowedViT:
    """The trunk, randomly initialised.

    Raises:
        UserError: the form cannot hold such a checkpoint.
    """
    demand_fitting(recipe, arch)
    return WindowedViT(vit_of(arch), recipe.canvas, recipe.window, recipe.global_blocks, recipe.drop_path)


def placed_state(backbone: Backbone, canvas: int) -> dict[str, Tensor]:
    """Name in the trunk → the checkpoint's tensor, positions for the grid of the canvas [1, side, side, C]."""
    vit = vit_of(backbone.arch)
    state = {name: tensor for name, tensor in backbone.state.items() if name.startswith(KEPT)}
    return {"pos_embed": _table(backbone, vit, canvas // PATCH), **state}


def _table(backbone: Backbone, vit: Vit, side: int) -> Tensor:
    """The patches' positions [1, side, side, C], by the rule of those who trained them."""
    return positions(backbone.state["pos_embed"], vit, side, side)[:, int(vit.cls) :].reshape(1, side, side, -1)


def load(trunk: WindowedViT, backbone: Backbone) -> None:
    """Copy every tensor that has a place; those that are new stay as they are."""
    trunk.load_state_dict(trunk.state_dict() | placed_state(backbone, trunk.side))


def verify_trunk(
    trunk: WindowedViT,
    backbone: Backbone,
    recipe: ViTDet,
    engine: str,
    presented: Callable[[NDArray[np.uint8]], Tensor],
    amp: str = "off",
) -> Verification:
    """The two comparisons, and every tensor that has a place; see the module.

    Args:
        trunk: inside the detector.
        presented: RGB uint8 [side, side, 3] → [1, 3, side, side] as the detector's own preprocessing makes it.
        amp: the mixed precision that it trains in.

    Raises:
        EngineError: a tensor is absent or differs, or something else is computed.
    """
    device, vit = trunk.pos_embed.device, vit_of(backbone.arch)

    def reference(image: NDArray[np.uint8]) -> Mapping[str, Tensor]:
        outside = trunk_of(recipe, backbone.arch).eval()
        load(outside, backbone)
        with torch.no_grad(), stages_seen(_watched(outside)) as seen:
            outside(normalised(image, backbone.input))
        return seen | _as_plain(_family_stages(backbone, vit), vit)

    def inside(image: NDArray[np.uint8], precision: str = "off") -> Mapping[str, Tensor]:
        small = normalised(probe_image(vit.image, vit.image), backbone.input).to(device)
        was_training = trunk.training
        trunk.eval()
        with torch.no_grad(), in_precision(device, precision):
            with stages_seen(_watched(trunk)) as seen:
                trunk(presented(image))
            with stages_seen(_watched(trunk)) as plain:
                trunk.plain(small, _table(backbone, vit, vit.grid).to(device))
        trunk.train(was_training)
        return seen | _as_plain(plain, vit)

    tensors = trunk.state_dict()
    wanted = placed_state(backbone, recipe.canvas)
    return verify(
        backbone,
        engine,
        {name: (tensors[name], PLACE) for name in wanted if name in tensors},
        inside,
        precision=own_precision(device, amp),
        own=lambda image: inside(image, amp),
        form=Form(wanted, (recipe.canvas, recipe.canvas), reference),
    )


def _watched(trunk: nn.Module) -> dict[str, nn.Module]:
    blocks: Any = trunk.get_submodule("blocks")
    return {"patch_embed": trunk.get_submodule("patch_embed")} | {f"blocks.{i}": each for i, each in enumerate(blocks)}


def _as_plain(seen: Mapping[str, Tensor], vit: Vit) -> dict[str, Tensor]:
    """Tokens [1, patches, C] under names that say how they were computed."""
    return {f"{name}, windows off at {vit.image}": out.reshape(1, -1, vit.width) for name, out in seen.items()}


def _family_stages(backbone: Backbone, vit: Vit) -> Mapping[str, Tensor]:
    """What the family's own module computes of patches alone, at the size that it was trained at."""
    arch = replace(vit, cls=False, registers=0).arch
    family = family_of(arch)
    network = family.build(arch).eval()
    state = {name: tensor for name, tensor in backbone.state.items() if name not in ("cls_token", "reg_token")}
    network.load_state_dict(state | {"pos_embed": _table(backbone, vit, vit.grid).flatten(1, 2)})
    image = normalised(probe_image(vit.image, vit.image), backbone.input)
    with torch.no_grad(), stages_seen(_watched(network)) as seen:
        family.outputs(network, image, family.poolings(arch)[:1])
    return seen


def parameter_groups(model: nn.Module, recipe: ViTDet) -> list[dict[str, Any]]:
    """Groups of equal rate and decay for `torch.optim.AdamW`, those of the full rate first.

    A block learns at the rate of the next one times `layer_decay`; pyramid and heads stand behind the last block,
    patches and positions before the first (detectron2/modeling/backbone/vit.py, get_vit_lr_decay_rate). Norms, layer
    scales and absolute positions have a decay of their own, biases another.
    """
    trunk: Any = model.get_submodule(PLACE)
    depth = len(trunk.blocks)
    found: dict[tuple[int, float], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = depth + 1
        if name.startswith(f"{PLACE}."):
            part, _, rest = name.removeprefix(f"{PLACE}.").partition(".")
            layer = int(rest.partition(".")[0]) + 1 if part == "blocks" else 0
        found.setdefault((depth + 1 - layer, _decay(model, name, parameter, recipe)), []).append(parameter)
    return [
        {"params": parameters, "lr": recipe.lr * recipe.layer_decay**below, "weight_decay": decay}
        for (below, decay), parameters in sorted(found.items(), key=lambda entry: entry[0])
    ]


def _decay(model: nn.Module, name: str, parameter: Tensor, recipe: ViTDet) -> float:
    if name == f"{PLACE}.pos_embed":
        return 0.0
    if parameter.ndim > 1:
        return recipe.weight_decay
    owner, _, leaf = name.rpartition(".")
    weight = getattr(model.get_submodule(owner), "weight", None)
    of_layer = leaf == "bias" and isinstance(weight, Tensor) and weight.ndim > 1
    return recipe.weight_decay_bias if of_layer else recipe.weight_decay_norm


def adamw(model: nn.Module, recipe: ViTDet) -> torch.optim.AdamW:
    """The optimiser, the same in every engine."""
    return torch.optim.AdamW(
        parameter_groups(model, recipe), lr=recipe.lr, betas=(recipe.momentum, recipe.second_momentum)
    )
