"""Faster and Mask R-CNN as MMDetection's config, with C4 or FPN.

Sources: facebookresearch/detectron2 (detectron2/config/defaults.py, modeling/proposal_generator/rpn.py,
modeling/roi_heads/, modeling/matcher.py) and open-mmlab/mmdetection (configs/_base_/models/faster-rcnn_r50-caffe-c4.py,
mask-rcnn_r50-caffe-c4.py and mask-rcnn_r50_fpn.py, and the classes they name).
"""

from __future__ import annotations

from typing import Any

from detection.engines.mmdet import resnet
from detection.recipe import (
    BEST_ANCHOR,
    BEST_REGION,
    C4,
    ConvolvedBoxes,
    MaskRcnnC4,
    Masks,
    OnTrunk,
    PyramidMasks,
    Regions,
    RegionsFPN,
    ViTDet,
    ViTFPN,
)
from transfer.checkpoints.backbone import Backbone
from transfer.checkpoints.families.resnet import stage_channels
from transfer.checkpoints.formats.mmdet import style_of

FC_CHANNELS = 1024  # Detectron2: ROI_BOX_HEAD.FC_DIM in Base-RCNN-FPN.yaml
MASK_CHANNELS = 256  # Detectron2: ROI_MASK_HEAD.CONV_DIM
FPN_STRIDES = (4, 8, 16, 32, 64)
C4_STRIDE = 16
NORM = {"type": "ChannelNorm", "eps": 1e-6}
MASK_THRESHOLD = 0.5  # Detectron2: detector_postprocess


def c4(recipe: C4, backbone: Backbone, classes: int, processes: int) -> dict[str, Any]:
    """RPN and RoI pooling on stage 3; stage 4 runs on every region (Detectron2: Res5ROIHeads)."""
    channels = stage_channels(backbone.arch)
    head: dict[str, Any] = {
        "type": "StandardRoIHead",
        "shared_head": {
            "type": "LastStage",
            "arch": backbone.arch,
            "extra_norm": recipe.extra_norm,
            "style": style_of(backbone),
            **resnet.norm(recipe, processes),
        },
        "bbox_roi_extractor": _roi_extractor(recipe.roi_resolution, channels["layer3"], [C4_STRIDE]),
        "bbox_head": {
            "type": "BBoxHead",
            "with_avg_pool": True,
            "roi_feat_size": (recipe.roi_resolution + 1) // 2,
            "in_channels": channels["layer4"],
            **_boxes(recipe, classes),
        },
    }
    if isinstance(recipe, MaskRcnnC4):  # on the boxes' own regions, behind the same last stage
        head["mask_head"] = _mask_head(recipe, channels["layer4"], classes)
    return {
        "backbone": resnet.resnet(recipe, backbone, 3, processes) | {"out_indices": (2,)},
        # One anchor of every size at each of the positions of the only level.
        "rpn_head": _rpn_head(recipe, channels["layer3"], [C4_STRIDE], base_sizes=[1], scales=recipe.anchor_sizes),
        "roi_head": head,
        **_train_test(recipe, mask_side=2 * ((recipe.roi_resolution + 1) // 2)),
    }


def fpn(recipe: RegionsFPN, backbone: Backbone, classes: int, processes: int) -> dict[str, Any]:
    """Detectron2's Base-RCNN-FPN: p2 … p6 for proposals, p2 … p5 for regions, a head of two hidden layers."""
    width = recipe.fpn_channels
    return {
        "backbone": resnet.resnet(recipe, backbone, 4, processes) | {"out_indices": (0, 1, 2, 3)},
        "neck": resnet.pyramid(recipe, backbone, processes),
        **_on_pyramid(recipe, width, classes, processes),
    }


def on_trunk(recipe: OnTrunk, backbone: Backbone, classes: int, processes: int) -> dict[str, Any]:
    """Trunk and pyramid are one module; proposals and regions may have more convolutions, with norms."""
    from detection.engines.forms import options  # imports timm

    return {
        "backbone": {"type": "TransferTrunk", "options": options(recipe, backbone.arch)},
        **_on_pyramid(recipe, recipe.fpn_channels, classes, processes),
    }


def _on_pyramid(recipe: RegionsFPN | OnTrunk, width: int, classes: int, processes: int) -> dict[str, Any]:
    layers: dict[str, Any] = {"type": "Shared2FCBBoxHead"}
    if isinstance(recipe, ConvolvedBoxes):
        layers = {
            "type": "ConvFCBBoxHead",
            "num_shared_convs": recipe.box_convs,
            "conv_out_channels": width,
            "num_shared_fcs": recipe.box_fcs,
            "norm_cfg": NORM if recipe.norm == "LN" else resnet.norm(recipe, processes)["norm_cfg"],
        }
    head: dict[str, Any] = {
        "type": "StandardRoIHead",
        "bbox_roi_extractor": _roi_extractor(recipe.roi_resolution, width, list(FPN_STRIDES[:4])),
        "bbox_head": {
            **layers,
            "in_channels": width,
            "fc_out_channels": FC_CHANNELS,
            "roi_feat_size": recipe.roi_resolution,
            "init_cfg": [
                {"type": "Normal", "std": 0.01, "override": {"name": "fc_cls"}},
                {"type": "Normal", "std": 0.001, "override": {"name": "fc_reg"}},
                {"type": "Caffe2Xavier", "override": {"name": "shared_fcs"}},  # as in Detectron2
            ],
            **_boxes(recipe, classes),
        },
    }
    side = recipe.mask_resolution if isinstance(recipe, PyramidMasks) else 0
    if isinstance(recipe, PyramidMasks):
        head["mask_roi_extractor"] = _roi_extractor(side, width, list(FPN_STRIDES[:4]))
        head["mask_head"] = _mask_head(recipe, width, classes)
    if isinstance(recipe, PyramidMasks) and isinstance(recipe, ViTDet):
        head["mask_head"]["norm_cfg"] = NORM
    proposals = _rpn_head(recipe, width, list(FPN_STRIDES), base_sizes=recipe.anchor_sizes, scales=[1])
    if isinstance(recipe, ViTDet):
        proposals["num_convs"] = recipe.rpn_convs
    return {"rpn_head": proposals, "roi_head": head, **_train_test(recipe, mask_side=2 * side)}


def _rpn_head(recipe: Regions, channels: int, strides: list[int], base_sizes: Any, scales: Any) -> dict[str, Any]:
    return {
        "type": "RPNHead",
        "in_channels": channels,
        "feat_channels": channels,
        "anchor_generator": {
            "type": "AnchorGenerator",
            "strides": strides,
            "base_sizes": list(base_sizes),
            "scales": list(scales),
            "ratios": list(recipe.anchor_ratios),  # height over width in both libraries
            # centers stay at the default, the pixel (0, 0) of each cell: Detectron2's ANCHOR_GENERATOR.OFFSET 0
        },
        "bbox_coder": {"type": "DeltaXYWHBBoxCoder", "target_stds": [1.0, 1.0, 1.0, 1.0]},
        "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": recipe.rpn_loss_weight},
        "loss_bbox": {"type": "L1Loss", "loss_weight": recipe.rpn_loss_weight},  # SMOOTH_L1_BETA 0 is L1
    }


def _roi_extractor(resolution: int, channels: int, strides: list[int]) -> dict[str, Any]:
    return {
        "type": "SingleRoIExtractor",
        "roi_layer": {"type": "RoIAlign", "output_size": resolution, "sampling_ratio": 0, "aligned": True},
        "out_channels": channels,
        "featmap_strides": strides,
    }


def _boxes(recipe: Regions, classes: int) -> dict[str, Any]:
    return {
        "num_classes": classes,
        # Detectron2's weights (10, 10, 5, 5) are the reciprocals of these.
        "bbox_coder": {"type": "DeltaXYWHBBoxCoder", "target_stds": [0.1, 0.1, 0.2, 0.2]},
        "reg_class_agnostic": recipe.class_agnostic,
        "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0},
        # summed, over all sampled regions, in both libraries
        "loss_bbox": {"type": "L1Loss", "loss_weight": 1.0},
    } | (
        # of boxes, not of what the head says of them; Detectron2's giou_loss divides by areas + 1e-7
        {"reg_decoded_bbox": True, "loss_bbox": {"type": "GIoULoss", "eps": 1e-7, "loss_weight": recipe.giou_weight}}
        if isinstance(recipe, ViTFPN)
        else {}
    )


def _mask_head(recipe: Masks, channels: int, classes: int) -> dict[str, Any]:
    return {
        "type": "TransferMaskHead",
        "num_convs": recipe.mask_convs,
        "in_channels": channels,
        "conv_out_channels": MASK_CHANNELS,
        "num_classes": classes,
        "class_agnostic": recipe.mask_class_agnostic,
        "loss_mask": {"type": "CrossEntropyLoss", "use_mask": True, "loss_weight": 1.0},
    }


def _train_test(recipe: Regions, mask_side: int) -> dict[str, Any]:
    """`mask_side`: pixels of a predicted mask, twice the region's features after the head's upsampling."""
    rpn_assigner = {
        "type": "MaxIoUAssigner",
        "pos_iou_thr": 0.7,
        "neg_iou_thr": 0.3,
        # Detectron2 gives every object its best anchor, however small the overlap
        "min_pos_iou": 0.0 if recipe.library == "detectron2" else BEST_ANCHOR,
        "match_low_quality": True,
        "ignore_iof_thr": -1,
    }
    roi_assigner = {
        "type": "MaxIoUAssigner",
        "pos_iou_thr": 0.5,
        "neg_iou_thr": 0.5,
        "min_pos_iou": BEST_REGION,
        "match_low_quality": recipe.library == "mmdet",
        "ignore_iof_thr": -1,
    }
    return {
        "train_cfg": {
            "rpn": {
                "assigner": rpn_assigner,
                "sampler": _sampler(recipe.rpn_batch, recipe.rpn_positive, add_gt=False),
                "allowed_border": -1,
                "pos_weight": -1,
            },
            "rpn_proposal": _proposals(recipe.rpn_pre_nms_train, recipe.rpn_post_nms_train, recipe.rpn_nms),
            "rcnn": {
                "assigner": roi_assigner,
                "sampler": _sampler(recipe.roi_batch, recipe.roi_positive, add_gt=True),
                "pos_weight": -1,
            }
            | ({"mask_size": (mask_side, mask_side)} if recipe.masks else {}),
        },
        "test_cfg": {
            "rpn": _proposals(recipe.rpn_pre_nms_test, recipe.rpn_post_nms_test, recipe.rpn_nms),
            "rcnn": {
                "score_thr": recipe.score_threshold,
                "nms": {"type": "nms", "iou_threshold": recipe.nms},
                "max_per_img": recipe.max_detections,
            }
            | ({"mask_thr_binary": MASK_THRESHOLD} if recipe.masks else {}),
        },
    }


def _sampler(number: int, positive: float, add_gt: bool) -> dict[str, Any]:
    return {
        "type": "RandomSampler",
        "num": number,
        "pos_fraction": positive,
        "neg_pos_ub": -1,
        "add_gt_as_proposals": add_gt,
    }


def _proposals(before: int, after: int, threshold: float) -> dict[str, Any]:
    """`before` counts per level, `after` per image, in both libraries."""
    nms = {"type": "nms", "iou_threshold": threshold}
    return {"nms_pre": before, "max_per_img": after, "nms": nms, "min_bbox_size": 0}
