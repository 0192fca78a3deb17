"""What a published recipe becomes on other hardware: the linear rule, and what is said about the rest."""

import dataclasses
import re
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detection.recipe import FCOS, FasterRcnnC4, FasterRcnnFPN, MaskRcnnC4, RetinaNet
from detection.scaling import expectation, fitted, images_normalised, norm_differences, rescaled
from detection.task import demand_sound
from transfer.__main__ import main
from transfer.cli import _parse, recipe_command, starting_recipe
from transfer.protocol import flatten
from transfer.runtime.errors import UserError
from transfer.task import load_task, task_names

# Family of backbones → what the class of a detector of it decides
RESNETS = {"family", "neck"}
TRUNKS = {*RESNETS, "freeze_at", "precise_bn"}
DECIDED = {  # by the end of a task's name
    "vitdet": {*TRUNKS, "norm", "train_sizes", "weight_decay_positions"},
    "vit_fpn": TRUNKS,
    "convnext_fpn": {*TRUNKS, "norm", "out_indices", "weight_decay_positions"},
    "swin_fpn": {*TRUNKS, "norm", "out_indices", "layer_decay"},
}
MOCO = load_task("detection.voc").protocols["moco"].detector


def test_one_gpu_sees_as_many_images_at_an_eighth_of_the_rate():
    one = rescaled(MOCO, processes=1)
    assert (one.batch, one.lr, one.iterations, one.steps) == (2, 0.0025, 192_000, (144_000, 176_000))
    assert one.warmup_iterations == 800


def test_as_many_gpus_as_published_change_nothing():
    assert rescaled(MOCO, 8) == MOCO
    assert rescaled(MOCO, 16) == MOCO
    assert rescaled(MOCO, 1, batch=16) == MOCO


@given(st.sampled_from([1, 2, 4, 8]), st.sampled_from([None, 2, 4, 8, 16, 32]))
def test_images_seen_and_rate_per_image_are_kept(gpus, batch):
    scaled = rescaled(MOCO, gpus, batch)
    assert scaled.iterations * scaled.batch == MOCO.iterations * MOCO.batch
    assert scaled.lr / scaled.batch == pytest.approx(MOCO.lr / MOCO.batch)
    assert rescaled(scaled, 8, MOCO.batch) == MOCO  # and back


def test_a_batch_of_sixteen_on_one_gpu_normalises_as_published():
    assert images_normalised(MOCO, 8) == images_normalised(rescaled(MOCO, 1, 16), 1) == 16
    assert norm_differences(MOCO, rescaled(MOCO, 1, 16), 1) == ()
    ((_, theirs, ours),) = norm_differences(MOCO, rescaled(MOCO, 1), 1)
    assert (theirs, ours) == ("SyncBN over 16 images", "BN over 2 images")
    frozen = dataclasses.replace(MOCO, norm="FrozenBN")
    assert images_normalised(frozen, 8) == 0


def test_a_gpu_that_holds_the_batch_keeps_the_published_schedule():
    # 4.8 GB of the zoo for 2 images, 5.5 / 3.4 of it with trained norms: 62 GB for 16
    kept, why = fitted(MOCO, 1, 80.0)
    assert kept == MOCO
    assert why == (
        "the published batch of 16 at once and its schedule: "
        "about 62 GB with a resnet50, of the 80 GB of a GPU, an estimate"
    )
    smaller, why = fitted(MOCO, 1, 24.0)
    assert smaller == rescaled(MOCO, 1)
    assert "a batch of 16 would take about 62 GB with a resnet50, of the 24 GB of a GPU" in why
    assert fitted(MOCO, 4, 24.0)[0] == MOCO  # 16 GB on each
    assert fitted(MOCO, 1, None)[0] == rescaled(MOCO, 1)
    assert fitted(MOCO, 8, 1.0) == (MOCO, "")
    fcos = load_task("detection.coco_fcos").protocols["1x"].detector
    assert "never published" in fitted(fcos, 1, 80.0)[1]


def test_a_protocol_of_one_gpu_is_not_made_for_eight():
    frozen = load_task("detection.voc_fpn").protocols["ssl-transfer-frozen"].detector
    assert frozen.published_processes() == 1
    assert fitted(frozen, 1, 8.0) == (frozen, "")


def test_hours_are_those_of_the_model_zoo():
    # Mask R-CNN R50-FPN 1× with trained norms: 90,000 iterations at the zoo's 0.345 s are 8.6 hours.
    recipe = load_task("segmentation.coco_fpn").protocols["1x"].detector
    assert expectation(recipe, "resnet50", 8).hours == pytest.approx(90_000 * 0.345 / 3600, rel=1e-6)
    assert expectation(recipe, "resnet50", 8).gigabytes == pytest.approx(5.5, rel=1e-6)
    assert expectation(recipe, "resnet101", 8).hours > expectation(recipe, "resnet50", 8).hours
    assert expectation(load_task("detection.coco_fcos").protocols["1x"].detector, "resnet50", 8) is None


def test_recipe_for_one_gpu_says_what_changes_and_what_to_type():
    text = recipe_command(["detection.voc", "--gpus", "1"])
    assert "detector.lr                 0.0025  (published: 0.02)" in text
    assert "batch norm: BN over 2 images (published: SyncBN over 16 images)" in text
    assert "not measured here" in text
    text = recipe_command(["detection.voc", "--gpus", "1", "--batch", "16"])
    assert "on 1 GPU: as published" in text
    assert "TORCHRUN=1 bash detection/run_voc.sh CKPT --detector.batch 16" in text
    text = recipe_command(["segmentation.coco_fpn", "--protocol", "2x", "--gpus", "4"])
    assert "TORCHRUN=4 bash segmentation/run_coco.sh fpn CKPT --protocol 2x" in text


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_a_typed_batch_takes_rate_and_schedule_with_it(device):
    task = load_task("detection.voc")
    assert starting_recipe(task, "moco", None, device, 2, 16) == task.protocols["moco"]
    four = starting_recipe(task, "moco", None, device, 2, 4).detector
    assert (four.batch, four.lr, four.iterations, four.steps) == (4, 0.005, 96_000, (72_000, 88_000))
    small = task.presets["cpu"][1]
    assert starting_recipe(task, "moco", "cpu", device, 2, 4) == small  # a preset is taken as it is


def test_the_batch_is_read_from_the_command_line(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(
        "transfer.cli.starting_recipe", lambda *given: seen.append(given[-1]) or starting_recipe(*given)
    )
    for typed in (["--detector.batch", "4"], ["--detector.batch=8"], []):
        main(["run", "detection.voc", "random:resnet18", "--device", "cpu", "--engine", "none", *typed])
    assert seen == [4, 8, None]
    assert "no engine 'none'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["detection.voc", "--gpus", "8", "--batch", "12"], "cannot be shared by 8 GPUs"),
        (["detection.voc", "--gpus", "0"], "give 1 or more"),
        (["transfer.knn", "--gpus", "2"], "does not depend on the number of GPUs"),
        (["detection.voc", "--gpus", "1", "--arch", "vit"], "unknown architecture"),
    ],
)
def test_bad_hardware_gets_one_clear_message(arguments, message, capsys):
    assert main(["recipe", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (FasterRcnnC4, "fpn_channels"),
        (FasterRcnnFPN, "extra_norm"),
        (FasterRcnnFPN, "mask_convs"),
        (MaskRcnnC4, "mask_resolution"),
        (RetinaNet, "roi_batch"),
        (FCOS, "anchor_ratios"),
    ],
)
def test_a_detector_has_no_value_that_nothing_in_it_reads(kind, name):
    assert name not in flatten(kind())
    demand_sound(kind(), "cuda")
    with pytest.raises(TypeError):
        kind(**{name: 1})


@pytest.mark.parametrize("name", [name for name in task_names() if name.startswith(("detection.", "segmentation."))])
def test_what_a_detector_is_cannot_be_typed(name, capsys):
    task = load_task(name)
    recipe = next(iter(task.protocols.values()))
    decided = DECIDED.get(re.sub(r".+\.(voc|coco)_?", "", name), RESNETS)
    assert {entry.name for entry in dataclasses.fields(recipe.detector) if not entry.init} == decided
    with pytest.raises(SystemExit):
        _parse(name, task, recipe, ["x.pth", "--detector.family", recipe.detector.family])
    assert "Unrecognized options" in capsys.readouterr().err


def test_a_curve_of_nothing_is_refused():
    with pytest.raises(UserError, match="cannot be run") as error:
        demand_sound(dataclasses.replace(MOCO, iterations=0, steps=(), evaluate_every=5), "cuda")
    assert "evaluate_every is 5" in str(error.value)


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["--detector.neck", "fpn"], "detection.voc_fpn"),
        (["--detector.family=retinanet"], "detection.coco_retinanet"),
        (["--detector.family", "mask_rcnn"], "segmentation.coco_c4"),
    ],
)
def test_an_option_that_became_a_part_answers_with_what_to_type(typed, told, capsys):
    assert main(["run", "detection.voc", "random:resnet18", "--device", "cpu", *typed]) == 2
    said = capsys.readouterr().err
    assert typed[0].partition("=")[0] in said
    assert told in said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("flip", 3.0), ("nms", -1.0), ("score_threshold", 7.0), ("momentum", 5.0), ("gamma", -1.0)),
        *(("rpn_positive", 9.0), ("rpn_pre_nms_train", 0), ("weight_decay", float("nan")), ("anchor_ratios", ())),
        *(("lr", float("nan")), ("steps", (9, 3)), ("freeze_at", 6), ("train_sizes", (0,)), ("batch", 0)),
    ],
)
def test_values_that_mean_nothing_are_refused(name, value):
    with pytest.raises(UserError, match="cannot be run") as error:
        demand_sound(dataclasses.replace(MOCO, **{name: value}), "cuda")
    assert name in str(error.value)


@pytest.mark.parametrize("task", [name for name in task_names() if name.startswith(("detection.", "segmentation."))])
def test_protocols_and_presets_pass_their_own_checks(task):
    declared = load_task(task)
    recipes = [*declared.protocols.values(), *(recipe for _, recipe in declared.presets.values())]
    for recipe in recipes:
        backbone = SimpleNamespace(arch=declared.usual)
        declared.check(SimpleNamespace(recipe=recipe, data=None, device="cuda", backbone=backbone))


def test_a_batch_must_be_shared_equally(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError) as error:
        demand_sound(MOCO, "cuda")
    assert "a batch of 16 cannot be shared by 3 processes" in str(error.value)
