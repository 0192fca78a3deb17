"""The Detectron2 engine: weights that must arrive, pixels, boxes and masks."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2_toy import FAMILIES, TINY, TINY_C4
from PIL import Image

from detection.engines.detector import DetectionJob
from transfer.checkpoints.backbone import Backbone, InputSpec, random_backbone
from transfer.checkpoints.families.resnet import is_optional
from transfer.datasets.boxes.detection import DetectionDataset, DetectionImage
from transfer.datasets.boxes.masks import Mask
from transfer.datasets.boxes.pixels import read_pixels
from transfer.runtime.errors import DataError, EngineError

pytest_plugins = ["detectron2_toy"]
pytestmark = [pytest.mark.detectron2, pytest.mark.usefixtures("one_thread")]
pytest.importorskip("detectron2")

from detectron2_toy import build_verified_model  # noqa: E402

from detection.engines.detectron2 import ENGINE  # noqa: E402
from detection.engines.detectron2.config import build_cfg, mask_format  # noqa: E402
from detection.engines.detectron2.data import TrainMapper, train_augmentations  # noqa: E402
from detection.engines.detectron2.detector import Detectron2Detector  # noqa: E402
from detection.engines.detectron2.model import load_weights, verify_model  # noqa: E402

# ---- weights that must arrive


PYRAMID_18, PYRAMID_50 = {"backbone.bottom_up": 100}, {"backbone.bottom_up": 265}
C4_18, C4_50 = {"backbone": 75, "roi_heads.res5": 25}, {"backbone": 215, "roi_heads.res5": 50}


@pytest.mark.parametrize(
    ("arch", "kind", "freeze_at", "parts"),
    [
        ("r18", "faster_rcnn", 0, PYRAMID_18),
        pytest.param("r18", "faster_rcnn_c4", 2, C4_18, marks=pytest.mark.slow),
        pytest.param("r18", "mask_rcnn", 5, PYRAMID_18, marks=pytest.mark.slow),
        ("r18", "mask_rcnn_c4", 0, C4_18),
        ("r18", "retinanet", 2, PYRAMID_18),
        ("r18", "fcos", 0, PYRAMID_18),
        pytest.param("r50", "mask_rcnn_c4", 0, C4_50, marks=pytest.mark.slow),
        pytest.param("r50", "retinanet", 0, PYRAMID_50, marks=pytest.mark.slow),
        pytest.param("r50", "fcos", 2, PYRAMID_50, marks=pytest.mark.slow),
    ],
)
def test_every_tensor_arrives(
    arch: str,
    kind: str,
    freeze_at: int,
    parts: dict[str, int],
    make_job: Callable[..., DetectionJob],
    request: pytest.FixtureRequest,
) -> None:
    backbone: Backbone = request.getfixturevalue(arch)
    job = make_job(backbone, dataclasses.replace(FAMILIES[kind], freeze_at=freeze_at))
    model, verification = build_verified_model(build_cfg(job), backbone, seed=0)
    assert verification.by_part == parts
    assert verification.tensors == verification.expected == sum(parts.values())
    assert set(verification.stage_error) == {"layer1", "layer2", "layer3", "layer4"}
    assert max(verification.stage_error.values()) < 1e-4
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    stages = {name.split(".")[-4] if "res" in name else "stem" for name in frozen}
    assert len(stages & {"stem", "res2", "res3", "res4", "res5"}) == freeze_at
    if kind.endswith("c4"):
        assert isinstance(model.roi_heads.res5.norm, torch.nn.BatchNorm2d)
        assert model.roi_heads.res5.norm.num_features == (512 if arch == "r18" else 2048)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("arch", ["resnet34", "resnet101"])
def test_every_tensor_arrives_in_deeper_networks(arch: str, kind: str, make_job: Callable[..., DetectionJob]) -> None:
    backbone = random_backbone(arch, 0)
    _, verification = build_verified_model(build_cfg(make_job(backbone, FAMILIES[kind])), backbone, seed=0)
    assert verification.tensors == verification.expected == sum(not is_optional(name) for name in backbone.state)


def test_masks_are_pooled_after_the_extra_norm(make_job: Callable[..., DetectionJob], r18: Backbone) -> None:
    """As in facebookresearch/moco, detection/train_net.py: the norm is part of what boxes and masks share."""
    model, _ = build_verified_model(build_cfg(make_job(recipe=FAMILIES["mask_rcnn_c4"])), r18, seed=0)
    seen: list[torch.Tensor] = []
    model.roi_heads.mask_head.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    torch.nn.init.constant_(model.roi_heads.res5.norm.weight, 0.0)
    torch.nn.init.constant_(model.roi_heads.res5.norm.bias, 3.0)
    model.eval()
    model([{"image": torch.zeros(3, 64, 64)}])
    assert len(seen[0]) > 0
    assert bool((seen[0] == 3.0).all())


def test_without_extra_norm_the_head_has_none(make_job: Callable[..., DetectionJob], r18: Backbone) -> None:
    job = make_job(recipe=dataclasses.replace(TINY_C4, extra_norm=False))
    model, _ = build_verified_model(build_cfg(job), r18, seed=0)
    assert not hasattr(model.roi_heads.res5, "norm")
    assert len(model.roi_heads.res5) == 2


@pytest.fixture
def built(make_job: Callable[..., DetectionJob], r18: Backbone) -> tuple[Any, Path]:
    job = make_job(recipe=TINY_C4)
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


@pytest.mark.parametrize("kind", ["retinanet", "fcos"])
def test_one_perturbed_tensor_below_the_pyramid_is_refused(
    kind: str, make_job: Callable[..., DetectionJob], r18: Backbone
) -> None:
    """These two take nothing from res2, which is inside all the same."""
    model, _ = build_verified_model(build_cfg(make_job(recipe=FAMILIES[kind])), r18, seed=0)
    model.state_dict()["backbone.bottom_up.res2.1.conv2.weight"].view(-1)[0] += 1e-3
    with pytest.raises(EngineError, match="nothing was trained"):
        verify_model(model, r18)


def test_swapped_channel_order_is_refused(built: tuple[Any, Path], r18: Backbone) -> None:
    model, _ = built
    model.input_format = "BGR"
    with pytest.raises(EngineError, match="something else than the reference network"):
        verify_model(model, r18)


def test_wrong_normalisation_is_refused(built: tuple[Any, Path], r18: Backbone) -> None:
    model, _ = built
    model.pixel_std.fill_(1.0)
    with pytest.raises(EngineError, match="something else than the reference network"):
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


def as_run_lengths(mask: Mask) -> Mask:
    return Mask.from_pixels(mask.pixels())


@pytest.mark.parametrize("as_pixels", [0, 1, 2])
def test_masks_move_with_pixels_and_boxes(as_pixels: int, make_job: Callable[..., DetectionJob]) -> None:
    """All polygons, one of two objects as run lengths, both so."""
    first = make_job().train.images[0]
    assert first.masks is not None
    masks = tuple(as_run_lengths(mask) if i < as_pixels else mask for i, mask in enumerate(first.masks))
    dataset = DetectionDataset("one", ("red", "other"), (dataclasses.replace(first, masks=masks),))
    before = dataset.fingerprint()["sha256"]
    recipe = dataclasses.replace(FAMILIES["mask_rcnn"], train_sizes=(128,), max_size=1000, flip=1.0)
    cfg = build_cfg(make_job(recipe=recipe, train=dataset))
    assert mask_format(dataset) == cfg.INPUT.MASK_FORMAT == ("bitmask" if as_pixels else "polygon")
    mapper = TrainMapper(cfg, flip=1.0)
    for _ in range(2):  # Detectron2's transforms work in place: nothing of that may reach the data set
        item = mapper(dataset.images[0])
    assert isinstance(item, dict)
    assert dataset.fingerprint()["sha256"] == before
    boxes = item["instances"].gt_boxes.tensor
    drawn = item["instances"].gt_masks.crop_and_resize(boxes, 28)
    assert drawn.shape == (2, 28, 28)
    assert drawn[0].float().mean() > 0.98  # the rectangle fills its box
    assert drawn[1].float().mean() == pytest.approx(0.5, abs=0.06)  # the triangle half of it
    # Its corner at the bottom left of the box was at the bottom right before the flip.
    assert bool(drawn[1][24, 1])
    assert not bool(drawn[1][24, 26])


def test_masks_are_not_read_by_detectors_without(make_job: Callable[..., DetectionJob]) -> None:
    job = make_job()
    item = TrainMapper(build_cfg(job), job.recipe.flip)(job.train.images[0])
    assert isinstance(item, dict)
    assert not item["instances"].has("gt_masks")


def test_a_mask_rcnn_wants_masks(make_job: Callable[..., DetectionJob], images: DetectionDataset) -> None:
    bare = dataclasses.replace(images, images=tuple(dataclasses.replace(one, masks=None) for one in images.images))
    with pytest.raises(EngineError, match="trained on masks"):
        ENGINE.run(make_job(recipe=FAMILIES["mask_rcnn"], train=bare))


@pytest.mark.parametrize(("flip", "expected"), [(0.0, []), (0.5, [0.5]), (0.2, [0.2])])
def test_flip_probability(flip: float, expected: list[float], make_job: Callable[..., DetectionJob]) -> None:
    job = make_job(recipe=dataclasses.replace(TINY, flip=flip))
    augmentations = train_augmentations(build_cfg(job), flip)
    assert [aug.prob for aug in augmentations if type(aug).__name__ == "RandomFlip"] == expected


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
        path.write_text("<html>not found</html>", encoding="utf-8")
    width = 91 if damage == "other size" else 90
    dataset = DetectionDataset("bad", ("red",), (one_image(path, width, 60),))
    job = make_job(recipe=dataclasses.replace(TINY, batch=1), train=dataset, workers=workers)
    with pytest.raises(DataError, match=r"bad\.jpg") as caught:
        next(iter(Detectron2Detector(job).batches(0, 0, 1)))
    assert "Traceback" not in str(caught.value)
