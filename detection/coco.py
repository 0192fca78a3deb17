"""Detectors on COCO train2017 → val2017 or any data set of your own: Faster R-CNN (C4, FPN), RetinaNet, FCOS.

A column each, because their numbers must not be compared with each other's. The papers' COCO tables are of Mask R-CNN:
`segmentation/coco.py`.
"""

from __future__ import annotations

from transfer.detection_data import official_coco
from transfer.detection_presets import cpu_presets
from transfer.detection_protocols import (
    COCO_C4,
    COCO_C4_SOURCES,
    COCO_FPN,
    COCO_FPN_SOURCES,
    FCOS,
    FCOS_SOURCES,
    RETINANET,
    RETINANET_SOURCES,
    TWO_TIMES_SOURCES,
    Sources,
    task_sources,
    two_times,
)
from transfer.detection_task import DetectionRecipe, detection_task
from transfer.detector import DetectorRecipe
from transfer.task import Task


def _task(detector: str, protocol: DetectorRecipe, sources: Sources) -> Task:
    twice = two_times(protocol)
    return detection_task(
        title=f"{detector} on COCO (train2017 → val2017, or any data set of your own)",
        leading="coco",
        official=official_coco,
        official_name="COCO train2017 → val2017",
        protocols={"1x": protocol, "2x": twice},
        presets=cpu_presets(protocol),
        sources={
            "1x": task_sources(DetectionRecipe(protocol), sources),
            "2x": task_sources(DetectionRecipe(twice), sources, TWO_TIMES_SOURCES),
        },
    )


TASKS = {
    "c4": _task("Faster R-CNN R50-C4", COCO_C4, COCO_C4_SOURCES),
    "fpn": _task("Faster R-CNN R50-FPN", COCO_FPN, COCO_FPN_SOURCES),
    "retinanet": _task("RetinaNet R50-FPN", RETINANET, RETINANET_SOURCES),
    "fcos": _task("FCOS R50-FPN", FCOS, FCOS_SOURCES),
}
