"""Which trunk and which pyramid a recipe asks for, in plain values that every engine's native config can hold."""

from __future__ import annotations

from typing import Any

from torch import nn

from detection.engines.maps import MapPyramid, MapsOfNetwork, normed, scaled
from detection.engines.vitdet import SimplePyramid, WindowedViT
from detection.recipe import ByLayer, Maps, ViTDet
from transfer.checkpoints.families.vit import vit_of


def options(recipe: ByLayer, arch: str) -> dict[str, Any]:
    """What `build` is called with."""
    both = {"arch": arch, "drop_path": float(recipe.drop_path), "out_channels": recipe.fpn_channels}
    if isinstance(recipe, ViTDet):
        return both | {
            "canvas": recipe.canvas,
            "window": recipe.window,
            "global_blocks": tuple(recipe.global_blocks),
        }
    assert isinstance(recipe, Maps)  # there are no others
    return both | {"out_indices": tuple(recipe.out_indices), "norm": recipe.norm}


def build(
    *,
    arch: str,
    drop_path: float,
    out_channels: int,
    canvas: int = 0,
    window: int = 0,
    global_blocks: tuple[int, ...] = (),
    out_indices: tuple[int, ...] = (),
    norm: str = "",
) -> tuple[nn.Module, nn.Module]:
    """(trunk, pyramid), freshly initialised: of windows on a `canvas`, or of the maps behind `out_indices`."""
    if canvas:
        windowed = WindowedViT(arch, canvas, window, tuple(global_blocks), drop_path)
        return windowed, SimplePyramid(windowed.vit.width, out_channels)
    trunk = MapsOfNetwork(arch, tuple(out_indices), drop_path)
    made = normed(trunk.widths) if norm == "LN" else scaled(trunk.widths, vit_of(arch).patch, norm)
    return trunk, MapPyramid(trunk.widths, out_channels, made)


def trunk_class(recipe: ByLayer) -> type[WindowedViT | MapsOfNetwork]:
    """The module that the recipe's trunk is."""
    return WindowedViT if isinstance(recipe, ViTDet) else MapsOfNetwork
