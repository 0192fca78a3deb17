"""BEiT's transformers under timm's names: relative positions, a bias for queries and values and none for keys.

The module is timm's `Beit` (huggingface/pytorch-image-models: timm/models/beit.py), after microsoft/unilm: beit and
beit2, modeling_pretrain.py and modeling_finetune.py. The name of an architecture says all of it: behind the first dot
of `beit_base_patch16_224` stands what differs from the form that BEiT fine-tunes: `shared`, one table of relative
positions for all blocks, as in pretraining; `norel`, none; `abs`, a table of absolute positions; `noscale`, no layer
scale; `nobias`; `h12` heads, `m3072` hidden units; `fcnorm`, the norm comes behind the average of patches; `nonorm`.

A table of relative positions serves the grid that it was trained on, [(2 g − 1)² + 3, heads]; enlarging it is geometric
(BEiT: run_class_finetuning.py) and changes the function, so other sizes than the training's are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from transfer.checkpoints.families import Facts, Shape, fill_buffers
from transfer.checkpoints.families.vit import WHERE, VisionTransformers, most, positions, tensors_of_blocks, untrained
from transfer.runtime.errors import CheckpointError, UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

SIZES: Mapping[str, tuple[int, int, int]] = {"small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
_NAME = re.compile(
    r"beit_(?:(?P<size>[a-z]+)|(?P<width>\d+)x(?P<depth>\d+))_patch(?P<patch>\d+)_(?P<image>\d+)(?:\..+)?"
)
SUPPORTED = (
    f"supported are BEiT's transformers of the sizes {', '.join(SIZES)} and any other width and depth, with relative "
    "or absolute positions"
)


@dataclass(frozen=True)
class Beit:
    """A BEiT in numbers; see the module for what the words of a name mean."""

    width: int
    depth: int
    heads: int
    hidden: int
    patch: int
    image: int
    relative: str = "blocks"  # "shared", "none"
    absolute: bool = False
    scale: bool = True
    bias: bool = True
    norm: str = "tokens"  # "pooled", "none"
    swiglu: bool = False
    cls: bool = True
    registers: int = 0
    positions: str = "offset"  # absolute ones in detectors (lxtGH/CAE: downstream_tasks/detection/models)

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.image // self.patch

    @property
    def prefix(self) -> int:
        """Tokens that are no patches."""
        return 1

    @property
    def distances(self) -> int:
        """Rows of a table of relative positions: between patches, and three for the CLS token."""
        return (2 * self.grid - 1) ** 2 + 3

    @property
    def arch(self) -> str:
        """Its name."""
        sizes = {(width, depth): name for name, (width, depth, _) in SIZES.items()}
        size = sizes.get((self.width, self.depth), f"{self.width}x{self.depth}")
        usual = _usual(size, self.patch, self.image)
        parts = [
            f"h{self.heads}" if self.heads != usual.heads else "",
            f"m{self.hidden}" if self.hidden != usual.hidden else "",
            {"blocks": "", "shared": "shared", "none": "norel"}[self.relative],
            "abs" if self.absolute else "",
            "" if self.scale else "noscale",
            "" if self.bias else "nobias",
            {"tokens": "", "pooled": "fcnorm", "none": "nonorm"}[self.norm],
        ]
        return ".".join([f"beit_{size}_patch{self.patch}_{self.image}", *filter(None, parts)])


def _usual(size: str, patch: int, image: int) -> Beit:
    width, depth, heads = SIZES[size] if size in SIZES else (*map(int, size.split("x")), 0)
    return Beit(width, depth, heads or max(1, width // 64), 4 * width, patch, image)


@cache
def parse(arch: str) -> Beit | None:
    """The numbers behind a name; None if it is no name of this family, or not the one that `Beit.arch` gives."""
    found = _NAME.fullmatch(arch)
    if found is None or (found["size"] and found["size"] not in SIZES):
        return None
    size = found["size"] or f"{found['width']}x{found['depth']}"
    beit = _usual(size, int(found["patch"]), int(found["image"]))
    known: dict[str, dict[str, Any]] = {
        "shared": {"relative": "shared"},
        "norel": {"relative": "none"},
        "abs": {"absolute": True},
        "noscale": {"scale": False},
        "nobias": {"bias": False},
        "fcnorm": {"norm": "pooled"},
        "nonorm": {"norm": "none"},
    }
    for part in arch.split("_")[-1].split(".")[1:]:
        number = re.fullmatch(r"([hm])(\d+)", part)
        if part not in known and number is None:
            return None
        changed = known[part] if number is None else {{"h": "heads", "m": "hidden"}[number[1]]: int(number[2])}
        beit = replace(beit, **changed)
    sound = beit.patch and beit.image and not beit.image % beit.patch and beit.heads and not beit.width % beit.heads
    return beit if sound and beit.arch == arch else None


def beit_of(arch: str) -> Beit:
    """As `parse`, of a name that is known to be one."""
    beit = parse(arch)
    if beit is None:
        raise CheckpointError(f"unknown architecture {arch!r}", todo=SUPPORTED)
    return beit


@cache
def expected_shapes(arch: str) -> Mapping[str, Shape]:
    """Name → shape of every tensor, in timm's order; a test holds them against the module."""
    beit = beit_of(arch)
    wide, table = beit.width, (beit.distances, beit.heads)
    shapes: dict[str, Shape] = {"cls_token": (1, 1, wide)}
    shapes |= {"pos_embed": (1, 1 + beit.grid**2, wide)} if beit.absolute else {}
    shapes |= {"patch_embed.proj.weight": (wide, 3, beit.patch, beit.patch), "patch_embed.proj.bias": (wide,)}
    shapes |= {"rel_pos_bias.relative_position_bias_table": table} if beit.relative == "shared" else {}
    for number in range(beit.depth):
        block = f"blocks.{number}"
        shapes |= {f"{block}.gamma_1": (wide,), f"{block}.gamma_2": (wide,)} if beit.scale else {}
        shapes |= {f"{block}.norm1.weight": (wide,), f"{block}.norm1.bias": (wide,)}
        shapes |= {f"{block}.attn.q_bias": (wide,), f"{block}.attn.v_bias": (wide,)} if beit.bias else {}
        shapes |= {f"{block}.attn.relative_position_bias_table": table} if beit.relative == "blocks" else {}
        shapes |= {f"{block}.attn.qkv.weight": (3 * wide, wide)}
        shapes |= {f"{block}.attn.proj.weight": (wide, wide), f"{block}.attn.proj.bias": (wide,)}
        shapes |= {f"{block}.norm2.weight": (wide,), f"{block}.norm2.bias": (wide,)}
        shapes |= {f"{block}.mlp.fc1.weight": (beit.hidden, wide), f"{block}.mlp.fc1.bias": (beit.hidden,)}
        shapes |= {f"{block}.mlp.fc2.weight": (wide, beit.hidden), f"{block}.mlp.fc2.bias": (wide,)}
    norm = {"tokens": "norm", "pooled": "fc_norm", "none": ""}[beit.norm]
    return shapes | {f"{norm}.weight": (wide,), f"{norm}.bias": (wide,)} if norm else shapes


@cache
def _module() -> type[Any]:
    """The class, whose base takes seconds to import."""
    from timm.models.beit import Beit as Module
    from torch import nn

    class BeitWithTokens(Module):  # type: ignore[misc]  # timm is untyped
        """timm's, which gives its tokens block by block."""

        def __init__(self, beit: Beit, drop_path: float) -> None:
            super().__init__(
                img_size=beit.image, patch_size=beit.patch, num_classes=0, embed_dim=beit.width, depth=beit.depth,
                num_heads=beit.heads, qkv_bias=beit.bias, mlp_ratio=beit.hidden / beit.width,
                init_values=0.1 if beit.scale else None, use_abs_pos_emb=beit.absolute,
                use_rel_pos_bias=beit.relative == "blocks", use_shared_rel_pos_bias=beit.relative == "shared",
                global_pool="avg" if beit.norm == "pooled" else "token", use_fc_norm=beit.norm == "pooled",
                drop_path_rate=drop_path, norm_layer=partial(nn.LayerNorm, eps=1e-6),
            )  # fmt: skip
            self.vit = beit
            if beit.norm == "none":
                self.norm = nn.Identity()
            # a network that was built without memory has no values in what it does not save, either
            self.register_load_state_dict_post_hook(fill_buffers)

        def tokens(self, images: Tensor, indices: Collection[int]) -> list[Tensor]:
            """Tokens [n, 1 + patches, width] behind each of these blocks, before the final norm."""
            import torch

            x = self.patch_embed(images)
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
            if self.pos_embed is not None:
                x = x + positions(self.pos_embed, self.vit, *(side // self.vit.patch for side in images.shape[2:]))
            shared = None if self.rel_pos_bias is None else self.rel_pos_bias()
            found = []
            for number, block in enumerate(self.blocks):
                x = block(x, shared_rel_pos_bias=shared)
                if number in indices:
                    found.append(x)
            return found

    return BeitWithTokens


_OF_A_BACKBONE = re.compile(
    r"(?:cls_token$|pos_embed$|patch_embed\.proj\.|norm\.|fc_norm\.|rel_pos_bias\.relative_position_bias_table$"
    r"|blocks\.\d+\.(?!attn\.qkv\.bias|ls\d))"
)


class Beits(VisionTransformers):
    """See the module; features as those of vision transformers."""

    name = "beit"
    title = "BEiT's transformers"
    offered = ("beit_base_patch16_224", "beit_large_patch16_224")
    supported = SUPPORTED
    markers = ()  # its first block's names are a ViT's

    def numbers(self, arch: str) -> Any:
        """See `VisionTransformers`."""
        return beit_of(arch)

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
        """What most of its tensors say; the grid is that of the relative table, or of the absolute one.

        Raises:
            CheckpointError: a table that fits no square grid, no square patches, or no whole block.
        """
        blocks, depth = tensors_of_blocks(shapes)
        wide = most(shape[0] for name in ("norm1.weight", "norm1.bias") for shape in blocks.get(name, ()) if shape)
        hidden = most(shape[-1] for shape in blocks.get("mlp.fc2.weight", ()) if shape)
        stem = shapes.get("patch_embed.proj.weight", ())
        if not (depth and wide and hidden) or len(stem) < 4 or stem[2] != stem[3]:
            raise CheckpointError(
                "holds no whole BEiT with square patches", found=f"patch_embed.proj.weight is {stem}", todo=SUPPORTED
            )
        shared = shapes.get("rel_pos_bias.relative_position_bias_table")
        own = blocks.get("attn.relative_position_bias_table", [])
        tables = [shared] if shared else own
        rows = most(shape[0] for shape in tables if shape)
        heads = most(shape[1] for shape in tables if len(shape) > 1)
        heads = heads or facts.get("heads_of", {}).get(wide, max(1, wide // 64))
        absolute = shapes.get("pos_embed")
        grid = self._grid(rows, absolute)
        beit = Beit(
            wide, depth, heads, hidden, stem[2], stem[2] * grid,
            relative="shared" if shared else "blocks" if own else "none",
            absolute=absolute is not None,
            scale="gamma_1" in blocks or "gamma_2" in blocks,
            bias="attn.q_bias" in blocks or "attn.v_bias" in blocks,
            norm="tokens" if any(name.startswith("norm.") for name in shapes)
            else "pooled" if any(name.startswith("fc_norm.") for name in shapes) else "none",
        )  # fmt: skip
        if parse(beit.arch) is None:
            raise CheckpointError(f"is no BEiT of {heads} heads: {wide} wide", todo=SUPPORTED)
        return beit.arch

    def _grid(self, rows: int, absolute: Shape | None) -> int:
        side = math.isqrt(max(0, rows - 3))
        if rows and side**2 == rows - 3 and side % 2:
            return (side + 1) // 2
        tokens = absolute[1] - 1 if absolute is not None and len(absolute) > 1 else 0
        if not rows and tokens and math.isqrt(tokens) ** 2 == tokens:
            return math.isqrt(tokens)
        raise CheckpointError(
            "has a table of positions that fits no square grid",
            found=f"relative_position_bias_table of {rows} rows"
            if rows
            else "no rel_pos_bias.relative_position_bias_table, none in the blocks, "
            f"pos_embed {absolute or 'neither'}, nor reg_token, which DINOv3 has",
            todo="a table has (2 g − 1)² + 3 rows for g × g patches, or 1 + g² positions; check that the file is whole",
        )

    def build(self, arch: str, *, stride_in_1x1: bool = False, drop_path: float = 0.0) -> nn.Module:
        """See `Family`."""
        network: nn.Module = _module()(beit_of(arch), drop_path)
        return network

    def build_for_maps(self, arch: str, *, drop_path: float = 0.0) -> nn.Module:
        """See `Family`: where positions are absolute alone, as in CAE's files.

        Raises:
            UserError: a table of relative positions serves one size.
        """
        beit = beit_of(arch)
        if beit.relative != "none":
            raise UserError(
                f"a {arch} gives no maps of larger images",
                found=f"relative positions of {beit.grid} × {beit.grid} patches",
                todo="take a checkpoint with absolute positions, as CAE's are",
            )
        network = self.build(arch, drop_path=drop_path)
        network.patch_embed.strict_img_size = False  # type: ignore[union-attr]
        return network

    def layer(self, arch: str, name: str) -> int:
        """As BEiT's optim_factory.py: a shared table of positions belongs to the last block."""
        if name.startswith("rel_pos_bias."):
            return beit_of(arch).depth
        return super().layer(arch, name)

    def demand(self, arch: str, poolings: Iterable[str], height: int, width: int) -> None:
        """See `Family`; the tables serve the training size alone."""
        beit = beit_of(arch)
        if (height, width) != (beit.image, beit.image):
            raise UserError(
                f"a {arch} takes images of {beit.image} × {beit.image} pixels alone",
                found=f"{height} × {width}",
                todo=f"give a crop of {beit.image}: its positions are of {beit.grid} × {beit.grid} patches alone",
            )

    def facts(self, arch: str) -> dict[str, str]:
        """See `Family`."""
        beit = beit_of(arch)
        words = {"blocks": "relative, in every block", "shared": "relative, one table for all blocks", "none": "none"}
        absolute = "; absolute ones, too" if beit.absolute else ""
        return {
            "attention": f"{beit.heads} heads of {beit.width // beit.heads} channels; keys have no bias",
            "norms": f"eps 1e-06; the final one {WHERE[beit.norm]}",
            "positions": f"{words[beit.relative]}{absolute}, for {beit.image} pixels alone",
        }

    def lints(self, arch: str, state: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
        """See `Family`."""
        yield from untrained(state)


FAMILY = Beits()
