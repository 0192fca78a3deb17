"""What detectors on ResNets have in front of their heads, as MMDetection's config: the ResNet, norms, a pyramid."""

from __future__ import annotations

from typing import Any

from detection.recipe import FCOS, LEVELS, Dense, DetectorRecipe, Pyramid
from transfer.checkpoints.backbone import Backbone
from transfer.checkpoints.families.resnet import STAGES, architecture, stage_channels
from transfer.checkpoints.formats.mmdet import style_of

SYNCHRONISED = "NaiveSyncBN"


def resnet(recipe: DetectorRecipe, backbone: Backbone, stages: int, processes: int) -> dict[str, Any]:
    """The first `stages` stages; the caller adds `out_indices`."""
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
        **norm(recipe, processes),
    }


def norm(recipe: DetectorRecipe, processes: int) -> dict[str, Any]:
    """On one process SyncBN is BN; FrozenBN is BN in eval mode whose scale and shift are not trained."""
    frozen = recipe.norm == "FrozenBN"
    kind = SYNCHRONISED if recipe.norm == "SyncBN" and processes > 1 else "BN"
    return {"norm_cfg": {"type": kind, "requires_grad": not frozen}, "norm_eval": frozen}


def pyramid(recipe: Pyramid, backbone: Backbone, processes: int) -> dict[str, Any]:
    """Five levels: p2 … p5 and a subsampled p6 for regions; p3 … p5 and two more convolutions without.

    RetinaNet's p6 is computed from the ResNet's last stage, FCOS's from p5 (facebookresearch/detectron2:
    detectron2/modeling/backbone/fpn.py, `LastLevelP6P7`; configs/common/models/fcos.py).
    """
    more: dict[str, Any] = {}
    if isinstance(recipe, Dense):
        source = "on_output" if isinstance(recipe, FCOS) else "on_input"
        more = {"start_level": 1, "add_extra_convs": source, "relu_before_extra_convs": True}
    return {
        "type": "TransferFPN",
        "in_channels": [stage_channels(backbone.arch)[stage] for stage in STAGES],
        "out_channels": recipe.fpn_channels,
        "num_outs": LEVELS,
        "init_cfg": {"type": "Caffe2Xavier", "layer": "Conv2d"},  # as in Detectron2
        **(norm(recipe, processes) if recipe.fpn_norm else {}),
        **more,
    }
