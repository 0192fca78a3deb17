"""The Detectron2 engine: config against the published one, weights that must arrive, pixels and boxes."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2_toy import TINY
from PIL import Image

from transfer.backbone import Backbone, InputSpec
from transfer.datasets.detection import DetectionDataset, DetectionImage
from transfer.datasets.pixels import read_pixels
from transfer.detector import DetectionJob, DetectorRecipe
from transfer.errors import DataError, EngineError

pytest_plugins = ["detectron2_toy"]
pytestmark = [pytest.mark.detectron2, pytest.mark.usefixtures("one_thread")]
pytest.importorskip("detectron2")

from transfer.engines.detectron2.config import build_cfg  # noqa: E402
from transfer.engines.detectron2.data import TrainMapper, train_augmentations, train_batches  # noqa: E402
from transfer.engines.detectron2.model import build_verified_model, load_weights, verify_model  # noqa: E402

# ---- the native config


def test_the_default_recipe_is_mocos_config(make_job: Callable[..., DetectionJob], r50: Backbone) -> None:
    """facebookresearch/moco, detection/configs: pascal_voc_R_50_C4_24k_moco.yaml on its two base files."""
    cfg = build_cfg(make_job(r50, DetectorRecipe()))
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
    assert cfg.MODEL.RESNETS.NORM == "BN"  # SyncBN on one process


def test_what_moco_leaves_open_is_detectron2s_default(make_job: Callable[..., DetectionJob], r50: Backbone) -> None:
    from detectron2.config import get_cfg

    ours, theirs = build_cfg(make_job(r50, DetectorRecipe())), get_cfg()
    for section, set_by_protocol in (
        (("MODEL", "RPN"), set()),
        (("MODEL", "ANCHOR_GENERATOR"), set()),
        (("MODEL", "ROI_BOX_HEAD"), set()),
        (("MODEL", "ROI_HEADS"), {"NAME", "NUM_CLASSES"}),
        (("SOLVER",), {"MAX_ITER", "BASE_LR", "STEPS", "WARMUP_ITERS", "CHECKPOINT_PERIOD"}),
        (("INPUT",), {"FORMAT", "MIN_SIZE_TRAIN"}),
    ):
        mine, default = ours, theirs
        for key in section:
            mine, default = mine[key], default[key]
        differing = {key for key in default if mine[key] != default[key]}
        assert differing <= set_by_protocol, section


def test_every_recipe_field_reaches_the_config(make_job: Callable[..., DetectionJob]) -> None:
    before = build_cfg(make_job(recipe=TINY)).dump()
    others = {
        "neck": {"neck": "c4"},
        "norm": {"norm": "FrozenBN"},
        "extra_norm": {"neck": "c4", "extra_norm": True},
        "anchor_sizes": {"anchor_sizes": (16, 32, 64, 128, 256)},
        "anchor_ratios": {"anchor_ratios": (1.0,)},
        "train_sizes": {"train_sizes": (80,)},
        "steps": {"steps": (2,)},
        "flip": {"flip": 0.0},
        "precise_bn": {"precise_bn": 7},
    }
    c4 = build_cfg(make_job(recipe=dataclasses.replace(TINY, neck="c4"))).dump()
    for field in dataclasses.fields(DetectorRecipe):
        old = getattr(TINY, field.name)
        change = others.get(field.name) or {field.name: old * 2 if old else 1}
        changed = build_cfg(make_job(recipe=dataclasses.replace(TINY, **change))).dump()
        assert changed != (c4 if field.name == "extra_norm" else before), field.name


def test_fpn_is_detectron2s_base_config(make_job: Callable[..., DetectionJob], r50: Backbone) -> None:
    """detectron2, configs/Base-RCNN-FPN.yaml."""
    recipe = DetectorRecipe(neck="fpn", roi_resolution=7)
    cfg = build_cfg(make_job(r50, recipe))
    assert cfg.MODEL.BACKBONE.NAME == "build_resnet_fpn_backbone"
    assert cfg.MODEL.RESNETS.OUT_FEATURES == cfg.MODEL.FPN.IN_FEATURES == ["res2", "res3", "res4", "res5"]
    assert cfg.MODEL.ANCHOR_GENERATOR.SIZES == [[32], [64], [128], [256], [512]]
    assert cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS == [[0.5, 1.0, 2.0]]
    assert cfg.MODEL.RPN.IN_FEATURES == ["p2", "p3", "p4", "p5", "p6"]
    assert cfg.MODEL.ROI_HEADS.NAME == "StandardROIHeads"
    assert cfg.MODEL.ROI_HEADS.IN_FEATURES == ["p2", "p3", "p4", "p5"]
    assert cfg.MODEL.ROI_BOX_HEAD.NAME == "FastRCNNConvFCHead"
    assert cfg.MODEL.ROI_BOX_HEAD.NUM_FC == 2
    assert cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION == 7


def test_fpn_wants_one_anchor_size_per_level(make_job: Callable[..., DetectionJob]) -> None:
    with pytest.raises(EngineError, match="one anchor size per level"):
        build_cfg(make_job(recipe=dataclasses.replace(TINY, anchor_sizes=(32, 64))))


# ---- weights that must arrive


@pytest.mark.parametrize(
    ("arch", "neck", "freeze_at", "parts"),
    [
        ("r18", "fpn", 0, {"backbone.bottom_up": 100}),
        ("r18", "c4", 2, {"backbone": 75, "roi_heads.res5": 25}),
        ("r50", "fpn", 2, {"backbone.bottom_up": 265}),
        ("r50", "c4", 0, {"backbone": 215, "roi_heads.res5": 50}),
    ],
)
def test_every_tensor_arrives(
    arch: str,
    neck: str,
    freeze_at: int,
    parts: dict[str, int],
    make_job: Callable[..., DetectionJob],
    request: pytest.FixtureRequest,
) -> None:
    backbone: Backbone = request.getfixturevalue(arch)
    recipe = dataclasses.replace(TINY, neck=neck, extra_norm=True, freeze_at=freeze_at)
    job = make_job(backbone, recipe)
    model, verification = build_verified_model(build_cfg(job), backbone, seed=0)
    assert verification.by_part == parts
    assert verification.tensors == verification.expected == sum(parts.values())
    assert set(verification.stage_error) == {"layer1", "layer2", "layer3", "layer4"}
    assert max(verification.stage_error.values()) < 1e-4
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert bool(frozen) == (freeze_at > 0)
    if neck == "c4":
        assert isinstance(model.roi_heads.res5.norm, torch.nn.BatchNorm2d)
        assert model.roi_heads.res5.norm.num_features == (512 if arch == "r18" else 2048)


def test_without_extra_norm_the_head_has_none(make_job: Callable[..., DetectionJob], r18: Backbone) -> None:
    job = make_job(recipe=dataclasses.replace(TINY, neck="c4", extra_norm=False))
    model, _ = build_verified_model(build_cfg(job), r18, seed=0)
    assert not hasattr(model.roi_heads.res5, "norm")
    assert len(model.roi_heads.res5) == 2


@pytest.fixture
def built(make_job: Callable[..., DetectionJob], r18: Backbone) -> tuple[Any, Path]:
    job = make_job(recipe=dataclasses.replace(TINY, neck="c4", extra_norm=True))
    cfg = build_cfg(job)
    model, _ = build_verified_model(cfg, r18, seed=0)
    return model, Path(cfg.MODEL.WEIGHTS)


@pytest.mark.parametrize("inside", ["backbone.res3.0.shortcut.norm.running_var", "roi_heads.res5.1.conv2.weight"])
def test_one_perturbed_tensor_is_refused(inside: str, built: tuple[Any, Path], r18: Backbone) -> None:
    model, _ = built
    model.state_dict()[inside].view(-1)[0] += 1e-3
    with pytest.raises(EngineError, match="nothing was trained") as caught:
        verify_model(model, r18)
    assert "99 of 100" in str(caught.value)


@pytest.mark.parametrize("lost", ["stem.conv1.weight", "res5.1.conv2.norm.bias"])
def test_one_renamed_key_in_the_file_is_refused(lost: str, built: tuple[Any, Path], r18: Backbone) -> None:
    model, path = built
    torch.nn.init.constant_(model.backbone.stem.conv1.weight, 0.5)
    torch.nn.init.constant_(model.roi_heads.res5[1].conv2.norm.bias, 0.5)
    content = pickle.loads(path.read_bytes())
    content["model"]["x" + lost] = content["model"].pop(lost)
    path.write_bytes(pickle.dumps(content))
    load_weights(model, path)  # Detectron2 only warns
    with pytest.raises(EngineError, match="99 of 100"):
        verify_model(model, r18)


def test_swapped_channel_order_is_refused(built: tuple[Any, Path], r18: Backbone) -> None:
    model, _ = built
    model.input_format = "BGR"
    with pytest.raises(EngineError, match="something else than torchvision"):
        verify_model(model, r18)


def test_wrong_normalisation_is_refused(built: tuple[Any, Path], r18: Backbone) -> None:
    model, _ = built
    model.pixel_std.fill_(1.0)
    with pytest.raises(EngineError, match="something else than torchvision"):
        verify_model(model, r18)


def test_bgr_weights_get_bgr_pixels(make_job: Callable[..., DetectionJob], r18: Backbone) -> None:
    caffe = InputSpec("BGR", 255.0, (103.53, 116.28, 123.675), (57.375, 57.12, 58.395))
    backbone = dataclasses.replace(r18, input=caffe)
    job = make_job(backbone)
    cfg = build_cfg(job)
    assert cfg.INPUT.FORMAT == "BGR"
    assert cfg.MODEL.PIXEL_MEAN == [103.53, 116.28, 123.675]
    _, verification = build_verified_model(cfg, backbone, seed=0)
    assert max(verification.stage_error.values()) < 1e-4
    first = read_pixels(job.train.images[0], "BGR")
    assert first[30, 20].tolist() == [60, 40, 250]


# ---- data


def test_pixels_and_boxes_move_together(make_job: Callable[..., DetectionJob]) -> None:
    job = make_job(recipe=dataclasses.replace(TINY, train_sizes=(128,), max_size=1000, flip=1.0))
    item = TrainMapper(build_cfg(job), job.recipe.flip)(job.train.images[0])
    assert isinstance(item, dict)
    assert tuple(item["image"].shape) == (3, 128, 192)
    # 96×64 doubled, then mirrored: x → 192 − 2x
    expected = [[192 - 80, 40, 192 - 20, 100], [192 - 120, 10, 192 - 60, 60]]
    assert item["instances"].gt_boxes.tensor.tolist() == expected
    assert item["instances"].gt_classes.tolist() == [0, 1]  # the difficult one is trained on
    assert item["image"][:, 70, 192 - 50].tolist() == [250, 40, 60]


@pytest.mark.parametrize(("flip", "expected"), [(0.0, []), (0.5, [0.5]), (0.2, [0.2])])
def test_flip_probability(flip: float, expected: list[float], make_job: Callable[..., DetectionJob]) -> None:
    job = make_job(recipe=dataclasses.replace(TINY, flip=flip))
    augmentations = train_augmentations(build_cfg(job), flip)
    assert [aug.prob for aug in augmentations if type(aug).__name__ == "RandomFlip"] == expected


def test_exif_orientation_is_not_applied(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20), (200, 10, 10)).save(path, exif=exif)
    image = one_image(path, 40, 20)
    assert read_pixels(image, "RGB").shape == (20, 40, 3)


def one_image(path: Path, width: int, height: int) -> DetectionImage:
    boxes = np.array([[1, 1, 9, 9]], np.float32)
    return DetectionImage(1, path.stem, path, width, height, boxes, np.array([0]), np.array([False]))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("damage", ["gone", "cut off", "not an image", "other size"])
def test_bad_images_are_named(damage: str, workers: int, make_job: Callable[..., DetectionJob], tmp_path: Path) -> None:
    path = tmp_path / "bad.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    if damage != "gone":
        Image.fromarray(noise).save(path)
    if damage == "cut off":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    if damage == "not an image":
        path.write_text("<html>not found</html>")
    width = 91 if damage == "other size" else 90
    dataset = DetectionDataset("bad", ("red",), (one_image(path, width, 60),))
    job = make_job(recipe=dataclasses.replace(TINY, batch=1), train=dataset, workers=workers)
    with pytest.raises(DataError, match=r"bad\.jpg") as caught:
        next(train_batches(build_cfg(job), job, 0, 0, 1))
    assert "Traceback" not in str(caught.value)
