"""Deep, wide, grouped and Caffe-strided ResNets arrive in both engines and compute there what torchvision computes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from detection.engines.choose import choose_engine, load_engine
from detection.engines.detector import DetectionJob
from detection.recipe import DetectorRecipe, FasterRcnnC4, FasterRcnnFPN
from transfer.checkpoints.backbone import Backbone, random_backbone
from transfer.checkpoints.families.resnet import ARCHITECTURES, architecture, expected_shapes, is_optional
from transfer.checkpoints.verify import Verification
from transfer.datasets.boxes.detection import DetectionDataset
from transfer.runtime.errors import EngineError, UserError

ENGINES = ("detectron2", "mmdet")
CLASSES = ("red", "green")
QUICK = (("resnet50", True),)
SLOW = tuple((arch, False) for arch in ARCHITECTURES if arch not in ("resnet50w4", "resnet50w5"))
# A deeper network has more of the same blocks: with a pyramid too those of one depth are tried.
DEEP = tuple((arch, False) for arch, _ in SLOW if "101" in arch or "152" in arch)
NECKS = [("c4", *each) for each in SLOW] + [("fpn", *each) for each in SLOW if each not in DEEP]


def built(engine: str, backbone: Backbone, recipe: DetectorRecipe, folder: Path) -> Verification:
    if engine == "detectron2":
        pytest.importorskip("detectron2")
        from detectron2_toy import build_verified_model

        from detection.engines.detectron2.config import build_cfg

        images = DetectionDataset("none", CLASSES, ())
        job = DetectionJob(backbone, recipe, images, images, seed=0, workdir=folder)
        return build_verified_model(build_cfg(job), backbone, seed=0)[1]
    from detection.engines.mmdet.config import build_config
    from detection.engines.mmdet.model import build_detector, verify_detector

    return verify_detector(build_detector(build_config(recipe, backbone, CLASSES), backbone, 0), backbone)


def check(engine: str, arch: str, stride_in_1x1: bool, neck: str, folder: Path) -> None:
    if load_engine(engine).missing():
        pytest.skip(f"{engine}: {load_engine(engine).missing()}")
    if load_engine(engine).cannot_build(arch):
        pytest.skip(f"{engine} says that it cannot build {arch}")
    backbone = dataclasses.replace(random_backbone(arch, 3), stride_in_1x1=stride_in_1x1)
    resolution = 14 if neck == "c4" else 7
    recipe = (FasterRcnnC4 if neck == "c4" else FasterRcnnFPN)(norm="BN", roi_resolution=resolution)
    verification = built(engine, backbone, recipe, folder)
    tensors = sum(not is_optional(name) for name in expected_shapes(arch))
    assert verification.tensors == verification.expected == tensors
    assert max(verification.stage_error.values()) < 1e-4
    if neck == "c4":
        assert len(verification.by_part) == 2


@pytest.mark.slow
@pytest.mark.parametrize("neck", ["c4", "fpn"])
@pytest.mark.parametrize(("arch", "stride_in_1x1"), QUICK)
@pytest.mark.parametrize("engine", ENGINES)
def test_every_tensor_arrives(engine, arch, stride_in_1x1, neck, tmp_path):
    check(engine, arch, stride_in_1x1, neck, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("neck", "arch", "stride_in_1x1"), NECKS)
@pytest.mark.parametrize("engine", ENGINES)
def test_every_tensor_arrives_in_every_architecture(engine, arch, stride_in_1x1, neck, tmp_path):
    check(engine, arch, stride_in_1x1, neck, tmp_path)


@pytest.mark.parametrize("arch", ["wide_resnet50_2", "wide_resnet101_2"])
def test_what_mmdet_cannot_build_is_said_with_the_engine_that_can(arch):
    with pytest.raises(EngineError, match=f"cannot build a {arch}") as caught:
        choose_engine("mmdet", ENGINES, {arch})
    assert "detectron2" in caught.value.todo
    assert [name for name in ARCHITECTURES if load_engine("mmdet").cannot_build(name)] == [
        "wide_resnet50_2",
        "wide_resnet101_2",
    ]


def test_auto_passes_over_an_engine_that_cannot_build_the_backbone():
    if load_engine("detectron2").missing():
        with pytest.raises(UserError, match="no engine of this task"):
            choose_engine("auto", ("mmdet", "detectron2"), {"wide_resnet50_2"})
    else:
        name, why = choose_engine("auto", ("mmdet", "detectron2"), {"wide_resnet50_2"})
        assert name == "detectron2"
        assert "wide_resnet50_2" in why


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_parameters_say_what_the_name_says(arch):
    known, shapes = architecture(arch), expected_shapes(arch)
    assert shapes["conv1.weight"][0] == 64 * known.width
    blocks = {name.split(".")[1] for name in shapes if name.startswith("layer3.")}
    assert len(blocks) == known.layers[2]
