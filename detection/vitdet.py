"""What of a vision transformer goes into ViTDet, what stays behind, and what it costs; no torch.

The detector's attention has no CLS token and no registers, and its pyramid takes the last map before any final norm
(facebookresearch/detectron2: detectron2/modeling/backbone/vit.py, ViT).
"""

from __future__ import annotations

from detection.recipe import ViTDet
from transfer.checkpoints.families.vit import expected_shapes, vit_of
from transfer.runtime.errors import UserError

PATCH = 16  # p2 … p5 have strides of 4, 8, 16, 32: quarter, half, whole and twice a patch
SHRUNK = (14,)  # patches in front of which the image is made smaller by 7/8, so that they have that stride, too
PATCHES = (PATCH, *SHRUNK)
KEPT = ("patch_embed.", "blocks.")  # and the positions of patches
NEW = "blocks.*.attn.rel_pos_h and rel_pos_w, which begin at zero"


def left_behind(arch: str) -> tuple[str, ...]:
    """Names of the backbone's tensors that have no place in the detector."""
    return tuple(name for name in expected_shapes(arch) if name != "pos_embed" and not name.startswith(KEPT))


def notes(arch: str, recipe: ViTDet) -> tuple[str, ...]:
    """What a reader of the number should know of the form of the weights."""
    vit, grid = vit_of(arch), recipe.canvas // PATCH
    left = [*left_behind(arch), *(["the CLS token's position"] if vit.cls else [])]
    changed = "" if grid == vit.grid else f"; positions resized once from {vit.grid} × {vit.grid} to {grid} × {grid}"
    told = f"ViTDet leaves out of the checkpoint: {', '.join(left) or 'nothing'}; new in it: {NEW}{changed}"
    return (told, *shrinking(vit.patch))


def seen(side: int, patch: int) -> int:
    """Pixels that patches of this size see of a side."""
    return side * patch // PATCH if patch in SHRUNK else side


def shrinking(patch: int) -> tuple[str, ...]:
    """A note on patches that are not of 16 pixels."""
    if patch not in SHRUNK:
        return ()
    return (f"images are shrunk to {patch}/16 in front of the patches of {patch}, so that maps have strides of 16",)


def demand_fitting(recipe: ViTDet, arch: str) -> None:
    """Refuse what the form cannot hold.

    Raises:
        UserError: says what, and what to type.
    """
    vit = vit_of(arch)
    if vit.patch not in PATCHES:
        raise UserError(
            f"ViTDet's pyramid is made of patches of {' or '.join(map(str, PATCHES))} pixels, and a {arch} has patches "
            f"of {vit.patch}",
            todo="take ViT-FPN, which is made for patches of 8, too: vit_fpn instead of vitdet in the command"
            if vit.patch == 8
            else "take a checkpoint with such patches; features of this one: bash transfer/run_knn.sh CKPT",
        )
    beyond = [block for block in recipe.global_blocks if not 0 <= block < vit.depth]
    if beyond:
        raise UserError(
            f"global_blocks {' '.join(map(str, recipe.global_blocks))} are not all there",
            found=f"a {arch} has blocks 0 to {vit.depth - 1}",
            todo="give --detector.global-blocks, the last of each quarter as published: "
            + " ".join(str(vit.depth * quarter // 4 - 1) for quarter in range(1, 5)),
        )

    if recipe.global_blocks and max(recipe.global_blocks) != vit.depth - 1:
        raise UserError(
            "the last blocks would see windows alone, which no published ViTDet has",
            found=f"global_blocks {' '.join(map(str, recipe.global_blocks))} of a {arch} with {vit.depth} blocks",
            todo="give --detector.global-blocks "
            + " ".join(str(vit.depth * quarter // 4 - 1) for quarter in range(1, 5))
            + "; with masks, --protocol large_100ep is that of a ViT-L",
        )


def trunk_gmacs(arch: str, recipe: ViTDet) -> float:
    """10⁹ multiply–accumulates of the trunk's forward pass of one canvas."""
    vit, side = vit_of(arch), recipe.canvas // PATCH
    tokens = side**2
    layers = 4 * vit.width**2 + (3 if vit.swiglu else 2) * vit.width * vit.hidden
    # windows at the border are filled up
    windowed = (-(-side // recipe.window) * recipe.window) ** 2 * recipe.window**2
    everywhere = len(set(recipe.global_blocks))
    attention = 2 * vit.width * (everywhere * tokens**2 + (vit.depth - everywhere) * windowed)
    return (vit.depth * tokens * layers + attention + tokens * vit.width * 3 * vit.patch**2) / 1e9


def pyramid_gmacs(arch: str, recipe: ViTDet) -> float:
    """The same of the pyramid and of the convolutions of the proposals on it."""
    wide, out, tokens = vit_of(arch).width, recipe.fpn_channels, (recipe.canvas // PATCH) ** 2
    upsampled = tokens * (wide * wide // 2 * 4 * 2 + 4 * (wide // 2) * (wide // 4) * 4)
    inputs = {16: wide // 4, 4: wide // 2, 1: wide, 0.25: wide}  # positions of a level, of so many tokens → channels
    levels = sum(factor * tokens * (channels * out + 9 * out**2) for factor, channels in inputs.items())
    proposals = tokens * (sum(inputs) + 1 / 16) * recipe.rpn_convs * 9 * out**2
    return (upsampled + levels + proposals) / 1e9
