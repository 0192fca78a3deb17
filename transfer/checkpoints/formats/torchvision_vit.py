"""torchvision's vision transformers.

Layout: a state dict, bare or under `model` (references/classification/train.py): `class_token`, `conv_proj.`,
`encoder.pos_embedding`, `encoder.layers.encoder_layer_N.` with `ln_1`, `self_attention.in_proj_weight` (queries, keys,
values, as timm's `attn.qkv`), `self_attention.out_proj`, `ln_2`, `mlp.0` and `mlp.3` (`mlp.linear_1`, `mlp.linear_2`
before version 2), `encoder.ln`, `heads.head` (pytorch/vision: torchvision/models/vision_transformer.py). eps is 1e-6.
Positions are resized with corners on corners, bicubic (interpolate_embeddings, which does it when weights are loaded).
"""

import re

from transfer.checkpoints.declared import Network, Release, prefixed

_NAMES = {
    "class_token": "cls_token",
    "encoder.pos_embedding": "pos_embed",
    "conv_proj.weight": "patch_embed.proj.weight",
    "conv_proj.bias": "patch_embed.proj.bias",
    "encoder.ln.weight": "norm.weight",
    "encoder.ln.bias": "norm.bias",
}
_BLOCK = re.compile(r"encoder\.layers\.encoder_layer_(\d+)\.(.+)[._](weight|bias)")
_IN_BLOCK = {
    "ln_1": "norm1",
    "ln_2": "norm2",
    "self_attention.in_proj": "attn.qkv",
    "self_attention.out_proj": "attn.proj",
    "mlp.0": "mlp.fc1",
    "mlp.3": "mlp.fc2",
    "mlp.linear_1": "mlp.fc1",
    "mlp.linear_2": "mlp.fc2",
}


def timm_name(name: str) -> str | None:
    """`encoder.layers.encoder_layer_3.self_attention.in_proj_weight` → `blocks.3.attn.qkv.weight`."""
    found = _BLOCK.fullmatch(name)
    if found is None:
        return _NAMES.get(name)
    target = _IN_BLOCK.get(found[2])
    return f"blocks.{int(found[1])}.{target}.{found[3]}" if target else None


FORMAT = prefixed(
    Release(
        name="torchvision_vit",
        title="torchvision's ViT",
        networks={"only": Network("")},
        heads={"heads.": "classifier, behind the backbone"},
        keys=(None, "state_dict", "model"),
        families=("vit",),
        markers=("encoder.layers.encoder_layer_0.ln_1.",),
        rename=timm_name,
        facts={"positions": "corners"},
    )
)
