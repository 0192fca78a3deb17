"""Mask R-CNN on COCO train2017 → val2017 or any data set of your own with masks: box and mask AP, C4 and FPN.

The C4 columns of the MoCo, SimSiam and Barlow Twins papers are `segmentation.coco_c4`, the COCO columns of VICReg's are
`segmentation.coco_fpn`: two tasks, because their numbers must never share a column. ViTDet's (arXiv 2203.16527) is
`segmentation.coco_vitdet`, for vision transformers, `segmentation.coco_vit_fpn` that of four of their maps (iBOT, CAE);
ConvNeXts and Swin transformers have one each.
"""

from __future__ import annotations

from detection.data import COCO
from detection.presets import cpu_presets
from detection.protocols import (
    COCO_C4,
    COCO_FPN,
    CONVNEXT,
    SWIN,
    SWIN_3X,
    VIT_FPN,
    VITDET,
    VITDET_LARGE,
    DetectorProtocol,
    two_times,
    with_masks,
)
from detection.task import detection_task
from transfer.protocol import OURS
from transfer.task import Task

_BARLOW = "Barlow Twins, arXiv 2103.03230, app. C.2"
C4, FPN = with_masks(COCO_C4), with_masks(COCO_FPN)


def _task(detector: str, once: DetectorProtocol, protocols: dict[str, DetectorProtocol]) -> Task:
    return detection_task(
        title=f"Mask R-CNN {detector} on COCO (train2017 → val2017, or any data set of your own with masks)",
        leading="coco",
        official=COCO,
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
            "barlowtwins": C4.but(_BARLOW, lr=0.03).but(
                f"{_BARLOW}: otherwise Detectron2's 1x, whose C4 has frozen norms and stages; synchronised norms and "
                "nothing frozen, as in its VOC runs, is our reading",
                norm="SyncBN",
                freeze_at=0,
                extra_norm=True,
            ),
            "detco_12k": C4.but("DetCo, coco_R_50_C4_12k.yaml", iterations=12_000, steps=(9_000, 11_000))
            .but(
                "DetCo, Base-RCNN-C4-BN.yaml",
                batch=16,
                lr=0.02,
                norm="SyncBN",
                freeze_at=0,
                extra_norm=True,
                rpn_pre_nms_test=6_000,
                rpn_post_nms_test=1_000,
            )
            .but("DetCo, coco_R_50_C4_2x.yaml", train_sizes=(640, 672, 704, 736, 768, 800), test_size=800),
        },
    ),
    "fpn": _task(
        "R50-FPN",
        FPN,
        {
            "vicreg": FPN.but(
                "VICReg, arXiv 2105.04906, app. C.3",
                lr=0.04,
                iterations=90_000,
                steps=(60_000, 80_000),
                warmup_iterations=50,
            ).but(f"{OURS}: not stated; as in DetCo's FPN runs, VISSL's FPN configuration has none", fpn_norm=True),
            "1x": FPN,
            "2x": two_times(FPN),
        },
    ),
    "vitdet": _task("ViTDet", VITDET, {"100ep": VITDET, "large_100ep": VITDET_LARGE}),
    "vit_fpn": _task("ViT-FPN", VIT_FPN, {"cae_1x": VIT_FPN}),
    "convnext_fpn": _task("ConvNeXt-FPN", CONVNEXT, {"3x": CONVNEXT}),
    "swin_fpn": _task("Swin-FPN", SWIN, {"1x": SWIN, "3x": SWIN_3X}),
}
