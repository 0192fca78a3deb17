"""Transformers that this project exports for Detectron2 and MMDetection."""

from __future__ import annotations

import re
from typing import Any

import torch
from checkpoint_files import State, Tree, without_fc

from releases import Release
from releases.convnets import swin_name

_SWIN, _VIT = "swin_tiny_window7_224", "vit_small_patch16_224"


def _carried(arch: str) -> dict[str, Any]:
    pixels = {"channels": "RGB", "value_range": 1.0, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    return {"input": pixels, "stride_in_1x1": False, "same_padding": False, "arch": arch}


def _detectron2(model: State, arch: str) -> Tree:
    arrays = {name: tensor.numpy() for name, tensor in model.items()}
    return {"model": arrays, "__author__": "msbreg-transfer", "transfer": _carried(arch)}


def detectron2_vit(state: State) -> Tree:
    return _detectron2({f"backbone.net.{name}": tensor for name, tensor in without_fc(state).items()}, _VIT)


def detectron2_swin_name(name: str) -> str:
    return f"backbone.bottom_up.{swin_name(name)}"


def detectron2_swin(state: State) -> Tree:
    return _detectron2({detectron2_swin_name(name): tensor for name, tensor in without_fc(state).items()}, _SWIN)


def mmdet_name(name: str) -> str:
    """By way of the authors' names, with the replacements that mmdet's own converter makes in them."""
    name = swin_name(name)
    name = re.sub(r"attn\.", "attn.w_msa.", name)
    name = re.sub(r"mlp\.fc1\.", "ffn.layers.0.0.", re.sub(r"mlp\.fc2\.", "ffn.layers.1.", name))
    name = re.sub(r"^layers", "stages", re.sub(r"patch_embed\.proj", "patch_embed.projection", name))
    return f"backbone.{name}"


def unfolded(tensor: torch.Tensor) -> torch.Tensor:
    """The last axis of a merging's norm or reduction as `nn.Unfold` orders it: a channel's four neighbours together.

    Swin's authors put one neighbour after the other: top left, bottom left, top right, bottom right. `nn.Unfold` goes
    row by row.
    """
    wide = tensor.shape[-1] // 4
    places = {"top left": 0, "bottom left": 1, "top right": 2, "bottom right": 3}
    rows = ("top left", "top right", "bottom left", "bottom right")
    order = torch.tensor([places[place] * wide + channel for channel in range(wide) for place in rows])
    return tensor[..., order]


def mmdet_swin(state: State) -> Tree:
    names = without_fc(state).items()
    network = {mmdet_name(name): unfolded(value) if ".downsample." in name else value for name, value in names}
    meta = {"layout": "msbreg-transfer/mmdet-swin/1", "arch": _SWIN, "norm_cfg": {"type": "LN", "eps": 1e-5}}
    return {"meta": meta, "state_dict": network, "transfer": _carried(_SWIN)}


RELEASES = {
    "detectron2_vit": Release(
        title="ViT for Detectron2, converted by this project",
        format="detectron2_transformer",
        build=detectron2_vit,
        place=("model",),
        key=lambda name: f"backbone.net.{name}",
        source="this project: transfer/checkpoints/formats/detectron2_transformer.py",
        container="pickle",
        archs=(_VIT,),
        real="files of this project's own conversions",
    ),
    "detectron2_swin": Release(
        title="Swin for Detectron2, converted by this project",
        format="detectron2_transformer",
        build=detectron2_swin,
        place=("model",),
        key=detectron2_swin_name,
        source="this project: transfer/checkpoints/formats/detectron2_transformer.py",
        container="pickle",
        archs=(_SWIN,),
        alone=False,
        real="files of this project's own conversions",
    ),
    "mmdet_swin": Release(
        title="Swin for MMDetection, converted by this project",
        format="mmdet_swin",
        build=mmdet_swin,
        place=("state_dict",),
        key=mmdet_name,
        source="this project: transfer/checkpoints/formats/mmdet_swin.py",
        archs=(_SWIN,),
        alone=False,
        real="files of this project's own conversions",
    ),
}
