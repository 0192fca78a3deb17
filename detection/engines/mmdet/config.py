"""`DetectorRecipe` → native MMDetection config, with Detectron2's meaning for every field.

Sources of the two meanings: facebookresearch/detectron2 (detectron2/config/defaults.py, solver/build.py) and
open-mmlab/mmdetection (configs/_base_/); of the detectors' parts see `resnet`, `regions` and `dense`.
"""

from __future__ import annotations

from typing import Any

from mmengine.config import Config

from detection.engines.mmdet import regions
from detection.engines.mmdet.dense import dense
from detection.recipe import C4, Dense, DetectorRecipe, OnTrunk, RegionsFPN, demand_buildable
from transfer.checkpoints.backbone import Backbone
from transfer.runtime.errors import EngineError

_TYPES = {"faster_rcnn": "FasterRCNN", "mask_rcnn": "MaskRCNN", "retinanet": "RetinaNet", "fcos": "FCOS"}


def build_config(recipe: DetectorRecipe, backbone: Backbone, classes: tuple[str, ...], processes: int = 1) -> Config:
    """The model, the optimiser and the learning-rate schedule, as an MMDetection user would write them.

    The model has no `Pretrained` initialisation: its weights are put in, and checked, by `model.build_detector`.

    Args:
        recipe: what to build.
        backbone: for its architecture and input.
        classes: names, whose number counts.
        processes: that train together; SyncBN on one of them is BN.

    Raises:
        EngineError: the recipe asks for something that MMDetection cannot express.
    """
    demand_buildable(recipe)
    if isinstance(recipe, Dense):
        model = dense(recipe, backbone, len(classes), processes)
    elif isinstance(recipe, OnTrunk):
        model = regions.on_trunk(recipe, backbone, len(classes), processes)
    elif isinstance(recipe, C4):
        model = regions.c4(recipe, backbone, len(classes), processes)
    else:
        assert isinstance(recipe, RegionsFPN)  # there are no others
        model = regions.fpn(recipe, backbone, len(classes), processes)
    return Config(
        {
            "model": {"type": _TYPES[recipe.family], **_preprocessor(recipe, backbone), **model},
            # the groups of a trunk's parameters are made by one function for both libraries
            **(dict[str, Any]() if isinstance(recipe, OnTrunk) else {"optim_wrapper": _optimizer(recipe)}),
            "param_scheduler": _schedule(recipe),
        }
    )


def _preprocessor(recipe: DetectorRecipe, backbone: Backbone) -> dict[str, Any]:
    mean, std = backbone.input.in_255()
    return {
        "data_preprocessor": {
            "type": "DetDataPreprocessor",
            "mean": mean,
            "std": std,
            "bgr_to_rgb": backbone.input.channels == "RGB",  # images are handed over as BGR
            "pad_size_divisor": recipe.divisor,  # Detectron2: size_divisibility
        }
    }


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
