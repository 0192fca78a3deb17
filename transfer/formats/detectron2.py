"""Detectron2 model files with a ResNet under Detectron2's names, as `convert --to detectron2` writes them.

Layout: `{"model": name → array, "__author__", "matching_heuristics"}` with `stem.` and `res2.`–`res5.`; the same layout
comes from facebookresearch/moco: detection/convert-pretrain-to-detectron2.py, which files the projection head under
`stem.fc.`.
"""

from __future__ import annotations

from transfer.carried import CARRIED, carried
from transfer.export.detectron2 import torchvision_name
from transfer.layout import (
    Drop,
    Extracted,
    Format,
    Match,
    Mismatch,
    Tree,
    beside,
    has_prefix,
    needed_weights,
    only_branch,
    separate,
    weights_under,
)

NAME = "detectron2"
BRANCHES: tuple[str, ...] = ()


def matches(tree: Tree) -> Match | Mismatch:
    """`model` has names that begin with `res2.`."""
    weights = weights_under(tree, "model")
    if weights is None:
        return Mismatch("no tensors under `model`")
    if not has_prefix(weights, "res2."):
        return Mismatch("no name under `model` begins with res2.")
    return Match("ResNet under Detectron2's names")


def extract(tree: Tree, branch: str | None) -> Extracted:
    """Rename to torchvision's names; a head that a converter left under the stem is dropped."""
    taken = only_branch(branch, BRANCHES, NAME)
    rules = [Drop("stem.fc.", "classifier or projection head, behind the backbone")]
    named, dropped = separate(needed_weights(tree, "model", NAME), "", rules)
    state = {torchvision_name(name): tensor for name, tensor in named.items()}
    unseen = carried(tree.get(CARRIED))
    return Extracted(
        state,
        dropped + beside(tree, ["model"]),
        taken,
        unseen.input,
        unseen.stride_in_1x1,
        unseen.same_padding,
        notes=unseen.notes,
    )


FORMAT = Format(NAME, BRANCHES, matches, extract)
