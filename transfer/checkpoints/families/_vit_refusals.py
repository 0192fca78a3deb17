"""Vision transformers that are not built here, told by their tensors, and what to take instead.

Names are timm's or those of the authors' code, in which most of these relatives have blocks like the family's own:

- DINOv3 behind a prefix or beside heads: `storage_tokens`, `rope_embed.periods`, `local_cls_norm.`, `cls_norm.`
  (facebookresearch/dinov3: dinov3/models/vision_transformer.py); its released files have a family of their own;
- DeiT that was distilled: `dist_token`, `head_dist.` (facebookresearch/deit: models.py, DistilledVisionTransformer);
- MoCo v3's vit_conv: `patch_embed.proj.0.` to `.12.` (facebookresearch/moco-v3: vits.py, ConvStem);
- XCiT: `pos_embeder.`, `cls_attn_blocks.` (facebookresearch/xcit: xcit.py);
- CaiT: `blocks_token_only.` (facebookresearch/deit: cait_models.py);
- CLIP's in timm's and MMPretrain's names: a norm in front of the blocks, `norm_pre.` or `pre_norm.`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from transfer.checkpoints.families import Shape
from transfer.runtime.errors import CheckpointError

_LIKE = "supported are ViTs with a table of positions: DINO, iBOT, MAE, MoCo v3, MSN, DINOv2 with or without registers"


@dataclass(frozen=True)
class _Relative:
    """What one is told by, why it cannot be read, and what to do."""

    names: str
    what: str
    todo: str


_RELATIVES = tuple(
    _Relative(*each)
    for each in (
        (
            r"storage_tokens$|rope_embed\.|local_cls_norm\.|cls_norm\.",
            "is a ViT of DINOv3 in another layout than that of its released files",
            "save the network alone, torch.save(network.state_dict(), 'backbone.pth'), or take a released file",
        ),
        (
            r"dist_token$|head_dist\.",
            "is a distilled DeiT: a second token stands beside the CLS token, and its authors average two classifiers",
            "take the DeiT of the same size that was trained without distillation (deit_small_patch16_224)",
        ),
        (
            r"pos_embeder\.|cls_attn_blocks\.|blocks\.\d+\.local_mp\.",
            "is an XCiT: its attention is over channels, not over patches, and no network here computes that",
            "take DINO's ViT-S or ViT-B",
        ),
        (
            r"patch_embed\.proj\.\d+\.",
            "cuts its patches with several convolutions (MoCo v3's vit_conv_small and vit_conv_base), and no network "
            "here has that stem",
            "take MoCo v3's vit_small or vit_base, whose stem is one convolution",
        ),
        (
            r"patch_embed\.backbone\.",
            "is a hybrid: a convolutional network stands before the transformer, and no network here has that stem",
            _LIKE,
        ),
        (
            r"blocks_token_only\.|blocks\.\d+\.attn\.proj_[lw]\.",
            "is a CaiT: its CLS token enters behind the blocks of the patches, and no network here computes that",
            _LIKE,
        ),
        (
            r"norm_pre\.|pre_norm\.",
            "has a norm in front of its first block, as CLIP's image towers do, and no network here has that",
            _LIKE,
        ),
        (
            r"blocks\.\d+\.attn\.[qk]_norm\.",
            "normalises queries and keys inside the attention (timm's qk_norm), and no network here does",
            _LIKE,
        ),
        (
            r"blocks\.\d+\.attn\.rel_pos_[hw]$",
            "is a detector's ViT (ViTDet, SAM): it has relative positions in the attention, which pretraining has not",
            "take the file that the detector was begun from",
        ),
        (
            r"blocks\.\d+\.attn\.(?:to_)?(?:q|k|v|kv|q_proj|k_proj|v_proj)\.(?:weight|bias)$",
            "keeps queries, keys and values apart, and nothing in the file says whose names these are",
            "join them in this order, torch.cat([q, k, v]), as attn.qkv.weight and attn.qkv.bias, and save the result",
        ),
        (
            r"blocks\.\d+\.mlp\.w[12]\.",
            "keeps the two halves of its gated MLP apart, and nothing in the file says which one is the gate",
            "join them, gate first, torch.cat([gate, value]), as mlp.fc1.weight and mlp.fc1.bias; the last is mlp.fc2",
        ),
    )
)


def refuse_relative(shapes: Mapping[str, Shape]) -> None:
    """Raise `CheckpointError` if these are the tensors of a relative; the family's own names are never among them."""
    for relative in _RELATIVES:
        names = [name for name in shapes if re.match(relative.names, name)]
        if names:
            shown = ", ".join(names[:3]) + (f" … ({len(names)} such tensors)" if len(names) > 3 else "")
            raise CheckpointError(relative.what, found=shown, todo=relative.todo)


def patch_of(shapes: Mapping[str, Shape]) -> int:
    """The side of a patch in pixels.

    Raises:
        CheckpointError: patches are no squares of RGB images.
    """
    stem = shapes.get("patch_embed.proj.weight")
    if stem is not None and len(stem) == 4 and stem[1] == 3 and stem[2] == stem[3] and stem[2]:
        return stem[2]
    if stem is None:
        found, todo = "no patch_embed.proj.weight", "check that the file is whole: download or copy it again"
    elif len(stem) == 4 and stem[1] != 3:
        found = f"patch_embed.proj.weight is {stem}: it takes images of {stem[1]} channel{'s' * (stem[1] != 1)}"
        todo = "take a network that was trained on RGB images"
    elif len(stem) == 5:
        found = f"patch_embed.proj.weight is {stem}: patches of several frames"
        todo = "take a network of images; those of videos are not supported"
    else:
        found = f"patch_embed.proj.weight is {stem}"
        todo = "take a network whose patches are as high as wide; others are not supported"
    raise CheckpointError("is a vision transformer without square patches of three colours", found=found, todo=todo)


def grid_of(shapes: Mapping[str, Shape], cls: bool, registers: int) -> int:
    """Patches along a side of the square images that the table of positions is for.

    Raises:
        CheckpointError: it fits no square, with a position for the CLS token where there is one.
    """
    table = shapes.get("pos_embed")
    if table is None or len(table) < 2:
        raise CheckpointError(
            "is a vision transformer without positions",
            found="no pos_embed" if table is None else f"pos_embed is {table}",
            todo="networks that compute their positions (rotary or relative ones) are not supported; otherwise check "
            "that the file is whole",
        )
    count = table[1]
    side = root(count - cls)
    if side:
        return side
    if cls and root(count):
        what = "has a CLS token and no position for it: the positions are those of the patches alone"
        todo = "if its authors gave the CLS token none (DeiT III, timm's no_embed_class), put zeros before the others: "
        todo += "state['pos_embed'] = torch.cat([torch.zeros_like(state['cls_token']), state['pos_embed']], 1)"
        raise CheckpointError(what, found=f"pos_embed is {table}, and {count} is {root(count)}²", todo=todo)
    if not cls and root(count - 1):
        raise CheckpointError(
            "has a position for a CLS token and no CLS token",
            found=f"pos_embed is {table}, and {count} is {root(count - 1)}² + 1",
            todo="look for cls_token under another name; if its authors average the patches, save pos_embed[:, 1:]",
        )
    if registers and root(count - cls - registers):
        raise CheckpointError(
            "has positions for its registers, which the registers of DINOv2 have not",
            found=f"pos_embed is {table}, and {count} is {root(count - cls - registers)}² + {cls + registers}",
            todo="this network is not supported; DINOv2's with registers are",
        )
    raise CheckpointError(
        "has a table of positions that fits no square grid",
        found=f"pos_embed is {table} and there is {'a' if cls else 'no'} cls_token: {count - cls} is no square number",
        todo="networks for images that are not square are not supported; otherwise check that the file is whole",
    )


def root(count: int) -> int:
    """The side of a square of so many patches; 0 if they are none."""
    side = math.isqrt(max(0, count))
    return side if side**2 == count else 0
