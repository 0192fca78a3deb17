"""Swin transformers, first version, under their authors' names.

Layout: `{"model"}`, in one's own runs with `optimizer`, `lr_scheduler`, `scaler`, `max_accuracy`, `epoch`, `config`
(microsoft/Swin-Transformer: models/swin_transformer.py, utils.py: save_checkpoint). A stage *ends* by merging tokens,
`layers.0.downsample.`, where timm's next one begins by it, `layers.1.downsample.`: read under timm's names, such a file
would have its mergings a stage too early. Indices of positions and masks of shifted windows are buffers that follow
from the windows; `head.` is the classifier. Norms have eps 1e-5.

A network alone, bare or under `state_dict`, may be iBOT's (bytedance/ibot: extract_backbone_weights.py), whose norms
have eps 1e-6, and does not say so.
"""

from __future__ import annotations

import re

from transfer.checkpoints.backbone import Lint
from transfer.checkpoints.declared import Network, Release, one_of, prefixed
from transfer.checkpoints.families.swin import SIZES
from transfer.checkpoints.rules import Format

MARKERS = ("layers.0.blocks.0.norm1.",)
NEEDS = "layers.0.downsample."  # which no file under timm's names has
_STAGES, _BLOCKS = 4, max(max(blocks) for _, blocks in SIZES.values())
BUFFERS = {
    f"layers.{stage}.blocks.{block}.{name}": reason
    for stage in range(_STAGES)
    for block in range(_BLOCKS)
    for name, reason in (
        ("attn.relative_position_index", "indices into the tables of positions, which follow from the windows"),
        ("attn_mask", "masks of shifted windows, which follow from the size of images"),
    )
}


def timm_name(name: str) -> str:
    """`layers.0.downsample.norm.bias` → `layers.1.downsample.norm.bias`."""
    return re.sub(r"^layers\.(\d+)\.downsample\.", lambda found: f"layers.{int(found[1]) + 1}.downsample.", name)


def authors_name(name: str) -> str:
    """The inverse of `timm_name`."""
    return re.sub(r"^layers\.(\d+)\.downsample\.", lambda found: f"layers.{int(found[1]) - 1}.downsample.", name)


def _layout(title: str, keys: tuple[str | None, ...], lints: tuple[Lint, ...] = ()) -> Format:
    return prefixed(
        Release(
            name="swin",
            title=title,
            networks={"only": Network("")},
            behind=dict.fromkeys(("head.weight", "head.bias"), "classifier, behind the backbone") | BUFFERS,
            needs=(NEEDS,),
            keys=keys,
            markers=MARKERS,
            families=("swin",),
            rename=timm_name,
            lints=lints,
        )
    )


_ASSUMED = Lint(
    "assumed-eps",
    "the file cannot say the eps of its norms: 1e-5 is assumed, as Swin's authors have it; iBOT and EsViT have 1e-6",
)
FORMAT = one_of(
    "swin",
    _layout("Swin transformer", ("model",)),
    _layout("Swin transformer, a network alone", (None, "state_dict"), (_ASSUMED,)),
)
