"""ResNets that resemble the supported ones, recognised by their tensors so that the refusal can name them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from transfer.architectures import ARCHITECTURES

Shape = tuple[int, ...]

SUPPORTED = (
    f"supported are {', '.join(ARCHITECTURES)} with torchvision's layout: a 7×7 stem of 64 channels on 3 input "
    "channels, batch normalisation, standard width"
)


def lookalike(shapes: Mapping[str, Shape]) -> str | None:
    """What a state dict (name → shape, torchvision-like names) most likely is; None if nothing is recognised.

    Shapes that occur in the supported ResNets are never called anything, so an otherwise whole file with one tensor
    missing, renamed or misshaped in a way no known relative has is left to the exact check.
    """
    return _other_stem(shapes) or _other_width(shapes) or _other_layers(shapes)


def _other_stem(shapes: Mapping[str, Shape]) -> str | None:
    stem = shapes.get("conv1.weight", ())
    if any(name.startswith("stem.") for name in shapes) or "conv1.0.weight" in shapes:
        return "a ResNet with a deep stem of three 3×3 convolutions (ResNet-C/D, timm's 50d, mmpretrain's V1c/V1d)"
    if len(stem) != 4:
        return None
    if stem[2:] == (3, 3):
        return f"a ResNet with a CIFAR stem (conv1.weight is {stem}: 3×3, made for 32×32 images)"
    if stem[1] != 3 and stem[2:] == (7, 7):
        return f"a ResNet that takes {stem[1]} input channels (conv1.weight is {stem}), not RGB"
    if stem[0] != 64 and stem[2:] == (7, 7):
        return f"a ResNet of {stem[0] / 64:g}× width, stem included (conv1.weight is {stem})"
    return None


def _other_width(shapes: Mapping[str, Shape]) -> str | None:
    first, second = (shapes.get(f"layer{stage}.0.conv2.weight", ()) for stage in (1, 2))
    if len(first) != 4 or len(second) != 4 or "layer1.0.conv3.weight" not in shapes:
        return None
    if first[1] < first[0] and second[1] < second[0]:
        return f"a ResNeXt (grouped convolutions: layer1.0.conv2.weight is {first})"
    if first[0] > 64 and second[0] > 128:
        return f"a wide ResNet, {first[0] / 64:g}× inside its blocks (layer1.0.conv2.weight is {first})"
    return None


def _other_layers(shapes: Mapping[str, Shape]) -> str | None:
    if any(re.match(r"layer[1-4]\.\d+\.se\.", name) for name in shapes):
        return "an SE-ResNet (squeeze-and-excitation layers)"
    if any(name.startswith("layer") for name in shapes) and not any(name.endswith("running_mean") for name in shapes):
        return "a ResNet without running statistics (group normalisation, or batch normalisation that keeps none)"
    if "layer3.35.conv1.weight" in shapes and "layer3.36.conv1.weight" not in shapes:
        return "a ResNet-152"
    return None
