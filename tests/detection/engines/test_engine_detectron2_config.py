"""The Detectron2 engine's native config against Detectron2's own files, and keys that nothing reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from detectron2_toy import FAMILIES, TINY

from detection.engines.detector import DetectionJob
from detection.engines.detectron2 import ENGINE
from detection.recipe import (
    C4,
    FCOS,
    AnchoredRecipe,
    DetectorRecipe,
    FasterRcnnC4,
    FasterRcnnFPN,
    MaskRcnnC4,
    MaskRcnnFPN,
    RetinaNet,
    turned_into,
)
from transfer.checkpoints.backbone import Backbone
from transfer.protocol import flatten
from transfer.runtime.errors import EngineError

pytest_plugins = ["detectron2_toy"]
pytestmark = [pytest.mark.detectron2, pytest.mark.usefixtures("one_thread")]
pytest.importorskip("detectron2")

from detectron2_toy import build_verified_model  # noqa: E402

from detection.engines.detectron2 import detector as engine_detector  # noqa: E402
from detection.engines.detectron2.config import build_cfg, norm_here  # noqa: E402

ONE_X = FasterRcnnC4(
    norm="FrozenBN",
    freeze_at=2,
    extra_norm=False,
    train_sizes=(640, 672, 704, 736, 768, 800),
    iterations=90_000,
    steps=(60_000, 80_000),
    warmup_iterations=1_000,
    precise_bn=0,
)
FPN = turned_into(
    ONE_X,
    FasterRcnnFPN,
    roi_resolution=7,
    rpn_pre_nms_train=2_000,
    rpn_pre_nms_test=1_000,
    rpn_post_nms_train=1_000,
)
# The zoo's models take BGR weights of MSRA, and this project's data and output are elsewhere.
OTHERWISE = {"MODEL.WEIGHTS", "MODEL.PIXEL_STD", "MODEL.PIXEL_MEAN", "MODEL.RESNETS.STRIDE_IN_1X1", "INPUT.FORMAT"}
OTHERWISE |= {"SEED", "MODEL.DEVICE", "SOLVER.CHECKPOINT_PERIOD", "DATASETS.TRAIN", "DATASETS.TEST"}


def flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in node.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found


@pytest.mark.parametrize(
    ("file", "recipe"),
    [
        ("COCO-Detection/faster_rcnn_R_50_C4_1x.yaml", ONE_X),
        ("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", FPN),
        ("COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml", turned_into(ONE_X, MaskRcnnC4)),
        ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml", turned_into(FPN, MaskRcnnFPN, mask_convs=4)),
        ("COCO-Detection/retinanet_R_50_FPN_1x.yaml", turned_into(FPN, RetinaNet, lr=0.01)),
    ],
)
def test_the_configs_are_those_of_detectron2s_model_zoo(
    file: str, recipe: DetectorRecipe, make_job: Callable[..., DetectionJob], r50: Backbone
) -> None:
    from detectron2 import model_zoo

    classes = tuple(str(number) for number in range(80))
    job = make_job(r50, recipe)
    job = dataclasses.replace(job, train=dataclasses.replace(job.train, classes=classes, category_ids=()))
    ours, theirs = flat(build_cfg(job)), flat(model_zoo.get_config(file))
    allowed = set(OTHERWISE)
    if isinstance(recipe, C4):
        allowed.add("MODEL.ROI_HEADS.NAME")  # the head that also follows ResNet-18
    if not recipe.masks:
        allowed.add("MODEL.ROI_MASK_HEAD.NUM_CONV")  # in the zoo's base file, and read by no Faster R-CNN
    if not recipe.regions:
        allowed |= {key for key in theirs if key.startswith(("MODEL.RPN.", "MODEL.ROI_"))}
    assert {key for key in theirs if ours[key] != theirs[key]} <= allowed


def test_the_default_recipe_is_mocos_config(make_job: Callable[..., DetectionJob], r50: Backbone) -> None:
    """facebookresearch/moco, detection/configs: pascal_voc_R_50_C4_24k_moco.yaml on its two base files."""
    cfg = build_cfg(make_job(r50, FasterRcnnC4()))
    assert cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN"
    assert cfg.MODEL.RPN.PRE_NMS_TOPK_TEST == 6000
    assert cfg.MODEL.RPN.POST_NMS_TOPK_TEST == 1000
    assert cfg.MODEL.MASK_ON is False
    assert cfg.MODEL.RESNETS.DEPTH == 50
    assert cfg.MODEL.RESNETS.STRIDE_IN_1X1 is False
    assert cfg.MODEL.BACKBONE.FREEZE_AT == 0
    assert pytest.approx([123.675, 116.280, 103.530]) == cfg.MODEL.PIXEL_MEAN
    assert pytest.approx([58.395, 57.120, 57.375]) == cfg.MODEL.PIXEL_STD
    assert cfg.INPUT.FORMAT == "RGB"
    assert cfg.INPUT.MIN_SIZE_TRAIN == (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    assert cfg.INPUT.MIN_SIZE_TEST == 800
    assert cfg.SOLVER.STEPS == (18000, 22000)
    assert cfg.SOLVER.MAX_ITER == 24000
    assert cfg.SOLVER.WARMUP_ITERS == 100
    assert cfg.SOLVER.BASE_LR == 0.02
    assert cfg.SOLVER.IMS_PER_BATCH == 16
    assert cfg.TEST.PRECISE_BN.ENABLED is True
    assert "ExtraNorm" in cfg.MODEL.ROI_HEADS.NAME
    assert norm_here(FasterRcnnC4(), 8) == "naiveSyncBN"  # Base-RCNN-C4-BN.yaml
    assert cfg.MODEL.RESNETS.NORM == norm_here(FasterRcnnC4(), 1) == "BN"


def test_what_moco_leaves_open_is_detectron2s_default(make_job: Callable[..., DetectionJob], r50: Backbone) -> None:
    from detectron2.config import get_cfg

    ours, theirs = flat(build_cfg(make_job(r50, FasterRcnnC4()))), flat(get_cfg())
    set_by_protocol = {
        *("MODEL.ROI_HEADS.NAME", "MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.WEIGHTS", "MODEL.DEVICE", "SEED"),
        *("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "INPUT.FORMAT", "INPUT.MIN_SIZE_TRAIN", "TEST.PRECISE_BN.ENABLED"),
        *("MODEL.RESNETS.NORM", "MODEL.RESNETS.STRIDE_IN_1X1", "MODEL.BACKBONE.FREEZE_AT"),
        *(f"SOLVER.{name}" for name in ("MAX_ITER", "BASE_LR", "STEPS", "WARMUP_ITERS", "CHECKPOINT_PERIOD")),
    }
    assert {key for key in theirs if ours[key] != theirs[key]} <= set_by_protocol


def changed(recipe: DetectorRecipe, name: str) -> DetectorRecipe:
    """The recipe with another value of one field, named as `flatten` names it."""
    others: dict[str, Any] = {
        "norm": "FrozenBN",
        "anchor_sizes": (16, 32, 64, 128, 256),
        "anchor_ratios": (1.0,),
        "train_sizes": (80,),
        "steps": (2,),
        "flip": 0.0,
        "precise_bn": 7,
        "amp": "bf16",
        "fpn_channels": 96,
    }
    if name.startswith("dense."):
        field = name.removeprefix("dense.")
        return dataclasses.replace(
            recipe, dense=dataclasses.replace(recipe.dense, **{field: getattr(recipe.dense, field) * 2})
        )
    old = getattr(recipe, name)
    new = not old if isinstance(old, bool) else old * 2 if isinstance(old, int | float) and old else 1
    return dataclasses.replace(recipe, **{name: others.get(name, new)})


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_field_reaches_the_config(kind: str, make_job: Callable[..., DetectionJob]) -> None:
    recipe = FAMILIES[kind]
    before = flat(build_cfg(make_job(recipe=recipe)))
    for name in flatten(recipe):
        # Which detector it is; and what the training loop does itself, see the tests of clipping.
        if name in ("family", "neck", "clip_gradients"):
            continue
        after = flat(build_cfg(make_job(recipe=changed(recipe, name))))
        assert after != before, name


QUICK = {"mask_rcnn", "mask_rcnn_c4", "retinanet", "fcos"}  # what a Faster R-CNN sets is among what these set


@pytest.mark.parametrize(
    ("kind", "iterations"),
    [
        pytest.param(kind, iterations, marks=[] if kind in QUICK and iterations else [pytest.mark.slow])
        for kind in FAMILIES
        for iterations in (0, 1)
    ],
)
def test_a_key_that_nothing_reads_is_refused_and_no_other(
    kind: str, iterations: int, make_job: Callable[..., DetectionJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(recipe=dataclasses.replace(FAMILIES[kind], iterations=iterations, precise_bn=0))
    watched: list[Any] = []

    def with_a_dead_key(job: DetectionJob) -> Any:
        cfg = build_cfg(job)
        cfg.defrost()
        cfg.give({"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": 5})
        cfg.freeze()
        watched.append(cfg)
        return cfg

    monkeypatch.setattr(engine_detector, "build_cfg", with_a_dead_key)
    with pytest.raises(EngineError, match="dead config keys") as caught:
        ENGINE.run(job)
    # Everything else that was set has been read.
    assert caught.value.found == "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS"
    assert watched[0].dead_keys() == ["MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS"]
    assert not (job.workdir / "checkpoint.pth").exists()


def test_fcos_is_detectron2s_own(make_job: Callable[..., DetectionJob], r18: Backbone) -> None:
    """Detectron2's configs/common/models/fcos.py, built by Detectron2, takes our weights and finds the same boxes."""
    from detectron2 import model_zoo
    from detectron2.config import instantiate

    recipe = FCOS(norm="BN", score_threshold=0.2, nms=0.6)
    job = make_job(r18, recipe)
    ours, _ = build_verified_model(build_cfg(job), r18, seed=0)
    native = model_zoo.get_config("COCO-Detection/fcos_R_50_FPN_1x.py").model
    native.num_classes = len(job.train.classes)
    native.backbone.bottom_up.freeze_at, native.backbone.bottom_up.stages.depth = 0, 18
    native.backbone.bottom_up.stem.norm = native.backbone.bottom_up.stages.norm = "BN"
    del native.backbone.bottom_up.stages.stride_in_1x1  # of bottlenecks
    native.pixel_mean, native.pixel_std = r18.input.in_255()
    theirs = instantiate(native)
    for name in ("center_sampling_radius", "focal_loss_alpha", "focal_loss_gamma", "test_score_thresh"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for name in ("test_topk_candidates", "test_nms_thresh", "max_detections_per_image"):
        assert getattr(ours, name) == getattr(theirs, name), name
    torch.testing.assert_close(ours.head.cls_score.bias, theirs.head.cls_score.bias)  # the prior
    torch.nn.init.normal_(ours.head.cls_score.weight, std=0.3)  # untrained, it would find nothing
    theirs.load_state_dict(ours.state_dict())
    item = {"image": torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8)}
    found, expected = (model.eval()([item])[0]["instances"] for model in (ours, theirs))
    assert len(found) > 10
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(found.scores, expected.scores)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"anchor_sizes": (32, 64)}, "one anchor size per level"),
        ({"amp": "fp16"}, "fp16 on GPUs only"),
    ],
)
def test_what_detectron2_cannot_build_is_said(
    change: dict[str, Any], message: str, make_job: Callable[..., DetectionJob]
) -> None:
    with pytest.raises(EngineError, match=message):
        build_cfg(make_job(recipe=dataclasses.replace(TINY, **change)))


def test_a_pyramid_that_group_norms_cannot_divide_is_refused(make_job: Callable[..., DetectionJob]) -> None:
    with pytest.raises(EngineError, match="32 groups"):
        build_cfg(make_job(recipe=dataclasses.replace(FAMILIES["fcos"], fpn_channels=48)))


def test_retinanets_anchors_are_the_papers(make_job: Callable[..., DetectionJob]) -> None:
    recipe = dataclasses.replace(FAMILIES["retinanet"], anchor_sizes=(32, 64, 128, 256, 512), dense=AnchoredRecipe())
    sizes = build_cfg(make_job(recipe=recipe)).MODEL.ANCHOR_GENERATOR.SIZES
    assert sizes[0] == pytest.approx([32, 40.317, 50.797], abs=1e-3)
    assert sizes[4][0] == 512
