"""RetinaNet and FCOS as MMDetection's config.

Sources: facebookresearch/detectron2 (configs/Base-RetinaNet.yaml, configs/common/models/fcos.py, detectron2/modeling/
meta_arch/retinanet.py and fcos.py) and open-mmlab/mmdetection (configs/_base_/models/retinanet_r50_fpn.py, configs/
fcos/fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco.py, and the classes they name).
"""

from __future__ import annotations

from typing import Any

from detection.engines.mmdet import resnet
from detection.recipe import FCOS, GROUPS, Dense, RetinaNet
from transfer.checkpoints.backbone import Backbone

STRIDES = (8, 16, 32, 64, 128)


def dense(recipe: Dense, backbone: Backbone, classes: int, processes: int) -> dict[str, Any]:
    """Two towers of convolutions on p3 … p7, shared by the levels."""
    if isinstance(recipe, RetinaNet):
        head, train = _retinanet(recipe), {"train_cfg": _assignment(recipe)}
    else:  # FCOS assigns by position and size alone
        head, train = _fcos(recipe), {}
    return {
        "backbone": resnet.resnet(recipe, backbone, 4, processes) | {"out_indices": (0, 1, 2, 3)},
        "neck": resnet.pyramid(recipe, backbone, processes),
        "bbox_head": head
        | {
            "num_classes": classes,
            "in_channels": recipe.fpn_channels,
            "feat_channels": recipe.fpn_channels,
            "stacked_convs": recipe.dense.convs,
            "loss_cls": {
                "type": "FocalLoss",
                "use_sigmoid": True,
                "gamma": recipe.dense.focal_gamma,
                "alpha": recipe.dense.focal_alpha,
                "loss_weight": 1.0,
            },
        },
        **train,
        "test_cfg": {
            "nms_pre": recipe.dense.candidates,
            "score_thr": recipe.score_threshold,
            "nms": {"type": "nms", "iou_threshold": recipe.nms},
            "max_per_img": recipe.max_detections,
        },
    }


def _assignment(recipe: RetinaNet) -> dict[str, Any]:
    assigner = {
        "type": "MaxIoUAssigner",
        "pos_iou_thr": recipe.dense.foreground_iou,
        "neg_iou_thr": recipe.dense.background_iou,
        "min_pos_iou": 0.0,  # Detectron2 gives every object its best anchor, however small the overlap
        "match_low_quality": True,
        "ignore_iof_thr": -1,
    }
    return {"assigner": assigner, "allowed_border": -1, "pos_weight": -1}


def _retinanet(recipe: RetinaNet) -> dict[str, Any]:
    octaves = recipe.dense.octaves
    return {
        "type": "RetinaHead",
        "anchor_generator": {
            "type": "AnchorGenerator",
            "strides": list(STRIDES),
            "base_sizes": list(recipe.anchor_sizes),
            "scales": [2 ** (step / octaves) for step in range(octaves)],
            "ratios": list(recipe.anchor_ratios),
        },
        # Detectron2 clips boxes to the image after NMS, as `prediction` does.
        "bbox_coder": {"type": "DeltaXYWHBBoxCoder", "target_stds": [1.0, 1.0, 1.0, 1.0], "clip_border": False},
        "loss_bbox": {"type": "L1Loss", "loss_weight": 1.0},
        "init_cfg": _initial("retina_cls", recipe),
    }


def _fcos(recipe: FCOS) -> dict[str, Any]:
    return {
        "type": "TransferFCOSHead",
        "strides": list(STRIDES),
        "center_sampling": True,
        "center_sample_radius": 1.5,
        "norm_on_bbox": True,
        "centerness_on_reg": True,
        "conv_bias": True,
        "norm_cfg": {"type": "GN", "num_groups": GROUPS, "requires_grad": True},
        "bbox_coder": {"type": "DistancePointBBoxCoder", "clip_border": False},
        "loss_bbox": {"type": "GIoULoss", "loss_weight": 1.0},
        "loss_centerness": {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0},
        "init_cfg": _initial("conv_cls", recipe),
    }


def _initial(classifier: str, recipe: Dense) -> dict[str, Any]:
    override = {"type": "Normal", "name": classifier, "std": 0.01, "bias_prob": recipe.dense.prior}
    return {"type": "Normal", "layer": "Conv2d", "std": 0.01, "override": override}
