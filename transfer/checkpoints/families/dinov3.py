"""DINOv3's vision transformers under timm's names: no table of positions, queries and keys are turned by their place.

The module is timm's `Eva` (huggingface/pytorch-image-models: timm/models/eva.py) as its `vit_*_patch16_dinov3_qkvb` are
built, with the angles of facebookresearch/dinov3: dinov3/layers/rope_position_encoding.py: places of patches run from
−1 to 1 along either side of an image, whatever its size, and the periods that divide them are a tensor of the file,
`rope.periods`; where a file lacks it, 100^(4 i / channels of a head), as they begin.

The name of an architecture says all of it: behind the first dot of `dinov3_small_patch16` stands what differs from the
released form: `swiglu` or `mlp`, `m1536` hidden units, `h6` heads, `reg4` registers, `nobias` of queries and values.
Keys have no bias: DINOv3 masks it. Layer scales and norms with eps 1e-5 are always there.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from transfer.checkpoints.families import Facts, Shape, fill_buffers
from transfer.checkpoints.families._vit_refusals import patch_of
from transfer.checkpoints.families.vit import VisionTransformers, most, tensors_of_blocks, untrained
from transfer.runtime.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor, nn

# Size → width, blocks, heads, hidden units (facebookresearch/dinov3: dinov3/hub/backbones.py)
SIZES: Mapping[str, tuple[int, int, int, int]] = {
    "small": (384, 12, 6, 1536),
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
    "huge": (1280, 32, 20, 5120),
    "giant": (4096, 40, 32, 8192),
}
_GATED = ("huge", "giant")  # of these sizes the released ones have a SwiGLU, of small a second one
IMAGE = 224  # pixels at which a proof is made; every size is as good
REGISTERS = 4
EPS = 1e-5
BASE = 100.0
_NAME = re.compile(r"dinov3_(?:(?P<size>[a-z]+)|(?P<width>\d+)x(?P<depth>\d+))_patch(?P<patch>\d+)(?:\..+)?")
SUPPORTED = (
    f"supported are DINOv3's transformers of the sizes {', '.join(SIZES)} and any other width and depth, with or "
    "without SwiGLU, one norm behind all tokens"
)


@dataclass(frozen=True)
class DinoV3:
    """A DINOv3 ViT in numbers; see the module for what the words of a name mean."""

    width: int
    depth: int
    heads: int
    hidden: int
    patch: int
    swiglu: bool = False
    registers: int = REGISTERS
    bias: bool = True
    image: int = IMAGE
    cls: bool = True
    norm: str = "tokens"

    @property
    def prefix(self) -> int:
        """Tokens that are no patches."""
        return 1 + self.registers

    @property
    def arch(self) -> str:
        """Its name."""
        sizes = {(width, depth): name for name, (width, depth, *_) in SIZES.items()}
        size = sizes.get((self.width, self.depth), f"{self.width}x{self.depth}")
        usual = _usual(size, self.patch)
        parts = [
            {(False, True): "swiglu", (True, False): "mlp"}.get((usual.swiglu, self.swiglu), ""),
            f"m{self.hidden}" if self.hidden != usual.hidden else "",
            f"h{self.heads}" if self.heads != usual.heads else "",
            f"reg{self.registers}" if self.registers != REGISTERS else "",
            "" if self.bias else "nobias",
        ]
        return ".".join([f"dinov3_{size}_patch{self.patch}", *filter(None, parts)])


def _usual(size: str, patch: int) -> DinoV3:
    if size in SIZES:
        return DinoV3(*SIZES[size], patch, swiglu=size in _GATED)
    width, depth = map(int, size.split("x"))
    return DinoV3(width, depth, max(1, width // 64), 4 * width, patch)


@cache
def parse(arch: str) -> DinoV3 | None:
    """The numbers behind a name; None if it is no name of this family, or not the one that `DinoV3.arch` gives."""
    found = _NAME.fullmatch(arch)
    if found is None or (found["size"] and found["size"] not in SIZES):
        return None
    known = _usual(found["size"] or f"{found['width']}x{found['depth']}", int(found["patch"]))
    words: dict[str, dict[str, Any]] = {
        "swiglu": {"swiglu": True},
        "mlp": {"swiglu": False},
        "nobias": {"bias": False},
    }
    for part in arch.split("_")[-1].split(".")[1:]:
        number = re.fullmatch(r"(h|m|reg)(\d+)", part)
        if part not in words and number is None:
            return None
        named = {"h": "heads", "m": "hidden", "reg": "registers"}
        known = replace(known, **(words[part] if number is None else {named[number[1]]: int(number[2])}))
    # a head's channels are turned in pairs of pairs
    sound = known.patch and known.heads and known.registers and not known.hidden % 8
    return known if sound and not known.width % (4 * known.heads) and known.arch == arch else None


def dinov3_of(arch: str) -> DinoV3:
    """As `parse`, of a name that is known to be one."""
    known = parse(arch)
    if known is None:
        raise CheckpointError(f"unknown architecture {arch!r}", todo=SUPPORTED)
    return known


@cache
def expected_shapes(arch: str) -> Mapping[str, Shape]:
    """Name → shape of every tensor, in timm's order; a test holds them against the module."""
    known = dinov3_of(arch)
    wide, hidden = known.width, known.hidden
    shapes: dict[str, Shape] = {"cls_token": (1, 1, wide)}
    shapes |= {"reg_token": (1, known.registers, wide)}
    shapes |= {"patch_embed.proj.weight": (wide, 3, known.patch, known.patch), "patch_embed.proj.bias": (wide,)}
    shapes |= {"rope.periods": (wide // known.heads // 4,)}
    for number in range(known.depth):
        block = f"blocks.{number}"
        shapes |= {f"{block}.gamma_1": (wide,), f"{block}.gamma_2": (wide,)}
        shapes |= {f"{block}.norm1.weight": (wide,), f"{block}.norm1.bias": (wide,)}
        shapes |= {f"{block}.attn.q_bias": (wide,), f"{block}.attn.v_bias": (wide,)} if known.bias else {}
        shapes |= {f"{block}.attn.qkv.weight": (3 * wide, wide)}
        shapes |= {f"{block}.attn.proj.weight": (wide, wide), f"{block}.attn.proj.bias": (wide,)}
        shapes |= {f"{block}.norm2.weight": (wide,), f"{block}.norm2.bias": (wide,)}
        for layer in ("fc1_g", "fc1_x") if known.swiglu else ("fc1",):
            shapes |= {f"{block}.mlp.{layer}.weight": (hidden, wide), f"{block}.mlp.{layer}.bias": (hidden,)}
        shapes |= {f"{block}.mlp.fc2.weight": (wide, hidden), f"{block}.mlp.fc2.bias": (wide,)}
    return shapes | {"norm.weight": (wide,), "norm.bias": (wide,)}


NO_PERIODS = (
    "the file lacks the periods of its angles and so does not say its heads: those of the released sizes were taken"
)


def usual_periods(state: Mapping[str, Tensor]) -> Tensor:
    """Those of the released network of this width, for a file that has none."""
    wide = next((tensor.shape[-1] for name, tensor in state.items() if name == "cls_token"), 0)
    return periods(next((width // heads for width, _, heads, _ in SIZES.values() if width == wide), 64))


def periods(channels: int, base: float = BASE) -> Tensor:
    """[channels / 4] of a head of so many, as they begin."""
    import torch

    return base ** (2 * torch.arange(channels // 4, dtype=torch.float32) / (channels // 2))


@cache
def _module() -> type[Any]:
    """The class, whose base takes seconds to import."""
    import torch
    from timm.models.eva import Eva
    from torch import nn

    class DinoV3WithTokens(Eva):  # type: ignore[misc]  # timm is untyped
        """timm's, which gives its tokens block by block and turns by the periods that it holds."""

        def __init__(self, known: DinoV3, drop_path: float) -> None:
            super().__init__(
                img_size=known.image, patch_size=known.patch, num_classes=0, embed_dim=known.width, depth=known.depth,
                num_heads=known.heads, qkv_bias=known.bias, mlp_ratio=(known.hidden + 0.5) / known.width,
                swiglu_mlp=known.swiglu, swiglu_align_to=8 if known.swiglu else 0, init_values=1e-5,
                global_pool="token", num_reg_tokens=known.registers, use_abs_pos_emb=False, use_rot_pos_emb=True,
                rope_type="dinov3", rope_temperature=BASE, rope_rotate_half=True, use_fc_norm=False,
                dynamic_img_size=True, norm_layer=partial(nn.LayerNorm, eps=EPS), drop_path_rate=drop_path,
            )  # fmt: skip
            self.vit = known
            self.rope = Angles(known.width // known.heads)
            # a network that was built without memory has no values in what it does not save, either
            self.register_load_state_dict_post_hook(fill_buffers)

        def tokens(self, images: Tensor, indices: Collection[int]) -> list[Tensor]:
            """Tokens [n, prefix + patches, width] behind each of these blocks, before the final norm."""
            x, angles = self._pos_embed(self.patch_embed(images))
            found = []
            for number, block in enumerate(self.blocks):
                x = block(x, rope=angles)
                if number in indices:
                    found.append(x)
            return found

    class Angles(nn.Module):
        """Places of patches → sines and cosines [rows · columns, 2 · channels of a head]."""

        def __init__(self, channels: int) -> None:
            super().__init__()
            self.periods: Tensor
            self.register_buffer("periods", periods(channels))

        def get_embed(self, shape: tuple[int, int]) -> Tensor:
            """timm's name for it."""
            sides = [(torch.arange(side, device=self.periods.device) + 0.5) / side * 2 - 1 for side in shape]
            places = torch.stack(torch.meshgrid(*sides, indexing="ij"), -1).flatten(0, 1)
            angles = (2 * torch.pi * places[:, :, None] / self.periods).flatten(1).tile(2)
            return torch.cat([angles.sin(), angles.cos()], -1)

    return DinoV3WithTokens


_OF_A_BACKBONE = re.compile(
    r"(?:cls_token$|reg_token$|patch_embed\.proj\.|norm\.|rope\.periods$"
    r"|blocks\.\d+\.(?!attn\.qkv\.bias|attn\.relative_position|ls\d))"
)


class DinoV3s(VisionTransformers):
    """See the module; features as those of vision transformers."""

    name = "dinov3"
    title = "DINOv3's vision transformers"
    offered = ("dinov3_small_patch16", "dinov3_base_patch16", "dinov3_large_patch16")
    supported = SUPPORTED
    markers = ()  # its first block's names are a ViT's

    def numbers(self, arch: str) -> Any:
        """See `VisionTransformers`."""
        return dinov3_of(arch)

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
        """What most of its tensors say; heads by the periods of a head, of which a quarter are its channels.

        Raises:
            CheckpointError: no whole block, or no square patches.
        """
        blocks, depth = tensors_of_blocks(shapes)
        wide = most(shape[0] for name in ("norm1.weight", "norm1.bias") for shape in blocks.get(name, ()) if shape)
        firsts = (f"mlp.{layer}.bias" for layer in ("fc1", "fc1_g", "fc1_x"))
        hidden = most(shape[0] for name in firsts for shape in blocks.get(name, ()) if shape)
        if not (depth and wide and hidden):
            raise CheckpointError("holds no whole block of a DINOv3 ViT", todo=SUPPORTED)
        turned = 4 * (*shapes.get("rope.periods", ()), 0)[0]
        size = next((name for name, known in SIZES.items() if known[:2] == (wide, depth)), f"{wide}x{depth}")
        known = DinoV3(
            wide, depth, wide // turned if turned and not wide % turned else _usual(size, 16).heads, hidden,
            patch_of(shapes),
            swiglu="mlp.fc1_g.weight" in blocks or "mlp.fc1_x.weight" in blocks,
            # none of those released is without, and a file from which they were lost looks like one that is
            registers=(*shapes.get("reg_token", ()), REGISTERS, REGISTERS)[1],
            bias="attn.q_bias" in blocks or "attn.v_bias" in blocks,
        )  # fmt: skip
        if parse(known.arch) is None:
            raise CheckpointError(f"is no DINOv3 ViT of {known.heads} heads: {wide} wide", todo=SUPPORTED)
        return known.arch

    def build(self, arch: str, *, stride_in_1x1: bool = False, drop_path: float = 0.0) -> nn.Module:
        """See `Family`."""
        network: nn.Module = _module()(dinov3_of(arch), drop_path)
        return network

    def facts(self, arch: str) -> dict[str, str]:
        """See `Family`."""
        known = dinov3_of(arch)
        return {
            "attention": f"{known.heads} heads of {known.width // known.heads} channels; keys have no bias",
            "norms": f"eps {EPS:g}; the final one of all tokens",
            "positions": "queries and keys turned by their place, at any size",
        }

    def lints(self, arch: str, state: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
        """See `Family`."""
        yield from untrained(state)


FAMILY = DinoV3s()
