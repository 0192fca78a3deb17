"""Detectors for small hardware; never the published protocol, and shown as differences from it."""

from __future__ import annotations

import dataclasses
from typing import Any

from detection.protocols import DetectorProtocol
from detection.recipe import (
    FCOS,
    DetectionRecipe,
    DetectorRecipe,
    FasterRcnnFPN,
    FasterRcnnViT,
    FasterRcnnViTDet,
    Maps,
    MaskRcnnFPN,
    MaskRcnnViTDet,
    Masks,
    OnTrunk,
    Regions,
    RetinaNet,
    ViTDet,
    turned_into,
)

# A narrow FPN costs a small part of a C4 head. The learning rate is twice what linear scaling from 0.02 at a batch of
# 16 gives; four times that diverges on random backbones.
CPU_FPN = FasterRcnnFPN(
    norm="BN",
    fpn_channels=64,
    anchor_sizes=(16, 32, 64, 128, 256),  # images are shrunk to a third of the protocol's
    roi_resolution=7,
    train_sizes=(224, 256, 288),
    test_size=256,
    max_size=426,
    iterations=300,
    batch=2,
    lr=0.005,
    steps=(240, 285),
    warmup_iterations=50,
    precise_bn=30,
    rpn_pre_nms_train=1_000,
    rpn_post_nms_train=500,
    rpn_pre_nms_test=500,
    rpn_post_nms_test=300,
    roi_batch=64,
)
CPU_VITDET = FasterRcnnViTDet(
    canvas=256,
    test_size=256,
    max_size=256,
    scales=(0.8, 1.25),
    window=8,
    drop_path=0.0,
    fpn_channels=64,
    rpn_convs=1,
    box_convs=1,
    anchor_sizes=(16, 32, 64, 128, 256),
    roi_resolution=7,
    iterations=300,
    batch=2,
    lr=5e-4,
    steps=(240, 285),
    warmup_iterations=50,
    weight_decay=0.1,
    weight_decay_bias=0.0,
    rpn_pre_nms_train=1_000,
    rpn_post_nms_train=500,
    rpn_pre_nms_test=500,
    rpn_post_nms_test=300,
    roi_batch=64,
)
# The pyramid of `CPU_FPN` on four maps, with one rate for all layers, that of `CPU_VITDET`.
CPU_MAPS = turned_into(
    CPU_FPN,
    FasterRcnnViT,
    norm="BN",
    crop_share=0.0,
    drop_path=0.0,
    lr=5e-4,
    weight_decay=0.05,
    weight_decay_bias=0.0,
    layer_decay=1.0,
    box_convs=1,
    box_fcs=1,
)
_PYRAMIDS: dict[str, type[DetectorRecipe]] = {
    "faster_rcnn": FasterRcnnFPN,
    "mask_rcnn": MaskRcnnFPN,
    "retinanet": RetinaNet,
    "fcos": FCOS,
}


def small(protocol: DetectorRecipe) -> DetectorRecipe:
    """The detector of `protocol` in the size of `CPU_FPN`; with a pyramid, also where the protocol has a C4 head.

    Those on a trunk in the size of `CPU_VITDET` and `CPU_MAPS`.
    """
    names = ("score_threshold", "nms", "dense")
    kept = {name: getattr(protocol, name) for name in names if hasattr(protocol, name)}
    if isinstance(protocol, Masks):
        kept["mask_convs"] = 2
    if isinstance(protocol, ViTDet):
        return turned_into(CPU_VITDET, MaskRcnnViTDet if protocol.masks else FasterRcnnViTDet, **kept)
    if isinstance(protocol, Maps):
        return turned_into(CPU_MAPS, type(protocol), **kept)
    return turned_into(CPU_FPN, _PYRAMIDS[protocol.family], **kept)


def smoke(recipe: DetectorRecipe) -> DetectorRecipe:
    """As short and small as still runs through everything."""
    if isinstance(recipe, ViTDet):
        return dataclasses.replace(
            recipe,
            canvas=128,
            test_size=128,
            max_size=128,
            window=4,
            anchor_sizes=(8, 16, 32, 64, 128),
            iterations=80,
            steps=(65,),
            warmup_iterations=20,
        )
    short: dict[str, Any] = {"train_sizes": (160,), "test_size": 160, "max_size": 320}
    return _with(recipe, **short, iterations=80, steps=(65,), warmup_iterations=20, precise_bn=20)


def _with(recipe: DetectorRecipe, *, precise_bn: int, **changes: Any) -> DetectorRecipe:
    """Renewed statistics are those of ResNets alone."""
    renewed: dict[str, Any] = {} if isinstance(recipe, OnTrunk) else {"precise_bn": precise_bn}
    return dataclasses.replace(recipe, **changes, **renewed)


def demo(recipe: Regions) -> Regions:
    """Learns the easy toy scenes (pictures of 96 pixels, objects of 20 to 42) in a minute from random weights."""
    return dataclasses.replace(
        recipe,
        anchor_sizes=(16, 24, 32, 48, 64),
        roi_resolution=4,  # of a hidden layer of 1,024 units, the dearest part at 7
        train_sizes=(96,),
        test_size=96,
        max_size=96,  # a side more would be padded to 128
        iterations=80,
        batch=4,
        lr=0.01,  # four times the rate of 0.02 at a batch of 16; twice as much learns no faster
        steps=(60, 73),
        warmup_iterations=20,
        precise_bn=10,
        rpn_pre_nms_train=200,
        rpn_post_nms_train=100,
        rpn_pre_nms_test=200,
        rpn_post_nms_test=50,
        rpn_batch=64,
        roi_batch=32,
    )


def overfitting(recipe: DetectorRecipe) -> DetectorRecipe:
    """Long enough to learn eight images by heart: one size, no flips."""
    if isinstance(recipe, ViTDet):
        return dataclasses.replace(recipe, scales=(1.0, 1.0), flip=0.0, iterations=250, steps=(200, 235), batch=4)
    rate: dict[str, Any] = {} if isinstance(recipe, OnTrunk) else {"lr": 0.01}
    long: dict[str, Any] = {"iterations": 250, "steps": (200, 235), "batch": 4}
    return _with(recipe, train_sizes=(256,), flip=0.0, **long, **rate, precise_bn=20)


def cpu_presets(protocol: DetectorProtocol) -> dict[str, tuple[str, DetectionRecipe]]:
    """Presets of a task, with the family of its protocol."""
    detector = small(protocol.recipe.detector)
    presets = {
        "smoke": (
            "two CPU cores, about 2 minutes: shows that everything works, the numbers mean little",
            DetectionRecipe(smoke(detector)),
        ),
        "cpu": (
            "two CPU cores, about 10 minutes: a small detector that learns small data sets",
            DetectionRecipe(detector),
        ),
        "overfit": (
            "two CPU cores, about 6 minutes: learns 8 of the training images by heart and reports on those",
            DetectionRecipe(overfitting(detector), overfit=8),
        ),
    }
    if isinstance(detector, Regions) and not isinstance(detector, OnTrunk):
        presets["demo"] = (
            "two CPU cores, about 1 minute: learns the easy toy scenes (`python -m transfer toy --easy`)",
            DetectionRecipe(demo(detector)),
        )
    return presets
