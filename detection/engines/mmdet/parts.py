"""Parts of detectors that MMDetection has a little differently; registered under names that configs use."""

from __future__ import annotations

from typing import Any

import torch
from mmcv.cnn import ConvModule, build_norm_layer
from mmdet.models.backbones import ResNet, ResNeXt
from mmdet.models.dense_heads import FCOSHead
from mmdet.models.layers import ResLayer as StageLayer
from mmdet.models.necks import FPN
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.roi_heads.shared_heads import ResLayer
from mmdet.registry import MODELS
from torch import Tensor, nn

from detection.engines.mmdet.resnet import SYNCHRONISED
from transfer.checkpoints.families.resnet import STAGES, architecture, stage_channels
from transfer.runtime.batch_norm import NaiveSyncBatchNorm


class LastStage(ResLayer):  # type: ignore[misc]  # mmdet is untyped
    """Stage 4 of any `Architecture` on every region, if asked for followed by one more batch norm.

    mmdet's own `ResLayer` knows plain ResNets alone. Source of the norm: `Res5ROIHeadsExtraNorm` of
    facebookresearch/moco (detection/train_net.py); it is in no checkpoint and starts fresh.
    """

    def __init__(
        self, *, arch: str, extra_norm: bool, norm_cfg: dict[str, Any], norm_eval: bool, style: str, **options: Any
    ) -> None:
        known, last = architecture(arch), len(STAGES) - 1
        super().__init__(depth=known.depth, stage=last, norm_cfg=norm_cfg, norm_eval=norm_eval, style=style, **options)
        if known.width != 1 or known.groups != 1:
            family = ResNeXt if known.groups > 1 else ResNet
            groups = {"groups": known.groups, "base_width": known.group_width} if known.groups > 1 else {}
            self.layer4 = StageLayer(
                family.arch_settings[known.depth][0],
                inplanes=stage_channels(arch)[STAGES[last - 1]],
                planes=64 * known.width * 2**last,
                num_blocks=known.layers[last],
                stride=2,
                style=style,
                norm_cfg=norm_cfg,
                **groups,
            )
        self.norm = build_norm_layer(norm_cfg, stage_channels(arch)[STAGES[last]])[1] if extra_norm else None
        self.train()

    def forward(self, x: Tensor) -> Tensor:
        """Features of regions [n, C, H, W] → [n, C', H/2, W/2]."""
        out: Tensor = super().forward(x)
        return out if self.norm is None else self.norm(out)


class TransferFPN(FPN):  # type: ignore[misc]
    """A pyramid whose norms may be frozen, and are in the ResNet's levels alone.

    mmdet also puts them behind the convolutions of p6 and p7; Detectron2's `LastLevelP6P7` has none there.
    """

    def __init__(self, *, norm_eval: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.norm_eval = norm_eval
        for index in range(len(self.lateral_convs), len(self.fpn_convs)):
            conv = self.fpn_convs[index].conv
            self.fpn_convs[index] = ConvModule(
                conv.in_channels, conv.out_channels, 3, stride=2, padding=1, act_cfg=None
            )

    def train(self, mode: bool = True) -> TransferFPN:
        """`nn.Module.train`, after which frozen norms are in eval mode."""
        super().train(mode)
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self


class TransferMaskHead(FCNMaskHead):  # type: ignore[misc]
    """mmdet's mask head whose last layer starts as Detectron2's (detectron2/modeling/roi_heads/mask_head.py)."""

    def init_weights(self) -> None:
        """Called by mmengine once, when the detector is built."""
        super().init_weights()
        nn.init.normal_(self.conv_logits.weight, std=0.001)


class TransferFCOSHead(FCOSHead):  # type: ignore[misc]
    """mmdet's FCOS head with Detectron2's score and without learnable scales (detectron2/modeling/meta_arch/fcos.py).

    A score is the root of class probability times centreness, and thresholds and best candidates are chosen by it; in
    mmdet by the class probability alone, and the product is the score.
    """

    def _init_layers(self) -> None:
        super()._init_layers()
        self.scales.requires_grad_(False)  # they stay 1

    def predict_by_feat(
        self, cls_scores: list[Tensor], bbox_preds: list[Tensor], score_factors: list[Tensor], **options: Any
    ) -> Any:
        """Logits of classes [N, K, H, W] and of centreness [N, 1, H, W] by level → detections by image."""
        scores = [
            torch.sqrt(classes.sigmoid() * centreness.sigmoid()).logit()
            for classes, centreness in zip(cls_scores, score_factors, strict=True)
        ]
        return super().predict_by_feat(scores, bbox_preds, None, **options)


def register() -> None:
    """Let configs name the parts above, and the norm that is synchronised."""
    for part in (LastStage, TransferFPN, TransferMaskHead, TransferFCOSHead):
        MODELS.register_module(module=part, force=True)
    MODELS.register_module(name=SYNCHRONISED, module=NaiveSyncBatchNorm, force=True)
