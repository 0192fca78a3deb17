"""Detectron2 model files with a ResNet under Detectron2's names, as `convert --to detectron2` writes them.

Layout: `{"model": name → array, "__author__", "matching_heuristics"}` with `stem.` and `res2.`–`res5.`; the same layout
comes from facebookresearch/moco: detection/convert-pretrain-to-detectron2.py, which files the projection head under
`stem.fc.`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
from transfer.checkpoints.to_detectron2 import torchvision_name
from transfer.checkpoints.unseen import CARRIED, carried

NAME = "detectron2"
BRANCHES: tuple[str, ...] = ()


def matches(tree: Tree) -> Match | Mismatch:
    """Names that begin with `res2.`, under `model` or at the top."""
    if not has_prefix(_weights(tree), "res2."):
        return Mismatch("no name under `model` or at the top begins with res2.")
    return Match("ResNet under Detectron2's names")


def extract(tree: Tree, branch: str | None) -> Extracted:
    """Rename to torchvision's names; a head that a converter left under the stem is dropped."""
    taken = only_branch(branch, BRANCHES, NAME)
    weights = _weights(tree)
    named, dropped = separate(weights, "", [Drop("stem.fc.", "classifier or projection head, behind the backbone")])
    state = {torchvision_name(name): tensor for name, tensor in named.items()}
    unseen = carried(tree.get(CARRIED))
    return Extracted(
        state,
        dropped + (beside(tree, ["model"]) if weights is not tree else ()),
        taken,
        unseen.input,
        unseen.stride_in_1x1,
        unseen.same_padding,
        notes=unseen.notes,
    )


def _weights(tree: Tree) -> Mapping[str, Any]:
    """What lies under `model`, or the file itself: what is left of it in safetensors."""
    under = weights_under(tree, "model")
    return tree if under is None else under


FORMAT = Format(NAME, BRANCHES, matches, extract)
