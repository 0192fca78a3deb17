"""The detector, with the backbone's weights in it and the proof that they are."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmdet.models.backbones.resnet import BasicBlock, Bottleneck
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from numpy.typing import NDArray
from torch import nn

from detection.engines.mmdet.parts import register
from detection.engines.mmdet.watched import watch
from detection.engines.plan import seed_for_iteration
from transfer.checkpoints.backbone import Backbone
from transfer.checkpoints.families.resnet import STAGES, expected_shapes, is_optional
from transfer.checkpoints.verify import Placed, Verification, in_precision, own_precision, stages_seen, verify

BLOCKS = (BasicBlock, Bottleneck)  # of ResNeXt, too
BACKBONE, SHARED_HEAD = "backbone", "roi_head.shared_head"


def build_detector(config: Config, backbone: Backbone, seed: int) -> nn.Module:
    """The detector with fresh heads drawn under `seed` and the backbone's weights.

    Raises:
        EngineError: the config holds an argument that nothing takes.
    """
    # Before the first run there is no logger: mmengine would print how it initialised every single parameter.
    MMLogger.get_current_instance().setLevel(logging.ERROR)
    register()
    on_trunk = config.model.backbone.type == "TransferTrunk"
    if on_trunk:
        from detection.engines.mmdet.trunk import register as register_trunk  # imports timm

        register_trunk()
    seed_for_iteration(seed, 0)
    with DefaultScope.overwrite_default_scope("mmdet"):
        model: nn.Module = MODELS.build(watch(config.model))
        model.init_weights()  # type: ignore[operator]
    if on_trunk:
        from detection.engines.trunk import PLACE, load

        load(model.get_submodule(PLACE), backbone)
    else:
        load_backbone(model, backbone)
    return model


def load_backbone(model: nn.Module, backbone: Backbone) -> None:
    """Copy every tensor of the backbone to its place in the detector; all of them, or an error.

    The last stage of a C4 detector sits in the RoI head.
    """
    counters = {
        name: torch.zeros((), dtype=torch.int64) for name in expected_shapes(backbone.arch) if is_optional(name)
    }
    placed = {f"{_part(model, name)}.{name}": tensor for name, tensor in (counters | dict(backbone.state)).items()}
    # With the model's own other tensors beside them, loading can be strict.
    model.load_state_dict(model.state_dict() | placed)


def place_of(model: nn.Module, backbone: Backbone) -> dict[str, Placed]:
    """torchvision name → (tensor inside the detector, part it sits in) for those names that are there."""
    inside = model.state_dict()
    parts = {name: _part(model, name) for name in backbone.state}
    return {name: (inside[f"{part}.{name}"], part) for name, part in parts.items() if f"{part}.{name}" in inside}


def verify_detector(model: nn.Module, backbone: Backbone, amp: str = "off") -> Verification:
    """Compare tensors and stage outputs with the Backbone, also as `amp` computes them; see
    `transfer.checkpoints.verify`.

    Raises:
        EngineError: something did not arrive, or is computed differently.
    """
    device = next(model.parameters()).device
    return verify(
        backbone,
        "mmdet",
        place_of(model, backbone),
        lambda image: stage_outputs(model, image),
        precision=own_precision(device, amp),
        own=lambda image: stage_outputs(model, image, amp),
    )


def presented(model: Any, image: NDArray[np.uint8]) -> torch.Tensor:
    """RGB uint8 [H, W, 3] → [1, 3, H', W'], by the way of every other image."""
    pixels = torch.from_numpy(np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1)))
    sample = DetDataSample(metainfo={"img_shape": image.shape[:2]})
    made: torch.Tensor = model.data_preprocessor({"inputs": [pixels], "data_samples": [sample]}, False)["inputs"]
    return made


@torch.no_grad()
def stage_outputs(model: Any, image: NDArray[np.uint8], amp: str = "off") -> Mapping[str, torch.Tensor]:
    """Stage name → output for an RGB uint8 image [H, W, 3], which takes the way that training images take."""
    shared_head = model.roi_head.shared_head if model.with_shared_head else None
    owners = [owner for owner in (model.backbone, shared_head) if owner is not None]
    modules = {stage: getattr(owner, stage) for owner in owners for stage in STAGES if hasattr(owner, stage)}
    was_training = model.training
    model.eval()
    images = presented(model, image)
    with stages_seen(modules) as outputs, in_precision(images.device, amp):
        features = model.backbone(images)
        if shared_head is not None:
            shared_head(features[-1])
    model.train(was_training)
    return outputs


def _part(model: Any, name: str) -> str:
    return SHARED_HEAD if model.with_shared_head and name.startswith(f"{STAGES[-1]}.") else BACKBONE
