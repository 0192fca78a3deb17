"""Hugging Face transformers: ResNet, ViT (with MSN's and MAE's), DINOv2, DINOv3; models, backbones and classifiers.

Layout: a state dict, as safetensors or `pytorch_model.bin`. The classifying model writes `resnet.` before the
backbone's names and `classifier.1.` beside it, the others nothing (huggingface/transformers:
models/resnet/modeling_resnet.py). `embedder.embedder.` is the stem; stage i, layer j, sub-layer k is torchvision's
`layer{i+1}.{j}.conv{k+1}`/`bn{k+1}`, and `shortcut.` its `downsample.`.

Two properties are written in `config.json` and nowhere else: `downsample_in_bottleneck` puts a bottleneck's stride into
its first 1×1 convolution, and `downsample_in_first_stage` halves the resolution once more. Both are false by default
and in the released ResNets; a lint says so.

Vision transformers (models/vit/modeling_vit.py, models/dinov2/modeling_dinov2.py, models/dinov2_with_registers) keep
queries, keys and values apart; joined in this order they are timm's `attn.qkv`. ViTMAE's encoder lies under `vit.`
beside `decoder.`, ViTMSN's under `vit.`, whose published conversion holds the *target* encoder; I-JEPA's (models/ijepa)
has no CLS token, and its published conversion holds the *context* encoder (convert_ijepa_to_hf.py). Positions are
resized to the grid, bicubic; antialiased with registers.

Version 5 renamed the modules (`layers.N.attention.q_proj`, `mlp.gate_proj`); `save_pretrained` still writes the names
of version 4, a saved `state_dict()` has the new ones, and both are read. Its ViTMSNForImageClassification writes blocks
without the prefix that its embeddings have.

DINOv3's (models/dinov3_vit) computes the periods of its angles from config.json's rope_theta, 100 by default, and
its keys have no bias.

config.json, which `save_pretrained` writes beside the tensors, alone says the number of heads and the eps of the norms:
1e-12 is ViTConfig's default and stands in the published conversions of ViT, DINO and MAE, 1e-6 is ViTMSNConfig's and
Dinov2Config's. It is read where it lies beside the file and speaks of this network.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from reprlib import repr as brief
from typing import Any

import torch

from transfer.checkpoints.backbone import Backbone, Lint
from transfer.checkpoints.carried import CARRIED, carried, carry
from transfer.checkpoints.declared import Network, Release, one_of, prefixed
from transfer.checkpoints.families import dinov3, families
from transfer.checkpoints.formats.dinov3 import seen_images
from transfer.checkpoints.rules import Extracted, Match, Target, Tree
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
    "embeddings.distillation_token": "dist_token",  # DeiT's, which is refused
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}
_BLOCK = re.compile(r"(?:encoder\.layer|layers)\.(\d+)\.(.+?)(\.weight|\.bias|)")
_IN_BLOCK = {
    **{
        f"attention.attention.{name}": f"attn.qkv{{}}#{place}/3" for place, name in enumerate(("query", "key", "value"))
    },
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
# The modules' names in version 5, which are read and not written
_IN_BLOCK_5 = {
    **{f"attention.{name}_proj": f"attn.qkv{{}}#{place}/3" for place, name in enumerate("qkv")},
    "attention.o_proj": "attn.proj{}",
    "mlp.gate_proj": "mlp.fc1{}#0/2",
    "mlp.up_proj": "mlp.fc1{}#1/2",
    "mlp.down_proj": "mlp.fc2{}",
}


def timm_name(name: str) -> str | None:
    """`encoder.layer.3.attention.attention.key.bias` → `blocks.3.attn.qkv.bias#1/3`; None for no backbone's name."""
    found = _BLOCK.fullmatch(name)
    if found is None:
        return _TRANSFORMER.get(name)
    target = (_IN_BLOCK | _IN_BLOCK_5).get(found[2])
    return f"blocks.{int(found[1])}.{target.format(found[3])}" if target else None


def half_prefixed(name: str) -> str | None:
    """As `timm_name`, of a file that has `vit.` before some of its names."""
    return timm_name(name.removeprefix("vit."))


_DINOV3_BLOCK = re.compile(r"(?:model\.)?layer\.(\d+)\.(.+?)(?:\.(weight|bias))?")
_DINOV3 = _TRANSFORMER | {
    "embeddings.patch_embeddings.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.bias": "patch_embed.proj.bias",
    "norm.weight": "norm.weight",
    "norm.bias": "norm.bias",
}
_IN_DINOV3 = {
    "attention.q_proj.weight": "attn.qkv.weight#0/3",
    "attention.k_proj.weight": "attn.qkv.weight#1/3",
    "attention.v_proj.weight": "attn.qkv.weight#2/3",
    "attention.q_proj.bias": "attn.q_bias",
    "attention.v_proj.bias": "attn.v_bias",
    "layer_scale1.lambda1": "gamma_1",
    "layer_scale2.lambda1": "gamma_2",
    "attention.o_proj": "attn.proj",
    "norm1": "norm1",
    "norm2": "norm2",
    "mlp.gate_proj": "mlp.fc1_g",
    "mlp.up_proj": "mlp.fc1",
    "mlp.down_proj": "mlp.fc2",
}


def dinov3_name(name: str) -> str | None:
    """`layer.3.attention.v_proj.bias` → `blocks.3.attn.v_bias`; None for no backbone's name."""
    found = _DINOV3_BLOCK.fullmatch(name)
    if found is None:
        return _DINOV3.get(name)
    number, part, kind = found.groups()
    if (whole := _IN_DINOV3.get(f"{part}.{kind}" if kind else part)) is not None:
        return f"blocks.{int(number)}.{whole}"
    return f"blocks.{int(number)}.{_IN_DINOV3[part]}.{kind}" if part in _IN_DINOV3 else None


_MASK = {"embeddings.mask_token": "stands for masked patches in pretraining, unused in evaluation"}
_VIT_HEADS = {
    "classifier.": "classifier, behind the backbone",
    "decoder.": "decoder, which reconstructs pixels",
}


def _transformer(title: str, prefix: str, form: str, eps: float | None = None, **more: Any) -> Release:
    """One of transformers' ViTs: "vit", "dinov2" or "registers"; eps where it is not its configuration's default."""
    plain = form == "vit"
    usual_eps = eps or (1e-12 if plain else 1e-6)
    usual = {
        "lacks": ("embeddings.register_tokens",) if not prefix and form == "dinov2" else (),
        "markers": ("encoder.layer.0.layernorm_before.", "layers.0.layernorm_before.")
        if plain
        else ("encoder.layer.0.layer_scale1.",),
        "rename": timm_name,
    }
    return Release(
        name="huggingface",
        title=f"transformers {title}",
        networks={"only": Network(prefix)},
        heads=_VIT_HEADS,
        behind=_MASK | {"pooler.": "pooler, behind the backbone"},
        keys=(None, "state_dict"),
        outer=("",),
        families=("vit",),
        facts={"eps": usual_eps, "positions": "antialias" if form == "registers" else "size"},
        lints=(
            Lint(
                "eps",
                "only the config.json that belongs to this file says the eps of the norms (layer_norm_eps) and the "
                f"number of heads, and it does not lie beside it; taken were {usual_eps:g}, the "
                "default and what most published conversions have, and the usual heads of its size",
            ),
        ),
        **usual | more,
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
    """The names that ViTModel saves, or with layer scale Dinov2Model or Dinov2WithRegistersModel, or IJepaModel.

    IJepaModel is the one without a CLS token. The names are those of version 4, which `load_state_dict` takes there;
    version 5 renames them in `from_pretrained` alone, those of its own files, too. At other sizes than the training's,
    transformers resizes positions by its own rule.

    Raises:
        CheckpointError: transformers has no such ViT: without a final norm of all tokens, for example.
    """
    state = dict(backbone.state)
    scaled = "blocks.0.ls1.gamma" in state
    alone = "norm.weight" in state and (scaled or not ("reg_token" in state or _is_gated(state)))
    if not alone or (scaled and "cls_token" not in state):
        raise CheckpointError(
            f"{backbone.source.path} is a {backbone.arch}, and transformers has no such ViT",
            found="its ViTs have a final norm of all tokens; registers and gates come with layer scale, and that with "
            "a CLS token",
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
                inside = block[f"attn.qkv{{}}#{place}/3"]
                written[f"encoder.layer.{number}.{inside}{end}"] = each.contiguous()
        else:
            written[f"encoder.layer.{number}.{block[part + '{}']}{end}"] = tensor
    if scaled:  # these classes have one always and use it in pretraining alone
        written["embeddings.mask_token"] = torch.zeros(1, state["cls_token"].shape[2])
    return written


def _is_gated(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether the MLP has two layers side by side, of which one is the other's gate."""
    first = state.get("blocks.0.mlp.fc1.bias")
    return first is not None and len(first) != state["blocks.0.mlp.fc2.weight"].shape[1]


def _own(name: str, scaled: bool, backbone: Backbone) -> bool:
    """Whether a name is of the layout that is written: ViT's and DINOv2's differ, and so does a SwiGLU's."""
    swiglu = _is_gated(backbone.state)
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


_DINOV3_LAYOUT = prefixed(
    Release(
        name="huggingface",
        title="transformers DINOv3ViTModel",
        networks={"only": Network("")},
        behind=_MASK,
        keys=(None, "state_dict"),
        outer=("",),
        markers=tuple(
            f"{start}layer.0.{part}." for start in ("", "model.") for part in ("layer_scale1", "layer_scale2")
        ),
        families=("dinov3",),
        rename=dinov3_name,
        lints=(
            Lint(
                "periods",
                "only the config.json that belongs to this file says the periods of its angles (rope_theta) and the "
                f"number of heads, and it does not lie beside it; taken were {dinov3.BASE:g} and those of the released "
                "sizes",
            ),
        ),
    )
)
_LAYOUTS = one_of(
    "huggingface",
    prefixed(_release("transformers ResNetForImageClassification", "resnet.")),
    prefixed(_release("transformers ResNetModel", "")),
    prefixed(
        _transformer(
            "ViTMSN classifier, partly under `vit.`",
            "",
            "vit",
            needs=("vit.embeddings.",),
            markers=("encoder.layer.0.layernorm_before.",),
            rename=half_prefixed,
            eps=1e-6,
        )
    ),
    prefixed(_transformer("ViT, under `vit.`", "vit.", "vit")),
    prefixed(_transformer("ViTModel", "", "vit")),
    prefixed(_transformer("Dinov2WithRegisters, under its prefix", "dinov2_with_registers.", "registers")),
    prefixed(_transformer("DINOv2, under `dinov2.`", "dinov2.", "dinov2")),
    prefixed(_transformer("Dinov2Model", "", "dinov2")),
    prefixed(_transformer("Dinov2WithRegistersModel", "", "registers")),
    _DINOV3_LAYOUT,
)


def read(tree: Tree, branch: str | None) -> Extracted:
    """As declared; what a converted file carries beside its tensors is taken from there."""
    found = _LAYOUTS.read(tree, branch)
    metadata = getattr(tree, "_metadata", None)
    said = metadata.get(CARRIED) if isinstance(metadata, Mapping) else None
    if said is not None:
        return dataclasses.replace(found, lints=(), **carried(said))
    if isinstance(_DINOV3_LAYOUT.recognise(tree), Match):
        first = ".mlp.fc1_x." if any(".mlp.fc1_g." in name for name in found.state) else ".mlp.fc1."
        state = {name.replace(".mlp.fc1.", first): tensor for name, tensor in found.state.items()}
        state["rope.periods"] = dinov3.usual_periods(state)
        return dataclasses.replace(found, state=state, lints=(*found.lints, *seen_images(state)))
    if "pos_embed" in found.state and "cls_token" not in found.state:
        found = dataclasses.replace(found, lints=(*found.lints, _CONTEXT))
    return found


_CONTEXT = Lint(
    "branch",
    "a ViT of transformers without a CLS token is I-JEPA's, of which transformers converts the context encoder; its "
    "authors evaluate the target encoder, which their own file holds",
)
MAX_CONFIG = 2**20


def beside(found: Extracted, path: Path) -> Extracted:
    """What the config.json next to the file says of eps and heads, if its sizes are those of the tensors.

    Where that is not what would be assumed, the branch says it: the same file alone is read as another network.

    Raises:
        CheckpointError: it names another activation than GELU.
    """
    config = _config(path.with_name("config.json"))
    tokens = found.state.get("pos_embed", found.state.get("cls_token"))
    if tokens is None or found.arch is not None or not config:
        return found
    depth = sum(name.endswith(".norm1.weight") for name in found.state)
    if (config.get("hidden_size"), config.get("num_hidden_layers")) != (tokens.shape[-1], depth):
        return found
    if "rope.periods" in found.state:
        return _turned(found, config, path)
    if (act := config.get("hidden_act", "gelu")) != "gelu" and not config.get("use_swiglu_ffn"):
        raise CheckpointError(
            f"is a vision transformer whose activation is {str(act)[:40]!r}",
            found=f"{path.with_name('config.json')} says hidden_act",
            todo="only networks with GELU are built; this one would compute something else",
        )
    eps, heads = config.get("layer_norm_eps"), config.get("num_attention_heads")
    if not isinstance(eps, (int, float)) or not 0 < eps < 1 or type(heads) is not int or heads < 1:
        return found
    facts = {**found.facts, "eps": float(eps), "heads": heads}
    told = f"eps {eps:g}, {heads} heads"
    return dataclasses.replace(
        found,
        branch=found.branch if _arch(found, facts) == _arch(found, found.facts) else f"{found.branch} with {told}",
        facts=facts,
        notes=(*found.notes, f"config.json beside the file says {told}"),
        lints=tuple(lint for lint in found.lints if lint.code != "eps"),
    )


def _turned(found: Extracted, config: Mapping[str, Any], path: Path) -> Extracted:
    """DINOv3 with the heads and periods of its configuration; of what else it says, the usual alone can be built."""
    heads, theta, wide = config.get("num_attention_heads"), config.get("rope_theta"), found.state["cls_token"].shape[-1]
    usual = {"layer_norm_eps": dinov3.EPS, "hidden_act": "silu" if config.get("use_gated_mlp") else "gelu"}
    other = {name: config[name] for name in usual if config.get(name, usual[name]) != usual[name]}
    if other:
        raise CheckpointError(
            "is a DINOv3 ViT that would compute something else",
            found=f"{path.with_name('config.json')} says {brief(other)}",
            todo=f"only networks with {usual} are built",
        )
    if type(heads) is not int or heads < 1 or wide % (4 * heads) or not isinstance(theta, (int, float)) or theta <= 0:
        return found
    state = {**found.state, "rope.periods": dinov3.periods(wide // heads, theta)}
    told = f"config.json beside the file says {heads} heads, rope_theta {theta:g}"
    lints = tuple(lint for lint in found.lints if lint.code != "periods")
    return dataclasses.replace(found, state=state, notes=(*found.notes, told), lints=lints)


def _arch(found: Extracted, facts: Mapping[str, Any]) -> str:
    """What these tensors are taken for; "" if that is refused."""
    try:
        return families()["vit"].nearest({name: tuple(each.shape) for name, each in found.state.items()}, facts)
    except CheckpointError:
        return ""


def _config(path: Path) -> Mapping[str, Any]:
    """The settings that `save_pretrained` wrote; nothing if there are none that can be read."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_CONFIG)
        config = json.loads(text)
    except (OSError, ValueError, RecursionError):
        return {}
    return config if isinstance(config, Mapping) else {}


FORMAT = dataclasses.replace(
    _LAYOUTS,
    read=read,
    beside=beside,
    targets={"huggingface": Target(write, ".safetensors", families=("vit",))},
)
