"""A `DetectorRecipe` as Detectron2's own `CfgNode`."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode, get_cfg

from transfer.architectures import architecture, stage_channels
from transfer.backbone import Backbone
from transfer.detector import DetectionJob, DetectorRecipe
from transfer.engines.detectron2.heads import C4_HEADS, C4_HEADS_EXTRA_NORM
from transfer.errors import EngineError

BACKBONE_FILE = "backbone.pkl"

_LEVELS = ["res2", "res3", "res4", "res5"]
_PYRAMID = ["p2", "p3", "p4", "p5", "p6"]


def build_cfg(job: DetectionJob) -> CfgNode:
    """The frozen native config of `job`.

    Every key is set through `merge_from_list`, which refuses keys and types that Detectron2's defaults do not have.
    What is not set is Detectron2's default (detectron2/config/defaults.py).
    """
    settings: dict[str, Any] = {
        **_input(job),
        **_resnet(job.backbone, job.recipe),
        **(_c4(job.recipe) if job.recipe.neck == "c4" else _fpn(job.recipe)),
        **_heads(job.recipe, len(job.train.classes)),
        **_solver(job),
    }
    cfg = get_cfg()
    cfg.merge_from_list([item for pair in settings.items() for item in pair])
    cfg.freeze()
    return cfg


def norm_here(recipe: DetectorRecipe) -> str:
    """The norm that is built: on a single process SyncBN has nobody to synchronise with and is plain BN."""
    return "BN" if recipe.norm == "SyncBN" else recipe.norm


def norm_differences(recipe: DetectorRecipe) -> tuple[tuple[str, str, str], ...]:
    """(what, published, here) if the norm's statistics span fewer images than the recipe's."""
    if recipe.norm != "SyncBN":
        return ()
    return (("normalisation", f"SyncBN over {recipe.published_processes()} processes", "BN on 1 process"),)


def _input(job: DetectionJob) -> dict[str, Any]:
    recipe = job.recipe
    mean, std = job.backbone.input.in_255()
    return {
        "INPUT.FORMAT": job.backbone.input.channels,
        "MODEL.PIXEL_MEAN": mean,
        "MODEL.PIXEL_STD": std,
        "INPUT.MIN_SIZE_TRAIN": recipe.train_sizes,
        "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice",
        "INPUT.MAX_SIZE_TRAIN": recipe.max_size,
        "INPUT.MIN_SIZE_TEST": recipe.test_size,
        "INPUT.MAX_SIZE_TEST": recipe.max_size,
        # Detectron2 can only say "with probability 1/2"; any other probability is added as an explicit augmentation.
        "INPUT.RANDOM_FLIP": "horizontal" if recipe.flip == 0.5 else "none",
        "DATALOADER.NUM_WORKERS": job.workers,
    }


def _resnet(backbone: Backbone, recipe: DetectorRecipe) -> dict[str, Any]:
    known = architecture(backbone.arch)
    return {
        "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
        "MODEL.MASK_ON": False,
        "MODEL.RESNETS.DEPTH": known.depth,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": 64 * known.width,
        "MODEL.RESNETS.NUM_GROUPS": known.groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP": known.group_width * known.width,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": stage_channels(backbone.arch)["layer1"],
        "MODEL.RESNETS.STRIDE_IN_1X1": backbone.stride_in_1x1,
        "MODEL.RESNETS.NORM": norm_here(recipe),
        "MODEL.BACKBONE.FREEZE_AT": recipe.freeze_at,
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[float(ratio) for ratio in recipe.anchor_ratios]],
    }


def _c4(recipe: DetectorRecipe) -> dict[str, Any]:
    # detectron2: configs/Base-RCNN-C4.yaml
    return {
        "MODEL.BACKBONE.NAME": "build_resnet_backbone",
        "MODEL.RESNETS.OUT_FEATURES": ["res4"],
        "MODEL.ANCHOR_GENERATOR.SIZES": [list(recipe.anchor_sizes)],
        "MODEL.RPN.IN_FEATURES": ["res4"],
        "MODEL.ROI_HEADS.NAME": C4_HEADS_EXTRA_NORM if recipe.extra_norm else C4_HEADS,
        "MODEL.ROI_HEADS.IN_FEATURES": ["res4"],
    }


def _fpn(recipe: DetectorRecipe) -> dict[str, Any]:
    # detectron2: configs/Base-RCNN-FPN.yaml
    if len(recipe.anchor_sizes) != len(_PYRAMID):
        raise EngineError(
            "an FPN detector has one anchor size per level",
            found=f"{len(recipe.anchor_sizes)} anchor sizes for {', '.join(_PYRAMID)}",
            todo="give five anchor sizes, finest level first",
        )
    return {
        "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
        "MODEL.RESNETS.OUT_FEATURES": _LEVELS,
        "MODEL.FPN.IN_FEATURES": _LEVELS,
        "MODEL.FPN.OUT_CHANNELS": recipe.fpn_channels,
        "MODEL.ANCHOR_GENERATOR.SIZES": [[size] for size in recipe.anchor_sizes],
        "MODEL.RPN.IN_FEATURES": _PYRAMID,
        "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
        "MODEL.ROI_HEADS.IN_FEATURES": _PYRAMID[:-1],
        "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
        "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
        "MODEL.ROI_BOX_HEAD.FC_DIM": 1024,
    }


def _heads(recipe: DetectorRecipe, classes: int) -> dict[str, Any]:
    return {
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
        "TEST.DETECTIONS_PER_IMAGE": recipe.max_detections,
    }


def _solver(job: DetectionJob) -> dict[str, Any]:
    recipe = job.recipe
    return {
        "SOLVER.LR_SCHEDULER_NAME": "WarmupMultiStepLR",
        "SOLVER.MAX_ITER": recipe.iterations,
        "SOLVER.IMS_PER_BATCH": recipe.batch,
        "SOLVER.BASE_LR": float(recipe.lr),
        "SOLVER.STEPS": recipe.steps,
        "SOLVER.GAMMA": float(recipe.gamma),
        "SOLVER.MOMENTUM": float(recipe.momentum),
        "SOLVER.WEIGHT_DECAY": float(recipe.weight_decay),
        "SOLVER.WEIGHT_DECAY_NORM": float(recipe.weight_decay_norm),
        "SOLVER.WARMUP_ITERS": recipe.warmup_iterations,
        "SOLVER.WARMUP_FACTOR": float(recipe.warmup_factor),
        "SOLVER.WARMUP_METHOD": "linear",
        "SOLVER.CHECKPOINT_PERIOD": job.checkpoint_every,
        "TEST.PRECISE_BN.ENABLED": recipe.precise_bn > 0,
        "TEST.PRECISE_BN.NUM_ITER": recipe.precise_bn,
        "MODEL.DEVICE": job.device,
        "MODEL.WEIGHTS": str((job.workdir / BACKBONE_FILE).resolve()),
        "OUTPUT_DIR": str(job.workdir.resolve()),
        "SEED": job.seed,
    }
