"""MMDetection backbone files with a Swin transformer, read and written by this project.

Layout: `{"meta": {"layout", "arch", "mean", "std", "bgr_to_rgb", "norm_cfg", …}, "state_dict"}` with the names of
open-mmlab/mmdetection: mmdet/models/backbones/swin.py behind `backbone.`, without which that class loads nothing and
says nothing. It takes such a file by `init_cfg=dict(type="Pretrained", checkpoint=FILE)` with `convert_weights=False`,
and wants `norm_cfg` out of `meta` where it is not its own eps of 1e-5.

A stage ends by merging tokens, and four neighbours lie channel by channel where Swin's authors have them one after
another, the second and the third exchanged: rows of norm and columns of the reduction are permuted.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from transfer.checkpoints.backbone import Backbone
from transfer.checkpoints.carried import CARRIED, carried, carry
from transfer.checkpoints.families.swin import HEAD, Swin, swin_of
from transfer.checkpoints.formats.mmdet import described, signed
from transfer.checkpoints.formats.swin import authors_name
from transfer.checkpoints.formats.swin import timm_name as of_authors
from transfer.checkpoints.rules import (
    Extracted,
    Format,
    Match,
    Mismatch,
    Target,
    Tree,
    beside,
    needed_weights,
    separate,
)
from transfer.runtime.errors import CheckpointError
from transfer.runtime.files import save_torch

NAME = "mmdet_swin"
LAYOUT = "msbreg-transfer/mmdet-swin/1"
PREFIX = "backbone."
# Part of a name here, in this order → in MMDetection
_PARTS = (
    ("patch_embed.proj.", "patch_embed.projection."),
    (".attn.", ".attn.w_msa."),
    (".mlp.fc1.", ".ffn.layers.0.0."),
    (".mlp.fc2.", ".ffn.layers.1."),
)
_ORDER = (0, 2, 1, 3)  # of four neighbours; its own inverse


def mmdet_name(name: str) -> str:
    """`layers.1.downsample.norm.bias` → `stages.0.downsample.norm.bias`, `layers.0.blocks.0.attn.qkv.weight` →
    `stages.0.blocks.0.attn.w_msa.qkv.weight`."""
    for ours, theirs in _PARTS:
        name = name.replace(ours, theirs, 1)
    return re.sub(r"^layers\.", "stages.", authors_name(name))


def timm_name(name: str) -> str:
    """The inverse of `mmdet_name`."""
    name = of_authors(re.sub(r"^stages\.", "layers.", name))
    for ours, theirs in _PARTS:
        name = name.replace(theirs, ours, 1)
    return name


def _to_mmdet(name: str, tensor: Tensor) -> Tensor:
    """[…, 4 C], neighbour by neighbour → channel by channel."""
    if ".downsample." not in name:
        return tensor
    neighbours = tensor.reshape(*tensor.shape[:-1], 4, -1)[..., _ORDER, :]
    return neighbours.transpose(-1, -2).reshape(tensor.shape)


def _from_mmdet(name: str, tensor: Tensor) -> Tensor:
    """The inverse of `_to_mmdet`; what cannot be it is left for the check of shapes to refuse."""
    if ".downsample." not in name or not tensor.ndim or tensor.shape[-1] % 4:
        return tensor
    channels = tensor.reshape(*tensor.shape[:-1], -1, 4)
    return channels.transpose(-1, -2)[..., _ORDER, :].reshape(tensor.shape)


def recognise(tree: Tree) -> Match | Mismatch:
    """`meta` names the layout."""
    return signed(tree, LAYOUT, "Swin transformer exported for MMDetection")


def read(tree: Tree, branch: str | None) -> Extracted:
    """Back to timm's names and order."""
    named, dropped = separate(needed_weights(tree, "state_dict", NAME), PREFIX, [])
    if CARRIED not in tree:
        raise CheckpointError(
            "does not say how its pixels are normalised",
            found=f"no entry {CARRIED!r}",
            todo="write it again with `python -m transfer convert FILE --to mmdet -o OUT`",
        )
    state = {timm_name(name): _from_mmdet(name, tensor) for name, tensor in named.items()}
    return Extracted(state, dropped + beside(tree, ["state_dict"]), **carried(tree[CARRIED]))


def demand_one_window(backbone: Backbone) -> Swin:
    """The numbers of a Swin transformer that classes with one size of windows can hold.

    Raises:
        CheckpointError: its last stage has smaller ones: other classes would resize its table, or lack it.
    """
    swin = swin_of(backbone.arch)
    if len(set(swin.windows)) > 1:
        raise CheckpointError(
            f"{backbone.source.path} is a {backbone.arch}, whose windows are smaller in its last stage",
            found=f"{' '.join(map(str, swin.windows))} tokens; the library's class has one size for all stages",
            todo="choose --to timm",
        )
    return swin


def content(backbone: Backbone) -> dict[str, Any]:
    """What a backbone file holds; of `meta` see `mmdet.content`, and what mmdet's class wants beside it."""
    swin = demand_one_window(backbone)
    meta = described(backbone, LAYOUT) | {
        "norm_cfg": {"type": "LN", "eps": swin.eps},
        "embed_dims": swin.widths[0],
        "depths": list(swin.blocks),
        "num_heads": [wide // HEAD for wide in swin.widths],
        "window_size": swin.window,
    }
    with torch.no_grad():
        state = {f"{PREFIX}{mmdet_name(name)}": _to_mmdet(name, tensor) for name, tensor in backbone.state.items()}
    return {"meta": meta, "state_dict": state, CARRIED: carry(backbone)}


def write(backbone: Backbone, path: Path) -> None:
    """Write the backbone as a `.pth`, whole or not at all."""
    save_torch(content(backbone), path)


FORMAT = Format(NAME, (), recognise, read, families=("swin",), targets={"mmdet": Target(write, families=("swin",))})
