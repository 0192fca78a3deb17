"""ResNets that resemble the supported ones, recognised by their tensors so that the refusal can name them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from transfer.checkpoints.architectures import ARCHITECTURES, STAGES, architecture, expected_shapes

Shape = tuple[int, ...]

SUPPORTED = (
    f"supported are {', '.join(ARCHITECTURES)} with torchvision's layout: a 7×7 stem on 3 input channels and batch "
    "normalisation"
)

_INNER = ("layer1.0.conv2", "layer2.0.conv2")
_DEPTHS = {(2, 2, 2, 2): 18, (3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152, (3, 24, 36, 3): 200}


def lookalike(shapes: Mapping[str, Shape]) -> str | None:
    """What a state dict (name → shape, torchvision-like names) most likely is; None if nothing is recognised.

    Shapes that occur in the supported ResNets are never called anything, so an otherwise whole file with one tensor
    missing, renamed or misshaped in a way no known relative has is left to the exact check.
    """
    return _other_stem(shapes) or _other_size(shapes) or _other_layers(shapes)


def _other_stem(shapes: Mapping[str, Shape]) -> str | None:
    stem = shapes.get("conv1.weight", ())
    if any(name.startswith("stem.") for name in shapes) or "conv1.0.weight" in shapes:
        return "a ResNet with a deep stem of three 3×3 convolutions (ResNet-C/D, timm's 50d, mmpretrain's V1c/V1d)"
    if len(stem) != 4:
        return None
    if stem[2:] == (3, 3):
        return (
            f"a ResNet with a CIFAR stem (conv1.weight is {stem}: 3×3, made for 32×32 images), which no engine builds; "
            "pretrain with ImageNet's stem (7×7 and max-pooling) instead"
        )
    if stem[1] != 3 and stem[2:] == (7, 7):
        return f"a ResNet that takes {stem[1]} input channels (conv1.weight is {stem}), not RGB"
    return None


def _other_size(shapes: Mapping[str, Shape]) -> str | None:
    """A depth, width or grouping that none of the supported ones has."""
    blocks = tuple(len({name.split(".")[1] for name in shapes if name.startswith(f"{stage}.")}) for stage in STAGES)
    stem, first, second = (shapes.get(f"{name}.weight", ()) for name in ("conv1", *_INNER))
    if blocks not in _DEPTHS or any(len(shape) != 4 for shape in (stem, first, second)):
        return None
    if any(_size(arch) == (blocks, stem, first) for arch in ARCHITECTURES):
        return None
    if _DEPTHS[blocks] == 200:
        return f"a ResNet-200 ({' + '.join(map(str, blocks))} blocks), which none of the engines can build"
    if first[1] < first[0] and second[1] < second[0]:
        return f"a ResNeXt-{_DEPTHS[blocks]} (grouped convolutions: layer1.0.conv2.weight is {first})"
    if stem[0] != 64 and stem[2:] == (7, 7):
        return f"a ResNet of {stem[0] / 64:g}× width, stem included (conv1.weight is {stem})"
    if first[0] > 64 and second[0] > 128:
        return f"a wide ResNet, {first[0] / 64:g}× inside its blocks (layer1.0.conv2.weight is {first})"
    return None


@cache
def _size(arch: str) -> tuple[tuple[int, ...], Shape, Shape]:
    shapes = expected_shapes(arch)
    return architecture(arch).layers, shapes["conv1.weight"], shapes[f"{_INNER[0]}.weight"]


def _other_layers(shapes: Mapping[str, Shape]) -> str | None:
    if any(re.match(r"layer[1-4]\.\d+\.se\.", name) for name in shapes):
        return "an SE-ResNet (squeeze-and-excitation layers)"
    if any(name.startswith("layer") for name in shapes) and not any(name.endswith("running_mean") for name in shapes):
        return "a ResNet without running statistics (group normalisation, or batch normalisation that keeps none)"
    return None
