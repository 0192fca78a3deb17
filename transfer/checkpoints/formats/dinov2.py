"""DINOv2: released backbones with and without registers, and the teacher of one's own training.

Layouts (facebookresearch/dinov2: hubconf.py, dinov2/hub/backbones.py, dinov2/models/vision_transformer.py):

- released: a ViT of patches of 14 pixels, flat, with layer scale (`ls1.gamma`) and a `mask_token` that is used in
  pretraining alone; its 1 + 37² positions are for 518 pixels. `register_tokens` have no positions. The giant one has a
  SwiGLU (`mlp.w12`, `mlp.w3`; dinov2/layers/swiglu_ffn.py);
- own training: `{"teacher"}` with `backbone.`, `dino_head.` and `ibot_head.` (dinov2/train/train.py: do_test),
  positions for 224 pixels, and with FSDP chunks of blocks, whose names count twice: `blocks.0.3.` is block 3.

Positions are resized by the factor (side + 0.1) / grid without registers, and antialiased with them
(configs/eval/vit*_reg4_pretrain.yaml: interpolate_offset 0.0, interpolate_antialias true).
"""

import re

from transfer.checkpoints.declared import Network, Release, one_of, prefixed

_CHUNK = re.compile(r"blocks\.\d+\.(\d+\.)")
_MASK = {"mask_token": "stands for masked patches in pretraining, unused in evaluation"}
_HEADS = {"dino_head.": "projection head, behind the backbone", "ibot_head.": "projection head of masked patches"}


def timm_name(name: str) -> str:
    """`blocks.0.3.mlp.w12.bias` → `blocks.3.mlp.fc1.bias`."""
    name = _CHUNK.sub(r"blocks.\1", name).replace("register_tokens", "reg_token")
    return name.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2.")


def _released(title: str, registers: bool) -> Release:
    others = ("decoder_embed.", "rope_embed.", "storage_tokens")  # MAE's, DINOv3's
    needs, lacks = (("register_tokens",), ()) if registers else (("mask_token",), ("register_tokens", *others))
    return Release(
        name="dinov2",
        title=title,
        networks={"only": Network("")},
        heads=_MASK,
        needs=needs,
        lacks=lacks,
        keys=(None, "state_dict", "model"),
        markers=("blocks.0.ls1.", "blocks.0.0.ls1."),
        rename=timm_name,
        facts={"positions": "antialias" if registers else "offset"},
    )


FORMAT = one_of(
    "dinov2",
    prefixed(_released("DINOv2 with registers, released backbone", True)),
    prefixed(_released("DINOv2, released backbone", False)),
    prefixed(
        Release(
            name="dinov2",
            title="DINOv2, teacher of one's own training",
            networks={"teacher": Network("backbone.", "teacher")},
            heads=_HEADS,
            behind=_MASK,
            needs=("dino_head.",),
            keys=(),
            markers=("blocks.0.norm1.", "blocks.0.0.norm1."),
            rename=timm_name,
            facts={"positions": "offset"},
        )
    ),
)
