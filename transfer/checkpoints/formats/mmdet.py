"""MMDetection backbone files, as `convert --to mmdet` writes them.

Layout: `{"meta": {"layout", "mean", "std", "bgr_to_rgb", "style", …}, "state_dict"}` with torchvision's names, which
are mmdet's own (open-mmlab/mmdetection: mmdet/models/backbones/resnet.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from reprlib import repr as brief
from typing import Any

from transfer.checkpoints.rules import (
    Extracted,
    Format,
    Match,
    Mismatch,
    Tree,
    beside,
    needed_weights,
    only_branch,
    separate,
)
from transfer.checkpoints.to_mmdet import LAYOUT
from transfer.checkpoints.unseen import CARRIED, Unseen, carried, input_from_dict
from transfer.runtime.errors import CheckpointError

NAME = "mmdet"
BRANCHES: tuple[str, ...] = ()


def _meta(tree: Tree) -> Mapping[str, Any]:
    meta = tree.get("meta")
    return meta if isinstance(meta, Mapping) else {}


def matches(tree: Tree) -> Match | Mismatch:
    """`meta` names the layout."""
    layout = _meta(tree).get("layout")
    if not isinstance(layout, str) or layout != LAYOUT:
        return Mismatch(f"no `meta` whose `layout` says {LAYOUT!r}")
    return Match("backbone exported for MMDetection")


def extract(tree: Tree, branch: str | None) -> Extracted:
    """The tensors as they are; `meta` says how pixels are normalised and where the stride sits."""
    taken = only_branch(branch, BRANCHES, NAME)
    state, dropped = separate(needed_weights(tree, "state_dict", NAME), "", [])
    meta = _meta(tree)
    unseen = carried(tree[CARRIED]) if CARRIED in tree else _from_meta(meta)
    arch = meta.get("arch")
    return Extracted(
        state,
        dropped + beside(tree, ["state_dict"]),
        taken,
        unseen.input,
        unseen.stride_in_1x1,
        unseen.same_padding,
        arch=arch if isinstance(arch, str) else None,
        notes=unseen.notes,
    )


def _from_meta(meta: Mapping[str, Any]) -> Unseen:
    style, rgb = meta.get("style"), meta.get("bgr_to_rgb")
    if not isinstance(style, str) or style not in ("pytorch", "caffe") or not isinstance(rgb, bool):
        raise CheckpointError(
            "does not say where its stride sits or in which order it takes the channels",
            found=f"style {brief(style)}, bgr_to_rgb {brief(rgb)} in `meta`",
            todo="write it again with `python -m transfer convert FILE --to mmdet -o OUT`",
        )
    order = "RGB" if rgb else "BGR"
    stated = {"channels": order, "value_range": 255.0, "mean": meta.get("mean"), "std": meta.get("std")}
    return Unseen(input_from_dict(stated), style == "caffe")


FORMAT = Format(NAME, BRANCHES, matches, extract)
