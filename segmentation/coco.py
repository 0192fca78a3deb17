"""Mask R-CNN on COCO train2017 → val2017 or any data set of your own with masks: box and mask AP, C4 and FPN.

The C4 columns of the MoCo, SimSiam and Barlow Twins papers are `segmentation.coco_c4`, the COCO columns of VICReg's are
`segmentation.coco_fpn`: two tasks, because their numbers must never share a column.
"""

from __future__ import annotations

from transfer.detection_data import official_coco
from transfer.detection_presets import cpu_presets
from transfer.detection_protocols import COCO_C4, COCO_FPN, Detector, two_times, with_masks
from transfer.detection_task import detection_task
from transfer.task import Task

C4, FPN = with_masks(COCO_C4), with_masks(COCO_FPN)


def _task(detector: str, once: Detector, protocols: dict[str, Detector]) -> Task:
    return detection_task(
        title=f"Mask R-CNN {detector} on COCO (train2017 → val2017, or any data set of your own with masks)",
        leading="coco",
        official=official_coco,
        official_name="COCO train2017 → val2017",
        protocols=protocols,
        presets=cpu_presets(once),
    )


TASKS = {
    "c4": _task(
        "R50-C4",
        C4,
        {
            "1x": C4,
            "moco_2x": two_times(C4),
            "barlowtwins": C4.but("Barlow Twins, arXiv 2103.03230, appendix", lr=0.03),
        },
    ),
    "fpn": _task(
        "R50-FPN",
        FPN,
        {
            "vicreg": FPN.but(
                "VICReg, arXiv 2105.04906, appendix",
                lr=0.04,
                iterations=90_000,
                steps=(60_000, 80_000),
                warmup_iterations=50,
            ),
            "1x": FPN,
            "2x": two_times(FPN),
        },
    ),
}
