"""A trunk and its pyramid as Detectron2 builds a backbone by name, told by a section of ours in its config."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor

from detection.engines import forms
from detection.engines.trunk import STRIDES
from detection.recipe import Maps, OnTrunk

LEVELS = ("p2", "p3", "p4", "p5", "p6")
SECTION = "MODEL.TRUNK"


class TrunkBackbone(Backbone):  # type: ignore[misc]  # Detectron2 is untyped
    """Trunk and pyramid; images are padded to the canvas, or to multiples of the coarsest stride of regions."""

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self.trunk, self.pyramid = forms.build(options)
        self.canvas: int = options.get("canvas", 0)
        self._out_features = list(LEVELS)
        self._out_feature_channels = dict.fromkeys(LEVELS, options["out_channels"])
        self._out_feature_strides = dict(zip(LEVELS, STRIDES, strict=True))

    @property
    def size_divisibility(self) -> int:
        """See Detectron2's `Backbone`."""
        return 0 if self.canvas else Maps.divisor

    @property
    def padding_constraints(self) -> dict[str, int]:
        """See Detectron2's `Backbone`."""
        return {"square_size": self.canvas} if self.canvas else {}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images [n, 3, H, W] → level → map."""
        return dict(zip(LEVELS, self.pyramid(self.trunk(images)), strict=True))


@BACKBONE_REGISTRY.register()  # type: ignore[untyped-decorator]
def build_trunk_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TrunkBackbone:
    """From `MODEL.TRUNK`."""
    own = cfg.MODEL.TRUNK
    return TrunkBackbone({name.lower(): getattr(own, name) for name in own})


def section(recipe: OnTrunk, arch: str) -> dict[str, Any]:
    """Keys of `MODEL.TRUNK`."""
    return {name.upper(): value for name, value in forms.options(recipe, arch).items()}
