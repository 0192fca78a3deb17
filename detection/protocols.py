"""The detectors that published tables use, value by value, and where each value was read.

MoCo: facebookresearch/moco, detection/configs. Detectron2: facebookresearch/detectron2, configs and
detectron2/config/defaults.py. DetCo: xieenze/DetCo, benchmarks/detection/configs. Task files build their protocols from
these; a test demands a source for every value and compares the values with the ones stated.
"""

from __future__ import annotations

from typing import Literal

from detection.recipe import (
    ADAMW,
    CONVNEXT_CONFIG,
    CROPS,
    IBOT_DECAY,
    MM_HEADS,
    RETINA,
    VITDET_100EP,
    VITDET_DATA,
    D,
    DetectionRecipe,
    DetectorRecipe,
    FasterRcnnC4,
    FasterRcnnConvNeXt,
    FasterRcnnFPN,
    FasterRcnnSwin,
    FasterRcnnViT,
    FasterRcnnViTDet,
    MaskRcnnC4,
    MaskRcnnConvNeXt,
    MaskRcnnFPN,
    MaskRcnnSwin,
    MaskRcnnViT,
    MaskRcnnViTDet,
    RetinaNet,
)
from detection.recipe import (
    FCOS as FCOS_RECIPE,
)
from transfer.protocol import OURS, Protocol

_FPN = "Detectron2, Base-RCNN-FPN.yaml"
_NORMS = "MoCo's FPN runs: SyncBN in backbone and pyramid only, facebookresearch/moco#34; in DetCo's configs too"
_FPN_DETCO = "DetCo, coco_R_50_FPN_1x.yaml"
_RETINA_DETCO = "DetCo, coco_R_50_RetinaNet_1x.yaml"
_COMMON = "Detectron2, configs/common"
_TABLES = "Detectron2, evaluation/pascal_voc_evaluation.py"

DetectorProtocol = Protocol[DetectionRecipe]


def _as(protocol: DetectorProtocol, kind: type[DetectorRecipe]) -> DetectorProtocol:
    """What is known so far, of another detector; values that it has no place for are left behind."""
    return protocol.of(DetectionRecipe, {"detector": kind}, shared=True)


# -- Faster R-CNN, C4: MoCo's VOC07+12 protocol is what `FasterRcnnC4` begins as.
VOC_C4 = (
    Protocol(DetectionRecipe, {"detector": FasterRcnnC4})
    .but(f"11 points: {_TABLES} for VOC2007", {"metric.mode": "11point"})
    .but(_TABLES, plus_one=True, strict=True, score_decimals=3, box_decimals=1)
    .but(f"{OURS}: faster-coco-eval, equal to pycocotools", library="faster_coco_eval")
    .but(f"{OURS}: 0, the whole data set", overfit=0)
)
_VISSL_07 = "VISSL, object_detection/voc07/rn50_transfer_voc07_detectron2_e2e.yaml"
VOC_07_C4 = VOC_C4.but(
    _VISSL_07,
    iterations=12_500,
    steps=(9_500,),
    warmup_iterations=100,
    lr=0.02,
    batch=16,
    norm="SyncBN",
    extra_norm=True,
    freeze_at=0,
    train_sizes=(480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800),
    test_size=800,
    rpn_pre_nms_test=6_000,
    rpn_post_nms_test=1_000,
).but(f"{_VISSL_07}: enabled; {D}TEST.PRECISE_BN.NUM_ITER", precise_bn=200)
COCO_C4 = (
    VOC_C4.but(
        "Detectron2, Base-RCNN-C4.yaml",
        train_sizes=(640, 672, 704, 736, 768, 800),
        iterations=90_000,
        steps=(60_000, 80_000),
    )
    .but(f"{D}SOLVER.WARMUP_ITERS", warmup_iterations=1_000)
    .but(f"{D}INPUT.MIN_SIZE_TEST", test_size=800)
)
COCO_FPN = (
    _as(COCO_C4, FasterRcnnFPN)
    .but(
        _FPN,
        roi_resolution=7,
        anchor_sizes=(32, 64, 128, 256, 512),
        anchor_ratios=(0.5, 1.0, 2.0),
        rpn_pre_nms_train=2_000,
        rpn_post_nms_train=1_000,
        rpn_pre_nms_test=1_000,
        rpn_post_nms_test=1_000,
        batch=16,
        lr=0.02,
        iterations=90_000,
        steps=(60_000, 80_000),
        train_sizes=(640, 672, 704, 736, 768, 800),
    )
    .but(_NORMS, norm="SyncBN", fpn_norm=True)
    .but(f"{_FPN_DETCO}; MoCo, Base-RCNN-C4-BN.yaml", freeze_at=0)
    .but(f"{_FPN_DETCO}: enabled; {D}TEST.PRECISE_BN.NUM_ITER", precise_bn=200)
)
# linusericsson/ssl-transfer's tables of VOC detection: one GPU, frozen norms. "Frozen" there leaves res5 to train.
_SSL = "linusericsson/ssl-transfer, detectron2-configs/{}/*.yaml"


def ssl_transfer(kind: Literal["finetune", "frozen"]) -> DetectorProtocol:
    """Faster R-CNN R50-FPN on VOC07+12 as linusericsson/ssl-transfer fine-tunes it, or freezes stem to res4."""
    return (
        COCO_FPN.but(
            _SSL.format(kind),
            freeze_at=0 if kind == "finetune" else 4,
            train_sizes=(480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800),
            test_size=800,
            iterations=144_000,
            batch=2,
            lr=0.0025,
            steps=(96_000, 128_000),
            warmup_iterations=100,
        )
        .but(f"{D}MODEL.RESNETS.NORM", norm="FrozenBN")
        .but(f"{D}MODEL.FPN.NORM", fpn_norm=False)
        .but(f"{D}TEST.PRECISE_BN.ENABLED", precise_bn=0)
    )


RETINANET = (
    _as(COCO_FPN, RetinaNet)
    .but(
        RETINA,
        anchor_sizes=(32, 64, 128, 256, 512),
        anchor_ratios=(0.5, 1.0, 2.0),
        batch=16,
        lr=0.01,
        iterations=90_000,
        steps=(60_000, 80_000),
        train_sizes=(640, 672, 704, 736, 768, 800),
    )
    .but(_RETINA_DETCO, norm="SyncBN", fpn_norm=True, freeze_at=0)
    .but(f"{_RETINA_DETCO}: enabled; {D}TEST.PRECISE_BN.NUM_ITER", precise_bn=200)
    .but(f"{D}MODEL.RETINANET.SCORE_THRESH_TEST", score_threshold=0.05)
    .but(f"{D}MODEL.RETINANET.NMS_THRESH_TEST", nms=0.5)
)
FCOS = (
    _as(RETINANET, FCOS_RECIPE)
    .but("Detectron2, configs/common/models/fcos.py", score_threshold=0.2, nms=0.6)
    .but(
        "Detectron2, configs/common/models/retinanet.py",
        convs=4,
        focal_alpha=0.25,
        focal_gamma=2.0,
        prior=0.01,
        candidates=1_000,
    )
    .but(f"{_COMMON}/data/coco.py", train_sizes=(640, 672, 704, 736, 768, 800), batch=16, test_size=800, max_size=1333)
    .but(
        f"{_COMMON}/coco_schedule.py",
        iterations=90_000,
        steps=(60_000, 80_000),
        warmup_iterations=1_000,
        warmup_factor=1e-3,
    )
    .but(f"{_COMMON}/optim.py", momentum=0.9, weight_decay=1e-4, weight_decay_norm=0.0)
    .but("Detectron2, COCO-Detection/fcos_R_50_FPN_1x.py", lr=0.01)
    .but(
        f"not published for self-supervised backbones; as {_RETINA_DETCO}",
        norm="SyncBN",
        fpn_norm=True,
        freeze_at=0,
        precise_bn=200,
    )
)


# ViTDet's Mask R-CNN (arXiv 2203.16527) by its authors' code; what its classes state is not repeated.
_HEADS = f"{_COMMON}/models/mask_rcnn_fpn.py"
_README = "Detectron2, projects/ViTDet/README.md"
VITDET = (
    _as(VOC_C4, MaskRcnnViTDet)
    .but(
        _HEADS,
        anchor_sizes=(32, 64, 128, 256, 512),
        anchor_ratios=(0.5, 1.0, 2.0),
        rpn_pre_nms_train=2_000,
        rpn_post_nms_train=1_000,
        rpn_pre_nms_test=1_000,
        rpn_post_nms_test=1_000,
        rpn_nms=0.7,
        rpn_batch=256,
        rpn_positive=0.5,
        roi_batch=512,
        roi_positive=0.25,
        roi_resolution=7,
        mask_resolution=14,
        mask_convs=4,
        score_threshold=0.05,
    )
    .but(VITDET_DATA, test_size=1024, max_size=1024, flip=0.5)
    .but(
        VITDET_100EP,
        iterations=184_375,
        steps=(163_889, 177_546),
        gamma=0.1,
        warmup_iterations=250,
        warmup_factor=0.001,
    )
    .but(f"{VITDET_100EP}: train.amp", amp="fp16")
    .but(_README, batch=64)
    .but(ADAMW, lr=1e-4, momentum=0.9, weight_decay=0.1)
    .but(f"{ADAMW}: of the trunk's norms; of pyramid and heads, where its rule sees none, ours", weight_decay_norm=0.0)
)
_LARGE = "Detectron2, ViTDet/configs/COCO/mask_rcnn_vitdet_l_100ep.py"
VITDET_LARGE = VITDET.but(_LARGE, drop_path=0.4, layer_decay=0.8, global_blocks=(5, 11, 17, 23))
VITDET_BOXES = _as(VITDET, FasterRcnnViTDet).but(
    f"{OURS}: without masks it is not published; as with them, {VITDET_100EP}",
    iterations=184_375,
    steps=(163_889, 177_546),
)
VITDET_VOC = VITDET_BOXES.but(
    f"{OURS}: 100 passes over the 16,551 images of trainval07+12 at the published batch, steps in proportion",
    iterations=25_861,
    steps=(22_988, 24_903),
)


# Four maps and a pyramid, with the heads of MMDetection's Mask R-CNN: Swin's authors, then ConvNeXt's and iBOT's.
_MM_SCHEDULE = "MMDetection 2, configs/_base_/schedules/schedule_1x.py"
_MM_DATA = "MMDetection 2, configs/_base_/datasets/coco_instance.py, on 8 GPUs"
_EPOCHS = "epochs of 7,330 batches: 117,266 images of train2017 have boxes"
_SWIN_3X = CROPS.replace("_1x_", "_3x_")


def _maps(kind: type[DetectorRecipe]) -> DetectorProtocol:
    return (
        _as(VOC_C4, kind)
        .but(
            MM_HEADS,
            anchor_sizes=(32, 64, 128, 256, 512),
            anchor_ratios=(0.5, 1.0, 2.0),
            fpn_channels=256,
            rpn_pre_nms_train=2_000,
            rpn_post_nms_train=1_000,
            rpn_pre_nms_test=1_000,
            rpn_post_nms_test=1_000,
            rpn_nms=0.7,
            rpn_batch=256,
            rpn_positive=0.5,
            rpn_loss_weight=1.0,
            roi_batch=512,
            roi_positive=0.25,
            roi_resolution=7,
            class_agnostic=False,
            mask_resolution=14,
            mask_convs=4,
            score_threshold=0.05,
            nms=0.5,
            max_detections=100,
        )
        .but(_MM_SCHEDULE, gamma=0.1, warmup_iterations=500, warmup_factor=0.001, clip_gradients=0.0)
        .but(_MM_DATA, batch=16, test_size=800, max_size=1333, flip=0.5)
        .but(
            CROPS,
            train_sizes=(480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800),
            lr=1e-4,
            momentum=0.9,
            second_momentum=0.999,
            weight_decay=0.05,
            weight_decay_bias=0.05,
            weight_decay_norm=0.0,
        )
        .but(f"{CROPS}: use_fp16", amp="fp16")
        .but(f"{CROPS}: 12 {_EPOCHS}", iterations=87_960)
        .but(f"{CROPS}: epochs 8 and 11", steps=(58_640, 80_630))
    )


SWIN = _maps(MaskRcnnSwin)
SWIN_3X = (
    SWIN.but(_SWIN_3X, drop_path=0.2)
    .but(f"{_SWIN_3X}: 36 {_EPOCHS}", iterations=263_880)
    .but(f"{_SWIN_3X}: epochs 27 and 33", steps=(197_910, 241_890))
)
CONVNEXT = (
    _as(SWIN_3X, MaskRcnnConvNeXt)
    .but(CONVNEXT_CONFIG, drop_path=0.4, layer_decay=0.95, weight_decay=0.05, lr=1e-4)
    .but(
        "ConvNeXt, object_detection/mmcv_custom/layer_decay_optimizer_constructor.py",
        weight_decay_bias=0.0,
        weight_decay_norm=0.0,
    )
    .but(f"{CONVNEXT_CONFIG}: 36 {_EPOCHS}", iterations=263_880)
    .but(f"{CONVNEXT_CONFIG}: epochs 27 and 33", steps=(197_910, 241_890))
)
_CAE = "CAE, detection/configs/mask_rcnn/vit_base_giou_4conv1f_coco_maskrcnn_1x_cae_sincos_init0.1_lr00003.py"
_CAE_MODEL = "CAE, detection/configs/_base_/models/mask_rcnn_vit_fpn.py"
VIT_FPN = (
    _as(SWIN, MaskRcnnViT)
    .but(_CAE, norm="SyncBN", box_convs=4, box_fcs=1, giou_weight=10.0, lr=3e-4, weight_decay=0.05)
    .but(_CAE, layer_decay=0.75, drop_path=0.2)
    .but(_CAE_MODEL, out_indices=(3, 5, 7, 11), rpn_post_nms_train=2_000)
    .but("CAE, detection/mmcv_custom/register_backbone.py: of sines and cosines, not trained", train_positions=False)
    .but(IBOT_DECAY, weight_decay_bias=0.0, weight_decay_norm=0.0)
    .but("CAE, downstream_tasks/detection/README.md: 16 GPUs of 2 images", batch=32)
    .but(f"{_CAE}: 12 epochs of 3,665 batches", iterations=43_980)
    .but(f"{_CAE}: epochs 9 and 11", steps=(32_985, 40_315))
)


def _without_masks(protocol: DetectorProtocol, kind: type[DetectorRecipe]) -> DetectorProtocol:
    """The same detector of boxes alone."""
    once = protocol.recipe.detector
    return _as(protocol, kind).but(
        f"{OURS}: without masks it is not published; as with them", iterations=once.iterations, steps=once.steps
    )


CONVNEXT_BOXES = _without_masks(CONVNEXT, FasterRcnnConvNeXt)
SWIN_BOXES, SWIN_3X_BOXES = (_without_masks(each, FasterRcnnSwin) for each in (SWIN, SWIN_3X))
VIT_FPN_BOXES = _without_masks(VIT_FPN, FasterRcnnViT)


def on_voc(protocol: DetectorProtocol) -> DetectorProtocol:
    """36 passes over the 16,551 images of trainval07+12."""
    batch = protocol.recipe.detector.batch
    count = round(36 * 16_551 / batch)
    return protocol.but(
        f"{OURS}: 36 passes over the 16,551 images of trainval07+12, steps at 27 and 33",
        iterations=count,
        steps=(round(count * 27 / 36), round(count * 33 / 36)),
    )


def with_masks(protocol: DetectorProtocol) -> DetectorProtocol:
    """The Mask R-CNN of a Faster R-CNN; with FPN its head has four convolutions (Detectron2, Base-RCNN-FPN.yaml)."""
    if protocol.parts["detector"] is FasterRcnnC4:
        return _as(protocol, MaskRcnnC4)
    return _as(protocol, MaskRcnnFPN).but(_FPN, mask_convs=4, mask_resolution=14)


def two_times(protocol: DetectorProtocol) -> DetectorProtocol:
    """The 2× schedule: twice as long, the steps where they are in proportion."""
    once = protocol.recipe.detector
    return protocol.but(
        "MoCo, coco_R_50_C4_2x.yaml: twice the 1× schedule",
        iterations=2 * once.iterations,
        steps=tuple(2 * step for step in once.steps),
    )
