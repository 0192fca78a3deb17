"""Detectors on COCO train2017 → val2017 or any data set of your own: Faster R-CNN of several kinds, RetinaNet, FCOS.

A column each, because their numbers must not be compared with each other's. The papers' COCO tables are of Mask R-CNN:
`segmentation/coco.py`.
"""

from __future__ import annotations

from detection.data import COCO
from detection.presets import cpu_presets
from detection.protocols import (
    COCO_C4,
    COCO_FPN,
    CONVNEXT_BOXES,
    FCOS,
    RETINANET,
    SWIN_3X_BOXES,
    SWIN_BOXES,
    VIT_FPN_BOXES,
    VITDET_BOXES,
    DetectorProtocol,
    two_times,
)
from detection.task import detection_task
from transfer.task import Task


def _task(detector: str, protocol: DetectorProtocol, protocols: dict[str, DetectorProtocol] | None = None) -> Task:
    return detection_task(
        title=f"{detector} on COCO (train2017 → val2017, or any data set of your own)",
        leading="coco",
        official=COCO,
        protocols=protocols or {"1x": protocol, "2x": two_times(protocol)},
        presets=cpu_presets(protocol),
    )


TASKS = {
    "c4": _task("Faster R-CNN R50-C4", COCO_C4),
    "fpn": _task("Faster R-CNN R50-FPN", COCO_FPN),
    "retinanet": _task("RetinaNet R50-FPN", RETINANET),
    "fcos": _task("FCOS R50-FPN", FCOS),
    "vitdet": _task("Faster R-CNN ViTDet", VITDET_BOXES, {"100ep": VITDET_BOXES}),
    "vit_fpn": _task("Faster R-CNN ViT-FPN", VIT_FPN_BOXES, {"cae_1x": VIT_FPN_BOXES}),
    "convnext_fpn": _task("Faster R-CNN ConvNeXt-FPN", CONVNEXT_BOXES, {"3x": CONVNEXT_BOXES}),
    "swin_fpn": _task("Faster R-CNN Swin-FPN", SWIN_BOXES, {"1x": SWIN_BOXES, "3x": SWIN_3X_BOXES}),
}
