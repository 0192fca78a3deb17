"""The detectors that published tables use, value by value, and where each value was read.

MoCo: facebookresearch/moco, detection/configs. Detectron2: facebookresearch/detectron2, configs and
detectron2/config/defaults.py. DetCo: xieenze/DetCo, benchmarks/detection/configs. Task files build their protocols from
the detectors here; a test demands a source for every value and compares the values with the ones stated.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from transfer.detector import DenseRecipe, DetectorRecipe, unread
from transfer.task import flatten

Sources = Mapping[str, str]

_D = "Detectron2, config/defaults.py"
_C4 = "MoCo, Base-RCNN-C4-BN.yaml"
_VOC = "MoCo, pascal_voc_R_50_C4_24k.yaml"
_FPN = "Detectron2, Base-RCNN-FPN.yaml"
_RETINA = "Detectron2, Base-RetinaNet.yaml"
_FCOS = "Detectron2, configs/common/models/fcos.py"
_ONE_BY = "Detectron2, Base-RCNN-{}.yaml"
_NORMS = "MoCo's FPN runs: SyncBN in backbone and pyramid only, facebookresearch/moco#34; in DetCo's configs too"
OURS = "this project"
NOT_READ = "nothing reads it in this detector"

# -- Faster R-CNN, C4: MoCo's VOC07+12 protocol is what `DetectorRecipe` begins as.
VOC_C4 = DetectorRecipe()
COCO_C4 = dataclasses.replace(
    VOC_C4,
    train_sizes=(640, 672, 704, 736, 768, 800),
    iterations=90_000,
    steps=(60_000, 80_000),
    warmup_iterations=1_000,
)
COCO_FPN = dataclasses.replace(
    COCO_C4,
    neck="fpn",
    extra_norm=False,
    fpn_norm=True,
    roi_resolution=7,
    rpn_pre_nms_train=2_000,
    rpn_post_nms_train=1_000,
    rpn_pre_nms_test=1_000,
)
RETINANET = dataclasses.replace(COCO_FPN, family="retinanet", lr=0.01, dense=DenseRecipe())
FCOS = dataclasses.replace(RETINANET, family="fcos", score_threshold=0.2, nms=0.6)


def with_masks(recipe: DetectorRecipe) -> DetectorRecipe:
    """The Mask R-CNN of a Faster R-CNN; with FPN its head has four convolutions (Detectron2, Base-RCNN-FPN.yaml)."""
    return dataclasses.replace(recipe, family="mask_rcnn", mask_convs=4 if recipe.neck == "fpn" else 0)


def two_times(recipe: DetectorRecipe) -> DetectorRecipe:
    """The 2× schedule: twice as long, the steps where they are in proportion (MoCo, coco_R_50_C4_2x.yaml)."""
    twice = tuple(2 * step for step in recipe.steps)
    return dataclasses.replace(recipe, iterations=2 * recipe.iterations, steps=twice)


# -- sources -----------------------------------------------------------------------------------------------------

# Where Detectron2 keeps the default of a value, for those that no config file above sets.
_DEFAULTS: Sources = {
    "norm": "MODEL.RESNETS.NORM",
    "freeze_at": "MODEL.BACKBONE.FREEZE_AT",
    "fpn_norm": "MODEL.FPN.NORM",
    "fpn_channels": "MODEL.FPN.OUT_CHANNELS",
    "anchor_sizes": "MODEL.ANCHOR_GENERATOR.SIZES",
    "anchor_ratios": "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS",
    "roi_resolution": "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION",
    "class_agnostic": "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG",
    "mask_resolution": "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION",
    "mask_convs": "MODEL.ROI_MASK_HEAD.NUM_CONV",
    "mask_class_agnostic": "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK",
    "dense.convs": "MODEL.RETINANET.NUM_CONVS",
    "dense.focal_alpha": "MODEL.RETINANET.FOCAL_LOSS_ALPHA",
    "dense.focal_gamma": "MODEL.RETINANET.FOCAL_LOSS_GAMMA",
    "dense.prior": "MODEL.RETINANET.PRIOR_PROB",
    "dense.candidates": "MODEL.RETINANET.TOPK_CANDIDATES_TEST",
    "test_size": "INPUT.MIN_SIZE_TEST",
    "max_size": "INPUT.MAX_SIZE_TRAIN, MAX_SIZE_TEST",
    "flip": "INPUT.RANDOM_FLIP",
    "gamma": "SOLVER.GAMMA",
    "momentum": "SOLVER.MOMENTUM",
    "weight_decay": "SOLVER.WEIGHT_DECAY",
    "weight_decay_norm": "SOLVER.WEIGHT_DECAY_NORM",
    "warmup_iterations": "SOLVER.WARMUP_ITERS",
    "warmup_factor": "SOLVER.WARMUP_FACTOR",
    "clip_gradients": "SOLVER.CLIP_GRADIENTS.ENABLED",
    "amp": "SOLVER.AMP.ENABLED",
    "rpn_pre_nms_train": "MODEL.RPN.PRE_NMS_TOPK_TRAIN",
    "rpn_post_nms_train": "MODEL.RPN.POST_NMS_TOPK_TRAIN",
    "rpn_nms": "MODEL.RPN.NMS_THRESH",
    "rpn_batch": "MODEL.RPN.BATCH_SIZE_PER_IMAGE",
    "rpn_positive": "MODEL.RPN.POSITIVE_FRACTION",
    "rpn_loss_weight": "MODEL.RPN.LOSS_WEIGHT",
    "roi_batch": "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE",
    "roi_positive": "MODEL.ROI_HEADS.POSITIVE_FRACTION",
    "score_threshold": "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
    "nms": "MODEL.ROI_HEADS.NMS_THRESH_TEST",
    "max_detections": "TEST.DETECTIONS_PER_IMAGE",
    "precise_bn": "TEST.PRECISE_BN.NUM_ITER",
}
_MOCO_C4 = dict.fromkeys(("extra_norm", "freeze_at", "batch", "lr", "rpn_pre_nms_test", "rpn_post_nms_test"), _C4) | {
    "norm": f"{_C4}: naiveSyncBN, for its lower variance",
    "precise_bn": f"{_C4}: enabled; {_D}: TEST.PRECISE_BN.NUM_ITER",
    "neck": f"{_C4}: ROI_HEADS.NAME Res5ROIHeadsExtraNorm",
}
_METRICS = {
    "metric.mode": "11 points: Detectron2, evaluation/pascal_voc_evaluation.py for VOC2007",
    "metric.plus_one": "Detectron2, evaluation/pascal_voc_evaluation.py",
    "metric.strict": "Detectron2, evaluation/pascal_voc_evaluation.py",
    "metric.score_decimals": "Detectron2, evaluation/pascal_voc_evaluation.py",
    "metric.box_decimals": "Detectron2, evaluation/pascal_voc_evaluation.py",
    "coco_metric.library": f"{OURS}: faster-coco-eval, equal to pycocotools",
    "overfit": f"{OURS}: 0, the whole data set",
}


def detector_sources(recipe: DetectorRecipe, *layers: Mapping[str, str]) -> dict[str, str]:
    """Source of every value of `recipe`: Detectron2's defaults, and what later `layers` say on top of them."""
    named = {name: f"{_D}: {key}" for name, key in _DEFAULTS.items()}
    named |= {"family": "the task", "evaluate_every": f"{OURS}: no influence on the number, nothing is selected on it"}
    for layer in layers:
        named |= layer
    for name in unread(recipe):
        named[name] = NOT_READ
    return named


def task_sources(recipe: Any, *layers: Mapping[str, str]) -> dict[str, str]:
    """The same for a task's recipe, whose detector is at `recipe.detector`; names as `flatten` gives them."""
    named = {f"detector.{name}": text for name, text in detector_sources(recipe.detector, *layers).items()}
    found = named | _METRICS
    return {name: found[name] for name in flatten(recipe) if name in found}


def _from(source: str, names: Iterable[str]) -> dict[str, str]:
    return dict.fromkeys(names, source)


VOC_C4_SOURCES: Sources = _MOCO_C4 | _from(
    _VOC, ("train_sizes", "test_size", "iterations", "steps", "warmup_iterations")
)
TWO_TIMES_SOURCES: Sources = dict.fromkeys(("iterations", "steps"), "MoCo, coco_R_50_C4_2x.yaml: twice the 1× schedule")
COCO_C4_SOURCES: Sources = _MOCO_C4 | _from("Detectron2, Base-RCNN-C4.yaml", ("train_sizes", "iterations", "steps"))
_FPN_NORMS = {
    "norm": _NORMS,
    "fpn_norm": _NORMS,
    "freeze_at": "DetCo, coco_R_50_FPN_1x.yaml; MoCo, Base-RCNN-C4-BN.yaml",
    "precise_bn": f"DetCo, coco_R_50_FPN_1x.yaml: enabled; {_D}: TEST.PRECISE_BN.NUM_ITER",
}
COCO_FPN_SOURCES: Sources = _FPN_NORMS | _from(
    _FPN,
    (
        *("neck", "roi_resolution", "anchor_sizes", "anchor_ratios", "rpn_pre_nms_train", "rpn_post_nms_train"),
        *("rpn_pre_nms_test", "rpn_post_nms_test", "batch", "lr", "iterations", "steps", "train_sizes"),
        *("mask_convs", "mask_resolution"),
    ),
)
RETINANET_SOURCES: Sources = (
    _FPN_NORMS
    | _from(_RETINA, ("neck", "anchor_sizes", "batch", "lr", "iterations", "steps", "train_sizes"))
    | _from(_RETINA, ("dense.octaves", "dense.foreground_iou", "dense.background_iou"))
    | {
        "norm": "DetCo, coco_R_50_RetinaNet_1x.yaml",
        "fpn_norm": "DetCo, coco_R_50_RetinaNet_1x.yaml",
        "freeze_at": "DetCo, coco_R_50_RetinaNet_1x.yaml",
        "precise_bn": f"DetCo, coco_R_50_RetinaNet_1x.yaml: enabled; {_D}: TEST.PRECISE_BN.NUM_ITER",
        "score_threshold": f"{_D}: MODEL.RETINANET.SCORE_THRESH_TEST",
        "nms": f"{_D}: MODEL.RETINANET.NMS_THRESH_TEST",
    }
)
_FCOS_LR = "Detectron2, COCO-Detection/fcos_R_50_FPN_1x.py"
_COMMON = "Detectron2, configs/common"
FCOS_SOURCES: Sources = (
    dict(RETINANET_SOURCES)
    | _from(_FCOS, ("neck", "score_threshold", "nms"))
    | _from(
        "Detectron2, configs/common/models/retinanet.py",
        [f"dense.{name}" for name in ("convs", "focal_alpha", "focal_gamma", "prior", "candidates")],
    )
    | _from(f"{_COMMON}/data/coco.py", ("train_sizes", "batch", "test_size", "max_size"))
    | _from(f"{_COMMON}/coco_schedule.py", ("iterations", "steps", "warmup_iterations", "warmup_factor"))
    | _from(f"{_COMMON}/optim.py", ("momentum", "weight_decay", "weight_decay_norm"))
    | {"lr": _FCOS_LR}
    | _from(
        "not published for self-supervised backbones; as DetCo's coco_R_50_RetinaNet_1x.yaml",
        ("norm", "fpn_norm", "freeze_at", "precise_bn"),
    )
)
