"""A checkpoint that a detector is not built on is refused before anything else is read."""

import pytest

from detection.task import DetectionTask
from transfer.cli import recipe_command, run_command
from transfer.runtime.errors import UserError
from transfer.task import load_task, task_names

DETECTORS = [name for name in task_names() if isinstance(load_task(name), DetectionTask)]
OF_VITS = [name for name in DETECTORS if "vit" in load_task(name).detector.takes]
OF_RESNETS = [name for name in DETECTORS if "resnet" in load_task(name).detector.takes]


def first_recipe(name):
    return next(iter(load_task(name).protocols.values()))


@pytest.mark.parametrize("name", OF_RESNETS)
def test_a_vision_transformer_is_refused_by_detectors_of_resnets(name):
    why = load_task(name).refusal(first_recipe(name), "vit_small_patch16_224")
    assert "not built on a vit_small_patch16_224" in why.what
    assert "resnet50" in why.found
    assert "bash detection/run_voc.sh vitdet|vit_fpn CKPT" in why.todo
    assert all(task in why.todo for task in OF_VITS)


@pytest.mark.parametrize("name", OF_VITS)
def test_a_resnet_is_refused_by_detectors_of_vision_transformers(name):
    why = load_task(name).refusal(first_recipe(name), "resnet50")
    assert "not built on a resnet50" in why.what
    assert "vit_base_patch16_224" in why.found
    assert ("patch8" in why.found) == name.endswith("vit_fpn")  # its pyramid is made for patches of 8, too
    assert "bash detection/run_voc.sh [fpn] CKPT" in why.todo
    for protocol in load_task(name).protocols:
        assert load_task(name).covers(protocol, "vit_base_patch16_224")
        assert not load_task(name).covers(protocol, "resnet50")


@pytest.mark.parametrize(("family", "arch"), [("convnext", "convnext_tiny"), ("swin", "swin_tiny_window7_224")])
def test_families_with_stages_have_detectors_of_their_own(family, arch):
    theirs = [name for name in DETECTORS if family in load_task(name).detector.takes]
    assert len(theirs) == 3
    for name in DETECTORS:
        why = load_task(name).refusal(first_recipe(name), arch)
        assert (why is None) == (name in theirs)
        assert why is None or all(task in why.todo for task in theirs)
    for name in theirs:
        assert "not built on a resnet50" in load_task(name).refusal(first_recipe(name), "resnet50").what


def test_a_vit_that_the_form_cannot_hold_is_refused_before_data_are_read(tmp_path):
    words = ["detection.voc_vitdet", "random:vit_tiny_patch16_224", "--device", "cpu", "--preset", "smoke"]
    words += ["--voc-root", str(tmp_path / "nowhere"), "--detector.global-blocks", "3", "12"]
    with pytest.raises(UserError, match="global_blocks 3 12 are not all there"):
        run_command(words)


def test_the_command_line_says_so_before_data_are_read(tmp_path):
    words = ["detection.voc", "random:vit_tiny_patch16_224", "--device", "cpu", "--voc-root", str(tmp_path / "nowhere")]
    with pytest.raises(UserError, match="not built on a vit_tiny_patch16_224"):
        run_command(words)


def test_the_recipe_for_other_hardware_says_so_too():
    with pytest.raises(UserError, match="not built on a vit_tiny_patch16_224"):
        recipe_command(["detection.voc", "--gpus", "1", "--memory", "24", "--arch", "vit_tiny_patch16_224"])
    assert "rescaled" in recipe_command(["detection.voc_vitdet", "--gpus", "1", "--memory", "24"])
