"""Detectron2's FCOS, built from the same config as the other families.

Detectron2 configures this detector by Python objects alone (configs/common/models/fcos.py), with RetinaNet's as the
base; here RetinaNet's section of the config, `MODEL.RETINANET`, says the same. Fixed by the class itself are the centre
sampling of 1.5 strides, the sizes that each level is responsible for, the GIoU loss and the score, the root of class
score times centreness (detectron2/modeling/meta_arch/fcos.py).
"""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, build_backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelP6P7
from detectron2.modeling.backbone.resnet import build_resnet_backbone
from detectron2.modeling.meta_arch.fcos import FCOS, FCOSHead
from torch import Tensor


@BACKBONE_REGISTRY.register()  # type: ignore[untyped-decorator]
def build_fcos_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """ResNet and pyramid whose P6 and P7 are computed from P5, where RetinaNet takes the ResNet's last stage."""
    width = cfg.MODEL.FPN.OUT_CHANNELS
    return FPN(
        bottom_up=build_resnet_backbone(cfg, input_shape),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=width,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelP6P7(width, width, in_feature="p5"),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


@META_ARCH_REGISTRY.register()
class TransferFCOS(FCOS):  # type: ignore[misc]
    """Detectron2's `FCOS`, which can be named in `MODEL.META_ARCHITECTURE` and trained in mixed precision."""

    @configurable  # type: ignore[untyped-decorator]
    def __init__(self, *, input_format: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.input_format = input_format  # the other families have it too

    def forward_training(
        self, images: Any, features: Any, predictions: list[list[Tensor]], gt_instances: Any
    ) -> dict[str, Tensor]:
        """The losses, in full precision.

        Detectron2's box transform for FCOS takes the anchors to the precision of the predictions, unlike that of the
        other families: in bf16 coordinates near 800 would be multiples of 4.
        """
        full = [[level.float() for level in levels] for levels in predictions]
        losses: dict[str, Tensor] = super().forward_training(images, features, full, gt_instances)
        return losses

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments; called by `configurable`."""
        dense = cfg.MODEL.RETINANET
        backbone = build_backbone(cfg)
        shapes = [backbone.output_shape()[level] for level in dense.IN_FEATURES]
        head = FCOSHead(
            input_shape=shapes,
            num_classes=dense.NUM_CLASSES,
            conv_dims=[shapes[0].channels] * dense.NUM_CONVS,
            norm=dense.NORM,
            prior_prob=dense.PRIOR_PROB,
        )
        return {
            "backbone": backbone,
            "head": head,
            "head_in_features": dense.IN_FEATURES,
            "num_classes": dense.NUM_CLASSES,
            "focal_loss_alpha": dense.FOCAL_LOSS_ALPHA,
            "focal_loss_gamma": dense.FOCAL_LOSS_GAMMA,
            "test_score_thresh": dense.SCORE_THRESH_TEST,
            "test_topk_candidates": dense.TOPK_CANDIDATES_TEST,
            "test_nms_thresh": dense.NMS_THRESH_TEST,
            "max_detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
        }


FCOS_BACKBONE = build_fcos_resnet_fpn_backbone.__name__
FCOS_DETECTOR = TransferFCOS.__name__
