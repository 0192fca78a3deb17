"""Detectors trained by Detectron2: the ResNet inside a Faster, Mask or Keypoint R-CNN, a RetinaNet or a panoptic FPN.

Layout: `{"model", "optimizer", "scheduler", "iteration"}` (`model_final.pth`), or `{"model", "__author__"}` with numpy
arrays (its model zoo's `.pkl`). With FPN, the ResNet is `backbone.bottom_up.` (`stem.`, `res2.`–`res5.`) and
`backbone.fpn_…`, `backbone.top_block.` are the neck; in a C4 detector `backbone.` ends with res4 and the fifth stage is
`roi_heads.res5.`; in a dilated one (DC5) all stages are `backbone.`. MoCo's recipe puts one more norm behind that fifth
stage, `roi_heads.res5.norm.`. The RPN is `proposal_generator.`, the rest `roi_heads.`, `head.` and `sem_seg_head.`
(facebookresearch/detectron2: detectron2/modeling, detectron2/checkpoint/detection_checkpoint.py).

Only files written between April 2020 and February 2021 hold `pixel_mean` and `pixel_std`; the order of the channels is
read from them, since ImageNet's mean of blue is the least and that of red the greatest. Nothing says where the strides
sit. What is assumed is told by a lint: for undivided BGR, Detectron2's default that goes with MSRA's weights, and the
stride in the 1×1 convolution; for everything else, torchvision's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from transfer.checkpoints.backbone import InputSpec, Lint
from transfer.checkpoints.carried import input_from_dict
from transfer.checkpoints.declared import renamed
from transfer.checkpoints.formats.detectron2 import torchvision_name
from transfer.checkpoints.rules import (
    Drop,
    Extracted,
    Format,
    Match,
    Mismatch,
    Tree,
    beside,
    has_prefix,
    separate,
    weights_under,
)
from transfer.runtime.errors import CheckpointError

NAME = "detectron2_detector"
_FPN, _PLAIN, _FIFTH = "backbone.bottom_up.", "backbone.", "roi_heads.res5."
_ZOO = "Detectron2 Model Zoo"
_HEAD = "detection head, behind the backbone"
_RULES = (
    Drop("roi_heads.res5.norm.", "batch norm that MoCo's recipe adds behind the fifth stage of a C4 detector"),
    *(Drop(f"backbone.fpn_{kind}{level}.", "FPN") for kind in ("lateral", "output") for level in range(2, 6)),
    Drop("backbone.top_block.", "FPN"),
    Drop("proposal_generator.", "region proposal network"),
    *(Drop(f"roi_heads.{head}.", _HEAD) for head in ("box_head", "box_predictor", "mask_head", "keypoint_head")),
    *(Drop(f"{head}.", _HEAD) for head in ("head", "sem_seg_head", "anchor_generator")),
    *(Drop(f"pixel_{name}", "normalisation of pixels, which was read") for name in ("mean", "std")),
)
_DEFAULTS = InputSpec("BGR", 255.0, (103.53, 116.28, 123.675), (1.0, 1.0, 1.0))
_ABSENT = "the file does not say how pixels are presented (pixel_mean, pixel_std, and never the order of channels)"
_STRIDE = "nothing in the file says where the strides of bottlenecks sit"


def _prefix(weights: Mapping[str, Any]) -> str | None:
    return next((prefix for prefix in (_FPN, _PLAIN) if has_prefix(weights, f"{prefix}res2.")), None)


def recognise(tree: Tree) -> Match | Mismatch:
    """Names begin with `backbone.bottom_up.res2.` or `backbone.res2.`, under `model` or at the top."""
    weights = weights_under(tree, "model") or tree
    prefix = _prefix(weights)
    if prefix is None:
        return Mismatch("no name begins with backbone.bottom_up.res2. or backbone.res2. (under model, the top)")
    kind = "with FPN" if prefix == _FPN else "with a C4 head" if has_prefix(weights, _FIFTH) else "without FPN"
    return Match(f"detector trained by Detectron2, {kind}")


def read(tree: Tree, branch: str | None) -> Extracted:
    """Take the ResNet out of the backbone and, in a C4 detector, its fifth stage out of the head."""
    weights = weights_under(tree, "model") or tree
    prefix = _prefix(weights) or _PLAIN
    fifth = {name: value for name, value in weights.items() if isinstance(name, str) and _is_fifth(name)}
    kept, dropped = separate({n: v for n, v in weights.items() if n not in fifth}, prefix, _RULES)
    if fifth and has_prefix(kept, "res5."):
        raise CheckpointError("holds two fifth stages", found=f"{prefix}res5. and {_FIFTH}")
    stage, _ = separate(fifth, "roi_heads.", ())
    state = renamed(kept, _rename, prefix) | renamed(stage, _rename, "roi_heads.")
    rest = beside(tree, ["model"]) if weights is not tree else ()
    spec, lints = _input(tree, weights)
    caffe = spec.channels == "BGR" and set(spec.std) == {1.0}
    return Extracted(
        state,
        dropped + rest,
        input=spec,
        stride_in_1x1=caffe,
        lints=(*lints, Lint("assumed-stride", f"{_STRIDE}; assumed is the {'first 1×1' if caffe else '3×3'} one")),
    )


def _rename(name: str) -> str | None:
    try:
        return torchvision_name(name)
    except CheckpointError:  # reported with the name's prefix by `renamed`
        return None


def _is_fifth(name: str) -> bool:
    return re.match(r"roi_heads\.res5\.\d+\.", name) is not None


def _input(tree: Tree, weights: Mapping[str, Any]) -> tuple[InputSpec, tuple[Lint, ...]]:
    """What the file says of its pixels, or the assumption with a lint that says so."""
    mean, std = (_three(weights.get(name)) for name in ("pixel_mean", "pixel_std"))
    if mean is None or std is None:
        zoo = tree.get("__author__") == _ZOO
        said = "Detectron2's defaults are assumed, BGR and undivided" if zoo else "RGB with ImageNet's mean and std is"
        lint = Lint("assumed-input", f"{_ABSENT}: {said}{'' if zoo else ' assumed'}")
        return _DEFAULTS if zoo else InputSpec(), (lint,)
    same = Lint("assumed-input", "pixel_mean is the same for red and blue: RGB is assumed")
    order = "BGR" if mean[0] < mean[2] else "RGB"
    stated = {"channels": order, "value_range": 255.0, "mean": mean, "std": std}
    return input_from_dict(stated), (same,) if mean[0] == mean[2] else ()


def _three(value: object) -> list[float] | None:
    if not isinstance(value, torch.Tensor) or value.numel() != 3 or value.is_complex():
        return None
    return [round(float(number), 4) for number in value.flatten()]


FORMAT = Format(NAME, (), recognise, read)
