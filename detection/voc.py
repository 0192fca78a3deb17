"""Faster R-CNN on Pascal VOC: trainval07+12 → test2007, trainval07 → test2007, or any data set of your own.

Protocol: MoCo's (facebookresearch/moco, detection/README.md and detection/configs/pascal_voc_R_50_C4_24k_moco.yaml),
the one behind the VOC columns of the MoCo v1/v2, SimSiam, Barlow Twins and VICReg papers. Published spread: MoCo
reports the mean of 5 runs with a standard deviation of about 0.2 / 0.2 / 0.4 (AP / AP50 / AP75).
"""

from __future__ import annotations

from transfer.detection_data import official_voc
from transfer.detection_presets import cpu_presets
from transfer.detection_protocols import VOC_C4
from transfer.detection_task import detection_task
from transfer.protocol import OURS

MOCO = VOC_C4
BARLOW_TWINS = MOCO.but(  # as MoCo, with a higher rate and a longer warm-up
    "Barlow Twins, arXiv 2103.03230, appendix", lr=0.1, warmup_iterations=1_000, warmup_factor=0.333
)
VICREG = MOCO.but(
    "VICReg, arXiv 2105.04906, appendix", lr=0.1, warmup_iterations=1_000, warmup_factor=0.333, rpn_loss_weight=0.2
)

# VOC07 alone has 5,011 of the 16,551 images of VOC07+12: as many passes over them, 24,000 · 5,011 / 16,551 iterations.
SHARE = 5_011 / 16_551
MOCO_07 = MOCO.but(
    f"{OURS}: MoCo's 24,000 iterations in proportion to the images, 5,011 of 16,551",
    iterations=round(MOCO.recipe.detector.iterations * SHARE),
    steps=tuple(round(step * SHARE) for step in MOCO.recipe.detector.steps),
)

TASKS = {
    "": detection_task(
        title="Faster R-CNN R50-C4 on Pascal VOC (07+12 → test2007, or any data set of your own)",
        leading="voc",
        official=official_voc((("VOC2007", "trainval"), ("VOC2012", "trainval"))),
        official_name="VOC trainval07+12 → test2007",
        protocols={"moco": MOCO, "barlowtwins": BARLOW_TWINS, "vicreg": VICREG},
        presets=cpu_presets(MOCO),
    ),
    "07": detection_task(
        title="Faster R-CNN R50-C4 on Pascal VOC (trainval07 → test2007)",
        leading="voc",
        official=official_voc((("VOC2007", "trainval"),)),
        official_name="VOC trainval07 → test2007",
        protocols={"moco_equal_epochs": MOCO_07},
        presets=cpu_presets(MOCO),
    ),
}
