"""ConvNeXt, first and second version, under timm's names.

The module is timm's `ConvNeXt` (huggingface/pytorch-image-models: timm/models/convnext.py); its forward pass is that of
facebookresearch/ConvNeXt: models/convnext.py and of facebookresearch/ConvNeXt-V2: models/convnextv2.py. The second
version has a global response norm inside its MLPs (`mlp.grn`) where the first has a layer scale behind them (`gamma`).
All norms have eps 1e-6.

The name of an architecture is timm's: `convnext_tiny`, `convnextv2_atto`. `.nonorm` behind it: the file has no norm
behind the global average, as those of FCMAE (facebookresearch/ConvNeXt-V2: models/convnextv2_sparse.py) and SparK
(keyu-tian/SparK: pretrain/models/convnext.py), which pretrain without one. timm computes the MLPs of the sizes below
tiny as 1×1 convolutions, so their weights are [4 C, C, 1, 1] there and [4 C, C] in the other sizes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from transfer.checkpoints.families import Facts, Family, Shape
from transfer.checkpoints.families.resnet import POOLINGS, STRIDE, demand_map
from transfer.runtime.errors import CheckpointError, UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

# Size → (blocks of the four stages, channels of the first one, which double from stage to stage)
SIZES: Mapping[str, tuple[tuple[int, int, int, int], int]] = {
    "atto": ((2, 2, 6, 2), 40),
    "femto": ((2, 2, 6, 2), 48),
    "pico": ((2, 2, 6, 2), 64),
    "nano": ((2, 2, 8, 2), 80),
    "tiny": ((3, 3, 9, 3), 96),
    "small": ((3, 3, 27, 3), 96),
    "base": ((3, 3, 27, 3), 128),
    "large": ((3, 3, 27, 3), 192),
    "xlarge": ((3, 3, 27, 3), 256),
    "huge": ((3, 3, 27, 3), 352),
}
_AS_CONVOLUTIONS = ("atto", "femto", "pico", "nano")
_OFFERED = {
    "convnext": ("atto", "femto", "pico", "nano", "tiny", "small", "base", "large", "xlarge"),
    "convnextv2": ("atto", "femto", "pico", "nano", "tiny", "small", "base", "large", "huge"),
}
NO_NORM = ".nonorm"


@dataclass(frozen=True)
class ConvNeXt:
    """A ConvNeXt in numbers.

    Attributes:
        blocks: of each stage. channels: of the first stage. v2: response norms instead of layer scales.
        as_convolutions: the MLPs are 1×1 convolutions. norm: there is one behind the global average.
    """

    blocks: tuple[int, int, int, int]
    channels: int
    v2: bool
    as_convolutions: bool
    norm: bool

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.channels * 2**stage for stage in range(len(self.blocks)))


_KNOWN: Mapping[str, ConvNeXt] = {
    f"{version}_{size}{end}": ConvNeXt(
        *SIZES[size], version == "convnextv2", as_convolutions=size in _AS_CONVOLUTIONS, norm=not end
    )
    for version, sizes in _OFFERED.items()
    for size in sizes
    for end in ("", NO_NORM)
}
SUPPORTED = (
    f"supported are {', '.join(arch for arch in _KNOWN if not arch.endswith(NO_NORM))}, each also without the final "
    f"norm ({NO_NORM}), with patches of 4×4 pixels"
)


def convnext_of(arch: str) -> ConvNeXt:
    """The numbers behind a name.

    Raises:
        CheckpointError: it is no name of this family.
    """
    if arch not in _KNOWN:
        raise CheckpointError(f"unknown architecture {arch!r}", todo=SUPPORTED)
    return _KNOWN[arch]


@cache
def expected_shapes(arch: str) -> Mapping[str, Shape]:
    """Name → shape of every tensor, in timm's order; a test holds them against the module."""
    known = convnext_of(arch)
    shapes: dict[str, Shape] = _layer("stem.0", known.channels, 3, 4, 4) | _layer("stem.1", known.channels)
    for stage, (wide, count) in enumerate(zip(known.widths, known.blocks, strict=True)):
        if stage:
            before = f"stages.{stage}.downsample"
            shapes |= _layer(f"{before}.0", wide // 2) | _layer(f"{before}.1", wide, wide // 2, 2, 2)
        for number in range(count):
            shapes |= _block(f"stages.{stage}.blocks.{number}", wide, known)
    return shapes | _layer("head.norm", known.widths[-1]) if known.norm else shapes


def _block(name: str, wide: int, known: ConvNeXt) -> dict[str, Shape]:
    window = (1, 1) if known.as_convolutions else ()
    shapes: dict[str, Shape] = {} if known.v2 else {f"{name}.gamma": (wide,)}
    shapes |= _layer(f"{name}.conv_dw", wide, 1, 7, 7) | _layer(f"{name}.norm", wide)
    shapes |= _layer(f"{name}.mlp.fc1", 4 * wide, wide, *window)
    shapes |= _layer(f"{name}.mlp.grn", 4 * wide) if known.v2 else {}
    return shapes | _layer(f"{name}.mlp.fc2", wide, 4 * wide, *window)


def _layer(name: str, outputs: int, *rest: int) -> dict[str, Shape]:
    return {f"{name}.weight": (outputs, *rest), f"{name}.bias": (outputs,)}


_PLACE = re.compile(r"stages\.(\d+)\.(?:blocks\.(\d+)\.|downsample\.)")
_OF_A_BACKBONE = re.compile(r"(?:stem\.\d+\.|stages\.\d+\.(?:downsample\.\d+|blocks\.\d+)\.|head\.norm\.)")


class ConvNeXts(Family):
    """See the module.

    Features: `avg` is the average of the last map behind the final norm, which its authors' classifier sees; `avg-raw`
    the average alone; `max` and `grid` are pooled from the last map as from a ResNet's.
    """

    name = "convnext"
    title = "ConvNeXts"
    offered = tuple(arch for arch in _KNOWN if not arch.endswith(NO_NORM))
    supported = SUPPORTED
    stem = "stem.0.weight"
    classifier = "head.fc"
    markers = ("stages.0.blocks.0.",)
    behind = ("head.norm",)

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
        """Of the version that most blocks are of, the one that shares most tensors; with a norm if a part is there."""

        def score(arch: str) -> tuple[int, int]:
            wanted = expected_shapes(arch)
            hits = sum(shapes.get(name) == shape for name, shape in wanted.items())
            return hits, hits - len(wanted)

        normed = any(name.startswith("head.norm.") for name in shapes)
        v2 = sum(name.endswith(".mlp.grn.weight") - name.endswith(".gamma") for name in shapes) > 0
        return max((arch for arch, known in _KNOWN.items() if (known.norm, known.v2) == (normed, v2)), key=score)

    def lookalike(self, shapes: Mapping[str, Shape]) -> str | None:
        """timm's variants of the stem and of the head, which are other networks."""
        stem = shapes.get("stem.0.weight", ())
        if len(stem) == 4 and stem[2:] == (3, 3):
            return f"a ConvNeXt with overlapping patches (stem.0.weight is {stem}; timm's _ols)"
        if len(stem) == 4 and stem[1] != 3:
            return f"a ConvNeXt that takes {stem[1]} input channels (stem.0.weight is {stem}), not RGB"
        if any(name.startswith("norm_pre.") for name in shapes):
            return "a ConvNeXt whose final norm comes before the average (timm's _hnf)"
        if any(name.startswith("head.pre_logits.") for name in shapes):
            return "a ConvNeXt with another layer behind its norm (timm's _mlp, trained with text)"
        return None

    def gmacs(self, arch: str, side: int = 224) -> float:
        """See `Family`."""
        counted = 0
        for name, shape in expected_shapes(arch).items():
            if len(shape) > 1:
                stage = 0 if name.startswith("stem.") else int(name.split(".")[1])
                counted += math.prod(shape) * (side // (4 << stage)) ** 2
        return counted / 1e9

    def build(self, arch: str, *, stride_in_1x1: bool = False, drop_path: float = 0.0) -> nn.Module:
        """See `Family`; called, it gives `avg`, or `avg-raw` where there is no norm."""
        from timm.models.convnext import ConvNeXt as Module
        from torch import nn

        known = convnext_of(arch)
        network: nn.Module = Module(
            num_classes=0, depths=known.blocks, dims=known.widths, use_grn=known.v2, norm_eps=1e-6,
            ls_init_value=None if known.v2 else 1e-6, conv_mlp=known.as_convolutions,
            drop_path_rate=drop_path,
        )  # fmt: skip
        if not known.norm:
            network.set_submodule("head.norm", nn.Identity())
        return network

    def layer(self, arch: str, name: str) -> int:
        """As facebookresearch/ConvNeXt: object_detection/mmcv_custom/layer_decay_optimizer_constructor.py, layer-wise.

        The third stage counts a layer for every three blocks, the others one each; their downsampling is of the layer
        that it begins, and the second stage's of the second.
        """
        third = convnext_of(arch).blocks[2]
        last = 3 + math.ceil(third / 3)
        found = _PLACE.match(name)
        if name.startswith("stem."):
            return 0
        if found is None:
            return last + 1
        stage, block = int(found[1]), int(found[2] or 0)
        return {0: 1, 1: 2, 2: 3 + block // 3, 3: last}[stage]

    def maps(self, network: nn.Module, images: Tensor, indices: Sequence[int]) -> tuple[Tensor, ...]:
        """See `Family`: of strides 4, 8, 16, 32."""
        x, found = network.stem(images), []  # type: ignore[operator]
        for index, stage in enumerate(network.stages):  # type: ignore[arg-type]
            x = stage(x)
            if index in indices:
                found.append(x)
        return tuple(found)

    def map_widths(self, arch: str) -> tuple[int, ...]:
        """See `Family`."""
        return convnext_of(arch).widths

    def stages(self, arch: str) -> tuple[str, ...]:
        """Patches and the four stages; the final norm is of no map."""
        return ("stem", *(f"stages.{stage}" for stage in range(len(convnext_of(arch).blocks))))

    def poolings(self, arch: str) -> tuple[str, ...]:
        """See the class; without a norm in the file there is no `avg`."""
        return ("avg", *_RAW) if convnext_of(arch).norm else _RAW

    def pooling(self, arch: str, name: str) -> str:
        """Its own; where there is no norm, `avg-raw` for `avg`."""
        return "avg-raw" if name == "avg" and not convnext_of(arch).norm else name

    def channels(self, arch: str) -> int:
        """See `Family`."""
        return convnext_of(arch).widths[-1]

    def width(self, arch: str, pooling: str) -> int:
        """C = 768 of a tiny one, 4 C for "grid"."""
        return self.channels(arch) * POOLINGS[pooling.removesuffix("-raw")][1]

    def demand(self, arch: str, poolings: Iterable[str], height: int, width: int) -> None:
        """See `Family`; no layer that strides pads, so what is left over at the right and bottom is not seen."""
        sides = height // STRIDE, width // STRIDE
        if not all(sides):
            raise UserError(
                f"images of {height} × {width} pixels leave nothing of the last map, which is smaller by {STRIDE}",
                found=arch,
                todo=f"give a crop of {STRIDE} or more, of 224 as in training",
            )
        demand_map(poolings, height, width, sides)

    def outputs(self, network: nn.Module, images: Tensor, poolings: Sequence[str]) -> Any:
        """The map of the last stage [n, C, h, w]."""
        return network.forward_features(images)  # type: ignore[operator]

    def features(self, network: nn.Module, outputs: Any, poolings: Sequence[str]) -> dict[str, Tensor]:
        """See `Family`."""
        maps = outputs.float()
        found = {name: POOLINGS[name.removesuffix("-raw")][0](maps) for name in poolings}
        if "avg" in found:
            norm = network.get_submodule("head.norm")
            found["avg"] = norm(found["avg"][:, :, None, None]).flatten(1)
        return found

    def lints(self, arch: str, state: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
        """See `Family`."""
        if convnext_of(arch).v2:
            fresh, what = _all(state, ".mlp.grn.weight", 0.0), "all response norms have scale 0"
        else:
            fresh, what = _all(state, ".gamma", 1e-6), "all layer scales are 1e-6, as they begin"
        if fresh:
            yield "initialisation", f"{what}: an untrained file"


_RAW = ("avg-raw", "max", "grid")


def _all(state: Mapping[str, Tensor], end: str, value: float) -> bool:
    """Whether all tensors with such names hold this number everywhere, to float32."""
    return all(bool(((state[name] - value).abs() < 1e-9).all()) for name in state if name.endswith(end))


FAMILY = ConvNeXts()
