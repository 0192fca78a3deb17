"""A recipe in MMDetection means what it means in Detectron2, and images reach the model as both need them."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from mmdet_toy import BACKBONE, CLASSES, FAMILIES, TINY, TINY_C4, annotated, detector, toy_dataset
from PIL import Image

from detection.engines.differences import differences
from detection.engines.mmdet import data
from detection.engines.mmdet.config import build_config
from detection.engines.mmdet.masks import mask_format
from transfer.datasets.boxes.masks import Mask
from transfer.runtime.errors import DataError, EngineError

# -- the meaning of a recipe


def corners(size, ratio, x, y):
    width = math.sqrt(size * size / ratio)
    return [x - width / 2, y - width * ratio / 2, x + width / 2, y + width * ratio / 2]


@pytest.mark.parametrize(
    ("recipe", "strides", "sizes"),
    [
        (TINY_C4, [16], [(32, 64, 128, 256, 512)]),
        (TINY, [4, 8, 16, 32, 64], [(32,), (64,), (128,), (256,), (512,)]),
    ],
)
def test_anchors_are_detectron2s(recipe, strides, sizes):
    """Area size², height/width = ratio, centred on the upper left corner of each cell (OFFSET 0)."""
    shapes = [(2, 3)] * len(strides)
    levels = detector(recipe).rpn_head.prior_generator.grid_priors(shapes, device="cpu")
    for anchors, stride, level_sizes in zip(levels, strides, sizes, strict=True):
        cells = itertools.product(range(2), range(3), level_sizes, (0.5, 1.0, 2.0))
        expected = sorted(corners(size, ratio, stride * j, stride * i) for i, j, size, ratio in cells)
        np.testing.assert_allclose(sorted(anchors.tolist()), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("recipe", "frozen"),
    [
        (replace(TINY, freeze_at=0), ()),
        (replace(TINY, freeze_at=1), ("conv1", "bn1")),
        (replace(TINY, freeze_at=2), ("conv1", "bn1", "layer1")),
        (replace(TINY, freeze_at=3), ("conv1", "bn1", "layer1", "layer2")),
        # Detectron2 freezes stages of the backbone only, and with C4 res5 is none.
        (replace(TINY_C4, freeze_at=5), ("conv1", "bn1", "layer1", "layer2", "layer3")),
    ],
)
def test_freeze_at_counts_as_in_detectron2(recipe, frozen):
    model = detector(recipe).train()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, _ in model.backbone.named_parameters():
        assert (f"backbone.{name}" in trained) == (name.split(".")[0] not in frozen), name
    for name, module in model.backbone.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.training == (name.split(".")[0] not in frozen), name
    if recipe.neck == "c4":
        assert {name for name, _ in model.roi_head.named_parameters(prefix="roi_head")} <= trained


def test_frozen_bn_neither_trains_nor_averages():
    model = detector(replace(TINY_C4, norm="FrozenBN")).train()
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(norms) == 20 + 1  # the extra norm too
    assert not any(norm.training or norm.weight.requires_grad or norm.bias.requires_grad for norm in norms)
    assert model.backbone.conv1.weight.requires_grad


def test_learning_rate_follows_detectron2s_schedule():
    from mmengine.registry import PARAM_SCHEDULERS

    recipe = replace(TINY, lr=0.02, warmup_iterations=5, warmup_factor=0.001, steps=(8, 11), gamma=0.1)
    config = build_config(recipe, BACKBONE, CLASSES)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.BatchNorm2d(1))
    optimizer = build_optimizer(config, model)
    schedulers = [
        PARAM_SCHEDULERS.build(entry, default_args={"optimizer": optimizer}) for entry in config.param_scheduler
    ]
    rates = []
    for _ in range(14):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    ramp = [0.02 * (0.001 + 0.999 * i / 5) for i in range(5)]
    np.testing.assert_allclose(rates, ramp + [0.02] * 3 + [0.002] * 3 + [0.0002] * 3, rtol=1e-9)


def build_optimizer(config, model):
    from mmengine.optim import build_optim_wrapper

    return build_optim_wrapper(model, config.optim_wrapper)


@pytest.mark.parametrize(("decay", "norm_decay"), [(1e-4, 0.0), (1e-4, 1e-4), (2e-4, 5e-5), (0.0, 0.0)])
def test_norm_layers_have_their_own_weight_decay(decay, norm_decay):
    recipe = replace(TINY, weight_decay=decay, weight_decay_norm=norm_decay)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.BatchNorm2d(1))
    groups = build_optimizer(build_config(recipe, BACKBONE, CLASSES), model).param_groups
    found = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    assert [found[id(parameter)] for parameter in model[0].parameters()] == pytest.approx([decay] * 2)
    assert [found[id(parameter)] for parameter in model[1].parameters()] == pytest.approx([norm_decay] * 2)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"anchor_sizes": (32, 64)}, "one anchor size"),
        ({"weight_decay": 0.0, "weight_decay_norm": 1e-4}, "weight decay"),
        ({"warmup_factor": 0.0}, "warm-up"),
    ],
)
def test_what_mmdet_cannot_express_is_refused(change, word):
    with pytest.raises(EngineError) as caught:
        build_config(replace(TINY, **change), BACKBONE, CLASSES)
    assert word in str(caught.value)


def test_a_pyramid_that_group_norms_cannot_divide_is_refused():
    with pytest.raises(EngineError, match="multiple of 32"):
        build_config(replace(FAMILIES["fcos fpn"], fpn_channels=48), BACKBONE, CLASSES)


def test_differences_are_those_of_the_family():
    def said(name):
        return " ".join(what for what, _, _ in differences(FAMILIES[name], "mmdet", 1))

    assert "foreground" not in said("faster_rcnn c4")
    assert "mask targets" in said("mask_rcnn fpn")
    assert "foreground" in said("retinanet fpn")
    assert "centreness" in " ".join(differences(FAMILIES["fcos fpn"], "mmdet", 1)[-1])
    assert "anchor" not in said("fcos fpn")


# -- data


@pytest.mark.parametrize(
    ("width", "height", "short", "longest", "expected"),
    [
        (500, 375, 800, 1333, (1067, 800)),
        (500, 333, 800, 1333, (1201, 800)),
        (100, 400, 200, 300, (75, 300)),  # the longer side decides
        (100, 400, 500, 300, (75, 300)),  # and always does when the shorter one is asked to be longer
        (96, 64, 64, 100, (96, 64)),
    ],
)
def test_images_are_resized_by_their_shorter_side(tmp_path, width, height, short, longest, expected):
    path = tmp_path / "image.png"
    Image.new("RGB", (width, height)).save(path)
    image = annotated(path, 1, width, height, [(0, 0, width, height)], [0])
    sample = data.test_pipeline(replace(TINY, test_size=short, max_size=longest))(image)
    assert tuple(sample["inputs"].shape) == (3, expected[1], expected[0])
    np.testing.assert_allclose(sample["data_samples"].gt_instances.bboxes[0], (0, 0, *expected), rtol=1e-6)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_boxes_follow_the_pixels(dataset, flip):
    """Red rectangles on black: after resizing and flipping the box must hold the red pixels and nothing else."""
    load = data.training_pipeline(replace(TINY, flip=flip, train_sizes=(128,), max_size=400))
    sample = load(dataset.images[0])
    (x1, y1, x2, y2), *_ = sample["data_samples"].gt_instances.bboxes.round().int().tolist()
    blue, green, red = sample["inputs"].float()
    inside = red[y1:y2, x1:x2]
    assert inside[2:-2, 2:-2].mean() == 255
    assert red.sum() - inside.sum() < 0.05 * inside.sum()  # what the filter smears over the edge
    assert blue.max() == green.max() == 0
    assert sample["data_samples"].flip == bool(flip)


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("runs", [False, True])
def test_masks_follow_their_boxes(tmp_path, flip, runs):
    """Of rectangles: polygons have the box's corners, bit masks its pixels, whatever form they came in."""
    images = toy_dataset(tmp_path, runs)
    kind = mask_format(images)
    assert kind == ("bitmask" if runs else "polygon")
    load = data.training_pipeline(replace(TINY, flip=flip, train_sizes=(128,), max_size=400), kind)
    objects = load(images.images[1])["data_samples"].gt_instances
    assert len(objects.masks) == len(objects.bboxes) == 2
    for index, box in enumerate(objects.bboxes.numpy()):
        if runs:
            rows, columns = np.nonzero(objects.masks.masks[index])
            found = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            np.testing.assert_allclose(found, box, atol=1)
            assert len(rows) == pytest.approx((box[2:] - box[:2]).prod(), rel=0.1)
        else:
            points = objects.masks.masks[index][0].reshape(-1, 2)
            np.testing.assert_allclose([*points.min(0), *points.max(0)], box, rtol=1e-6)


def test_objects_that_resizing_has_left_no_pixel_are_dropped(tmp_path):
    (image,) = toy_dataset(tmp_path).images[:1]
    empty = Mask(image.height, image.width, counts=Mask.from_pixels(np.zeros((image.height, image.width), bool)).counts)
    twice = {
        name: np.concatenate([getattr(image, name)] * 2) for name in ("boxes", "labels", "difficult", "crowd", "areas")
    }
    image = replace(image, **twice, masks=(*image.masks, empty))
    objects = data.training_pipeline(TINY, "bitmask")(image)["data_samples"].gt_instances
    assert len(objects.bboxes) == len(objects.labels) == len(objects.masks) == 1
    without = replace(image, boxes=np.array([[5, 5, 5, 30], [5, 5, 20, 30]], np.float32))
    assert len(data.training_pipeline(TINY)(without)["data_samples"].gt_instances.bboxes) == 1


def broken_file(path):
    path.write_bytes(b"<html>not found</html>")


def cut_file(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])


def other_size(path):
    Image.new("RGB", (64, 65)).save(path)


@pytest.mark.parametrize("make", [broken_file, cut_file, other_size, lambda path: None])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_unusable_images_are_errors_that_name_the_file(tmp_path, make, suffix):
    path = tmp_path / f"image{suffix}"
    make(path)
    with pytest.raises(DataError, match=f"image{suffix}"):
        data.read_pixels(annotated(path, 1, 64, 64, [], []))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_loading_process_stays_readable(tmp_path, workers):
    loader = data.test_loader([annotated(tmp_path / "gone.jpg", 1, 64, 64, [], [])], TINY, workers)
    with pytest.raises(DataError) as caught:
        next(data.deliver(loader))
    assert caught.value.what == f"cannot read the image {tmp_path / 'gone.jpg'}"
    assert "Traceback" not in str(caught.value)
