"""Swin transformers, first version, under timm's names: attention within windows, which every second block shifts.

The module is timm's `SwinTransformer` (huggingface/pytorch-image-models: timm/models/swin_transformer.py), which
computes what microsoft/Swin-Transformer: models/swin_transformer.py does at the size it was trained at. There and here
patches are of 4×4 pixels, heads of 32 channels, and stages after the first begin by merging 2×2 tokens.

The name of an architecture says all of it: `swin_tiny_window7_224`; `.eps1e-06` behind it where norms have another eps
than 1e-5 (microsoft/esvit: models/swin_transformer.py, get_cls_model; bytedance/ibot: models/swin_transformer.py). In a
stage whose map is no larger than the window, the map is the window: there, the table of relative positions shows the
training size.

Features of other sizes are refused. The official module takes none; that of EsViT pads maps that windows do not divide
*before* it shifts them and timm's *after*, and in both a stage that the training size covered with one window never
shifts, where a module built for a larger size would. Detectors have a form of their own, `build_for_maps`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from transfer.checkpoints.families import Facts, Family, Shape, fill_buffers
from transfer.runtime.errors import CheckpointError, UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

# Size → (channels of the first stage, which double from stage to stage, blocks of the four stages)
SIZES: Mapping[str, tuple[int, tuple[int, int, int, int]]] = {
    "tiny": (96, (2, 2, 6, 2)),
    "small": (96, (2, 2, 18, 2)),
    "base": (128, (2, 2, 18, 2)),
    "large": (192, (2, 2, 18, 2)),
}
PATCH = 4
HEAD = 32  # channels of a head
STRIDE = 32  # of the last map
EPS = 1e-5
_NAME = re.compile(rf"swin_({'|'.join(SIZES)})_window(\d+)_(\d+)(?:\.eps(\de-\d+))?")


@dataclass(frozen=True)
class Swin:
    """A Swin transformer in numbers.

    Attributes:
        size: one of `SIZES`. window: side of a window in tokens. image: side of the images it was trained with.
        eps: of the norms.
    """

    size: str
    window: int
    image: int
    eps: float = EPS

    @property
    def arch(self) -> str:
        """Its name."""
        end = f".eps{self.eps:g}" if self.eps != EPS else ""
        return f"swin_{self.size}_window{self.window}_{self.image}{end}"

    @property
    def blocks(self) -> tuple[int, int, int, int]:
        """Blocks of each stage."""
        return SIZES[self.size][1]

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(SIZES[self.size][0] << stage for stage in range(len(self.blocks)))

    @property
    def maps(self) -> tuple[int, ...]:
        """Tokens along a side of each stage's map."""
        return tuple(self.image // (PATCH << stage) for stage in range(len(self.blocks)))

    @property
    def windows(self) -> tuple[int, ...]:
        """Tokens along a side of each stage's windows."""
        return tuple(min(self.window, side) for side in self.maps)

    @property
    def sound(self) -> bool:
        """Whether patches and windows divide all maps."""
        divided = self.window > 1 and self.image >= STRIDE and not self.image % STRIDE
        return divided and not any(side % window for side, window in zip(self.maps, self.windows, strict=True))


@cache
def parse(arch: str) -> Swin | None:
    """The numbers behind a name; None if it is no name of this family, or not the one that `Swin.arch` gives."""
    found = _NAME.fullmatch(arch)
    if found is None:
        return None
    swin = Swin(found[1], int(found[2]), int(found[3]))
    if found[4]:
        swin = replace(swin, eps=float(found[4]))
    return swin if swin.sound and swin.arch == arch else None


SUPPORTED = (
    f"supported are Swin transformers of the sizes {', '.join(SIZES)} with windows that divide their maps: 7 or 14 at "
    "224 pixels, 12 at 384, 6 or 12 at 192"
)


def swin_of(arch: str) -> Swin:
    """As `parse`, of a name that is known to be one."""
    swin = parse(arch)
    if swin is None:
        raise CheckpointError(f"unknown architecture {arch!r}", todo=SUPPORTED)
    return swin


@cache
def expected_shapes(arch: str) -> Mapping[str, Shape]:
    """Name → shape of every tensor, in timm's order; a test holds them against the module."""
    swin = swin_of(arch)
    first = swin.widths[0]
    shapes: dict[str, Shape] = {
        "patch_embed.proj.weight": (first, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (first,),
        **_norm("patch_embed.norm", first),
    }
    for stage, (wide, count, window) in enumerate(zip(swin.widths, swin.blocks, swin.windows, strict=True)):
        if stage:
            shapes |= _norm(f"layers.{stage}.downsample.norm", 2 * wide)
            shapes |= {f"layers.{stage}.downsample.reduction.weight": (wide, 2 * wide)}
        for number in range(count):
            block = f"layers.{stage}.blocks.{number}"
            shapes |= _norm(f"{block}.norm1", wide)
            shapes |= {f"{block}.attn.relative_position_bias_table": ((2 * window - 1) ** 2, wide // HEAD)}
            shapes |= _linear(f"{block}.attn.qkv", 3 * wide, wide) | _linear(f"{block}.attn.proj", wide, wide)
            shapes |= _norm(f"{block}.norm2", wide)
            shapes |= _linear(f"{block}.mlp.fc1", 4 * wide, wide) | _linear(f"{block}.mlp.fc2", wide, 4 * wide)
    return shapes | _norm("norm", swin.widths[-1])


def _linear(name: str, outputs: int, inputs: int) -> dict[str, Shape]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, channels: int) -> dict[str, Shape]:
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


@cache
def _padded_first() -> type[Any]:
    """The block of detectors, whose base takes seconds to import."""
    from timm.models.swin_transformer import SwinTransformerBlock
    from torch.nn import functional as F

    class PaddedFirst(SwinTransformerBlock):  # type: ignore[misc]  # timm is untyped
        """Zeros are added to a map that windows do not divide before it is shifted; timm adds them afterwards."""

        def _attn(self, x: Tensor) -> Tensor:
            height, width = x.shape[1:3]
            more = [-side % window for side, window in zip((height, width), self.window_size, strict=True)]
            seen: Tensor = super()._attn(F.pad(x, (0, 0, 0, more[1], 0, more[0])))
            return seen[:, :height, :width].contiguous()

    return PaddedFirst


_OF_A_BACKBONE = re.compile(r"(?:patch_embed\.(?:proj|norm)\.|layers\.\d+\.(?:downsample|blocks\.\d+)\.|norm\.)")
_TABLE = re.compile(r"layers\.(\d+)\.blocks\.\d+\.attn\.relative_position_bias_table")
_LAST = 4  # blocks that avg4 is of


def _built(swin: Swin, drop_path: float, **options: Any) -> nn.Module:
    from timm.models.swin_transformer import SwinTransformer
    from torch import nn

    network: Any = SwinTransformer(
        img_size=swin.image, patch_size=PATCH, num_classes=0, embed_dim=swin.widths[0], depths=swin.blocks,
        num_heads=tuple(wide // HEAD for wide in swin.widths), window_size=swin.window, drop_path_rate=drop_path,
        norm_layer=partial(nn.LayerNorm, eps=swin.eps), **options,
    )  # fmt: skip
    # a network that was built without memory has no values in them either
    network.register_load_state_dict_post_hook(fill_buffers)
    module: nn.Module = network
    return module


class SwinTransformers(Family):
    """See the module.

    Features: `avg` is the average of the last tokens behind the final norm, which its authors' classifier sees;
    `avg-raw` without it; `avg4` the averages of the last four blocks side by side, earlier ones first, where those of
    the last stage are behind the final norm and the others are not (microsoft/esvit: eval_linear.py, --n_last_blocks 4;
    models/swin_transformer.py, forward_return_n_last_blocks; iBOT's get_intermediate_layers does the same).
    """

    name = "swin"
    title = "Swin transformers"
    offered = (
        *(f"swin_{size}_window7_224" for size in SIZES),
        *("swin_base_window12_384", "swin_large_window12_384", "swin_base_window6_192"),
        *(f"swin_{size}_window{window}_224.eps1e-06" for window in (7, 14) for size in ("tiny", "small", "base")),
    )
    supported = SUPPORTED
    stem = "patch_embed.proj.weight"
    classifier = "head.fc"
    markers = ("layers.0.blocks.0.norm1.",)
    behind = ("norm",)

    def knows(self, arch: str) -> bool:
        """See `Family`."""
        return parse(arch) is not None

    def owns(self, name: str) -> bool:
        """See `Family`."""
        return _OF_A_BACKBONE.match(name) is not None

    def shapes(self, arch: str) -> Mapping[str, Shape]:
        """See `Family`."""
        return expected_shapes(arch)

    def nearest(self, shapes: Mapping[str, Shape], facts: Facts) -> str:
        """The size that shares most tensors, with the windows that its tables are for; a fact of a layout: eps.

        Raises:
            CheckpointError: tables that are for no square window, or windows that divide no map.
        """
        rows: dict[bool, Counter[int]] = {True: Counter(), False: Counter()}
        for name, shape in shapes.items():
            if (found := _TABLE.fullmatch(name)) and shape:
                rows[int(found[1]) == 3][shape[0]] += 1
        window, last = (_window(rows[is_last]) for is_last in (False, True))
        swins = [Swin(size, window, STRIDE * last, float(facts.get("eps", EPS))) for size in SIZES]
        if parse(swins[0].arch) is None:
            raise CheckpointError(
                "is a Swin transformer whose windows divide no map of its stages",
                found=f"windows of {window} × {window} tokens, in the last stage of {last} × {last}",
                todo=SUPPORTED,
            )

        def score(arch: str) -> tuple[int, int]:
            wanted = expected_shapes(arch)
            hits = sum(shapes.get(name) == shape for name, shape in wanted.items())
            return hits, hits - len(wanted)

        return max((swin.arch for swin in swins), key=score)

    def lookalike(self, shapes: Mapping[str, Shape]) -> str | None:
        """The second version, and positions that are added to patches."""
        if any(".attn.cpb_mlp." in name or name.endswith(".attn.logit_scale") for name in shapes):
            return "a Swin transformer of the second version (cosine attention, positions computed by a small network)"
        if "absolute_pos_embed" in shapes:
            return "a Swin transformer with absolute positions added to its patches"
        return None

    def gmacs(self, arch: str, side: int = 224) -> float:
        """See `Family`."""
        swin = swin_of(arch)
        counted = math.prod(expected_shapes(arch)["patch_embed.proj.weight"]) * (side // PATCH) ** 2
        for stage, (wide, count, window) in enumerate(zip(swin.widths, swin.blocks, swin.windows, strict=True)):
            tokens = (side // (PATCH << stage)) ** 2
            counted += tokens * count * (12 * wide**2 + 2 * window**2 * wide)
            counted += tokens * 2 * wide**2 if stage else 0  # merging
        return counted / 1e9

    def build(self, arch: str, *, stride_in_1x1: bool = False, drop_path: float = 0.0) -> nn.Module:
        """See `Family`; called, it gives `avg`."""
        return _built(swin_of(arch), drop_path)

    def build_for_maps(self, arch: str, *, drop_path: float = 0.0) -> nn.Module:
        """As SwinTransformer/Swin-Transformer-Object-Detection: mmdet/models/backbones/swin_transformer.py.

        Every second block shifts, whatever the size of its map.

        Raises:
            UserError: the last stage has smaller windows than the others, so its table serves no larger map.
        """
        swin = swin_of(arch)
        if len(set(swin.windows)) > 1:
            raise UserError(
                f"a {arch} gives no maps of larger images: windows of {swin.windows[-1]} × {swin.windows[-1]} tokens "
                f"in the last stage, of {swin.window} × {swin.window} in the others",
                todo="take a checkpoint with windows of one size: 7 at 224 pixels, 12 at 384, 6 at 192",
            )
        network: Any = _built(swin, drop_path, always_partition=True, dynamic_img_size=True)
        for layer in network.layers:
            for block in layer.blocks:
                block.__class__ = _padded_first()
        module: nn.Module = network
        return module

    @contextmanager
    def as_trained(self, network: nn.Module, arch: str) -> Iterator[None]:
        """See `Family`: what one window covered at the size of the training was not shifted."""
        swin, layers = swin_of(arch), network.get_submodule("layers")
        pairs = zip(layers, swin.maps, swin.windows, strict=True)  # type: ignore[call-overload]
        covered = [block for layer, side, window in pairs if side == window for block in layer.blocks]
        shifts = [block.shift_size for block in covered]
        try:
            for block in covered:
                block.shift_size = (0, 0)
            yield
        finally:
            for block, shift in zip(covered, shifts, strict=True):
                block.shift_size = shift

    def maps(self, network: nn.Module, images: Tensor, indices: Sequence[int]) -> tuple[Tensor, ...]:
        """See `Family`: of strides 4, 8, 16, 32."""
        tokens, found = network.patch_embed(images), []  # type: ignore[operator]
        for index, layer in enumerate(network.layers):  # type: ignore[arg-type]
            tokens = layer(tokens)
            if index in indices:
                found.append(tokens.permute(0, 3, 1, 2).contiguous())
        return tuple(found)

    def map_widths(self, arch: str) -> tuple[int, ...]:
        """See `Family`."""
        return swin_of(arch).widths

    def stages(self, arch: str) -> tuple[str, ...]:
        """Patches, every block, and the final norm."""
        return ("patch_embed", *_block_names(swin_of(arch)), "norm")

    def depends_on_size(self, arch: str) -> bool:
        """See `Family`."""
        return True

    def proof_sides(self, arch: str) -> tuple[int, int]:
        """The training size."""
        swin = swin_of(arch)
        return swin.image, swin.image

    def poolings(self, arch: str) -> tuple[str, ...]:
        """See the class."""
        return ("avg", "avg4", "avg-raw")

    def pooling(self, arch: str, name: str) -> str:
        """The average stands for what else is made of a ResNet's map."""
        return "avg" if name in ("max", "grid") else name

    def channels(self, arch: str) -> int:
        """See `Family`."""
        return swin_of(arch).widths[-1]

    def map_channels(self, arch: str) -> int:
        """See `Family`: `avg4` is of several maps."""
        return 0

    def width(self, arch: str, pooling: str) -> int:
        """C = 768 of a tiny one; of `avg4` two blocks of the last stage and two of the one before, 3 C."""
        swin = swin_of(arch)
        blocks = [wide for wide, count in zip(swin.widths, swin.blocks, strict=True) for _ in range(count)]
        return sum(blocks[-_LAST:]) if pooling == "avg4" else swin.widths[-1]

    def demand(self, arch: str, poolings: Iterable[str], height: int, width: int) -> None:
        """See `Family`."""
        image = swin_of(arch).image
        if (height, width) != (image, image):
            raise UserError(
                f"images of {height} × {width} pixels are of another size than a {arch} was trained at, and at "
                "another size its authors' code computes something else, or nothing",
                found=f"windows for {image} × {image} pixels",
                todo=f"give a crop of {image}",
            )

    def outputs(self, network: nn.Module, images: Tensor, poolings: Sequence[str]) -> Any:
        """Tokens [n, h, w, C] behind each of the last four blocks, as they are and, in the last stage, normed."""
        tokens = network.patch_embed(images)  # type: ignore[operator]
        raw: list[Tensor] = []
        for layer in network.layers:  # type: ignore[union-attr]
            tokens = layer.downsample(tokens)
            for block in layer.blocks:
                tokens = block(tokens)
                raw = [*raw[1 - _LAST :], tokens]
        wide = tokens.shape[-1]
        return raw[-1], [network.norm(each) if each.shape[-1] == wide else each for each in raw]  # type: ignore[operator]

    def features(self, network: nn.Module, outputs: Any, poolings: Sequence[str]) -> dict[str, Tensor]:
        """See `Family`."""
        import torch

        raw, last = outputs

        def pooled(name: str) -> Tensor:
            chosen = {"avg": last[-1:], "avg-raw": [raw], "avg4": last}[name]
            return torch.cat([tokens.float().mean((1, 2)) for tokens in chosen], 1)

        return {name: pooled(name) for name in poolings}

    def lints(self, arch: str, state: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
        """See `Family`."""
        norms = [name for name in state if re.search(r"norm\d?\.(weight|bias)$", name)]
        if all(bool((state[name] == float(name.endswith("weight"))).all()) for name in norms):
            yield "initialisation", "all layer norms have scale 1 and shift 0: an untrained file"


def _block_names(swin: Swin) -> list[str]:
    return [f"layers.{stage}.blocks.{number}" for stage, count in enumerate(swin.blocks) for number in range(count)]


def _window(rows: Counter[int]) -> int:
    """The side of a window out of the rows of its tables, (2 side − 1)²; most tables decide."""
    common = rows.most_common(1)[0][0] if rows else 0
    side = (math.isqrt(common) + 1) // 2
    if not side or (2 * side - 1) ** 2 != common:
        raise CheckpointError(
            "is a Swin transformer without tables of relative positions of a square window",
            found=f"most tables have {common} rows" if rows else "no attn.relative_position_bias_table",
            todo="check that the file is whole",
        )
    return side


FAMILY = SwinTransformers()
