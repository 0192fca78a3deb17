"""How much work a run is, against counts by hand and against what runs do."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detection.task import DetectionTask
from transfer.checkpoints.families.resnet import build_resnet
from transfer.classification.sgd.data import Deal, Order
from transfer.classification.sgd.recipe import SgdRecipe
from transfer.task import load_task, task_names

RESNET50 = 4.0871  # 10⁹ multiply–accumulates at 224 pixels, as torchvision's page of the model has it: 4.09
IMAGENET = {"train": 1_281_167, "test": 50_000}


def work(name: str, images: dict[str, int], protocol: str = "", arch: str = "resnet50", **changes: object) -> float:
    task = load_task(name)
    recipe = task.protocols[protocol or next(iter(task.protocols))]
    found = task.work(dataclasses.replace(recipe, **changes), images, arch)
    assert found is not None
    return found


BY_HAND = {
    # features of every image once
    "transfer.knn": (IMAGENET, "dino", 1_331_167),
    "finegrained.pets_linear": ({"train": 3_680, "test": 3_669}, "", 7_349),
    "transfer.voc07_svm": ({"train": 5_011, "test": 4_952}, "vissl", 9_963),
    # 100 epochs of crops, forward only, and the test images once
    "transfer.imagenet_linear": (IMAGENET, "vicreg", 100 * 1_281_167 + 50_000),
    # 105 epochs, forward and backward
    "transfer.imagenet_finetune": (IMAGENET, "vissl", 3 * 105 * 1_281_167 + 50_000),
    # 20 pairs of rate and decay and a last training, 5,000 steps each of batches of 64
    "finegrained.pets_finetune": (
        {"train": 2_944, "val": 736, "test": 3_669},  # 46 batches an epoch, the last of 64 too
        "",
        20 * (3 * 5_000 * 64 + 736) + 3 * (86 * 3_680 + 12 * 64) + 3_669,  # 3,680 are 58 batches: 86 epochs, 12 steps
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_work_is_passes_times_the_cost_of_one(name):
    images, protocol, passes = BY_HAND[name]
    assert work(name, images, protocol) == pytest.approx(passes * RESNET50, rel=1e-3)


def test_a_search_without_a_validation_split_holds_out_a_part():
    images = {"train": 1_000, "test": 100}
    # 1 % is held out; 990 are trained on for 100 epochs; 10 are looked at to choose
    assert work("transfer.imagenet_linear", images) == pytest.approx((99_000 + 10 + 100) * RESNET50, rel=1e-3)
    cached = work("transfer.imagenet_linear", images, form="cached")
    assert cached == pytest.approx(1_100 * RESNET50, rel=1e-3)


def test_side_by_side_poolings_look_at_the_test_images_once_each():
    one, two = (work("finegrained.inat18_linear", {"train": 100, "test": n}) for n in (10, 20))
    assert two - one == pytest.approx(2 * 10 * RESNET50, rel=1e-3)


def test_neighbours_need_no_validation_images():
    with_val = IMAGENET | {"val": 1_000_000}
    assert work("transfer.knn", with_val) == work("transfer.knn", IMAGENET)
    assert work("transfer.voc07_svm", with_val) > work("transfer.voc07_svm", IMAGENET)


def test_work_grows_with_the_backbone():
    by_arch = [work("transfer.knn", IMAGENET, arch=arch) for arch in ("resnet18", "resnet50", "resnet50w2")]
    assert by_arch == sorted(by_arch)


@pytest.mark.parametrize("name", ["detection.voc", "detection.coco_fcos", "segmentation.coco_fpn"])
def test_every_protocol_and_preset_of_a_detector_is_some_work(name):
    task = load_task(name)
    for recipe in (*task.protocols.values(), *(recipe for _, recipe in task.presets.values())):
        alone, tested = (task.work(recipe, images, "resnet50") for images in ({}, {"train": 9, "test": 100}))
        assert alone is not None
        assert alone > 0
        assert alone < tested or recipe.overfit  # which predicts on its own images, however many the set has


def test_every_task_knows_its_work():
    images = {"train": 1_000, "val": 100, "test": 100}
    for name in task_names():
        task = load_task(name)
        arch = task.usual if isinstance(task, DetectionTask) else "resnet50"
        assert all((task.work(recipe, images, arch) or 0) > 0 for recipe in task.protocols.values()), name


def test_work_of_a_detector_is_its_iterations_and_what_it_looks_at():
    task = load_task("detection.voc")
    recipe = task.protocols["moco"]

    def of(test: int = 0, **changes: object) -> float:
        changed = dataclasses.replace(recipe, detector=dataclasses.replace(recipe.detector, **changes))
        return task.work(changed, {"test": test}, "resnet50")

    # 24,000 iterations with a backward pass, 200 of PreciseBN without
    assert of() / of(precise_bn=0) == pytest.approx((3 * 24_000 + 200) / (3 * 24_000))
    assert of(iterations=48_000, precise_bn=0) == pytest.approx(2 * of(precise_bn=0))
    assert of(iterations=0) == 0
    assert of(100, iterations=0) > 0
    looked = of(100) - of()
    # for the curve after 10,000 and 20,000 iterations, and in the end
    assert of(100, precise_bn=0, evaluate_every=10_000) - of(precise_bn=0) == pytest.approx(3 * looked)
    # and not after the last one, which is looked at anyway
    assert of(100, precise_bn=0, evaluate_every=12_000) - of(precise_bn=0) == pytest.approx(2 * looked)
    # a ResNet-50 sees 800 × 1067 pixels up to res4, and res5 1,000 regions: by hand, in 10⁹
    model = build_resnet("resnet50").eval()
    counted = {"trunk": 0, "res5": 0}

    def hook(place):
        def count(module, _, output):
            kernel = module.kernel_size[0] * module.kernel_size[1] * module.in_channels
            counted[place] += kernel * output[0].numel()

        return count

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(hook("res5" if name.startswith("layer4") else "trunk"))
    with torch.no_grad():
        model(torch.zeros(1, 3, 224, 224))
    expected = counted["trunk"] / 1e9 * (800 * 800 * 4 / 3) / 224**2 + 1_000 * counted["res5"] / 1e9
    assert looked / 100 == pytest.approx(expected, rel=1e-6)


@given(
    images=st.integers(1, 40), batch=st.integers(1, 12), epochs=st.integers(0, 5), steps=st.integers(1, 30)
)  # fmt: skip
def test_crops_of_a_training_are_those_that_it_deals_out(images, batch, epochs, steps):
    recipe = SgdRecipe(
        epochs=epochs, steps=0 if epochs else steps, batch=batch, momentum=0.9, schedule="cosine", lr=1, weight_decay=0,
        smallest=0.1, crop=32, resize=32,
    )  # fmt: skip
    order = Order(images, batch, 0, 0, recipe.total_steps(images), Deal(1, 1, range(1)))
    assert recipe.images_seen(images) == sum(map(len, order))
