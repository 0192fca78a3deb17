"""DINOv3's released vision transformers."""

from __future__ import annotations

import re

import torch
from checkpoint_files import State, Tree, filled, without_fc

from releases import Release
from transfer.checkpoints.families.dinov3 import periods

_SOURCE = (
    "facebookresearch/dinov3: hubconf.py, dinov3/models/vision_transformer.py, dinov3/layers/{attention,ffn_layers}.py"
)


def name_in_dinov3(name: str) -> str:
    """timm's name → that of DINOv3's authors; the biases of queries and values are parts of one tensor there."""
    name = re.sub(r"^reg_token$", "storage_tokens", re.sub(r"^rope\.", "rope_embed.", name))
    name = re.sub(r"\.gamma_([12])$", r".ls\1.gamma", re.sub(r"\.attn\.[qv]_bias$", ".attn.qkv.bias", name))
    for theirs, ours in (("w1", "fc1_g"), ("w2", "fc1_x")):
        name = name.replace(f".mlp.{ours}.", f".mlp.{theirs}.")
    return name


def released(state: State, keys: float = 7.0) -> Tree:
    """`keys`: the bias of keys, which the mask leaves out."""
    found: Tree = {"mask_token": filled(1, state["cls_token"].shape[-1])}
    gated = any(".mlp.fc1_g." in name for name in state)
    for name, tensor in without_fc(state).items():
        theirs = name_in_dinov3(name)
        if name.endswith(".attn.v_bias"):
            continue
        if name.endswith(".attn.q_bias"):
            value = state[name.replace("q_bias", "v_bias")]
            found[theirs] = torch.cat([tensor, torch.full_like(tensor, keys), value])
            ones = torch.ones(tensor.shape)
            found[f"{theirs}_mask"] = torch.cat([ones, torch.zeros(tensor.shape), ones])
            continue
        found[theirs.replace(".mlp.fc2.", ".mlp.w3.") if gated else theirs] = tensor
    return found


IN_TRANSFORMERS = {
    "cls_token": "embeddings.cls_token",
    "reg_token": "embeddings.register_tokens",
    "patch_embed.proj": "embeddings.patch_embeddings",
    "attn.q_bias": "attention.q_proj.bias",
    "attn.v_bias": "attention.v_proj.bias",
    "attn.qkv.weight": "attention.q_proj.weight",
    "attn.proj": "attention.o_proj",
    "gamma_1": "layer_scale1.lambda1",
    "gamma_2": "layer_scale2.lambda1",
    "mlp.fc1_g": "mlp.gate_proj",
    "mlp.fc1_x": "mlp.up_proj",
    "mlp.fc1": "mlp.up_proj",
    "mlp.fc2": "mlp.down_proj",
}


def name_in_transformers(name: str) -> str:
    """timm's name → that of DINOv3ViTModel, of which queries come first where three are one."""
    found = re.fullmatch(r"(blocks\.\d+\.)?(.+?)(\.weight|\.bias|)", name)
    block, inner, kind = found[1] or "", found[2], found[3]
    whole = IN_TRANSFORMERS.get(inner + kind) or IN_TRANSFORMERS.get(inner, inner) + kind
    return block.replace("blocks.", "layer.") + whole


def transformers(state: State) -> Tree:
    found: Tree = {"embeddings.mask_token": filled(1, 1, state["cls_token"].shape[-1])}
    for name, tensor in without_fc(state).items():
        theirs = name_in_transformers(name)
        if name.endswith("attn.qkv.weight"):
            for part, each in zip("qkv", tensor.chunk(3), strict=True):
                found[theirs.replace("q_proj", f"{part}_proj")] = each.clone()
        elif name != "rope.periods":
            found[theirs] = tensor
    return found


def without_periods(state: State) -> Tree:
    return {name: tensor for name, tensor in without_fc(state).items() if name != "rope.periods"}


def keys_and_values(name: str) -> tuple[str, ...]:
    theirs = name_in_transformers(name)
    return tuple(theirs.replace("q_proj", f"{part}_proj") for part in "kv") if "attn.qkv" in name else ()


def gated_key(name: str) -> str:
    return name_in_dinov3(name).replace(".mlp.fc2.", ".mlp.w3.")


RELEASES = {
    "dinov3": Release(
        title="DINOv3, released backbone of a ViT",
        format="dinov3",
        build=released,
        place=(),
        key=name_in_dinov3,
        source=_SOURCE,
        counters=False,
        derived=lambda name: name.endswith(".attn.v_bias"),
        archs=("dinov3_384x2_patch16", "dinov3_small_patch16", "dinov3_base_patch16"),
    ),
    "dinov3_gated": Release(
        title="DINOv3, released backbone with a gated MLP",
        format="dinov3",
        build=released,
        place=(),
        key=gated_key,
        source=_SOURCE,
        counters=False,
        derived=lambda name: name.endswith(".attn.v_bias"),
        archs=("dinov3_384x2_patch16.swiglu", "dinov3_small_patch16.swiglu"),
    ),
    "transformers_dinov3": Release(
        title="transformers, DINOv3",
        format="huggingface",
        build=transformers,
        place=(),
        key=name_in_transformers,
        source="huggingface/transformers: models/dinov3_vit/modeling_dinov3_vit.py",
        counters=False,
        archs=("dinov3_384x2_patch16", "dinov3_small_patch16.swiglu"),
        parts=keys_and_values,
        reads=lambda state: state | {"rope.periods": periods(64)},
        derived=lambda name: name == "rope.periods",
        lints=("periods",),
        container="safetensors",
    ),
    "timm_dinov3": Release(
        title="timm, DINOv3",
        format="plain",
        build=without_periods,
        place=(),
        key=str,
        reads=lambda state: state | {"rope.periods": periods(64)},
        derived=lambda name: name == "rope.periods",
        source="huggingface/pytorch-image-models: timm/models/eva.py",
        counters=False,
        archs=("dinov3_384x2_patch16",),
    ),
}
