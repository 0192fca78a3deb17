"""`DetectorRecipe` → native MMDetection config, with Detectron2's meaning for every field.

Sources of the two meanings: facebookresearch/detectron2 (detectron2/config/defaults.py, modeling/proposal_generator/
rpn.py, modeling/roi_heads/fast_rcnn.py, modeling/matcher.py, solver/build.py) and open-mmlab/mmdetection
(configs/_base_/models/faster-rcnn_r50-caffe-c4.py and faster-rcnn_r50_fpn.py, and the classes they name).
"""

from __future__ import annotations

from typing import Any

from mmengine.config import Config

from transfer.architectures import STAGES, architecture, stage_channels
from transfer.backbone import Backbone
from transfer.detector import DetectorRecipe
from transfer.errors import EngineError
from transfer.export.mmdet import style_of

FC_CHANNELS = 1024  # Detectron2: ROI_BOX_HEAD.FC_DIM in Base-RCNN-FPN.yaml
FPN_STRIDES = (4, 8, 16, 32, 64)
C4_STRIDE = 16

Differences = tuple[tuple[str, str, str], ...]


def build_config(recipe: DetectorRecipe, backbone: Backbone, classes: tuple[str, ...]) -> Config:
    """The model, the optimiser and the learning-rate schedule, as an MMDetection user would write them.

    The model has no `Pretrained` initialisation: its weights are put in, and checked, by `model.build_detector`.

    Raises:
        EngineError: the recipe asks for something that MMDetection cannot express.
    """
    model = _c4(recipe, backbone) if recipe.neck == "c4" else _fpn(recipe, backbone)
    model["roi_head"]["bbox_head"]["num_classes"] = len(classes)
    return Config(
        {
            "model": {"type": "FasterRCNN", **_preprocessor(recipe, backbone), **model, **_train_test(recipe)},
            "optim_wrapper": _optimizer(recipe),
            "param_scheduler": _schedule(recipe),
        }
    )


def differences(recipe: DetectorRecipe) -> Differences:
    """What MMDetection does otherwise than Detectron2, for which the protocols are written: (what, theirs, here)."""
    found = [
        ("anchors over the padding of a batch", "background samples", "left out"),
        (
            "box that a low-overlap anchor learns, if it is the best anchor of another box than it overlaps most",
            "the one it overlaps most",
            "the one whose best anchor it is",
        ),
    ]
    if recipe.norm == "SyncBN":
        found.append(("normalisation", f"SyncBN over {recipe.published_processes()} processes", "BN on 1 process"))
    return tuple(found)


def _preprocessor(recipe: DetectorRecipe, backbone: Backbone) -> dict[str, Any]:
    mean, std = backbone.input.in_255()
    return {
        "data_preprocessor": {
            "type": "DetDataPreprocessor",
            "mean": mean,
            "std": std,
            "bgr_to_rgb": backbone.input.channels == "RGB",  # images are handed over as BGR
            # Detectron2's size_divisibility: 32 with FPN, none with C4.
            "pad_size_divisor": 32 if recipe.neck == "fpn" else 1,
        }
    }


def _resnet(recipe: DetectorRecipe, backbone: Backbone, stages: int) -> dict[str, Any]:
    known = architecture(backbone.arch)
    grouped = {"type": "ResNeXt", "groups": known.groups, "base_width": known.group_width}
    return {
        **(grouped if known.groups > 1 else {"type": "ResNet"}),
        "depth": known.depth,
        "base_channels": 64 * known.width,  # of the stem, too
        "num_stages": stages,
        "strides": (1, 2, 2, 2)[:stages],
        "dilations": (1, 1, 1, 1)[:stages],
        # Detectron2 counts the stem as 1, mmdet as 0. With C4 the last stage is no part of the backbone in either.
        "frozen_stages": min(recipe.freeze_at - 1, stages),
        "style": style_of(backbone),
        **_norm(recipe),
    }


def _norm(recipe: DetectorRecipe) -> dict[str, Any]:
    """One process, so SyncBN is BN; FrozenBN is BN in eval mode whose scale and shift are not trained."""
    frozen = recipe.norm == "FrozenBN"
    return {"norm_cfg": {"type": "BN", "requires_grad": not frozen}, "norm_eval": frozen}


def _c4(recipe: DetectorRecipe, backbone: Backbone) -> dict[str, Any]:
    """RPN and RoI pooling on stage 3; stage 4 runs on every region (Detectron2: Res5ROIHeads)."""
    channels = stage_channels(backbone.arch)
    return {
        "backbone": _resnet(recipe, backbone, 3) | {"out_indices": (2,)},
        # One anchor of every size at each of the positions of the only level.
        "rpn_head": _rpn_head(recipe, channels["layer3"], [C4_STRIDE], base_sizes=[1], scales=recipe.anchor_sizes),
        "roi_head": {
            "type": "StandardRoIHead",
            "shared_head": {
                "type": "LastStage",
                "arch": backbone.arch,
                "extra_norm": recipe.extra_norm,
                "style": style_of(backbone),
                **_norm(recipe),
            },
            "bbox_roi_extractor": _roi_extractor(recipe, channels["layer3"], [C4_STRIDE]),
            "bbox_head": {
                "type": "BBoxHead",
                "with_avg_pool": True,
                "roi_feat_size": (recipe.roi_resolution + 1) // 2,
                "in_channels": channels["layer4"],
                **_box_loss(),
            },
        },
    }


def _fpn(recipe: DetectorRecipe, backbone: Backbone) -> dict[str, Any]:
    """Detectron2's Base-RCNN-FPN: p2 … p6 for proposals, p2 … p5 for regions, a head of two hidden layers."""
    if len(recipe.anchor_sizes) != len(FPN_STRIDES):
        raise EngineError(
            "with FPN there is one anchor size for each of the levels p2 … p6",
            found=f"{len(recipe.anchor_sizes)} sizes: {recipe.anchor_sizes}",
            todo="give five sizes, for example --detector.anchor-sizes 32 64 128 256 512",
        )
    in_channels = [stage_channels(backbone.arch)[stage] for stage in STAGES]
    caffe2 = {"type": "Caffe2Xavier"}  # Detectron2 initialises FPN and the hidden layers so
    return {
        "backbone": _resnet(recipe, backbone, 4) | {"out_indices": (0, 1, 2, 3)},
        "neck": {
            "type": "FPN",
            "in_channels": in_channels,
            "out_channels": recipe.fpn_channels,
            "num_outs": len(FPN_STRIDES),
            "init_cfg": caffe2 | {"layer": "Conv2d"},
        },
        "rpn_head": _rpn_head(
            recipe, recipe.fpn_channels, list(FPN_STRIDES), base_sizes=recipe.anchor_sizes, scales=[1]
        ),
        "roi_head": {
            "type": "StandardRoIHead",
            "bbox_roi_extractor": _roi_extractor(recipe, recipe.fpn_channels, list(FPN_STRIDES[:4])),
            "bbox_head": {
                "type": "Shared2FCBBoxHead",
                "in_channels": recipe.fpn_channels,
                "fc_out_channels": FC_CHANNELS,
                "roi_feat_size": recipe.roi_resolution,
                "init_cfg": [
                    {"type": "Normal", "std": 0.01, "override": {"name": "fc_cls"}},
                    {"type": "Normal", "std": 0.001, "override": {"name": "fc_reg"}},
                    caffe2 | {"override": {"name": "shared_fcs"}},
                ],
                **_box_loss(),
            },
        },
    }


def _rpn_head(
    recipe: DetectorRecipe, channels: int, strides: list[int], base_sizes: Any, scales: Any
) -> dict[str, Any]:
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


def _roi_extractor(recipe: DetectorRecipe, channels: int, strides: list[int]) -> dict[str, Any]:
    pooler = {"type": "RoIAlign", "output_size": recipe.roi_resolution, "sampling_ratio": 0, "aligned": True}
    return {
        "type": "SingleRoIExtractor",
        "roi_layer": pooler,
        "out_channels": channels,
        "featmap_strides": strides,
    }


def _box_loss() -> dict[str, Any]:
    return {
        # Detectron2's weights (10, 10, 5, 5) are the reciprocals of these.
        "bbox_coder": {"type": "DeltaXYWHBBoxCoder", "target_stds": [0.1, 0.1, 0.2, 0.2]},
        "reg_class_agnostic": False,
        "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0},
        "loss_bbox": {"type": "L1Loss", "loss_weight": 1.0},  # summed, over all sampled regions, in both libraries
    }


def _train_test(recipe: DetectorRecipe) -> dict[str, Any]:
    rpn_assigner = {
        "type": "MaxIoUAssigner",
        "pos_iou_thr": 0.7,
        "neg_iou_thr": 0.3,
        "min_pos_iou": 0.0,  # Detectron2 gives every object its best anchor, however small the overlap
        "match_low_quality": True,
        "ignore_iof_thr": -1,
    }
    roi_assigner = {
        "type": "MaxIoUAssigner",
        "pos_iou_thr": 0.5,
        "neg_iou_thr": 0.5,
        "min_pos_iou": 0.5,
        "match_low_quality": False,
        "ignore_iof_thr": -1,
    }
    return {
        "train_cfg": {
            "rpn": {
                "assigner": rpn_assigner,
                "sampler": _sampler(recipe.rpn_batch, recipe.rpn_positive, add_gt=False),
                "allowed_border": -1,
                "pos_weight": -1,
                "debug": False,
            },
            "rpn_proposal": _proposals(recipe.rpn_pre_nms_train, recipe.rpn_post_nms_train, recipe.rpn_nms),
            "rcnn": {
                "assigner": roi_assigner,
                "sampler": _sampler(recipe.roi_batch, recipe.roi_positive, add_gt=True),
                "pos_weight": -1,
                "debug": False,
            },
        },
        "test_cfg": {
            "rpn": _proposals(recipe.rpn_pre_nms_test, recipe.rpn_post_nms_test, recipe.rpn_nms),
            "rcnn": {
                "score_thr": recipe.score_threshold,
                "nms": {"type": "nms", "iou_threshold": recipe.nms},
                "max_per_img": recipe.max_detections,
            },
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


def _optimizer(recipe: DetectorRecipe) -> dict[str, Any]:
    if recipe.weight_decay == 0 and recipe.weight_decay_norm != 0:
        raise EngineError(
            "MMDetection states the weight decay of norm layers as a multiple of the general one",
            found=f"weight_decay 0 with weight_decay_norm {recipe.weight_decay_norm}",
            todo="set both to 0, or give --detector.weight-decay a positive value",
        )
    factor = recipe.weight_decay_norm / recipe.weight_decay if recipe.weight_decay else 0.0
    return {
        "type": "OptimWrapper",
        "optimizer": {
            "type": "SGD",
            "lr": recipe.lr,
            "momentum": recipe.momentum,
            "weight_decay": recipe.weight_decay,
        },
        "paramwise_cfg": {"norm_decay_mult": factor},
    }


def _schedule(recipe: DetectorRecipe) -> list[dict[str, Any]]:
    """Linear from warmup_factor · lr at iteration 0 to lr at `warmup_iterations`, then steps."""
    steps = {"type": "MultiStepLR", "by_epoch": False, "milestones": list(recipe.steps), "gamma": recipe.gamma}
    if recipe.warmup_iterations == 0 or recipe.warmup_factor == 1:
        return [steps]
    if not 0 < recipe.warmup_factor < 1:
        raise EngineError(
            f"the warm-up cannot begin at {recipe.warmup_factor} times the learning rate",
            todo="choose --detector.warmup-factor above 0 and at most 1, or --detector.warmup-iterations 0",
        )
    warmup = {
        "type": "LinearLR",
        "by_epoch": False,
        "start_factor": recipe.warmup_factor,
        "begin": 0,
        "end": recipe.warmup_iterations + 1,  # mmengine is at full rate at end − 1
    }
    return [warmup, steps]
