"""Vision transformers under timm's names: patches, learned or fixed positions, with or without a CLS token.

The module is timm's `VisionTransformer` (huggingface/pytorch-image-models: timm/models/vision_transformer.py) with
three things of the authors' code that timm has otherwise: positions are resized by the rule of those who trained the
weights, registers carry no position and stand behind the CLS token (facebookresearch/dinov2:
dinov2/models/vision_transformer.py, prepare_tokens_with_masks), and the CLS token keeps its own position.

The name of an architecture says all of it: `vit_small_patch14_518.ls.reg4` is 384 wide, 12 blocks, 6 heads, patches of
14 pixels, trained at 518, with layer scale and four registers. Behind the first dot stands what differs from the
plainest form: `h12` heads, `m2736` hidden units, `swiglu`, `nocls`, `reg4`, `ls`, `nobias` (of queries, keys, values),
`fcnorm` (the final norm comes behind the average of patches), `nonorm` (there is none), `eps1e-05` of the norms, and
how positions are resized:

- none of these: to the size of the grid, bicubic (MAE: util/pos_embed.py; DeiT and others load so);
- `offset`: bicubic by the factor (side + 0.1) / grid, which samples elsewhere (DINO, iBOT, DINOv2 without registers);
- `antialias`: bicubic, antialiased (DINOv2 with registers; timm for any file);
- `corners`: bicubic, the corners of both tables in one place (torchvision: interpolate_embeddings).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any, ClassVar

from transfer.checkpoints.families import Facts, Family, Shape
from transfer.checkpoints.families._vit_refusals import grid_of, patch_of, refuse_relative, root
from transfer.runtime.errors import CheckpointError, UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

# (width, blocks, heads, hidden units of the MLP, whether that is a SwiGLU)
SIZES: Mapping[str, tuple[int, int, int, int, bool]] = {
    "tiny": (192, 12, 3, 768, False),
    "small": (384, 12, 6, 1536, False),
    "base": (768, 12, 12, 3072, False),
    "large": (1024, 24, 16, 4096, False),
    "huge": (1280, 32, 16, 5120, False),
    "giant": (1408, 40, 16, 6144, False),  # facebookresearch/ijepa: src/models/vision_transformer.py, vit_giant
    "giant2": (1536, 40, 24, 4096, True),  # facebookresearch/dinov2: vision_transformer.py, vit_giant2 with SwiGLU
}
POSITIONS = ("size", "offset", "antialias", "corners")
_NAME = re.compile(
    r"vit_(?:(?P<size>[a-z]+2?)|(?P<width>\d+)x(?P<depth>\d+))_patch(?P<patch>\d+)_(?P<image>\d+)((?:\..+)?)"
)


@dataclass(frozen=True)
class Vit:
    """A vision transformer in numbers.

    Attributes:
        width: of a token. depth: blocks. heads: of the attention. hidden: of the MLP.
        patch: side of a patch in pixels. image: side of the square images that its table of positions is for.
        swiglu: two gated layers instead of one and a GELU.
        cls: a CLS token with a position of its own, before the patches. registers: tokens behind it, without positions.
        scale: layer scale behind attention and MLP. bias: of queries, keys and values.
        norm: "tokens": the final norm is of all tokens; "pooled": of their average; "none": the file has none.
        eps: of the norms.
        positions: how the table is resized, one of `POSITIONS`.
    """

    width: int
    depth: int
    heads: int
    hidden: int
    patch: int
    image: int
    swiglu: bool = False
    cls: bool = True
    registers: int = 0
    scale: bool = False
    bias: bool = True
    norm: str = "tokens"
    eps: float = 1e-6
    positions: str = "size"

    @property
    def grid(self) -> int:
        """Patches along a side at the training size."""
        return self.image // self.patch

    @property
    def prefix(self) -> int:
        """Tokens that are no patches."""
        return self.cls + self.registers

    @property
    def arch(self) -> str:
        """Its name."""
        sizes = {(width, depth, swiglu): name for name, (width, depth, _, _, swiglu) in SIZES.items()}
        size = sizes.get((self.width, self.depth, self.swiglu)) or sizes.get((self.width, self.depth, False))
        usual = _usual(size or f"{self.width}x{self.depth}", self.patch, self.image)
        if self.swiglu and not usual.swiglu:
            usual = replace(usual, hidden=gated(self.width))
        parts = [
            f"h{self.heads}" if self.heads != usual.heads else "",
            "swiglu" if self.swiglu and not usual.swiglu else "",
            f"m{self.hidden}" if self.hidden != usual.hidden else "",
            "" if self.cls else "nocls",
            f"reg{self.registers}" if self.registers else "",
            "ls" if self.scale else "",
            "" if self.bias else "nobias",
            {"tokens": "", "pooled": "fcnorm", "none": "nonorm"}[self.norm],
            f"eps{self.eps:.0e}" if self.eps != 1e-6 else "",
            self.positions if self.positions != "size" else "",
        ]
        name = size or f"{self.width}x{self.depth}"
        return ".".join([f"vit_{name}_patch{self.patch}_{self.image}", *filter(None, parts)])


def gated(width: int) -> int:
    """Hidden units of a SwiGLU that costs as much as an MLP of four widths (dinov2/layers/swiglu_ffn.py, fused)."""
    return (int(4 * width * 2 / 3) + 7) // 8 * 8


def _usual(size: str, patch: int, image: int) -> Vit:
    if size in SIZES:
        width, depth, heads, hidden, swiglu = SIZES[size]
        return Vit(width, depth, heads, hidden, patch, image, swiglu)
    width, depth = map(int, size.split("x"))
    return Vit(width, depth, max(1, width // 64), 4 * width, patch, image)


@cache
def parse(arch: str) -> Vit | None:
    """The numbers behind a name; None if it is no name of this family, or not the one that `Vit.arch` gives."""
    found = _NAME.fullmatch(arch)
    if found is None or (found["size"] and found["size"] not in SIZES):
        return None
    size = found["size"] or f"{found['width']}x{found['depth']}"
    vit = _usual(size, int(found["patch"]), int(found["image"]))
    parts = arch.split("_")[-1].split(".")[1:]
    known: dict[str, dict[str, Any]] = {
        "swiglu": {"swiglu": True, "hidden": gated(vit.width)},
        "nocls": {"cls": False},
        "ls": {"scale": True},
        "nobias": {"bias": False},
        "fcnorm": {"norm": "pooled"},
        "nonorm": {"norm": "none"},
        "offset": {"positions": "offset"},
        "antialias": {"positions": "antialias"},
        "corners": {"positions": "corners"},
    }
    for part in parts:
        number = re.fullmatch(r"(h|m|reg|eps)(.+)", part)
        if part in known:
            vit = replace(vit, **known[part])
        elif number and number[1] == "eps" and re.fullmatch(r"\de-\d+", number[2]):
            vit = replace(vit, eps=float(number[2]))
        elif number and number[2].isdecimal():
            changed: dict[str, Any] = {{"h": "heads", "m": "hidden", "reg": "registers"}[number[1]]: int(number[2])}
            vit = replace(vit, **changed)
        else:
            return None
    sound = vit.patch and vit.image and not vit.image % vit.patch and vit.heads and not vit.width % vit.heads
    return vit if sound and vit.arch == arch else None


def vit_of(arch: str) -> Vit:
    """As `parse`, of a name that is known to be one."""
    vit = parse(arch)
    if vit is None:
        raise CheckpointError(f"unknown architecture {arch!r}", todo=SUPPORTED)
    return vit


SUPPORTED = (
    f"supported are vision transformers of the sizes {', '.join(SIZES)} and any other width and depth, with timm's or "
    "DINOv2's blocks: learned or fixed positions, CLS token, registers, layer scale, SwiGLU"
)


@cache
def expected_shapes(arch: str) -> Mapping[str, Shape]:
    """Name → shape of every tensor, in timm's order; a test holds them against the module."""
    vit = vit_of(arch)
    wide = vit.width
    shapes: dict[str, Shape] = {"cls_token": (1, 1, wide)} if vit.cls else {}
    shapes["pos_embed"] = (1, vit.cls + vit.grid**2, wide)
    if vit.registers:
        shapes["reg_token"] = (1, vit.registers, wide)
    shapes |= {"patch_embed.proj.weight": (wide, 3, vit.patch, vit.patch), "patch_embed.proj.bias": (wide,)}
    for number in range(vit.depth):
        block = f"blocks.{number}"
        shapes |= _norm(f"{block}.norm1", wide)
        shapes |= {f"{block}.attn.qkv.weight": (3 * wide, wide)}
        shapes |= {f"{block}.attn.qkv.bias": (3 * wide,)} if vit.bias else {}
        shapes |= _linear(f"{block}.attn.proj", wide, wide)
        shapes |= {f"{block}.ls1.gamma": (wide,)} if vit.scale else {}
        shapes |= _norm(f"{block}.norm2", wide)
        shapes |= _linear(f"{block}.mlp.fc1", vit.hidden * (2 if vit.swiglu else 1), wide)
        shapes |= _linear(f"{block}.mlp.fc2", wide, vit.hidden)
        shapes |= {f"{block}.ls2.gamma": (wide,)} if vit.scale else {}
    return shapes | _norm({"tokens": "norm", "pooled": "fc_norm"}[vit.norm], wide) if vit.norm != "none" else shapes


def _linear(name: str, outputs: int, inputs: int) -> dict[str, Shape]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, channels: int) -> dict[str, Shape]:
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


@cache
def _module() -> type[Any]:
    """The class, whose base takes seconds to import."""
    import torch
    from timm.layers import Mlp, SwiGLUPacked
    from timm.models.vision_transformer import VisionTransformer
    from torch import nn

    class VisionTransformerOfItsAuthors(VisionTransformer):  # type: ignore[misc]  # timm is untyped
        """timm's, with positions, CLS token and registers as in the code that trained the weights."""

        def __init__(self, vit: Vit, **options: Any) -> None:
            super().__init__(
                img_size=vit.image, patch_size=vit.patch, num_classes=0, embed_dim=vit.width, depth=vit.depth,
                num_heads=vit.heads, qkv_bias=vit.bias, class_token=vit.cls,
                # timm multiplies and cuts: half a unit more, and no rounding makes it one unit less
                mlp_ratio=(vit.hidden * (2 if vit.swiglu else 1) + 0.5) / vit.width,
                init_values=1e-5 if vit.scale else None,
                global_pool="token" if vit.cls and vit.norm != "pooled" else "avg", fc_norm=vit.norm == "pooled",
                final_norm=vit.norm != "none", norm_layer=partial(nn.LayerNorm, eps=vit.eps), dynamic_img_size=True,
                # timm hands its GELU to any MLP, whatever that one's own default is
                mlp_layer=SwiGLUPacked if vit.swiglu else Mlp, act_layer=nn.SiLU if vit.swiglu else nn.GELU,
                **options,
            )  # fmt: skip
            self.vit = vit
            if vit.registers:
                self.reg_token = nn.Parameter(torch.randn(1, vit.registers, vit.width) * 1e-6)
                self.num_reg_tokens, self.num_prefix_tokens = vit.registers, vit.prefix

        def _pos_embed(self, x: Tensor) -> Tensor:
            batch, height, width, channels = x.shape
            tokens = x.reshape(batch, height * width, channels)
            if self.cls_token is not None:
                tokens = torch.cat([self.cls_token.expand(batch, -1, -1), tokens], 1)
            tokens = tokens + positions(self.pos_embed, self.vit, height, width)
            if self.reg_token is not None:
                cut = int(self.vit.cls)
                tokens = torch.cat([tokens[:, :cut], self.reg_token.expand(batch, -1, -1), tokens[:, cut:]], 1)
            placed: Tensor = self.pos_drop(tokens)
            return placed

        def tokens(self, images: Tensor, indices: Collection[int]) -> list[Tensor]:
            """Tokens [n, prefix + patches, width] behind each of these blocks, before the final norm."""
            x = self._pos_embed(self.patch_embed(images))
            found = []
            for number, block in enumerate(self.blocks):
                x = block(x)
                if number in indices:
                    found.append(x)
            return found

    return VisionTransformerOfItsAuthors


def positions(table: Tensor, vit: Any, height: int, width: int) -> Tensor:
    """The table [1, cls + grid², C] for a grid of `height` × `width` patches, by the rule of its authors."""
    import torch
    from torch.nn import functional as F

    if (height, width) == (vit.grid, vit.grid):
        return table
    cut = int(vit.cls)
    square = table[:, cut:].reshape(1, vit.grid, vit.grid, -1).permute(0, 3, 1, 2)
    if vit.positions == "offset":
        factors = (height + 0.1) / vit.grid, (width + 0.1) / vit.grid
        resized = F.interpolate(square.float(), scale_factor=factors, mode="bicubic")
    elif vit.positions == "corners":
        resized = F.interpolate(square.float(), size=(height, width), mode="bicubic", align_corners=True)
    else:
        antialias = vit.positions == "antialias"
        resized = F.interpolate(square.float(), size=(height, width), mode="bicubic", antialias=antialias)
    if resized.shape[2:] != (height, width):
        raise CheckpointError(f"positions resized to {tuple(resized.shape[2:])} instead of {(height, width)}")
    patches = resized.permute(0, 2, 3, 1).flatten(1, 2).to(table.dtype)
    return torch.cat([table[:, :cut], patches], 1)


_OF_A_BACKBONE = re.compile(
    r"(?:cls_token$|reg_token$|pos_embed$|patch_embed\.proj\.|norm\.|fc_norm\."
    r"|blocks\.\d+\.(?!attn\.[qv]_bias|attn\.relative|gamma_))"
)
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
# A part of a feature: which tokens, of how many of the last blocks
_PART = re.compile(r"(cls|patches)(\d*)")


def parts(pooling: str) -> list[tuple[str, int]]:
    """`cls4+patches` → [("cls", 4), ("patches", 1)]."""
    found = [_PART.fullmatch(part) for part in pooling.removesuffix("-raw").split("+")]
    return [(part[1], int(part[2] or 1)) for part in found if part]


def tensors_of_blocks(shapes: Mapping[str, Shape]) -> tuple[dict[str, list[Shape]], int]:
    """Name within a block → its shapes in all blocks, and how many blocks there are."""
    blocks: dict[str, list[Shape]] = {}
    numbers = {-1}
    for name, shape in shapes.items():
        if found := _BLOCK.fullmatch(name):
            numbers.add(int(found[1]))
            blocks.setdefault(found[2], []).append(shape)
    return blocks, max(numbers) + 1


class VisionTransformers(Family):
    """See the module.

    Features, by name: `cls` and `patches` (the average of the patches' tokens, registers left out) behind the final
    norm; `cls4` and `patches4` those of the last four blocks, each behind the final norm, side by side
    (facebookresearch/dino: eval_linear.py, --n_last_blocks 4); `cls+patches`, `cls4+patches` (facebookresearch/dinov2:
    dinov2/eval/linear.py, create_linear_input); with `-raw` without the norm (facebookresearch/msn: linear_eval.py).
    """

    name = "vit"
    title = "Vision transformers"
    offered: ClassVar[tuple[str, ...]] = (
        *("vit_tiny_patch16_224", "vit_small_patch16_224", "vit_small_patch8_224", "vit_base_patch16_224"),
        *("vit_base_patch8_224", "vit_large_patch16_224", "vit_huge_patch14_224", "vit_small_patch14_518.ls.offset"),
    )
    supported = SUPPORTED
    stem = "patch_embed.proj.weight"
    classifier = "head"
    markers: ClassVar[tuple[str, ...]] = ("blocks.0.norm1.",)
    behind = ("norm", "fc_norm")

    def numbers(self, arch: str) -> Any:
        """Width, depth, patch, image, prefix, norm, … of an architecture."""
        return vit_of(arch)

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
        """What most of its tensors say; facts of a layout: heads, eps, positions.

        Raises:
            CheckpointError: a relative; positions that fit no square grid, or a CLS token without one; a size without
                known heads.
        """
        refuse_relative(shapes)
        blocks, count = tensors_of_blocks(shapes)
        wide = most(
            shape[0] for name in ("norm1.weight", "norm1.bias", "attn.proj.bias") for shape in blocks.get(name, ())
        )
        hidden = most(shape[-1] for shape in blocks.get("mlp.fc2.weight", ()))
        first = most(shape[0] for shape in blocks.get("mlp.fc1.bias", ()))
        if not (count and wide and hidden):
            raise CheckpointError("holds no whole block of a vision transformer", todo=SUPPORTED)
        depth, swiglu, cls = count, first == 2 * hidden, "cls_token" in shapes
        size = next((name for name, known in SIZES.items() if known[:2] == (wide, depth)), f"{wide}x{depth}")
        usual = _usual(size, 16, 224)
        patch, registers = patch_of(shapes), (*shapes.get("reg_token", ()), 0, 0)[1]
        grid = grid_of(shapes, cls, registers)
        vit = Vit(
            wide, depth, int(facts.get("heads") or usual.heads), hidden, patch, patch * grid, swiglu, cls,
            registers=registers,
            scale="ls1.gamma" in blocks or "ls2.gamma" in blocks,
            bias="attn.qkv.bias" in blocks,
            norm="tokens" if _any(shapes, "norm.") else "pooled" if _any(shapes, "fc_norm.") else "none",
            eps=float(facts.get("eps", 1e-6)),
            positions=str(facts.get("positions", "size")),
        )  # fmt: skip
        if parse(vit.arch) is None:
            raise CheckpointError(
                f"is a vision transformer that is {wide} wide, and how many heads it has no tensor shows",
                found=f"{wide} is no multiple of {vit.heads}",
                todo=SUPPORTED,
            )
        if parse(vit.arch) != vit:
            raise CheckpointError(
                f"is a vision transformer whose norms have an eps of {vit.eps:g}",
                todo="names of architectures have room for one digit of it, as in 1e-06",
            )
        return vit.arch

    def gmacs(self, arch: str, side: int = 224) -> float:
        """See `Family`."""
        vit = self.numbers(arch)
        patches = (side // vit.patch) ** 2
        tokens = patches + vit.prefix
        layers = 4 * vit.width**2 + (3 if vit.swiglu else 2) * vit.width * vit.hidden
        block = tokens * layers + 2 * tokens**2 * vit.width
        return float(vit.depth * block + patches * vit.width * 3 * vit.patch**2) / 1e9

    def build(self, arch: str, *, stride_in_1x1: bool = False, drop_path: float = 0.0) -> nn.Module:
        """See `Family`."""
        network: nn.Module = _module()(vit_of(arch), drop_path_rate=drop_path)
        return network

    def layer(self, arch: str, name: str) -> int:
        """As facebookresearch/mae: util/lr_decay.py, after BEiT's; registers, which it does not know, are tokens."""
        if name in ("cls_token", "reg_token", "pos_embed") or name.startswith("patch_embed."):
            return 0
        found = _BLOCK.fullmatch(name)
        return int(found[1]) + 1 if found else self.numbers(arch).depth + 1

    def maps(self, network: nn.Module, images: Tensor, indices: Sequence[int]) -> tuple[Tensor, ...]:
        """See `Family`: all of the patches' stride."""
        vit: Vit = network.vit  # type: ignore[assignment]
        rows, columns = (side // vit.patch for side in images.shape[2:])
        found = network.tokens(images, indices)  # type: ignore[operator]
        return tuple(
            tokens[:, vit.prefix :].transpose(1, 2).reshape(len(images), -1, rows, columns) for tokens in found
        )

    def map_widths(self, arch: str) -> tuple[int, ...]:
        """See `Family`."""
        vit = self.numbers(arch)
        return tuple([vit.width] * vit.depth)

    def stages(self, arch: str) -> tuple[str, ...]:
        """Patches, every block, and the final norm where it is of all tokens."""
        vit = self.numbers(arch)
        blocks = [f"blocks.{number}" for number in range(vit.depth)]
        return ("patch_embed", *blocks, *(["norm"] if vit.norm == "tokens" else []))

    def depends_on_size(self, arch: str) -> bool:
        """See `Family`."""
        return True

    def proof_sides(self, arch: str) -> tuple[int, int]:
        """The training size."""
        vit = self.numbers(arch)
        return vit.image, vit.image

    def poolings(self, arch: str) -> tuple[str, ...]:
        """See the class; without a norm in the file only the raw ones, and of four blocks only where there are four."""
        vit = self.numbers(arch)
        normed = ("cls", "patches", "cls+patches", "cls4", "cls4+patches", "patches4")
        raw = tuple(f"{name}-raw" for name in normed)
        names = {"tokens": normed + raw, "pooled": ("patches", *raw), "none": raw}[vit.norm]
        return tuple(name for name in names if (vit.cls or "cls" not in name) and (vit.depth >= 4 or "4" not in name))

    def pooling(self, arch: str, name: str) -> str:
        """The CLS token, or where there is none the average of patches: the first of `poolings`."""
        return self.poolings(arch)[0] if name in ("avg", "max", "grid") else name

    def channels(self, arch: str) -> int:
        """See `Family`."""
        wide: int = self.numbers(arch).width
        return wide

    def map_channels(self, arch: str) -> int:
        """See `Family`."""
        return 0

    def width(self, arch: str, pooling: str) -> int:
        """See `Family`."""
        wide: int = self.numbers(arch).width
        return wide * sum(count for _, count in parts(pooling))

    def demand(self, arch: str, poolings: Iterable[str], height: int, width: int) -> None:
        """See `Family`."""
        vit = self.numbers(arch)
        if height % vit.patch or width % vit.patch or min(height, width) < vit.patch:
            below = max(1, min(height, width) // vit.patch) * vit.patch
            raise UserError(
                f"images of {height} × {width} pixels are no multiple of the patches of {vit.patch}",
                found=arch,
                todo=f"give a crop of {below} or {below + vit.patch} (it was trained at {vit.image})",
            )

    def outputs(self, network: nn.Module, images: Tensor, poolings: Sequence[str]) -> Any:
        """Tokens behind each of the last blocks that a pooling wants, and the last of them behind the final norm."""
        count = max(count for pooling in poolings for _, count in parts(pooling))
        depth = len(network.blocks)  # type: ignore[arg-type]
        raw = network.tokens(images, range(depth - count, depth))  # type: ignore[operator]
        return raw, [network.norm(tokens) for tokens in raw]  # type: ignore[operator]

    def features(self, network: nn.Module, outputs: Any, poolings: Sequence[str]) -> dict[str, Tensor]:
        """See `Family`."""
        import torch

        vit: Vit = network.vit  # type: ignore[assignment]

        def part(which: str, count: int, raw: bool) -> Tensor:
            tokens = [each.float() for each in outputs[0 if raw else 1][-count:]]
            if which == "cls":
                return torch.cat([each[:, 0] for each in tokens], 1)
            averages = torch.cat([each[:, vit.prefix :].mean(1) for each in tokens], 1)
            return averages if raw or vit.norm != "pooled" else network.fc_norm(averages)  # type: ignore[operator]

        return {
            name: torch.cat([part(which, count, name.endswith("-raw")) for which, count in parts(name)], 1)
            for name in poolings
        }

    def facts(self, arch: str) -> dict[str, str]:
        """See `Family`."""
        vit = self.numbers(arch)
        rules = {
            "size": "to the grid, bicubic",
            "offset": "by the factor (side + 0.1) / grid, bicubic",
            "antialias": "to the grid, bicubic and antialiased",
            "corners": "to the grid, bicubic, corners on corners",
        }
        return {
            "attention": f"{vit.heads} heads of {vit.width // vit.heads} channels",
            "norms": f"eps {vit.eps:g}; the final one {WHERE[vit.norm]}",
            "positions": f"{vit.grid} × {vit.grid} for {vit.image} pixels; for others resized {rules[vit.positions]}",
        }

    def lints(self, arch: str, state: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
        """See `Family`."""
        vit = self.numbers(arch)
        kind = order_of_sines(state)
        if kind:
            yield "positions", f"pos_embed is a fixed table of sines and cosines, in the order of {kind}"
        if kind == "MoCo v3" and vit.width == 384 and vit.heads != 12:
            yield (
                "heads",
                f"MoCo v3's ViT-S has 12 heads and this file is read with {vit.heads}: the shapes are the same and "
                "another function is computed; --format moco_v3 says so",
            )
        yield from untrained(state)


WHERE = {"tokens": "of all tokens", "pooled": "of the average of patches", "none": "not in the file"}


def untrained(state: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """A lint of a network whose layer norms nothing has moved."""
    norms = [name for name in state if re.search(r"norm\d?\.(weight|bias)$", name)]
    if norms and all(bool((state[name] == float(name.endswith("weight"))).all()) for name in norms):
        yield "initialisation", "all layer norms have scale 1 and shift 0: an untrained file"


def most(values: Iterable[int]) -> int:
    """The most frequent one; 0 of none. A single misshaped tensor decides nothing."""
    counted = Counter(values).most_common(1)
    return counted[0][0] if counted else 0


def _any(shapes: Mapping[str, Shape], start: str) -> bool:
    return any(name.startswith(start) for name in shapes)


def sines(vit: Vit, columns_first: bool) -> Tensor:
    """The fixed table [grid², width]: rows' half first (facebookresearch/mae: util/pos_embed.py, whose meshgrid puts
    columns first under the name of h) or MoCo v3's order (facebookresearch/moco-v3: vits.py)."""
    import torch

    quarter = vit.width // 4
    frequencies = 1.0 / 10000 ** (torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(vit.grid, dtype=torch.float64)[:, None] * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], 1)
    rows = waves[:, None].expand(-1, vit.grid, -1)
    columns = waves[None].expand(vit.grid, -1, -1)
    return torch.cat([columns, rows] if columns_first else [rows, columns], 2).flatten(0, 1)


def order_of_sines(state: Mapping[str, Tensor]) -> str:
    """Whose fixed table of positions a state dict has, "MAE" or "MoCo v3"; "" of a learned one."""
    table, cls = state.get("pos_embed"), int("cls_token" in state)
    if table is None or table.ndim != 3 or len(table) != 1 or table.shape[2] % 4:
        return ""
    grid = root(table.shape[1] - cls)
    known = str(table.layout) == "torch.strided" and not table.is_quantized and not table.is_meta
    vit = Vit(table.shape[2], 1, 1, 1, 1, grid or 1)
    for kind, columns_first in (("MAE", True), ("MoCo v3", False)):
        if known and 0 < grid <= 256 and bool((table[0, cls:].double() - sines(vit, columns_first)).abs().max() < 1e-5):
            return kind
    return ""


FAMILY = VisionTransformers()
