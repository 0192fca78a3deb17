"""Faster R-CNN on Pascal VOC: trainval07+12 → test2007, trainval07 → test2007, or any data set of your own.

Protocol: MoCo's (facebookresearch/moco, detection/README.md and detection/configs/pascal_voc_R_50_C4_24k_moco.yaml),
the one behind the VOC columns of the MoCo v1/v2, SimSiam, Barlow Twins and VICReg papers. Published spread: MoCo
reports the mean of 5 runs with a standard deviation of about 0.2 / 0.2 / 0.4 (AP / AP50 / AP75).
"""

from __future__ import annotations

from detection.data import official_voc
from detection.presets import cpu_presets
from detection.protocols import (
    CONVNEXT_BOXES,
    SWIN_3X_BOXES,
    VIT_FPN_BOXES,
    VITDET_VOC,
    VOC_07_C4,
    VOC_C4,
    DetectorProtocol,
    on_voc,
    ssl_transfer,
)
from detection.task import detection_task
from transfer.task import Task

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

_07_12 = official_voc("VOC trainval07+12 → test2007", (("VOC2007", "trainval"), ("VOC2012", "trainval")))


def _task(detector: str, protocols: dict[str, DetectorProtocol]) -> Task:
    return detection_task(
        title=f"Faster R-CNN {detector} on Pascal VOC (07+12 → test2007, or any data set of your own)",
        leading="voc",
        official=_07_12,
        protocols=protocols,
        presets=cpu_presets(next(iter(protocols.values()))),
    )


TASKS = {
    "": _task("R50-C4", {"moco": MOCO, "barlowtwins": BARLOW_TWINS, "vicreg": VICREG}),
    "07": detection_task(
        title="Faster R-CNN R50-C4 on Pascal VOC (trainval07 → test2007)",
        leading="voc",
        official=official_voc("VOC trainval07 → test2007", (("VOC2007", "trainval"),)),
        protocols={"vissl": VOC_07_C4},
        presets=cpu_presets(MOCO),
        version=3,
    ),
    "fpn": _task("R50-FPN", {"ssl-transfer": ssl_transfer("finetune"), "ssl-transfer-frozen": ssl_transfer("frozen")}),
    "vitdet": _task("ViTDet", {"100ep": VITDET_VOC}),
    "vit_fpn": _task("ViT-FPN", {"36ep": on_voc(VIT_FPN_BOXES)}),
    "convnext_fpn": _task("ConvNeXt-FPN", {"36ep": on_voc(CONVNEXT_BOXES)}),
    "swin_fpn": _task("Swin-FPN", {"36ep": on_voc(SWIN_3X_BOXES)}),
}
