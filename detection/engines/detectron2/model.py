"""Detectron2's detector with the checkpoint's weights inside, and the proof of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock
from numpy.typing import NDArray
from torch import nn

from detection.engines.detectron2.heads import EXTRA_NORM
from detection.engines.detectron2.logs import log_levels
from transfer.checkpoints.backbone import Backbone
from transfer.checkpoints.families.resnet import STAGES, is_optional
from transfer.checkpoints.formats.detectron2 import detectron2_name
from transfer.checkpoints.formats.detectron2 import write as write_detectron2
from transfer.checkpoints.verify import Placed, Verification, in_precision, own_precision, verify
from transfer.runtime.errors import EngineError
from transfer.runtime.world import ALONE, World

BLOCKS = (BasicBlock, BottleneckBlock)
_BOTTOM_UP = "backbone.bottom_up"
_RES5 = "roi_heads.res5"


def build_with_weights(cfg: CfgNode, backbone: Backbone, seed: int, world: World = ALONE) -> nn.Module:
    """Build the detector of `cfg` on its device, with heads drawn from `seed` and the backbone's weights."""
    torch.manual_seed(seed)
    model: nn.Module = build_model(cfg)
    if hasattr(model.backbone, "trunk"):
        from detection.engines.trunk import PLACE, load  # imports timm

        load(model.get_submodule(PLACE), backbone)
        world.demand_equal("initial weights", model.parameters())
        return model
    weights = Path(cfg.MODEL.WEIGHTS)
    world.together(lambda: write_detectron2(backbone, weights) if world.leads else None)
    load_weights(model, weights)
    world.demand_equal("initial weights", model.parameters())
    return model


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a model file with Detectron2's own checkpointer, which unpickles it: only for files written by this project.

    Detectron2 only warns of names that match nothing, and always does so of the new heads, so its warnings are left
    out: `verify_model` is the judge.
    """
    if "?" in str(path):
        raise EngineError(
            f"Detectron2 cannot read {path}", found="a question mark in its name", todo="choose another output folder"
        )
    with log_levels({"detectron2.checkpoint": "CRITICAL", "fvcore.common.checkpoint": "CRITICAL"}):
        DetectionCheckpointer(model).load(str(path))


def verify_model(model: Any, backbone: Backbone, amp: str = "off") -> Verification:
    """Compare every backbone tensor inside `model`, and every stage's output, with the Backbone's.

    `amp`: the mixed precision that it trains in, "bf16" or "fp16".

    Raises:
        EngineError: a tensor is absent or differs, or a stage computes something else.
    """
    return verify(
        backbone,
        "detectron2",
        placed_tensors(model, backbone),
        lambda image: stage_outputs(model, image),
        precision=own_precision(model.device, amp),
        own=lambda image: stage_outputs(model, image, amp),
    )


def placed_tensors(model: nn.Module, backbone: Backbone) -> dict[str, Placed]:
    """torchvision name → (tensor inside the detector, part), for every backbone tensor that the detector has."""
    inside = model.state_dict()
    prefix = _BOTTOM_UP if hasattr(model.backbone, "bottom_up") else "backbone"
    placed: dict[str, Placed] = {}
    for name in backbone.state:
        if is_optional(name):
            continue
        theirs = detectron2_name(name)
        in_head = theirs.startswith("res5.") and f"{_RES5}.{theirs.removeprefix('res5.')}" in inside
        full, part = (f"roi_heads.{theirs}", _RES5) if in_head else (f"{prefix}.{theirs}", prefix)
        if full in inside:
            placed[name] = inside[full], part
    return placed


def presented(model: Any, image: NDArray[np.uint8]) -> torch.Tensor:
    """RGB uint8 [H, W, 3] → [1, 3, H', W'], by the way of every other image."""
    pixels = image if model.input_format == "RGB" else image[..., ::-1]
    planes = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    made: torch.Tensor = model.preprocess_image([{"image": planes}]).tensor
    return made


def stage_outputs(model: Any, image: NDArray[np.uint8], amp: str = "off") -> dict[str, torch.Tensor]:
    """torchvision's stage name → output [1, C, H, W] for an RGB uint8 image [H, W, 3], in eval mode.

    The image takes the way of every other one: channel order of the config, the model's own normalisation. In a C4
    detector the last stage is the RoI head's, here without the extra norm and on the whole feature map.
    """
    resnet = getattr(model.backbone, "bottom_up", model.backbone)
    stages = [getattr(resnet, name) for name in resnet.stage_names]
    if len(stages) < len(STAGES):
        blocks = [block for name, block in model.roi_heads.res5.named_children() if name != EXTRA_NORM]
        stages.append(nn.Sequential(*blocks))
    was_training = model.training
    model.eval()
    outputs: dict[str, torch.Tensor] = {}
    with torch.no_grad(), in_precision(model.device, amp):
        x = resnet.stem(presented(model, image))
        for name, stage in zip(STAGES, stages, strict=True):
            x = stage(x)
            outputs[name] = x
    model.train(was_training)
    return outputs
