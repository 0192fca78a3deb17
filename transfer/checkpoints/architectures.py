"""The ResNets that a `Backbone` can be, in numbers: names, shapes, channels, cost. Imports no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from transfer.runtime.errors import CheckpointError

STAGES = ("layer1", "layer2", "layer3", "layer4")

_LAYERS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


@dataclass(frozen=True)
class Architecture:
    """A ResNet in the parameters that both engines and torchvision build it from.

    Attributes:
        depth: 18, 34, 50, 101 or 152.
        width: factor on the channels of the stem and of every stage ("w2", "2×" in SwAV's, SimCLR's and VICReg's
            releases).
        groups: groups of a bottleneck's 3×3 convolution (ResNeXt).
        group_width: channels of one group in the first stage, per 64 of that stage: 64 in a plain ResNet, 128 in a
            `wide_resnet` (which, unlike `width`, leaves the stem and the outputs as they are), 4 in a ResNeXt 32×4d.
    """

    depth: int
    width: int = 1
    groups: int = 1
    group_width: int = 64

    @property
    def layers(self) -> tuple[int, ...]:
        """Blocks per stage."""
        return _LAYERS[self.depth]

    @property
    def basic(self) -> bool:
        """True for ResNet-18 and -34, whose blocks are no bottlenecks."""
        return self.depth < 50


_KNOWN: Mapping[str, Architecture] = {
    **{f"resnet{depth}": Architecture(depth) for depth in _LAYERS},
    # SwAV: hubconf.py and src/resnet50.py; SimCLR's and BYOL's "2×", "4×"; VICReg's "x2"
    "resnet50w2": Architecture(50, width=2),
    "resnet50w4": Architecture(50, width=4),
    "resnet50w5": Architecture(50, width=5),
    "resnet101w2": Architecture(101, width=2),
    "resnet152w2": Architecture(152, width=2),
    "resnext50_32x4d": Architecture(50, groups=32, group_width=4),
    "resnext101_32x8d": Architecture(101, groups=32, group_width=8),
    "wide_resnet50_2": Architecture(50, group_width=128),
    "wide_resnet101_2": Architecture(101, group_width=128),
}
ARCHITECTURES = tuple(_KNOWN)


def architecture(arch: str) -> Architecture:
    """The parameters of `arch`, one of `ARCHITECTURES`.

    Raises:
        CheckpointError: there is none of that name.
    """
    if arch not in _KNOWN:
        raise CheckpointError(f"unknown architecture {arch!r}", todo=f"choose one of {', '.join(ARCHITECTURES)}")
    return _KNOWN[arch]


@cache
def expected_shapes(arch: str) -> Mapping[str, tuple[int, ...]]:
    """Name → shape of every tensor of the backbone, `num_batches_tracked` included, in torchvision's order.

    Written down instead of read from a built model, which takes a fifth of a second for each architecture that a file
    is compared with; a test holds the two against each other.
    """
    known = architecture(arch)
    shapes = _conv("conv1", 64 * known.width, 3, 7) | _norm("bn1", 64 * known.width)
    wide = 64 * known.width
    for index, (stage, count) in enumerate(zip(STAGES, known.layers, strict=True)):
        planes = 64 * known.width * 2**index
        out = stage_channels(arch)[stage]
        inner = planes if known.basic else planes * known.group_width // 64 * known.groups
        for block in range(count):
            place = f"{stage}.{block}"
            sizes = [(inner, wide, 3), (out, inner, 3)]
            if not known.basic:
                sizes = [(inner, wide, 1), (inner, inner // known.groups, 3), (out, inner, 1)]
            for number, (outputs, inputs, kernel) in enumerate(sizes, start=1):
                shapes |= _conv(f"{place}.conv{number}", outputs, inputs, kernel)
                shapes |= _norm(f"{place}.bn{number}", outputs)
            if block == 0 and (index > 0 or wide != out):
                shapes |= _conv(f"{place}.downsample.0", out, wide, 1) | _norm(f"{place}.downsample.1", out)
            wide = out
    return shapes


def _conv(name: str, outputs: int, inputs: int, kernel: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs, kernel, kernel)}


def _norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    vectors: dict[str, tuple[int, ...]] = {
        f"{name}.{kind}": (channels,) for kind in ("weight", "bias", "running_mean", "running_var")
    }
    return vectors | {f"{name}.num_batches_tracked": ()}


def is_optional(name: str) -> bool:
    """True for the only tensors a source may lack: Caffe2, TensorFlow and Haiku files do not count batches."""
    return name.endswith("num_batches_tracked")


@cache
def required_shapes(arch: str) -> Mapping[str, tuple[int, ...]]:
    """The part of `expected_shapes` that a source must have."""
    return {name: shape for name, shape in expected_shapes(arch).items() if not is_optional(name)}


def stage_channels(arch: str) -> dict[str, int]:
    """Output channels of each stage, for example {'layer1': 256, …, 'layer4': 2048} for ResNet-50."""
    known = architecture(arch)
    first = 64 * known.width * (1 if known.basic else 4)
    return {stage: first * 2**index for index, stage in enumerate(STAGES)}


@cache
def gmacs_by_stage(arch: str) -> Mapping[str, float]:
    """Multiply–accumulates (in 10⁹) of the convolutions for one 224×224 image: "stem" and each stage."""
    counted = dict.fromkeys(("stem", *STAGES), 0.0)
    for name, shape in expected_shapes(arch).items():
        if len(shape) != 4:
            continue
        part, _, place = name.partition(".")
        stage = part if part in STAGES else "stem"
        side = 112 if stage == "stem" else 56 >> STAGES.index(stage)
        if place == "0.conv1.weight" and stage != STAGES[0] and not architecture(arch).basic:
            side *= 2  # a bottleneck's stride is in its 3×3 convolution, behind the first 1×1
        counted[stage] += math.prod(shape) * side**2 / 1e9
    return counted


def closest_architecture(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The architecture that shares the most (name, shape) pairs with `shapes`.

    Meant for naming what a file most likely is; `Backbone` then demands an exact match, so that a file with one
    tensor missing is reported as that and not as an unknown architecture. Among equals the one with fewer tensors
    of its own left unfilled wins.
    """

    def score(arch: str) -> tuple[int, int]:
        wanted = required_shapes(arch)
        hits = sum(shapes.get(name) == shape for name, shape in wanted.items())
        return hits, hits - len(wanted)

    return max(ARCHITECTURES, key=score)


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
