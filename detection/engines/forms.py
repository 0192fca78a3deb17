"""Which trunk and which pyramid a recipe asks for, in plain values that every engine's native config can hold."""

from __future__ import annotations

from typing import Any

from torch import nn

from detection.engines.maps import MapPyramid, MapsOfNetwork, norms, scalings
from detection.engines.vitdet import SimplePyramid, WindowedViT
from detection.maps import eps_of, patch_of
from detection.recipe import Maps, OnTrunk, ViTDet


def options(recipe: OnTrunk, arch: str) -> dict[str, Any]:
    """What `build` is called with."""
    both = {"arch": arch, "drop_path": float(recipe.drop_path), "out_channels": recipe.fpn_channels}
    if isinstance(recipe, ViTDet):
        return both | {
            "canvas": recipe.canvas,
            "window": recipe.window,
            "global_blocks": tuple(recipe.global_blocks),
        }
    assert isinstance(recipe, Maps)  # there are no others
    return both | {
        "out_indices": tuple(recipe.out_indices),
        "norm": recipe.norm,
        "train_positions": getattr(recipe, "train_positions", True),
    }


def build(options: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    """(trunk, pyramid), freshly initialised, of what `options` gave."""
    more = dict(options)
    out = more.pop("out_channels")
    if "canvas" in more:
        windowed = WindowedViT(**more)
        return windowed, SimplePyramid(windowed.vit.width, out)
    norm, arch = more.pop("norm"), more["arch"]
    trunk = MapsOfNetwork(**more)
    levels = norms(trunk.widths, eps_of(arch)) if norm == "LN" else scalings(trunk.widths, patch_of(arch), norm)
    return trunk, MapPyramid(trunk.widths, out, levels)


def trunk_class(recipe: OnTrunk) -> type[WindowedViT | MapsOfNetwork]:
    """The module that the recipe's trunk is."""
    return WindowedViT if isinstance(recipe, ViTDet) else MapsOfNetwork
