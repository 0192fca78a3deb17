"""A small ViT and ViTDets for the tests, of no engine."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

import torch

from detection.engines.detector import DetectionJob
from detection.recipe import FasterRcnnViTDet, MaskRcnnViTDet, ViTDet, turned_into
from transfer.checkpoints.backbone import Backbone, random_backbone

ARCH = "vit_64x4_patch16_64"
TINY = FasterRcnnViTDet(
    canvas=128,
    test_size=128,
    max_size=128,
    scales=(0.5, 1.5),
    window=3,  # windows at the border are filled up
    global_blocks=(1, 3),
    fpn_channels=32,
    roi_resolution=3,
    anchor_sizes=(8, 16, 32, 64, 128),
    iterations=4,
    batch=2,
    lr=1e-3,
    steps=(3,),
    warmup_iterations=2,
    rpn_pre_nms_train=50,
    rpn_post_nms_train=20,
    rpn_pre_nms_test=50,
    rpn_post_nms_test=20,
    rpn_batch=16,
    roi_batch=8,
)
RECIPES: dict[str, ViTDet] = {
    "boxes": TINY,
    "masks": turned_into(TINY, MaskRcnnViTDet, mask_resolution=4, mask_convs=1),
}


def lively(arch: str = ARCH, seed: int = 0) -> Backbone:
    """Norms, biases and positions that are no beginnings, so that a lost or swapped one shows."""
    backbone = random_backbone(arch, seed)
    generator = torch.Generator().manual_seed(1)
    state = {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator) if tensor.ndim == 1 else tensor
        for name, tensor in backbone.state.items()
    }
    for name in ("cls_token", "pos_embed", "reg_token"):
        if name in state:
            state[name] = state[name] + 0.3 * torch.randn(state[name].shape, generator=generator)
    return dataclasses.replace(backbone, state=state)


def vitdet_job(dataset: Any, folder: Any, recipe: ViTDet = TINY, arch: str = ARCH, **more: Any) -> DetectionJob:
    return DetectionJob(lively(arch), recipe, dataset, dataset, 3, folder, checkpoint_every=2, **more)


def untrained(recipe: ViTDet) -> ViTDet:
    return replace(recipe, iterations=0, steps=(), score_threshold=0.0, max_detections=7)
