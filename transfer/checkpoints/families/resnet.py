"""ResNets under torchvision's names: 18 to 152 layers, widened, grouped, with the strides of torchvision or of Caffe.

torchvision's module (torchvision.models.resnet) is the one that computes; `width` widens its stem and all stages.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from transfer.checkpoints.families import Facts, Family, Shape
from transfer.runtime.errors import CheckpointError, UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

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


def closest_architecture(shapes: Mapping[str, Shape]) -> str:
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


def _statistics(state: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Batch norms that have never seen a batch, or whose statistics were folded into scale and shift."""
    # 2e-5: affine layers are stored with the variance 1 − eps, so that eps cancels
    untouched = all(
        bool(((tensor - float(name.endswith("var"))).abs() < 2e-5).all())
        for name, tensor in state.items()
        if name.endswith(("running_mean", "running_var"))
    )
    if not untouched:
        return
    if _fresh_norms(state, ""):
        yield (
            "statistics",
            "all batch norms have mean 0, variance 1, scale 1 and shift 0: an untrained or stripped file",
        )
    else:
        yield (
            "statistics",
            "all batch norms have mean 0 and variance 1 beside trained scales: their statistics were folded in "
            "(Caffe's affine layers) or lost; protocols that train batch norm start from the wrong statistics",
        )


def _fresh_norms(state: Mapping[str, Tensor], start: str) -> bool:
    """True if every norm under `start` has a shift of exactly 0 and a scale of exactly 1 (or 0: zero-init residual)."""
    norms = [name.removesuffix("running_var") for name in state if name.endswith("running_var")]
    return all(
        bool((state[f"{norm}bias"] == 0).all())
        and (bool((state[f"{norm}weight"] == 1).all()) or bool((state[f"{norm}weight"] == 0).all()))
        for norm in norms
        if norm.startswith(start)
    )


def _initialisation(state: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Stages whose weights look drawn by torchvision's constructor: Kaiming-normal by fan-out, norms at 1 and 0."""
    parts = {"conv1": ["conv1.weight"], **{stage: _convolutions(state, f"{stage}.") for stage in STAGES}}
    fresh = [
        part
        for part, names in parts.items()
        if _fresh_norms(state, "bn1." if part == "conv1" else f"{part}.")
        and all(_kaiming_normal(state[name]) for name in names)
    ]
    if fresh:
        what = "the whole network" if len(fresh) == len(parts) else " and ".join(fresh)
        yield "initialisation", f"looks like torchvision's random initialisation, not like trained weights: {what}"


def _convolutions(state: Mapping[str, Tensor], start: str) -> list[str]:
    return [name for name, tensor in state.items() if name.startswith(start) and tensor.ndim == 4]


def _kaiming_normal(weight: Tensor) -> bool:
    """True if mean and variance are those of N(0, 2 / fan_out) within five standard errors (torchvision: resnet.py)."""
    count, fan_out = weight.numel(), weight.shape[0] * weight.shape[2] * weight.shape[3]
    variance = 2 / fan_out
    mean_off = abs(float(weight.mean())) / math.sqrt(variance / count)
    variance_off = abs(float(weight.var()) / variance - 1) / math.sqrt(2 / count)
    return mean_off < 5 and variance_off < 5


LAYERS = ("conv1", "bn1", "relu", "maxpool", *STAGES)  # in the order in which they compute
WINDOW, MAP = 6, 7  # of "grid": side of the averaged window, and of the map of a crop of 193 to 224 pixels
STRIDE = 32  # of the last map


def _average(maps: Tensor) -> Tensor:
    from torch.nn import functional as F

    return F.adaptive_avg_pool2d(maps, 1).flatten(1)


def _maximum(maps: Tensor) -> Tensor:
    return maps.amax((2, 3))


def _grid(maps: Tensor) -> Tensor:
    from torch.nn import functional as F

    return F.avg_pool2d(maps, WINDOW, stride=1).flatten(1)


# Name → (how, features per channel). "avg" is the input of torchvision's classifier. "grid" is VISSL's pooling of res5
# for SVMs on VOC07, AvgPool2d(6, stride 1), flattened channel by channel (facebookresearch/vissl:
# configs/config/benchmark/linear_image_classification/voc07/eval_resnet_8gpu_transfer_voc07_svm.yaml).
POOLINGS: Mapping[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "avg": (_average, 1),
    "max": (_maximum, 1),
    "grid": (_grid, (MAP - WINDOW + 1) ** 2),
}


def demand_map(poolings: Iterable[str], height: int, width: int, sides: tuple[int, int] | None = None) -> None:
    """Raise `UserError` if one of the poolings cannot be made of a crop of so many pixels: "grid" takes a 7 × 7 map.

    `sides` are those of the last map; of a ResNet, which pads, the crop's divided by 32 and rounded up.
    """
    sides = sides or (-(-height // STRIDE), -(-width // STRIDE))
    if "grid" in poolings and sides != (MAP, MAP):
        raise UserError(
            f'the pooling "grid" averages {WINDOW} × {WINDOW} windows of a {MAP} × {MAP} map',
            found="a map of {} × {}, of a crop of {} × {} pixels".format(*sides, height, width),
            todo="use a crop of 224, or the pooling avg",
        )


@cache
def _widened() -> type[Any]:
    """The class, whose base takes seconds to import."""
    import torch
    from torchvision.models.resnet import ResNet

    class WideResNet(ResNet):  # type: ignore[misc]  # torchvision is untyped
        """torchvision's with the stem and all stages `width` times as wide, which its own constructor cannot say."""

        def __init__(self, block: Any, layers: tuple[int, ...], width: int) -> None:
            super().__init__(block, list(layers))
            self.inplanes = 64 * width
            self.conv1 = torch.nn.Conv2d(3, self.inplanes, kernel_size=7, stride=2, padding=3, bias=False)
            self.bn1 = torch.nn.BatchNorm2d(self.inplanes)
            for index, (stage, count) in enumerate(zip(STAGES, layers, strict=True)):
                planes = 64 * width * 2**index
                setattr(self, stage, self._make_layer(block, planes, count, stride=1 if index == 0 else 2))
            for module in self.modules():
                if isinstance(module, torch.nn.Conv2d):  # as torchvision's constructor does
                    torch.nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    return WideResNet


def build_resnet(arch: str, *, stride_in_1x1: bool = False) -> Any:
    """A randomly initialised torchvision ResNet without its classifier (`fc` is the identity).

    Its `state_dict()` has exactly the names and shapes that a `Backbone` holds.

    Args:
        arch: one of `ARCHITECTURES`.
        stride_in_1x1: put a bottleneck's stride into its first 1×1 convolution, as Caffe's ResNet has it.
    """
    import torch
    from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

    known = architecture(arch)
    block = BasicBlock if known.basic else Bottleneck
    model = (
        ResNet(block, list(known.layers), groups=known.groups, width_per_group=known.group_width)
        if known.width == 1
        else _widened()(block, known.layers, known.width)
    )
    model.fc = torch.nn.Identity()
    if stride_in_1x1 and not known.basic:
        for stage in STAGES[1:]:
            first = getattr(model, stage)[0]
            first.conv1.stride, first.conv2.stride = first.conv2.stride, first.conv1.stride
    return model


_OF_A_BACKBONE = re.compile(r"(?:conv1|bn1|layer[1-4]\.\d+)\.")


class ResNets(Family):
    """See the module."""

    name = "resnet"
    title = "ResNets"
    offered = ARCHITECTURES
    supported = SUPPORTED
    stem = "conv1.weight"
    classifier = "fc"
    markers = ("layer1.",)

    def knows(self, arch: str) -> bool:
        """See `Family`."""
        return arch in _KNOWN

    def owns(self, name: str) -> bool:
        """See `Family`."""
        return _OF_A_BACKBONE.match(name) is not None

    def shapes(self, arch: str) -> Mapping[str, Shape]:
        """See `Family`."""
        return expected_shapes(arch)

    def nearest(self, shapes: Mapping[str, Shape], facts: Facts) -> str:
        """See `Family`."""
        return closest_architecture(shapes)

    def lookalike(self, shapes: Mapping[str, Shape]) -> str | None:
        """See `Family`."""
        return lookalike(shapes)

    def is_optional(self, name: str) -> bool:
        """See `Family`."""
        return is_optional(name)

    def gmacs(self, arch: str, side: int = 224) -> float:
        """See `Family`."""
        return sum(gmacs_by_stage(arch).values()) * (side / 224) ** 2

    def build(self, arch: str, *, stride_in_1x1: bool = False, drop_path: float = 0.0) -> nn.Module:
        """See `Family`."""
        if drop_path:
            raise UserError("torchvision's ResNet leaves no block out in training", found=f"drop path {drop_path:g}")
        network: nn.Module = build_resnet(arch, stride_in_1x1=stride_in_1x1)
        return network

    def stages(self, arch: str) -> tuple[str, ...]:
        """See `Family`."""
        return STAGES

    def poolings(self, arch: str) -> tuple[str, ...]:
        """See `Family`."""
        return tuple(POOLINGS)

    def pooling(self, arch: str, name: str) -> str:
        """See `Family`."""
        return name

    def channels(self, arch: str) -> int:
        """See `Family`."""
        return stage_channels(arch)["layer4"]

    def width(self, arch: str, pooling: str) -> int:
        """C = 2048 for "avg" and "max" of a ResNet-50, 4 C for "grid"."""
        return self.channels(arch) * POOLINGS[pooling][1]

    def demand(self, arch: str, poolings: Iterable[str], height: int, width: int) -> None:
        """See `Family`."""
        demand_map(poolings, height, width)

    def outputs(self, network: nn.Module, images: Tensor, poolings: Sequence[str]) -> Any:
        """The map of layer4 [n, C, h, w]."""
        for layer in LAYERS:
            images = network.get_submodule(layer)(images)
        return images

    def features(self, network: nn.Module, outputs: Any, poolings: Sequence[str]) -> dict[str, Tensor]:
        """See `Family`."""
        maps = outputs.float()
        return {pooling: POOLINGS[pooling][0](maps) for pooling in poolings}

    def lints(self, arch: str, state: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
        """See `Family`."""
        yield from _statistics(state)
        yield from _initialisation(state)


FAMILY = ResNets()
