"""`Backbone` ↔ MMDetection `.pth`: torchvision's names (mmdet's ResNet uses them) beside what the weights expect.

mmdet reads such a file with `init_cfg=dict(type="Pretrained", checkpoint=FILE)`, without a prefix, in the backbone and,
for C4 models, once more in `roi_head.shared_head`. Source of the names: open-mmlab/mmdetection,
mmdet/models/backbones/resnet.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from transfer.checkpoints.backbone import Backbone, InputSpec, Source
from transfer.runtime.errors import CheckpointError

LAYOUT = "msbreg-transfer/mmdet/1"


def to_mmdet(backbone: Backbone, *, copy: bool = True) -> dict[str, Any]:
    """The content of an MMDetection checkpoint file; `torch.load(weights_only=True)` reads it back.

    Args:
        backbone: what to write.
        copy: False shares the backbone's memory, for contents that are written at once and not kept.

    Returns:
        `state_dict`: torchvision name → tensor, nothing else in it.
        `meta`: plain values. `mean` and `std` are for pixels in 0–255 in the order that the network sees, to be copied
        into the model's `data_preprocessor` together with `bgr_to_rgb`; `style` goes into the backbone.
    """
    mean, std = backbone.input.in_255()
    meta = {
        "layout": LAYOUT,
        "arch": backbone.arch,
        "mean": mean,
        "std": std,
        "bgr_to_rgb": backbone.input.channels == "RGB",
        "style": style_of(backbone),
        "source_path": backbone.source.path,
        "source_sha256": backbone.source.sha256,
        "source_format": backbone.source.format,
        "source_branch": backbone.source.branch,
    }
    return {"meta": meta, "state_dict": {name: t.clone() if copy else t for name, t in backbone.state.items()}}


def from_mmdet(content: Mapping[str, Any], source: Source) -> Backbone:
    """The reverse of `to_mmdet`.

    Args:
        content: the file's content.
        source: where it came from.

    Raises:
        CheckpointError: the file was not written by `to_mmdet`, or its tensors do not fill the architecture it names.
    """
    meta, state = content.get("meta"), content.get("state_dict")
    if not isinstance(meta, Mapping) or meta.get("layout") != LAYOUT or not isinstance(state, Mapping):
        raise CheckpointError(
            f"{source.path} is no backbone exported for MMDetection",
            found=f"top-level keys {', '.join(map(str, list(content)[:6]))}; "
            f"layout {meta.get('layout') if isinstance(meta, Mapping) else None!r} where {LAYOUT!r} belongs",
            todo="write it with `python -m transfer convert FILE --to mmdet -o OUT`",
        )
    channels = "RGB" if meta["bgr_to_rgb"] else "BGR"
    spec = InputSpec(channels=channels, value_range=255.0, mean=_triple(meta["mean"]), std=_triple(meta["std"]))
    tensors: dict[str, torch.Tensor] = dict(state)
    return Backbone(str(meta["arch"]), tensors, spec, source, stride_in_1x1=meta["style"] == "caffe")


def style_of(backbone: Backbone) -> str:
    """mmdet's word for where a bottleneck strides: "pytorch" in its 3×3 convolution, "caffe" in its first 1×1."""
    return "caffe" if backbone.stride_in_1x1 else "pytorch"


def _triple(values: list[float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
