"""MMDetection backbone files, read and written: torchvision's names beside what the weights expect.

Layout: `{"meta": {"layout", "arch", "mean", "std", "bgr_to_rgb", "style", …}, "state_dict"}` with torchvision's names,
which are mmdet's own (open-mmlab/mmdetection: mmdet/models/backbones/resnet.py). mmdet takes such a file by
`init_cfg=dict(type="Pretrained", checkpoint=FILE)`, without a prefix, in the backbone and, for C4 models, once more in
`roi_head.shared_head`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from reprlib import repr as brief
from typing import Any

from transfer.checkpoints.backbone import Backbone
from transfer.checkpoints.carried import CARRIED, carried, carry, input_from_dict
from transfer.checkpoints.rules import (
    Extracted,
    Format,
    Match,
    Mismatch,
    Target,
    Tree,
    beside,
    needed_weights,
    separate,
)
from transfer.runtime.errors import CheckpointError
from transfer.runtime.files import save_torch

NAME = "mmdet"
LAYOUT = "msbreg-transfer/mmdet/1"


def _meta(tree: Tree) -> Mapping[str, Any]:
    meta = tree.get("meta")
    return meta if isinstance(meta, Mapping) else {}


def signed(tree: Tree, layout: str, what: str) -> Match | Mismatch:
    """Whether `meta` names the layout."""
    said = _meta(tree).get("layout")
    if not isinstance(said, str) or said != layout:
        return Mismatch(f"no `meta` whose `layout` says {layout!r}")
    return Match(what)


def recognise(tree: Tree) -> Match | Mismatch:
    """`meta` names the layout."""
    return signed(tree, LAYOUT, "backbone exported for MMDetection")


def read(tree: Tree, branch: str | None) -> Extracted:
    """The tensors as they are; `meta` says how pixels are normalised and where the stride sits."""
    state, dropped = separate(needed_weights(tree, "state_dict", NAME), "", [])
    meta = _meta(tree)
    facts = carried(tree[CARRIED]) if CARRIED in tree else _from_meta(meta)
    arch = meta.get("arch")
    named = arch if isinstance(arch, str) else None
    return Extracted(state, dropped + beside(tree, ["state_dict"]), arch=named, **facts)


def _from_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    style, rgb = meta.get("style"), meta.get("bgr_to_rgb")
    if not isinstance(style, str) or style not in ("pytorch", "caffe") or not isinstance(rgb, bool):
        raise CheckpointError(
            "does not say where its stride sits or in which order it takes the channels",
            found=f"style {brief(style)}, bgr_to_rgb {brief(rgb)} in `meta`",
            todo="write it again with `python -m transfer convert FILE --to mmdet -o OUT`",
        )
    order = "RGB" if rgb else "BGR"
    stated = {"channels": order, "value_range": 255.0, "mean": meta.get("mean"), "std": meta.get("std")}
    return {"input": input_from_dict(stated), "stride_in_1x1": style == "caffe"}


def content(backbone: Backbone) -> dict[str, Any]:
    """What a backbone file holds; the tensors are the backbone's own.

    Returns:
        `state_dict`: torchvision name → tensor, nothing else in it.
        `meta`: plain values. `mean` and `std` are for pixels in 0–255 in the order that the network sees, to be copied
        into the model's `data_preprocessor` together with `bgr_to_rgb`; `style` goes into the backbone.
        `transfer`: see `carry`.
    """
    meta = described(backbone, LAYOUT) | {"style": style_of(backbone)}
    return {"meta": meta, "state_dict": dict(backbone.state), CARRIED: carry(backbone)}


def described(backbone: Backbone, layout: str) -> dict[str, Any]:
    """What `meta` says of any backbone."""
    mean, std = backbone.input.in_255()
    return {
        "layout": layout,
        "arch": backbone.arch,
        "mean": mean,
        "std": std,
        "bgr_to_rgb": backbone.input.channels == "RGB",
        "source_path": backbone.source.path,
        "source_sha256": backbone.source.sha256,
        "source_format": backbone.source.format,
        "source_branch": backbone.source.branch,
    }


def style_of(backbone: Backbone) -> str:
    """mmdet's word for where a bottleneck strides: "pytorch" in its 3×3 convolution, "caffe" in its first 1×1."""
    return "caffe" if backbone.stride_in_1x1 else "pytorch"


def write(backbone: Backbone, path: Path) -> None:
    """Write the backbone as a `.pth`, whole or not at all."""
    save_torch(content(backbone), path)


FORMAT = Format(NAME, (), recognise, read, targets={"mmdet": Target(write)})
