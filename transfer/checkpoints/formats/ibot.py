"""iBOT's full training checkpoints with a vision transformer.

Layout: as DINO's, `{"student", "teacher", "optimizer", "epoch", "args", "ibot_loss", "fp16_scaler"}`, with `backbone.`
and `head.` in both networks and `masked_embed` in the student's backbone (bytedance/ibot: main_ibot.py,
models/vision_transformer.py, models/head.py). Its authors evaluate the teacher of their ImageNet-1K models and the
*student* of their ImageNet-22K ones (README.md, column "T/S"). `gamma_1` and `gamma_2` are layer scales. Positions are
resized as DINO's.

Extracted backbones (evaluation/…/extract_backbone_weights.py) are plain ViTs under `state_dict`.
"""

from transfer.checkpoints.declared import Network, Release, prefixed, with_entries


def timm_name(name: str) -> str:
    """`blocks.3.gamma_1` → `blocks.3.ls1.gamma`."""
    return name.replace(".gamma_1", ".ls1.gamma").replace(".gamma_2", ".ls2.gamma")


FORMAT = with_entries(
    prefixed(
        Release(
            name="ibot",
            title="iBOT, student and teacher",
            networks={"teacher": Network("backbone.", "teacher"), "student": Network("backbone.", "student")},
            behind={"masked_embed": "stands for masked patches in pretraining, unused in evaluation"},
            heads={
                "head.": "projection head, behind the backbone",
                "ibot_loss": "running centres of the teacher's outputs",
            },
            keys=(),
            markers=("blocks.0.norm1.",),
            rename=timm_name,
            facts={"positions": "offset"},
            general=-1,
        )
    ),
    "ibot_loss",
)
