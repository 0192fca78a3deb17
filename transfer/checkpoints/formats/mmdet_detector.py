"""Detectors trained by MMDetection: the ResNet inside a Faster or Mask R-CNN, a RetinaNet and their like.

Layout: `{"meta", "state_dict", …}`; the ResNet is `backbone.` under torchvision's names, the rest `neck.`, `rpn_head.`,
`roi_head.` or `bbox_head.`. In a C4 detector `backbone.` ends with layer3 and layer4 is `roi_head.shared_head.layer4.`
(open-mmlab/mmdetection: mmdet/models/detectors/two_stage.py, mmdet/models/roi_heads/shared_heads/res_layer.py). The
recipe of mmselfsup adds `roi_head.shared_head.norm` behind it.

Neither pixels nor strides leave a trace in the tensors (`data_preprocessor` keeps its buffers out), but `meta` carries
the training's config as a text: `cfg` by mmengine (open-mmlab/mmengine: mmengine/runner/runner.py), `config` by the
older mmcv. From it are read `mean`, `std`, `bgr_to_rgb` (`to_rgb`) and the backbone's `style`, "caffe" for strides in
the first 1×1 convolution. What it does not say, or says in two ways, is assumed and told by a lint.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from transfer.checkpoints.backbone import InputSpec, Lint
from transfer.checkpoints.carried import input_from_dict
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

NAME = "mmdet_detector"
_SHARED = "roi_head.shared_head."
_SIGNS = ("rpn_head.", "roi_head.", "bbox_head.")
_HEAD = "detection head, behind the backbone"
_RULES = (
    Drop("neck.", "FPN"),
    Drop("rpn_head.", "region proposal network"),
    *(Drop(f"{head}.", _HEAD) for head in ("roi_head", "bbox_head", "mask_head", "semantic_head", "panoptic_head")),
)
_NUMBER = r"\s*\d+(?:\.\d*)?\s*"
_NUMBERS = rf"\[({_NUMBER},{_NUMBER},{_NUMBER}(?:,\s*)?)\]"
_TEXTS = {
    "mean": rf"\bmean=\s*{_NUMBERS}",
    "std": rf"\bstd=\s*{_NUMBERS}",
    "rgb": r"\b(?:bgr_)?to_rgb=(True|False)",
    "style": r"\bstyle='(pytorch|caffe)'",
}


def recognise(tree: Tree) -> Match | Mismatch:
    """Beside `backbone.layer1.` there are names of detection heads."""
    weights = weights_under(tree, "state_dict") or tree
    sign = next((start for start in _SIGNS if has_prefix(weights, start)), None)
    if sign is None or not has_prefix(weights, "backbone.layer1."):
        return Mismatch(f"no names begin with backbone.layer1. and {' or '.join(_SIGNS)} (under state_dict, the top)")
    return Match(f"detector trained by MMDetection, {'C4' if has_prefix(weights, _SHARED) else f'with {sign}'}")


def read(tree: Tree, branch: str | None) -> Extracted:
    """Take the ResNet out of the backbone and, in a C4 detector, layer4 out of the head."""
    weights = weights_under(tree, "state_dict") or tree
    shared = {name: value for name, value in weights.items() if has_prefix({name: value}, _SHARED)}
    state, dropped = separate({n: v for n, v in weights.items() if n not in shared}, "backbone.", _RULES)
    extra = Drop(f"{_SHARED}norm.", "batch norm that mmselfsup's recipe adds behind layer4 of a C4 detector")
    stage, norm = separate(shared, _SHARED, [extra])
    if second := [name for name in stage if name in state or not name.startswith("layer4.")]:
        raise CheckpointError("holds a shared head that is not the missing layer4", found=_SHARED + second[0])
    rest = beside(tree, ["state_dict"]) if weights is not tree else ()
    spec, caffe, lints = _config(tree.get("meta"))
    return Extracted(state | stage, dropped + norm + rest, input=spec, stride_in_1x1=caffe, lints=lints)


def _config(meta: object) -> tuple[InputSpec, bool, tuple[Lint, ...]]:
    """(input, strides in 1×1, lints) out of the config's text, each assumed where it says nothing or two things."""
    texts = [meta.get(key) for key in ("cfg", "config")] if isinstance(meta, Mapping) else []
    text = next((text for text in texts if isinstance(text, str)), "")
    said = {key: _only(pattern, text) for key, pattern in _TEXTS.items()}
    lints: tuple[Lint, ...] = ()
    spec = InputSpec()
    if all(said[key] for key in ("mean", "std", "rgb")):
        mean, std = ([float(number) for number in said[key].split(",") if number.strip()] for key in ("mean", "std"))
        order = "RGB" if said["rgb"] == "True" else "BGR"
        spec = input_from_dict({"channels": order, "value_range": 255.0, "mean": mean, "std": std})
    else:
        text = "the file does not say how pixels are presented: RGB with ImageNet's mean and std is assumed"
        lints += (Lint("assumed-input", text),)
    if not said["style"]:
        lints += (Lint("assumed-stride", "nothing says where strides sit: the 3×3 convolution is assumed"),)
    return spec, said["style"] == "caffe", lints


def _only(pattern: str, text: str) -> str:
    """What the group of `pattern` holds wherever it occurs; "" if that is not one and the same everywhere."""
    found = {re.sub(r"\s", "", value) for value in re.findall(pattern, text)}
    return found.pop() if len(found) == 1 else ""


FORMAT = Format(NAME, (), recognise, read, general=-1)
