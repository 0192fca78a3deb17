"""iBOT's full training checkpoints with a vision transformer or a Swin transformer.

Layout: as DINO's, `{"student", "teacher", "optimizer", "epoch", "args", "ibot_loss", "fp16_scaler"}`, with `backbone.`
and `head.` in both networks and `masked_embed` in the student's backbone (bytedance/ibot: main_ibot.py,
models/vision_transformer.py, models/head.py). Its authors evaluate the teacher of their ImageNet-1K models and the
*student* of their ImageNet-22K ones (README.md, column "T/S"). `gamma_1` and `gamma_2` are layer scales. Positions are
resized as DINO's. A Swin transformer has its authors' names (see the format swin), and norms with eps 1e-6.

Extracted backbones (evaluation/…/extract_backbone_weights.py) are plain ViTs under `state_dict`.
"""

from collections.abc import Mapping
from typing import Any

from transfer.checkpoints.declared import Network, Release, one_of, prefixed, with_entries
from transfer.checkpoints.formats import swin
from transfer.checkpoints.rules import Format


def timm_name(name: str) -> str:
    """`blocks.3.gamma_1` → `blocks.3.ls1.gamma`."""
    return name.replace(".gamma_1", ".ls1.gamma").replace(".gamma_2", ".ls2.gamma")


def _layout(title: str, behind: Mapping[str, str], **more: Any) -> Format:
    return prefixed(
        Release(
            name="ibot",
            title=title,
            networks={"teacher": Network("backbone.", "teacher"), "student": Network("backbone.", "student")},
            behind={"masked_embed": "stands for masked patches in pretraining, unused in evaluation", **behind},
            heads={
                "head.": "projection head, behind the backbone",
                "ibot_loss": "running centres of the teacher's outputs",
            },
            keys=(),
            general=-1,
            **more,
        )
    )


FORMAT = with_entries(
    one_of(
        "ibot",
        _layout(
            "iBOT, student and teacher", {}, markers=("blocks.0.norm1.",), rename=timm_name,
            facts={"positions": "offset"},
        ),
        _layout(
            "iBOT, student and teacher, Swin transformers", swin.BUFFERS, markers=swin.MARKERS, rename=swin.timm_name,
            facts={"eps": 1e-6}, families=("swin",),
        ),
    ),
    "ibot_loss",
)  # fmt: skip
