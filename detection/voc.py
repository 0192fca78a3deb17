"""Faster R-CNN on Pascal VOC: trainval07+12 → test2007, trainval07 → test2007, or any data set of your own.

Protocol: MoCo's (facebookresearch/moco, detection/README.md and detection/configs/pascal_voc_R_50_C4_24k_moco.yaml),
the one behind the VOC columns of the MoCo v1/v2, SimSiam, Barlow Twins and VICReg papers. Published spread: MoCo
reports the mean of 5 runs with a standard deviation of about 0.2 / 0.2 / 0.4 (AP / AP50 / AP75).
"""

from __future__ import annotations

from detection.data import official_voc
from detection.presets import cpu_presets
from detection.protocols import VITDET_VOC, VOC_07_C4, VOC_C4, ssl_transfer
from detection.task import detection_task

MOCO = VOC_C4
# Barlow Twins and VICReg as MoCo, with a higher rate and a longer warm-up.
_BARLOW, _VICREG = "Barlow Twins, arXiv 2103.03230, app. C.2", "VICReg, arXiv 2105.04906, app. C.3"
_SYNC = "SyncBatchNorm; that it is MoCo's kind is our reading"
BARLOW_TWINS = MOCO.but(_BARLOW, lr=0.1, warmup_iterations=1_000, warmup_factor=0.333).but(
    f"{_BARLOW}: {_SYNC}", norm="SyncBN"
)
VICREG = MOCO.but(_VICREG, lr=0.1, warmup_iterations=1_000, warmup_factor=0.333, rpn_loss_weight=0.2).but(
    f"{_VICREG}: {_SYNC}", norm="SyncBN"
)

TASKS = {
    "": detection_task(
        title="Faster R-CNN R50-C4 on Pascal VOC (07+12 → test2007, or any data set of your own)",
        leading="voc",
        official=official_voc("VOC trainval07+12 → test2007", (("VOC2007", "trainval"), ("VOC2012", "trainval"))),
        protocols={"moco": MOCO, "barlowtwins": BARLOW_TWINS, "vicreg": VICREG},
        presets=cpu_presets(MOCO),
    ),
    "07": detection_task(
        title="Faster R-CNN R50-C4 on Pascal VOC (trainval07 → test2007)",
        leading="voc",
        official=official_voc("VOC trainval07 → test2007", (("VOC2007", "trainval"),)),
        protocols={"vissl": VOC_07_C4},
        presets=cpu_presets(MOCO),
        version=3,
    ),
    "fpn": detection_task(
        title="Faster R-CNN R50-FPN on Pascal VOC (07+12 → test2007, or any data set of your own)",
        leading="voc",
        official=official_voc("VOC trainval07+12 → test2007", (("VOC2007", "trainval"), ("VOC2012", "trainval"))),
        protocols={"ssl-transfer": ssl_transfer("finetune"), "ssl-transfer-frozen": ssl_transfer("frozen")},
        presets=cpu_presets(ssl_transfer("finetune")),
    ),
    "vitdet": detection_task(
        title="Faster R-CNN ViTDet on Pascal VOC (07+12 → test2007, or any data set of your own)",
        leading="voc",
        official=official_voc("VOC trainval07+12 → test2007", (("VOC2007", "trainval"), ("VOC2012", "trainval"))),
        protocols={"100ep": VITDET_VOC},
        presets=cpu_presets(VITDET_VOC),
    ),
}
