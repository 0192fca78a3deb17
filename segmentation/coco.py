"""Mask R-CNN on COCO train2017 → val2017 or any data set of your own with masks: box and mask AP, C4 and FPN.

The C4 columns of the MoCo, SimSiam and Barlow Twins papers are `segmentation.coco_c4`, the COCO columns of VICReg's are
`segmentation.coco_fpn`: two tasks, because their numbers must never share a column.
"""

from __future__ import annotations

import dataclasses

from transfer.detection_data import official_coco
from transfer.detection_presets import cpu_presets
from transfer.detection_protocols import (
    COCO_C4,
    COCO_C4_SOURCES,
    COCO_FPN,
    COCO_FPN_SOURCES,
    TWO_TIMES_SOURCES,
    Sources,
    task_sources,
    two_times,
    with_masks,
)
from transfer.detection_task import DetectionRecipe, detection_task
from transfer.detector import DetectorRecipe
from transfer.task import Task

C4 = with_masks(COCO_C4)
C4_BARLOW_TWINS = dataclasses.replace(C4, lr=0.03)
C4_MOCO_2X = two_times(C4)
FPN = with_masks(COCO_FPN)
FPN_VICREG = dataclasses.replace(FPN, lr=0.04, warmup_iterations=50)

_BARLOW = {"lr": "Barlow Twins, arXiv 2103.03230, appendix"}
_VICREG = dict.fromkeys(("lr", "iterations", "steps", "warmup_iterations"), "VICReg, arXiv 2105.04906, appendix")


def _task(
    detector: str, protocols: dict[str, tuple[DetectorRecipe, tuple[Sources, ...]]], presets_of: DetectorRecipe
) -> Task:
    return detection_task(
        title=f"Mask R-CNN {detector} on COCO (train2017 → val2017, or any data set of your own with masks)",
        leading="coco",
        official=official_coco,
        official_name="COCO train2017 → val2017",
        protocols={name: recipe for name, (recipe, _) in protocols.items()},
        presets=cpu_presets(presets_of),
        sources={name: task_sources(DetectionRecipe(recipe), *layers) for name, (recipe, layers) in protocols.items()},
    )


TASKS = {
    "c4": _task(
        "R50-C4",
        {
            "1x": (C4, (COCO_C4_SOURCES,)),
            "moco_2x": (C4_MOCO_2X, (COCO_C4_SOURCES, TWO_TIMES_SOURCES)),
            "barlowtwins": (C4_BARLOW_TWINS, (COCO_C4_SOURCES, _BARLOW)),
        },
        C4,
    ),
    "fpn": _task(
        "R50-FPN",
        {
            "vicreg": (FPN_VICREG, (COCO_FPN_SOURCES, _VICREG)),
            "1x": (FPN, (COCO_FPN_SOURCES,)),
            "2x": (two_times(FPN), (COCO_FPN_SOURCES, TWO_TIMES_SOURCES)),
        },
        FPN,
    ),
}
