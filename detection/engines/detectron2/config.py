"""A `DetectorRecipe` as Detectron2's own config."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode, get_cfg

from detection.engines.detector import DetectionJob
from detection.engines.detectron2.fcos import FCOS_BACKBONE, FCOS_DETECTOR
from detection.engines.detectron2.heads import C4_HEADS, C4_HEADS_EXTRA_NORM
from detection.engines.detectron2.watched import WatchedCfg
from detection.recipe import (
    C4,
    Anchors,
    ConvolvedBoxes,
    Dense,
    DetectorRecipe,
    Masks,
    OnTrunk,
    Pyramid,
    PyramidMasks,
    Regions,
    RegionsFPN,
    RetinaNet,
    ViTDet,
    ViTFPN,
    demand_buildable,
)
from transfer.checkpoints.backbone import Backbone
from transfer.checkpoints.families.resnet import architecture, stage_channels
from transfer.datasets.boxes.detection import DetectionDataset

BACKBONE_FILE = "backbone.pkl"

_STAGES = ["res2", "res3", "res4", "res5"]
_REGION_LEVELS = ["p2", "p3", "p4", "p5", "p6"]
_DENSE_LEVELS = ["p3", "p4", "p5", "p6", "p7"]


def build_cfg(job: DetectionJob) -> WatchedCfg:
    """The frozen native config of `job`. What is not set is Detectron2's default (detectron2/config/defaults.py).

    Raises:
        EngineError: the recipe asks for what Detectron2 cannot build.
    """
    recipe, classes = job.recipe, len(job.train.classes)
    demand_buildable(recipe, job.device)
    cfg = WatchedCfg(get_cfg())
    settings = _model(job)
    if isinstance(recipe, OnTrunk):
        settings |= _on_trunk(recipe, job, cfg)
    else:
        settings |= _resnet(job.backbone, recipe, job.world.size)
        settings["MODEL.WEIGHTS"] = str((job.workdir / BACKBONE_FILE).resolve())
    if isinstance(recipe, C4):
        settings |= _c4(recipe)
    if isinstance(recipe, RegionsFPN):
        settings |= _region_pyramid(recipe)
    if isinstance(recipe, Regions):
        settings |= _region_heads(recipe, classes)
    if isinstance(recipe, Dense):
        settings |= _dense(recipe, classes)
    if isinstance(recipe, Pyramid):
        settings |= _fpn(recipe, job.world.size)
    if isinstance(recipe, Masks):
        settings |= _masks(recipe)
    if recipe.iterations:
        settings |= _solver(job)
        settings |= {} if isinstance(recipe, OnTrunk) else _training_input(recipe) | _descent(recipe)
        if recipe.masks:
            settings["INPUT.MASK_FORMAT"] = mask_format(job.train)
    cfg.give(settings)
    cfg.freeze()
    return cfg


def norm_here(recipe: DetectorRecipe, processes: int) -> str:
    """Detectron2's name of the norm that is built.

    On a single process SyncBN has nobody to synchronise with and is plain BN. On several it is Detectron2's own
    `NaiveSyncBatchNorm`, as in the published runs (facebookresearch/moco: detection/configs/Base-RCNN-C4-BN.yaml says
    naiveSyncBN): the processes' means and mean squares are averaged, however many regions each has.
    """
    if recipe.norm != "SyncBN":
        return recipe.norm
    return "naiveSyncBN" if processes > 1 else "BN"


def mask_format(dataset: DetectionDataset) -> str:
    """Detectron2's "polygon", or "bitmask" for all as soon as one object has run lengths.

    Polygons are cut to the regions as polygons and drawn at the mask head's resolution; bit masks are resized with the
    image, polygons among them drawn at its size first.
    """
    masks = (mask for image in dataset.images for mask in image.masks or ())
    return "bitmask" if any(not mask.polygons for mask in masks) else "polygon"


def _model(job: DetectionJob) -> dict[str, Any]:
    mean, std = job.backbone.input.in_255()
    return {
        "MODEL.DEVICE": job.device,
        "SEED": job.seed,
        "INPUT.FORMAT": job.backbone.input.channels,
        "MODEL.PIXEL_MEAN": mean,
        "MODEL.PIXEL_STD": std,
        "INPUT.MIN_SIZE_TEST": job.recipe.test_size,
        "INPUT.MAX_SIZE_TEST": job.recipe.max_size,
        "TEST.DETECTIONS_PER_IMAGE": job.recipe.max_detections,
    }


def _resnet(backbone: Backbone, recipe: DetectorRecipe, processes: int) -> dict[str, Any]:
    known = architecture(backbone.arch)
    return {
        "MODEL.RESNETS.DEPTH": known.depth,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": 64 * known.width,
        "MODEL.RESNETS.NUM_GROUPS": known.groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP": known.group_width * known.width,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": stage_channels(backbone.arch)["layer1"],
        "MODEL.RESNETS.STRIDE_IN_1X1": backbone.stride_in_1x1,
        "MODEL.RESNETS.NORM": norm_here(recipe, processes),
        "MODEL.BACKBONE.FREEZE_AT": recipe.freeze_at,
    }


def _anchors(recipe: Anchors, sizes: list[list[float]]) -> dict[str, Any]:
    return {
        "MODEL.ANCHOR_GENERATOR.SIZES": sizes,
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[float(ratio) for ratio in recipe.anchor_ratios]],
    }


def _c4(recipe: C4) -> dict[str, Any]:
    # detectron2: configs/Base-RCNN-C4.yaml
    return {
        "MODEL.BACKBONE.NAME": "build_resnet_backbone",
        "MODEL.RESNETS.OUT_FEATURES": ["res4"],
        "MODEL.RPN.IN_FEATURES": ["res4"],
        "MODEL.ROI_HEADS.NAME": C4_HEADS_EXTRA_NORM if recipe.extra_norm else C4_HEADS,
        "MODEL.ROI_HEADS.IN_FEATURES": ["res4"],
    } | _anchors(recipe, [[float(size) for size in recipe.anchor_sizes]])


def _region_pyramid(recipe: RegionsFPN) -> dict[str, Any]:
    # detectron2: configs/Base-RCNN-FPN.yaml
    return {
        "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
        "MODEL.RESNETS.OUT_FEATURES": _STAGES,
        "MODEL.FPN.IN_FEATURES": _STAGES,
        **_on_pyramid(recipe),
        "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    }


def _on_pyramid(recipe: RegionsFPN | OnTrunk) -> dict[str, Any]:
    return {
        "MODEL.RPN.IN_FEATURES": _REGION_LEVELS,
        "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
        "MODEL.ROI_HEADS.IN_FEATURES": _REGION_LEVELS[:-1],
        "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
        "MODEL.ROI_BOX_HEAD.FC_DIM": 1024,
        **_anchors(recipe, [[float(size)] for size in recipe.anchor_sizes]),
    } | ({"MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": recipe.mask_resolution} if isinstance(recipe, PyramidMasks) else {})


def _on_trunk(recipe: OnTrunk, job: DetectionJob, cfg: WatchedCfg) -> dict[str, Any]:
    """A trunk, which Detectron2 configures by Python objects alone (configs/common/models/mask_rcnn_vitdet.py)."""
    from detection.engines.detectron2 import trunk  # timm, which other detectors do not need

    own = trunk.section(recipe, job.backbone.arch)
    cfg.MODEL.TRUNK = WatchedCfg(CfgNode(own))
    settings = {
        **{f"{trunk.SECTION}.{name}": value for name, value in own.items()},
        "MODEL.BACKBONE.NAME": trunk.build_trunk_backbone.__name__,
        **_on_pyramid(recipe),
        "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    }
    if isinstance(recipe, ConvolvedBoxes):
        settings |= {
            "MODEL.ROI_BOX_HEAD.NUM_CONV": recipe.box_convs,
            "MODEL.ROI_BOX_HEAD.CONV_DIM": recipe.fpn_channels,
            "MODEL.ROI_BOX_HEAD.NORM": norm_here(recipe, job.world.size),
            "MODEL.ROI_BOX_HEAD.NUM_FC": recipe.box_fcs,
        }
    if isinstance(recipe, ViTDet):
        settings["MODEL.RPN.CONV_DIMS"] = [-1] * recipe.rpn_convs
        if isinstance(recipe, Masks):
            settings["MODEL.ROI_MASK_HEAD.NORM"] = recipe.norm
    if isinstance(recipe, ViTFPN):
        settings["MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE"] = "giou"
        settings["MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT"] = float(recipe.giou_weight)
    return settings


def _fpn(recipe: Pyramid, processes: int) -> dict[str, Any]:
    return {
        "MODEL.FPN.OUT_CHANNELS": recipe.fpn_channels,
        "MODEL.FPN.NORM": norm_here(recipe, processes) if recipe.fpn_norm else "",
    }


def _region_heads(recipe: Regions, classes: int) -> dict[str, Any]:
    return {
        "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
        "MODEL.MASK_ON": recipe.masks,
        "MODEL.RPN.PRE_NMS_TOPK_TRAIN": recipe.rpn_pre_nms_train,
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": recipe.rpn_post_nms_train,
        "MODEL.RPN.PRE_NMS_TOPK_TEST": recipe.rpn_pre_nms_test,
        "MODEL.RPN.POST_NMS_TOPK_TEST": recipe.rpn_post_nms_test,
        "MODEL.RPN.NMS_THRESH": float(recipe.rpn_nms),
        "MODEL.RPN.BATCH_SIZE_PER_IMAGE": recipe.rpn_batch,
        "MODEL.RPN.POSITIVE_FRACTION": float(recipe.rpn_positive),
        # Multiplies both RPN losses; BBOX_REG_LOSS_WEIGHT would come on top.
        "MODEL.RPN.LOSS_WEIGHT": float(recipe.rpn_loss_weight),
        "MODEL.ROI_HEADS.NUM_CLASSES": classes,
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": recipe.roi_batch,
        "MODEL.ROI_HEADS.POSITIVE_FRACTION": float(recipe.roi_positive),
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": float(recipe.score_threshold),
        "MODEL.ROI_HEADS.NMS_THRESH_TEST": float(recipe.nms),
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": recipe.roi_resolution,
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": recipe.class_agnostic,
    }


def _masks(recipe: Masks) -> dict[str, Any]:
    return {
        "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
        "MODEL.ROI_MASK_HEAD.NUM_CONV": recipe.mask_convs,
        "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": recipe.mask_class_agnostic,
    }


def _dense(recipe: Dense, classes: int) -> dict[str, Any]:
    dense, stages = recipe.dense, _STAGES[1:]
    settings = {
        "MODEL.RESNETS.OUT_FEATURES": stages,
        "MODEL.FPN.IN_FEATURES": stages,
        "MODEL.RETINANET.IN_FEATURES": _DENSE_LEVELS,
        "MODEL.RETINANET.NUM_CLASSES": classes,
        "MODEL.RETINANET.NUM_CONVS": dense.convs,
        "MODEL.RETINANET.PRIOR_PROB": float(dense.prior),
        "MODEL.RETINANET.FOCAL_LOSS_ALPHA": float(dense.focal_alpha),
        "MODEL.RETINANET.FOCAL_LOSS_GAMMA": float(dense.focal_gamma),
        "MODEL.RETINANET.TOPK_CANDIDATES_TEST": dense.candidates,
        "MODEL.RETINANET.SCORE_THRESH_TEST": float(recipe.score_threshold),
        "MODEL.RETINANET.NMS_THRESH_TEST": float(recipe.nms),
    }
    return settings | (_retinanet(recipe) if isinstance(recipe, RetinaNet) else _fcos())


def _retinanet(recipe: RetinaNet) -> dict[str, Any]:
    # detectron2: configs/Base-RetinaNet.yaml
    dense = recipe.dense
    octaves = [2 ** (step / dense.octaves) for step in range(dense.octaves)]
    return {
        "MODEL.META_ARCHITECTURE": "RetinaNet",
        "MODEL.BACKBONE.NAME": "build_retinanet_resnet_fpn_backbone",
        "MODEL.RETINANET.IOU_THRESHOLDS": [float(dense.background_iou), float(dense.foreground_iou)],
        "MODEL.RETINANET.IOU_LABELS": [0, -1, 1],
        "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA": 0.0,
    } | _anchors(recipe, [[size * octave for octave in octaves] for size in recipe.anchor_sizes])


def _fcos() -> dict[str, Any]:
    # detectron2: configs/common/models/fcos.py
    return {
        "MODEL.META_ARCHITECTURE": FCOS_DETECTOR,
        "MODEL.BACKBONE.NAME": FCOS_BACKBONE,
        "MODEL.RETINANET.NORM": "GN",
    }


def _training_input(recipe: DetectorRecipe) -> dict[str, Any]:
    return {
        "INPUT.MIN_SIZE_TRAIN": recipe.train_sizes,
        "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice",
        "INPUT.MAX_SIZE_TRAIN": recipe.max_size,
        # Detectron2 can only say "with probability 1/2"; any other probability is added as an explicit augmentation.
        "INPUT.RANDOM_FLIP": "horizontal" if recipe.flip == 0.5 else "none",
    }


def _descent(recipe: DetectorRecipe) -> dict[str, Any]:
    """Of Detectron2's SGD."""
    return {
        "SOLVER.BASE_LR": float(recipe.lr),
        "SOLVER.MOMENTUM": float(recipe.momentum),
        "SOLVER.WEIGHT_DECAY": float(recipe.weight_decay),
        "SOLVER.WEIGHT_DECAY_NORM": float(recipe.weight_decay_norm),
    }


def _solver(job: DetectionJob) -> dict[str, Any]:
    # Clipping is not here: Detectron2's CLIP_GRADIENTS looks at one tensor at a time, the recipe at all together.
    recipe = job.recipe
    return {
        "SOLVER.LR_SCHEDULER_NAME": "WarmupMultiStepLR",
        "SOLVER.MAX_ITER": recipe.iterations,
        "SOLVER.IMS_PER_BATCH": recipe.batch,
        # Detectron2's schedule refuses a step at the very end, where it would change nothing.
        "SOLVER.STEPS": tuple(step for step in recipe.steps if step < recipe.iterations),
        "SOLVER.GAMMA": float(recipe.gamma),
        "SOLVER.WARMUP_ITERS": recipe.warmup_iterations,
        "SOLVER.WARMUP_FACTOR": float(recipe.warmup_factor),
        "SOLVER.WARMUP_METHOD": "linear",
        "SOLVER.AMP.ENABLED": recipe.amp != "off",
        "SOLVER.CHECKPOINT_PERIOD": job.checkpoint_every,
        "TEST.EVAL_PERIOD": recipe.evaluate_every,
    } | ({"TEST.PRECISE_BN.ENABLED": True, "TEST.PRECISE_BN.NUM_ITER": recipe.precise_bn} if recipe.precise_bn else {})
