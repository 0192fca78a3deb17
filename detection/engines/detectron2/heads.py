"""RoI heads of C4 detectors that fit every ResNet, with or without one more norm after the last stage."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import get_norm
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.backbone.resnet import BasicBlock, ResNet
from detectron2.modeling.roi_heads import Res5ROIHeads
from torch import nn

EXTRA_NORM = "norm"

# Depth → blocks of the last stage, for the ResNets whose blocks are not bottlenecks.
_BASIC_BLOCKS = {18: 2, 34: 3}


@ROI_HEADS_REGISTRY.register()
class TransferRes5ROIHeads(Res5ROIHeads):  # type: ignore[misc]
    """Detectron2's C4 heads, whose last stage also follows ResNet-18 and -34.

    Detectron2 itself always builds three bottleneck blocks there, whatever `RESNETS.DEPTH` says.
    """

    @classmethod
    def _build_res5_block(cls, cfg: CfgNode) -> tuple[nn.Sequential, int]:
        count = _BASIC_BLOCKS.get(cfg.MODEL.RESNETS.DEPTH)
        if count is None:
            bottlenecks: tuple[nn.Sequential, int] = super()._build_res5_block(cfg)
            return bottlenecks
        width = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS * 8
        blocks: list[Any] = ResNet.make_stage(
            BasicBlock,
            count,
            stride_per_block=[2] + [1] * (count - 1),
            in_channels=width // 2,
            out_channels=width,
            norm=cfg.MODEL.RESNETS.NORM,
        )
        return nn.Sequential(*blocks), width


@ROI_HEADS_REGISTRY.register()
class TransferRes5ROIHeadsExtraNorm(TransferRes5ROIHeads):
    """The same with one more norm after the last stage, as MoCo's C4 protocol has it.

    Source: `Res5ROIHeadsExtraNorm` in facebookresearch/moco, detection/train_net.py. No checkpoint holds this norm: it
    starts as the identity.
    """

    @classmethod
    def _build_res5_block(cls, cfg: CfgNode) -> tuple[nn.Sequential, int]:
        stage, width = super()._build_res5_block(cfg)
        stage.add_module(EXTRA_NORM, get_norm(cfg.MODEL.RESNETS.NORM, width))
        return stage, width


C4_HEADS = TransferRes5ROIHeads.__name__
C4_HEADS_EXTRA_NORM = TransferRes5ROIHeadsExtraNorm.__name__
