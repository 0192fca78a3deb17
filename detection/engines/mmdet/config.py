"""`DetectorRecipe` → native MMDetection config, with Detectron2's meaning for every field.

Sources of the two meanings: facebookresearch/detectron2 (detectron2/config/defaults.py, solver/build.py) and
open-mmlab/mmdetection (configs/_base_/); of the detectors' parts see `resnet`, `regions` and `dense`.
"""

from __future__ import annotations

from typing import Any

from mmengine.config import Config

from detection.engines.mmdet import regions
from detection.engines.mmdet.dense import dense
from detection.recipe import C4, ByLayer, Dense, DetectorRecipe, RegionsFPN, ViTDet, demand_buildable
from transfer.checkpoints.backbone import Backbone
from transfer.runtime.errors import EngineError

_TYPES = {"faster_rcnn": "FasterRCNN", "mask_rcnn": "MaskRCNN", "retinanet": "RetinaNet", "fcos": "FCOS"}

Differences = tuple[tuple[str, str, str], ...]


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
    elif isinstance(recipe, ByLayer):
        model = regions.by_layer(recipe, backbone, len(classes), processes)
    elif isinstance(recipe, C4):
        model = regions.c4(recipe, backbone, len(classes), processes)
    else:
        assert isinstance(recipe, RegionsFPN)  # there are no others
        model = regions.fpn(recipe, backbone, len(classes), processes)
    return Config(
        {
            "model": {"type": _TYPES[recipe.family], **_preprocessor(recipe, backbone), **model},
            # the groups of a trunk's parameters are made by one function for both libraries
            **(dict[str, Any]() if isinstance(recipe, ByLayer) else {"optim_wrapper": _optimizer(recipe)}),
            "param_scheduler": _schedule(recipe),
        }
    )


def differences(recipe: DetectorRecipe) -> Differences:
    """What MMDetection does otherwise than Detectron2, for which the protocols are written: (what, theirs, here)."""
    found = []
    if recipe.family != "fcos":
        if not isinstance(recipe, ViTDet):  # whose canvas is the image's own padding in both
            found.append(("anchors over the padding of a batch", "background samples", "left out"))
        found += [
            (
                "box that a low-overlap anchor learns, if it is the best anchor of another box than it overlaps most",
                "the one it overlaps most",
                "the one whose best anchor it is",
            ),
        ]
    if not recipe.regions:
        start = 300 if recipe.family == "fcos" else 100  # `_ema_update` in detectron2's fcos.py and retinanet.py
        found.append(
            (
                "losses are divided by the number of foreground positions",
                f"its running mean in each process, begun at {start}",
                "of this batch, averaged over processes"
                if recipe.family == "fcos"
                else "of this batch in each process",
            )
        )
    if recipe.family == "fcos":
        found.append(("box loss of a position", "weighs the same for all", "weighs as much as its centreness"))
    if recipe.masks:
        found.append(
            ("regions less than a pixel wide, as mask targets", "stretched to the mask", "taken for a pixel wide")
        )
    return tuple(found)


def _preprocessor(recipe: DetectorRecipe, backbone: Backbone) -> dict[str, Any]:
    mean, std = backbone.input.in_255()
    # Detectron2's size_divisibility: 32 with FPN, none with C4; images are no larger than a canvas, and fill it up
    divisor = recipe.canvas if isinstance(recipe, ViTDet) else 32 if recipe.neck == "fpn" else 1
    return {
        "data_preprocessor": {
            "type": "DetDataPreprocessor",
            "mean": mean,
            "std": std,
            "bgr_to_rgb": backbone.input.channels == "RGB",  # images are handed over as BGR
            "pad_size_divisor": divisor,
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
