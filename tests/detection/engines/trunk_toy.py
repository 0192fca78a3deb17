"""Small networks of three families and detectors on them by their layers, for the tests of no engine."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

import torch

from detection.engines.detector import DetectionJob
from detection.recipe import (
    DetectorRecipe,
    FasterRcnnConvNeXt,
    FasterRcnnSwin,
    FasterRcnnViT,
    FasterRcnnViTDet,
    MaskRcnnConvNeXt,
    MaskRcnnSwin,
    MaskRcnnViT,
    MaskRcnnViTDet,
    OnTrunk,
    turned_into,
)
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
_SIZES: dict[str, Any] = {"train_sizes": (64, 96), "test_size": 64, "crop_sizes": (48, 80), "crop_range": (40, 60)}
_VIT: dict[str, Any] = {"norm": "BN", "out_indices": (0, 1, 2, 3), "box_convs": 1, "weight_decay_positions": 0.05}
VIT_FPN = turned_into(TINY, FasterRcnnViT, **_SIZES, **_VIT)


def masked(recipe: OnTrunk, kind: type[DetectorRecipe]) -> Any:
    """The same with masks."""
    return turned_into(recipe, kind, mask_resolution=4, mask_convs=1)


_CONVNEXT = turned_into(TINY, FasterRcnnConvNeXt, **_SIZES)
_SWIN = turned_into(TINY, FasterRcnnSwin, **_SIZES)
RECIPES: dict[str, Any] = {
    "vitdet": TINY,
    "vitdet-masks": masked(TINY, MaskRcnnViTDet),
    "vit": VIT_FPN,
    "vit-masks": masked(VIT_FPN, MaskRcnnViT),
    "convnext": _CONVNEXT,
    "convnext-masks": masked(_CONVNEXT, MaskRcnnConvNeXt),
    "swin": _SWIN,
    "swin-masks": masked(_SWIN, MaskRcnnSwin),
}
ARCHS = {"vit": ARCH, "convnext": "convnext_atto", "swin": "swin_tiny_window7_224"}
# Tensors that have a place. ViTDet: positions, two of the patches, twelve of each of four blocks. ViT-FPN: CLS,
# too. ConvNeXt atto: stem 4, downsampling 3 × 4, 12 blocks of 9. Swin-T: patches 4, merging 3 × 3, 12 blocks of 13.
COUNTS = {"vitdet": 51, "vit": 52, "convnext": 4 + 12 + 12 * 9, "swin": 4 + 9 + 12 * 13}


def lively(arch: str = ARCH, seed: int = 0) -> Backbone:
    """Norms, biases and positions that are no beginnings, so that a lost or swapped one shows."""
    backbone = random_backbone(arch, seed)
    generator = torch.Generator().manual_seed(1)
    state = {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator) if tensor.ndim == 1 else tensor
        for name, tensor in backbone.state.items()
    }
    for name in state:
        if name in ("cls_token", "pos_embed", "reg_token") or name.endswith("relative_position_bias_table"):
            state[name] = state[name] + 0.3 * torch.randn(state[name].shape, generator=generator)
    return dataclasses.replace(backbone, state=state)


def trunk_job(dataset: Any, folder: Any, recipe: OnTrunk = TINY, arch: str = "", **more: Any) -> DetectionJob:
    backbone = lively(arch or ARCHS[recipe.takes[0]])
    return DetectionJob(backbone, recipe, dataset, dataset, 3, folder, checkpoint_every=2, **more)


def untrained(recipe: OnTrunk) -> OnTrunk:
    return replace(recipe, iterations=0, steps=(), score_threshold=0.0, max_detections=7)


class Detector(torch.nn.Module):
    """As both engines have it: a trunk and a pyramid in the backbone, a head."""

    def __init__(self, trunk: torch.nn.Module, pyramid: torch.nn.Module) -> None:
        super().__init__()
        self.backbone = torch.nn.Module()
        self.backbone.trunk, self.backbone.pyramid = trunk, pyramid
        self.head = torch.nn.Linear(32, 2)
