"""What of a checkpoint goes into a detector on four maps, what stays behind, and what it costs; no torch."""

from __future__ import annotations

import math
from typing import Any

from detection import vitdet
from detection.recipe import Maps
from transfer.checkpoints.families import family_of
from transfer.checkpoints.families.swin import swin_of
from transfer.checkpoints.families.vit import VisionTransformers
from transfer.runtime.errors import UserError

PATCHES = (*vitdet.PATCHES, 8)  # whose maps are made to strides of 4, 8, 16, 32


def _plain(arch: str) -> Any:
    """The numbers of a transformer without stages; None of another network."""
    family = family_of(arch)
    return family.numbers(arch) if isinstance(family, VisionTransformers) else None


def patch_of(arch: str) -> int:
    """Side of the patches of a plain transformer; of a network with stages that of its third, 16 as well."""
    plain = _plain(arch)
    return plain.patch if plain else vitdet.PATCH


def eps_of(arch: str) -> float:
    """Of the norms that are new behind the stages: as those within the network."""
    return swin_of(arch).eps if family_of(arch).name == "swin" else 1e-6


def left_behind(arch: str) -> tuple[str, ...]:
    """Names of the backbone's tensors that have no place in the detector."""
    family = family_of(arch)
    behind = tuple(f"{name}." for name in family.behind)
    return tuple(name for name in family.shapes(arch) if name.startswith(behind))


def notes(arch: str, recipe: Maps) -> tuple[str, ...]:
    """What a reader of the number should know of the form of the weights."""
    left = ", ".join(left_behind(arch)) or "nothing"
    new = "the deconvolutions behind two of the four maps" if _plain(arch) else "a layer norm for each of the four maps"
    return (f"the detector leaves out of the checkpoint: {left}; new in it: {new}", *vitdet.shrinking(patch_of(arch)))


def demand_fitting(recipe: Maps, arch: str) -> None:
    """Refuse what the form cannot hold.

    Raises:
        UserError: says what, and what to type.
    """
    family, plain = family_of(arch), _plain(arch)
    if family.name == "swin" and len(set(swin_of(arch).windows)) > 1:
        raise UserError(
            f"the windows of a {arch} are smaller in its last stage, so their table serves no larger map",
            found=f"windows of {' '.join(map(str, swin_of(arch).windows))} tokens in its four stages",
            todo="take a checkpoint with windows of one size: 7 at 224 pixels, 12 at 384, 6 at 192",
        )
    if plain is None:
        return
    if getattr(plain, "relative", "none") != "none":
        raise UserError(
            f"the relative positions of a {arch} serve images of {plain.image} pixels alone",
            todo="take one with absolute positions, as CAE's are; features of this one: bash transfer/run_knn.sh CKPT",
        )
    if plain.patch not in PATCHES:
        raise UserError(
            f"the pyramid is made of patches of {' or '.join(map(str, sorted(PATCHES)))} pixels, and a {arch} has "
            f"patches of {plain.patch}",
            todo="take a checkpoint with such patches; features of this one: bash transfer/run_knn.sh CKPT",
        )
    if plain.depth < len(recipe.out_indices):
        raise UserError(f"a {arch} has {plain.depth} blocks, and four maps are needed", todo="take a deeper one")
    if recipe.out_indices[-1] != plain.depth - 1:
        raise UserError(
            "the last map is not that of the last block, so some blocks would learn nothing, or are not there",
            found=f"out_indices {' '.join(map(str, recipe.out_indices))} of a {arch} with {plain.depth} blocks",
            todo=f"give --detector.out-indices {' '.join(map(str, spread(plain.depth)))}, in proportion to those of "
            "twelve blocks",
        )


def spread(depth: int) -> tuple[int, ...]:
    """Four blocks of so many, as 3, 5, 7 and 11 of twelve."""
    found = [round(depth * share / 12) - 1 for share in (4, 6, 8, 12)]
    for place in (2, 1, 0):  # of few blocks no two are the same
        found[place] = min(found[place], found[place + 1] - 1)
    return tuple(found)


def trunk_gmacs(arch: str, height: float, width: float) -> float:
    """10⁹ multiply–accumulates of the trunk's forward pass of one image."""
    side = max(32, round(math.sqrt(height * width) / 32) * 32)
    return family_of(arch).gmacs(arch, vitdet.seen(side, patch_of(arch)))


def pyramid_gmacs(arch: str, recipe: Maps, height: float, width: float) -> float:
    """The same of the pyramid and of the convolution of the proposals on it."""
    out, positions = recipe.fpn_channels, height * width / 4**2  # of the finest map
    widths = [family_of(arch).map_widths(arch)[index] for index in recipe.out_indices]
    levels = sum(positions * 0.25**level * (wide * out + 9 * out**2) for level, wide in enumerate(widths))
    deconvolved = 0.0
    if _plain(arch):  # patches of 16: 4 times the positions, then 16 times; and once 4 times
        wide, tokens = widths[0], positions / 16
        deconvolved = positions / 4 * wide**2 * 4 if patch_of(arch) == 8 else tokens * wide**2 * (4 + 16 + 4)
    proposals = positions * (4 / 3) * 9 * out**2
    return (levels + deconvolved + proposals) / 1e9
