"""What of a checkpoint goes into a detector on four maps, what stays behind, and what it costs; no torch."""

from __future__ import annotations

import math

from detection import vitdet
from detection.recipe import Maps, ViTFPN
from transfer.checkpoints.families import family_of
from transfer.checkpoints.families.swin import swin_of
from transfer.checkpoints.families.vit import vit_of
from transfer.runtime.errors import UserError

PATCHES = (*vitdet.PATCHES, 8)  # whose maps are made to strides of 4, 8, 16, 32
NEW = {
    "convnext": "a layer norm for each of the four maps",
    "swin": "a layer norm for each of the four maps",
    "vit": "the deconvolutions behind two of the four maps",
}


def left_behind(arch: str) -> tuple[str, ...]:
    """Names of the backbone's tensors that have no place in the detector."""
    family = family_of(arch)
    behind = tuple(f"{name}." for name in family.behind)
    return tuple(name for name in family.shapes(arch) if name.startswith(behind))


def notes(arch: str, recipe: Maps) -> tuple[str, ...]:
    """What a reader of the number should know of the form of the weights."""
    left = ", ".join(left_behind(arch)) or "nothing"
    told = f"the detector leaves out of the checkpoint: {left}; new in it: {NEW[recipe.takes]}"
    return (told, *(vitdet.shrinking(arch) if recipe.takes == "vit" else ()))


def demand_fitting(recipe: Maps, arch: str) -> None:
    """Refuse what the form cannot hold.

    Raises:
        UserError: says what, and what to type.
    """
    family = family_of(arch)
    if recipe.takes == "swin" and len(set(swin_of(arch).windows)) > 1:
        raise UserError(
            f"the windows of a {arch} are smaller in its last stage, so their table serves no larger map",
            found=f"windows of {' '.join(map(str, swin_of(arch).windows))} tokens in its four stages",
            todo="take a checkpoint with windows of one size: 7 at 224 pixels, 12 at 384, 6 at 192",
        )
    if recipe.takes == "swin" and recipe.layer_decay != 1:
        raise UserError(
            "no rule is known by which the rate falls from block to block in a Swin transformer",
            found=f"layer_decay {recipe.layer_decay}",
            todo="leave out --detector.layer-decay: it was published with one rate",
        )
    if not isinstance(recipe, ViTFPN):
        return
    vit, last = vit_of(arch), len(family.map_widths(arch)) - 1
    if vit.patch not in PATCHES:
        raise UserError(
            f"the pyramid is made of patches of {' or '.join(map(str, PATCHES))} pixels, and a {arch} has patches of "
            f"{vit.patch}",
            todo="take a checkpoint with such patches; features of this one: bash transfer/run_knn.sh CKPT",
        )
    if recipe.out_indices[-1] != last:
        raise UserError(
            "the last map is not that of the last block, so some blocks would learn nothing, or are not there",
            found=f"out_indices {' '.join(map(str, recipe.out_indices))} of a {arch} with {last + 1} blocks",
            todo="give --detector.out-indices "
            + " ".join(str(round((last + 1) * share / 12) - 1) for share in (4, 6, 8, 12))
            + ", in proportion to those of twelve blocks",
        )


def trunk_gmacs(arch: str, height: float, width: float) -> float:
    """10⁹ multiply–accumulates of the trunk's forward pass of one image."""
    shrunk = vit_of(arch).patch / 16 if arch.startswith("vit_") and vit_of(arch).patch in vitdet.SHRUNK else 1.0
    side = max(32, round(math.sqrt(height * width) / 32) * 32)
    return family_of(arch).gmacs(arch, round(side * shrunk))


def pyramid_gmacs(arch: str, recipe: Maps, height: float, width: float) -> float:
    """The same of the pyramid and of the convolution of the proposals on it."""
    out, positions = recipe.fpn_channels, height * width / 4**2  # of the finest map
    widths = [family_of(arch).map_widths(arch)[index] for index in recipe.out_indices]
    levels = sum(positions * 0.25**level * (wide * out + 9 * out**2) for level, wide in enumerate(widths))
    deconvolved = 0.0
    if isinstance(recipe, ViTFPN):  # patches of 16: 4 times the positions, then 16 times; and once 4 times
        wide, tokens = widths[0], positions / 16
        deconvolved = positions / 4 * wide**2 * 4 if vit_of(arch).patch == 8 else tokens * wide**2 * (4 + 16 + 4)
    proposals = positions * (4 / 3) * 9 * out**2
    return (levels + deconvolved + proposals) / 1e9
