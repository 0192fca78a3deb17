"""Vision transformers as toolkits save them, under names of their own or in wrappers of their own."""

from __future__ import annotations

import re

import torch
from checkpoint_files import State, Tree, linear, mlp, slow_copy, training_state, under, width_of, without_fc

from releases import Release

S16 = "vit_small_patch16_224"
QKV = ("query", "key", "value")
VIT = {
    "norm1": "layernorm_before",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
DINOV2 = {
    "norm1": "norm1",
    "attn.proj": "attention.output.dense",
    "ls1": "layer_scale1",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "ls2": "layer_scale2",
}
OUTSIDE = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "reg_token": "embeddings.register_tokens",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}


def _split(name: str) -> tuple[str, str, str]:
    """`blocks.3.mlp.fc1.bias` → ("3", "mlp.fc1", ".bias")."""
    found = re.fullmatch(r"(?:blocks\.(\d+)\.)?(.+?)(\.weight|\.bias|\.gamma|)", name)
    assert found
    return found[1] or "", found[2], found[3]


def transformers_name(name: str, block: dict[str, str], part: str = "query") -> str:
    number, inner, end = _split(name)
    end = ".lambda1" if end == ".gamma" else end
    if not number:
        return OUTSIDE[inner] + end
    return f"encoder.layer.{number}." + (f"attention.attention.{part}" if inner == "attn.qkv" else block[inner]) + end


def transformers(state: State, block: dict[str, str]) -> State:
    found: State = {}
    for name, tensor in without_fc(state).items():
        if "attn.qkv" in name:
            parts = zip(QKV, tensor.chunk(3), strict=True)
            found |= {transformers_name(name, block, part): each.clone() for part, each in parts}
        else:
            found[transformers_name(name, block)] = tensor
    return found


def vit_model(state: State) -> Tree:
    return transformers(state, VIT) | linear("pooler.dense.", width_of(state), width_of(state))


def vit_mae(state: State) -> Tree:
    decoder = under("decoder.", linear("decoder_embed.", width_of(state), 512) | linear("decoder_pred.", 512, 768))
    return under("vit.", transformers(state, VIT)) | decoder


def dinov2_model(state: State) -> Tree:
    return transformers(state, DINOV2) | {"embeddings.mask_token": torch.tensor(0.5).expand(1, width_of(state))}


def mmpretrain_name(name: str) -> str:
    number, inner, end = _split(name)
    if not number:
        return {"patch_embed.proj": "patch_embed.projection", "norm": "ln1"}.get(inner, inner) + end
    block = {
        "norm1": "ln1",
        "norm2": "ln2",
        "mlp.fc1": "ffn.layers.0.0",
        "mlp.fc2": "ffn.layers.1",
        "ls1": "attn.gamma1",
        "ls2": "ffn.gamma2",
    }
    return f"layers.{number}.{block.get(inner, inner)}" + (".weight" if end == ".gamma" else end)


def mmpretrain(state: State) -> Tree:
    encoder = {mmpretrain_name(name): tensor for name, tensor in without_fc(state).items()}
    head = linear("head.layers.head.", width_of(state), 1000)
    return {"meta": {"mmpretrain_version": "1.2.0"}, "state_dict": under("backbone.", encoder) | head}


def torchvision_name(name: str) -> str:
    number, inner, end = _split(name)
    if not number:
        outside = {"cls_token": "class_token", "pos_embed": "encoder.pos_embedding", "norm": "encoder.ln"}
        return (outside | {"patch_embed.proj": "conv_proj"})[inner] + end
    block = {"norm1": "ln_1", "norm2": "ln_2", "mlp.fc1": "mlp.0", "mlp.fc2": "mlp.3"}
    block |= {"attn.proj": "self_attention.out_proj"}
    if inner == "attn.qkv":
        return f"encoder.layers.encoder_layer_{number}.self_attention.in_proj_{end.removeprefix('.')}"
    return f"encoder.layers.encoder_layer_{number}.{block[inner]}{end}"


def torchvision_vit(state: State) -> Tree:
    encoder = {torchvision_name(name): tensor for name, tensor in without_fc(state).items()}
    return encoder | linear("heads.head.", width_of(state), 1000)


def solo_learn(state: State) -> Tree:
    encoder = without_fc(state)
    momentum = under("momentum_backbone.", slow_copy(encoder))
    head = mlp("head.mlp.", width_of(state), 2048, 256) | mlp("momentum_head.mlp.", width_of(state), 2048, 256)
    return {"state_dict": under("backbone.", encoder) | momentum | head | linear("classifier.", width_of(state), 1000)}


def lightly_dino(state: State) -> Tree:
    encoder, mask = without_fc(state), {"backbone.mask_token": torch.tensor(0.5).expand(1, 1, width_of(state))}
    student = under("student_backbone.vit.", slow_copy(encoder))
    return {"state_dict": under("backbone.vit.", encoder) | student | mask, **training_state(state)}


def lightly_mae(state: State) -> Tree:
    decoder = linear("decoder.decoder_embed.", width_of(state), 512)
    head = linear("online_classifier.classification_head.", width_of(state), 1000)
    return {"state_dict": under("backbone.vit.", without_fc(state)) | decoder | head, **training_state(state)}


def vissl(state: State) -> Tree:
    masked = {"masked_embed": torch.tensor(0.5).expand(1, width_of(state))}
    model = {"trunk": without_fc(state) | masked, "heads": linear("0.clf.", width_of(state), 1000), "meta": {}}
    return {
        "phase_idx": 3,
        "iteration": 9,
        "loss": {"center": torch.tensor(0.5).expand(1, 65536)},
        "classy_state_dict": {"base_model": {"model": model, "meta": {}}, "train": True},
        "type": "checkpoint",
    }


def _release(title, form, build, place, key, source, **more) -> Release:
    return Release(title, form, build, place, key, source, **{"archs": (S16,), "counters": False} | more)


def _parts(prefix: str, block: dict[str, str]):
    """Keys and values, behind the queries."""

    def keys(name: str) -> tuple[str, ...]:
        inside = "attn.qkv" in name
        return tuple(prefix + transformers_name(name, block, part) for part in QKV[1:]) if inside else ()

    return keys


HF = "huggingface/transformers: models/vit/modeling_vit.py, models/vit_mae, models/dinov2"
RELEASES = {
    "transformers_vit": _release(
        "transformers, ViT", "huggingface", vit_model, (), lambda name: transformers_name(name, VIT), HF,
        parts=_parts("", VIT),
        archs=(f"{S16}.eps1e-12", "vit_base_patch16_224.eps1e-12"), container="safetensors", lints=("eps",),
    ),
    "transformers_vit_mae": _release(
        "transformers, ViTMAE", "huggingface", vit_mae, (), lambda name: "vit." + transformers_name(name, VIT), HF,
        parts=_parts("vit.", VIT),
        archs=(f"{S16}.eps1e-12",), lints=("eps",),
    ),
    "transformers_dinov2": _release(
        "transformers, DINOv2", "huggingface", dinov2_model, (), lambda name: transformers_name(name, DINOV2), HF,
        parts=_parts("", DINOV2),
        archs=("vit_small_patch14_518.ls",), lints=("eps",),
    ),
    "transformers_dinov2_registers": _release(
        "transformers, DINOv2 with registers", "huggingface", dinov2_model, (),
        lambda name: transformers_name(name, DINOV2), HF,
        parts=_parts("", DINOV2), archs=("vit_small_patch14_518.reg4.ls.antialias",),
    ),
    "mmpretrain_vit": _release(
        "MMPretrain, ViT", "mmselfsup", mmpretrain, ("state_dict",), lambda name: "backbone." + mmpretrain_name(name),
        "open-mmlab/mmpretrain: mmpretrain/models/backbones/vision_transformer.py", archs=(S16, f"{S16}.ls"),
        lints=("classifier",),
    ),
    "torchvision_vit": _release(
        "torchvision, ViT", "torchvision_vit", torchvision_vit, (), torchvision_name,
        "pytorch/vision: torchvision/models/vision_transformer.py",
        archs=(f"{S16}.corners", "vit_base_patch32_224.corners"),
    ),
    "solo_learn_vit": _release(
        "solo-learn, ViT", "solo_learn", solo_learn, ("state_dict",), "backbone.{}".format,
        "vturrisi/solo-learn: solo/backbones/vit, solo/methods", archs=(f"{S16}.antialias",), branch="online",
        others=("momentum",),
    ),
    "solo_learn_swin": _release(
        "solo-learn, Swin", "solo_learn", solo_learn, ("state_dict",), "backbone.{}".format,
        "vturrisi/solo-learn: solo/backbones/swin", archs=("swin_tiny_window7_224",), branch="online",
        others=("momentum",),
    ),
    "solo_learn_convnext": _release(
        "solo-learn, ConvNeXt", "solo_learn", solo_learn, ("state_dict",), "backbone.{}".format,
        "vturrisi/solo-learn: solo/backbones/convnext", archs=("convnext_tiny",), branch="online",
        others=("momentum",),
    ),
    "lightly_vit_dino": _release(
        "lightly, DINO with a ViT", "lightly", lightly_dino, ("state_dict",), "backbone.vit.{}".format,
        "lightly-ai/lightly: benchmarks/imagenet/vitb16/dino.py", archs=(f"{S16}.antialias",), branch="teacher",
        others=("student",),
    ),
    "lightly_vit_mae": _release(
        "lightly, MAE", "lightly", lightly_mae, ("state_dict",), "backbone.vit.{}".format,
        "lightly-ai/lightly: benchmarks/imagenet/vitb16/mae.py", archs=(f"{S16}.antialias",),
    ),
    "vissl_vit": _release(
        "VISSL, ViT", "vissl", vissl, ("classy_state_dict", "base_model", "model", "trunk"), "{}".format,
        "facebookresearch/vissl: vissl/models/trunks/vision_transformer.py", archs=(f"{S16}.offset",), branch="online",
    ),
}  # fmt: skip
