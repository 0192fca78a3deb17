"""ViTDet's backbone as Detectron2 builds one by name, told by a section of the config that Detectron2 does not have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from numpy.typing import NDArray
from torch import Tensor

from detection.engines.vitdet import STRIDES, SimplePyramid, WindowedViT
from detection.recipe import ViTDet
from transfer.checkpoints.families.vit import vit_of

LEVELS = ("p2", "p3", "p4", "p5", "p6")
SECTION = "MODEL.VITDET"


class ViTDetBackbone(Backbone):  # type: ignore[misc]  # Detectron2 is untyped
    """Trunk and pyramid; images are padded to the canvas."""

    def __init__(self, trunk: WindowedViT, out: int) -> None:
        super().__init__()
        self.trunk, self.pyramid = trunk, SimplePyramid(trunk.embed_dim, out)
        self._out_features = list(LEVELS)
        self._out_feature_channels = dict.fromkeys(LEVELS, out)
        self._out_feature_strides = dict(zip(LEVELS, STRIDES, strict=True))

    @property
    def padding_constraints(self) -> dict[str, int]:
        """See Detectron2's `Backbone`."""
        return {"square_size": self.trunk.side}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Canvas [n, 3, side, side] → level → map."""
        return dict(zip(LEVELS, self.pyramid(self.trunk(images)), strict=True))


@BACKBONE_REGISTRY.register()  # type: ignore[untyped-decorator]
def build_vitdet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ViTDetBackbone:
    """From `MODEL.VITDET`."""
    own = cfg.MODEL.VITDET
    trunk = WindowedViT(vit_of(own.ARCH), own.CANVAS, own.WINDOW, tuple(own.GLOBAL_BLOCKS), own.DROP_PATH)
    return ViTDetBackbone(trunk, own.OUT_CHANNELS)


def section(recipe: ViTDet, arch: str) -> dict[str, Any]:
    """Keys of `MODEL.VITDET`."""
    return {
        "ARCH": arch,
        "CANVAS": recipe.canvas,
        "WINDOW": recipe.window,
        "GLOBAL_BLOCKS": tuple(recipe.global_blocks),
        "DROP_PATH": float(recipe.drop_path),
        "OUT_CHANNELS": recipe.fpn_channels,
    }


def presented(model: Any, image: NDArray[np.uint8]) -> Tensor:
    """RGB uint8 [H, W, 3] → [1, 3, side, side], by the way of every other image."""
    pixels = image if model.input_format == "RGB" else image[..., ::-1]
    planes = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    made: Tensor = model.preprocess_image([{"image": planes}]).tensor
    return made


def heads(recipe: ViTDet) -> Mapping[str, Any]:
    """Two convolutions of proposals, and convolutions with norms before the hidden layer of a region."""
    return {
        "MODEL.RPN.CONV_DIMS": [-1] * recipe.rpn_convs,
        "MODEL.ROI_BOX_HEAD.NUM_CONV": recipe.box_convs,
        "MODEL.ROI_BOX_HEAD.CONV_DIM": recipe.fpn_channels,
        "MODEL.ROI_BOX_HEAD.NORM": recipe.norm,
        "MODEL.ROI_BOX_HEAD.NUM_FC": recipe.box_fcs,
        "MODEL.ROI_BOX_HEAD.FC_DIM": 1024,
    }
