"""Hugging Face transformers: ResNet, ViT (with MSN's and MAE's) and DINOv2, as models, backbones and classifiers.

Layout: a state dict, as safetensors or `pytorch_model.bin`. The classifying model writes `resnet.` before the
backbone's names and `classifier.1.` beside it, the others nothing (huggingface/transformers:
models/resnet/modeling_resnet.py). `embedder.embedder.` is the stem; stage i, layer j, sub-layer k is torchvision's
`layer{i+1}.{j}.conv{k+1}`/`bn{k+1}`, and `shortcut.` its `downsample.`.

Two properties are written in `config.json` and nowhere else: `downsample_in_bottleneck` puts a bottleneck's stride into
its first 1×1 convolution, and `downsample_in_first_stage` halves the resolution once more. Both are false by default
and in the released ResNets; a lint says so.

Vision transformers (models/vit/modeling_vit.py, models/dinov2/modeling_dinov2.py, models/dinov2_with_registers) keep
queries, keys and values apart; joined in this order they are timm's `attn.qkv`. Their config.json alone says the eps of
the norms and the number of heads: 1e-12 is ViTConfig's default and stands in the published conversions of ViT, DINO,
MAE and MSN, 1e-6 is Dinov2Config's. ViTMAE's encoder lies under `vit.` beside `decoder.`, ViTMSN's under `vit.`, whose
published conversion holds the *target* encoder. Positions are resized to the grid, bicubic; antialiased with registers.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from transfer.checkpoints.backbone import Backbone, Lint
from transfer.checkpoints.carried import CARRIED, carried, carry
from transfer.checkpoints.declared import Network, Release, one_of, prefixed
from transfer.checkpoints.rules import Extracted, Target, Tree
from transfer.checkpoints.safetensors_files import write_safetensors
from transfer.runtime.errors import CheckpointError
from transfer.runtime.files import write_atomically

_PARTS = {"convolution": "conv", "normalization": "bn"}
_SHORTCUT = {"convolution": "downsample.0", "normalization": "downsample.1"}
_LAYER = re.compile(r"encoder\.stages\.([0-3])\.layers\.(\d+)\.(?:layer\.([0-2])|shortcut)\.(\w+)\.(\w+)")
_STEM = re.compile(r"embedder\.embedder\.(\w+)\.(\w+)")


def torchvision_name(name: str) -> str | None:
    """`encoder.stages.0.layers.2.layer.1.normalization.bias` → `layer1.2.bn2.bias`; None for no backbone's name."""
    if stem := _STEM.fullmatch(name):
        part = _PARTS.get(stem[1])
        return f"{part}1.{stem[2]}" if part else None
    found = _LAYER.fullmatch(name)
    if not found or found[4] not in _PARTS:
        return None
    stage, block, place, part, kind = found.groups()
    where = f"layer{int(stage) + 1}.{int(block)}"
    if place is None:
        return f"{where}.{_SHORTCUT[part]}.{kind}"
    return f"{where}.{_PARTS[part]}{int(place) + 1}.{kind}"


_TRANSFORMER = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.register_tokens": "reg_token",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}
_BLOCK = re.compile(r"encoder\.layer\.(\d+)\.(.+?)(\.weight|\.bias|)")
_IN_BLOCK = {
    **{f"attention.attention.{name}": f"attn.qkv{{}}#{place}" for place, name in enumerate(("query", "key", "value"))},
    "attention.output.dense": "attn.proj{}",
    "layernorm_before": "norm1{}",
    "layernorm_after": "norm2{}",
    "intermediate.dense": "mlp.fc1{}",
    "output.dense": "mlp.fc2{}",
    "norm1": "norm1{}",
    "norm2": "norm2{}",
    "layer_scale1.lambda1": "ls1.gamma{}",
    "layer_scale2.lambda1": "ls2.gamma{}",
    "mlp.fc1": "mlp.fc1{}",
    "mlp.fc2": "mlp.fc2{}",
    "mlp.weights_in": "mlp.fc1{}",
    "mlp.weights_out": "mlp.fc2{}",
}


def timm_name(name: str) -> str | None:
    """`encoder.layer.3.attention.attention.key.bias` → `blocks.3.attn.qkv.bias#1`; None for no backbone's name."""
    found = _BLOCK.fullmatch(name)
    if found is None:
        return _TRANSFORMER.get(name)
    target = _IN_BLOCK.get(found[2])
    return f"blocks.{int(found[1])}.{target.format(found[3])}" if target else None


_MASK = {"embeddings.mask_token": "stands for masked patches in pretraining, unused in evaluation"}
_VIT_HEADS = {
    "classifier.": "classifier, behind the backbone",
    "decoder.": "decoder, which reconstructs pixels",
}


def _transformer(title: str, prefix: str, form: str) -> Release:
    """One of transformers' ViTs: "vit", "dinov2" or "registers"."""
    plain = form == "vit"
    return Release(
        name="huggingface",
        title=f"transformers {title}",
        networks={"only": Network(prefix)},
        heads=_VIT_HEADS,
        behind=_MASK | {"pooler.": "pooler, behind the backbone"},
        keys=(None, "state_dict"),
        outer=("",),
        lacks=("embeddings.register_tokens",) if not prefix and form == "dinov2" else (),
        families=("vit",),
        markers=("encoder.layer.0.layernorm_before.",) if plain else ("encoder.layer.0.layer_scale1.",),
        rename=timm_name,
        facts={"eps": 1e-12 if plain else 1e-6, "positions": "antialias" if form == "registers" else "size"},
        lints=(
            Lint(
                "eps",
                "only the config.json that belongs to this file says the eps of the norms (layer_norm_eps) and the "
                f"number of heads; taken were {'1e-12' if plain else '1e-6'}, the default and what published "
                "conversions have, and the usual heads of its size",
            ),
        ),
    )


def _release(title: str, prefix: str) -> Release:
    return Release(
        name="huggingface",
        title=title,
        networks={"only": Network(prefix)},
        heads={"classifier.": "classifier, behind the backbone"},
        keys=(None, "state_dict"),
        outer=("",),
        markers=("encoder.stages.0.layers.",),
        rename=torchvision_name,
        lints=(
            Lint(
                "downsample-in-bottleneck",
                "only the config.json that belongs to this file says where strides sit; they were taken to sit where "
                "they do by default. If it says `downsample_in_bottleneck` or `downsample_in_first_stage` true, "
                "do not use these weights",
            ),
        ),
    )


def to_transformers(backbone: Backbone) -> dict[str, torch.Tensor]:
    """The names of ViTModel, or with layer scale of Dinov2Model or Dinov2WithRegistersModel, for `load_state_dict`.

    Raises:
        CheckpointError: transformers has no such ViT: without a CLS token or a final norm of all tokens.
    """
    state = dict(backbone.state)
    scaled = "blocks.0.ls1.gamma" in state
    if "cls_token" not in state or "norm.weight" not in state or ("reg_token" in state and not scaled):
        raise CheckpointError(
            f"{backbone.source.path} is a {backbone.arch}, and transformers has no such ViT",
            found="its ViTs have a CLS token and a final norm of all tokens; registers come with layer scale alone",
            todo="convert it to timm or safetensors",
        )
    block = {target: name for name, target in _IN_BLOCK.items() if _own(name, scaled, backbone)}
    embeddings = {target: name for name, target in _TRANSFORMER.items()}
    written: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if not name.startswith("blocks."):
            written[embeddings[name]] = tensor
            continue
        _, number, inner = name.split(".", 2)
        part, end = (
            (inner, "") if inner.endswith("gamma") else (inner.rpartition(".")[0], "." + inner.rpartition(".")[2])
        )
        if part == "attn.qkv":
            for place, each in enumerate(tensor.chunk(3)):
                inside = block[f"attn.qkv{{}}#{place}"]
                written[f"encoder.layer.{number}.{inside}{end}"] = each.contiguous()
        else:
            written[f"encoder.layer.{number}.{block[part + '{}']}{end}"] = tensor
    return written


def _own(name: str, scaled: bool, backbone: Backbone) -> bool:
    """Whether a name is of the layout that is written: ViT's and DINOv2's differ, and so does a SwiGLU's."""
    swiglu = "blocks.0.mlp.fc1.bias" in backbone.state and (
        backbone.state["blocks.0.mlp.fc1.bias"].shape[0] != backbone.state["blocks.0.mlp.fc2.weight"].shape[1]
    )
    if name in ("layernorm_before", "layernorm_after", "intermediate.dense", "output.dense"):
        return not scaled
    if name in ("mlp.weights_in", "mlp.weights_out"):
        return scaled and swiglu
    if name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
        return scaled and not (swiglu and name.startswith("mlp"))
    return True


def write(backbone: Backbone, path: Path) -> None:
    """Write transformers' names as safetensors, whole or not at all; no config.json, which its class is made from."""
    state, metadata = to_transformers(backbone), {CARRIED: json.dumps(carry(backbone))}
    write_atomically(path, lambda file: write_safetensors(state, metadata, file))


_LAYOUTS = one_of(
    "huggingface",
    prefixed(_release("transformers ResNetForImageClassification", "resnet.")),
    prefixed(_release("transformers ResNetModel", "")),
    prefixed(_transformer("ViT, under `vit.`", "vit.", "vit")),
    prefixed(_transformer("ViTModel", "", "vit")),
    prefixed(_transformer("Dinov2WithRegisters, under its prefix", "dinov2_with_registers.", "registers")),
    prefixed(_transformer("DINOv2, under `dinov2.`", "dinov2.", "dinov2")),
    prefixed(_transformer("Dinov2Model", "", "dinov2")),
    prefixed(_transformer("Dinov2WithRegistersModel", "", "registers")),
)


def read(tree: Tree, branch: str | None) -> Extracted:
    """As declared; what a converted file carries beside its tensors is taken from there."""
    found = _LAYOUTS.read(tree, branch)
    metadata = getattr(tree, "_metadata", None)
    said = metadata.get(CARRIED) if isinstance(metadata, Mapping) else None
    return found if said is None else dataclasses.replace(found, lints=(), **carried(said))


FORMAT = dataclasses.replace(
    _LAYOUTS, read=read, targets={"huggingface": Target(write, ".safetensors", families=("vit",))}
)
