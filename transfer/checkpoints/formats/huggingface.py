"""Hugging Face transformers: ResNetModel, ResNetBackbone and ResNetForImageClassification.

Layout: a state dict, as safetensors or `pytorch_model.bin`. The classifying model writes `resnet.` before the
backbone's names and `classifier.1.` beside it, the others nothing (huggingface/transformers:
models/resnet/modeling_resnet.py). `embedder.embedder.` is the stem; stage i, layer j, sub-layer k is torchvision's
`layer{i+1}.{j}.conv{k+1}`/`bn{k+1}`, and `shortcut.` its `downsample.`.

Two properties are written in `config.json` and nowhere else: `downsample_in_bottleneck` puts a bottleneck's stride into
its first 1×1 convolution, and `downsample_in_first_stage` halves the resolution once more. Both are false by default
and in the released ResNets; a lint says so.
"""

from __future__ import annotations

import re

from transfer.checkpoints.backbone import Lint
from transfer.checkpoints.declared import Network, Release, one_of, prefixed

_PARTS = {"convolution": "conv", "normalization": "bn"}
_SHORTCUT = {"convolution": "downsample.0", "normalization": "downsample.1"}
_LAYER = re.compile(r"encoder\.stages\.([0-3])\.layers\.(\d+)\.(?:layer\.([0-2])|shortcut)\.(\w+)\.(\w+)")
_STEM = re.compile(r"embedder\.embedder\.(\w+)\.(\w+)")


def torchvision_name(name: str) -> str | None:
    """`encoder.stages.0.layers.2.layer.1.normalization.bias` → `layer1.2.bn2.bias`; None for no backbone's name."""
    if stem := _STEM.fullmatch(name):
        part = _PARTS.get(stem[1])
        return f"{part}1.{stem[2]}" if part else None
    found = _LAYER.fullmatch(name)
    if not found or found[4] not in _PARTS:
        return None
    stage, block, place, part, kind = found.groups()
    where = f"layer{int(stage) + 1}.{int(block)}"
    if place is None:
        return f"{where}.{_SHORTCUT[part]}.{kind}"
    return f"{where}.{_PARTS[part]}{int(place) + 1}.{kind}"


def _release(title: str, prefix: str) -> Release:
    return Release(
        name="huggingface",
        title=title,
        networks={"only": Network(prefix)},
        heads={"classifier.": "classifier, behind the backbone"},
        keys=(None, "state_dict"),
        outer=("",),
        markers=("encoder.stages.0.layers.",),
        rename=torchvision_name,
        lints=(
            Lint(
                "downsample-in-bottleneck",
                "only the config.json that belongs to this file says where strides sit; they were taken to sit where "
                "they do by default. If it says `downsample_in_bottleneck` or `downsample_in_first_stage` true, "
                "do not use these weights",
            ),
        ),
    )


FORMAT = one_of(
    "huggingface",
    prefixed(_release("transformers ResNetForImageClassification", "resnet.")),
    prefixed(_release("transformers ResNetModel", "")),
)
