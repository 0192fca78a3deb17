"""A plain ResNet under torchvision's names, bare or under "state_dict" and the like, with or without a classifier.

Covers torchvision's own files, linear-evaluation checkpoints of MoCo v1 to v3, SimSiam and AlignUniform (prefix
`module.`), the released backbones of Barlow Twins, VICReg, VICRegL, DINO, DenseCL (WXinlong/DenseCL:
tools/extract_backbone_weights.py) and DetCo (xieenze/DetCo: benchmarks/detection/convert-pretrain-to-detectron2.py),
and what `python -m transfer convert --to torchvision` writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from transfer.checkpoints.declared import explained_names
from transfer.checkpoints.formats.simclr_tonylins import shortcut_first
from transfer.checkpoints.formats.timm import saved_by_timm
from transfer.checkpoints.rules import (
    Drop,
    Extracted,
    Format,
    Match,
    Mismatch,
    Tree,
    beside,
    has_prefix,
    only_branch,
    separate,
    weights_under,
)
from transfer.checkpoints.to_mmdet import LAYOUT
from transfer.checkpoints.unseen import CARRIED, carried

NAME = "torchvision"
BRANCHES: tuple[str, ...] = ()
WRAPPERS = ("state_dict", "model", "model_state_dict", "net", "module")
# Beginnings of names that mark the files of other formats, although their backbones have torchvision's names.
FOREIGN: tuple[str, ...] = ("prototypes.", "layer1.0.shortcut.")
# Entries beside the state dict that mark them.
FOREIGN_BESIDE = ("labels",)


def _locate(tree: Tree) -> tuple[Mapping[str, Any], str | None, str] | None:
    """(weights, wrapper key or None, prefix), or None if there is no plain ResNet in `tree`."""
    for wrapper in (None, *WRAPPERS):
        weights = tree if wrapper is None else weights_under(tree, wrapper)
        for prefix in ("", "module."):
            if weights is not None and has_prefix(weights, f"{prefix}layer1."):
                return weights, wrapper, prefix
    return None


def matches(tree: Tree) -> Match | Mismatch:
    """A name that begins with `layer1.` or `module.layer1.`, at the top or under one of `WRAPPERS`."""
    located = _locate(tree)
    if located is None:
        return Mismatch(f"no name begins with layer1. or module.layer1., at the top or under {', '.join(WRAPPERS)}")
    weights, _, prefix = located
    if foreign := next((start for start in FOREIGN if has_prefix(weights, prefix + start)), None):
        return Mismatch(f"{foreign} belongs to another format")
    if foreign := next((key for key in FOREIGN_BESIDE if located[1] and key in tree), None):
        return Mismatch(f"{foreign} beside the weights belongs to another format")
    if mark := saved_by_timm(tree):
        return Mismatch(f"`{mark}` marks a checkpoint of timm's training script")
    if shortcut_first(tree):
        return Mismatch("layer1.0.downsample. comes before its block's conv1, as in files of another format")
    meta = tree.get("meta")
    layout = meta.get("layout") if isinstance(meta, Mapping) else None
    if isinstance(layout, str) and layout == LAYOUT:
        return Mismatch(f"the layout {LAYOUT!r} in `meta` marks a file converted for MMDetection")
    return Match("plain ResNet" + (f" under {located[1]!r}" if located[1] else ""))


def extract(tree: Tree, branch: str | None) -> Extracted:
    """Drop the classifier, keep the rest."""
    taken = only_branch(branch, BRANCHES, NAME)
    weights, wrapper, prefix = _locate(tree) or (tree, None, "")
    rules = [Drop(f"{prefix}fc.", _head(weights.get(f"{prefix}fc.weight")))]
    state, dropped = separate(weights, prefix, rules)
    if wrapper is not None:
        dropped += beside(tree, [wrapper])
    # `state_dict()` hangs the version of every module on the mapping it returns. Converted files carry the
    # normalisation there too, so they stay bare state dicts that `load_state_dict` takes as they are.
    metadata = getattr(weights, "_metadata", None)
    unseen = carried(metadata.get(CARRIED) if isinstance(metadata, Mapping) else None)
    return Extracted(state, dropped, taken, unseen.input, unseen.stride_in_1x1, unseen.same_padding, notes=unseen.notes)


def _head(weight: object) -> str:
    """What `fc` is: NPID's and InsDis' networks end in 128 numbers for the memory bank, which are no classes."""
    if isinstance(weight, torch.Tensor) and weight.shape[:1] == (128,):
        return "head of 128 outputs, by its width an embedding and no classifier, behind the backbone"
    return "classifier, behind the backbone"


def explained(tree: Tree) -> int:
    """Tensors under torchvision's names, at the place that has most of them."""
    places = [tree, *filter(None, (weights_under(tree, wrapper) for wrapper in WRAPPERS))]
    return max(explained_names(weights, prefix) for weights in places for prefix in ("", "module."))


FORMAT = Format(NAME, BRANCHES, matches, extract, explained)
