"""The MMDetection engine: verified weights, training that resumes bit for bit, predictions."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet_toy import BACKBONE, CLASSES, ENGINE, TINY, TINY_C4, detector, job_of

from detection.engines import mmdet as engine_module
from detection.engines.checkpoint import CHECKPOINT_FILE, Training, digest
from detection.engines.mmdet import data
from detection.engines.mmdet import model as model_module
from detection.engines.mmdet.config import build_config
from detection.engines.mmdet.detector import MMDetector
from detection.engines.mmdet.model import build_detector, verify_detector
from detection.engines.progress import TrainingLog
from detection.engines.run import predict, renew_statistics, train
from transfer.checkpoints.backbone import random_backbone
from transfer.runtime.errors import EngineError, TrainingError
from transfer.runtime.world import ALONE, World

# -- the engine as a name


@pytest.mark.slow
def test_importing_the_engine_imports_nothing_of_openmmlab():
    code = (
        "import sys, detection.engines.mmdet\n"
        "loaded = {name.split('.')[0] for name in sys.modules} & {'mmdet', 'mmcv', 'mmengine'}\n"
        "sys.exit(str(loaded) if loaded else 0)"
    )
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


@pytest.mark.parametrize(
    ("message", "hint"),
    [("libGL.so.1: cannot open shared object file", "opencv-python-headless"), ("No module named 'x'", "make setup")],
)
def test_what_is_missing_is_said_in_one_sentence(monkeypatch, message, hint):
    def fail(module):
        raise ImportError(message)

    assert ENGINE.missing() is None
    monkeypatch.setattr(engine_module, "_import_quietly", fail)
    sentence = ENGINE.missing()
    assert hint in sentence
    assert message in sentence


def test_versions_name_the_kernels():
    versions = ENGINE.versions()
    assert {"mmdet", "mmcv", "mmengine", "torch", "torchvision"} <= set(versions)
    assert versions["mmcv kernels"]


# -- weights


@pytest.mark.parametrize(
    ("arch", "recipe", "parts"),
    [
        ("resnet18", TINY, {"backbone": 100}),
        pytest.param(
            *("resnet34", replace(TINY_C4, extra_norm=False), {"backbone": 145, "roi_head.shared_head": 35}),
            marks=pytest.mark.slow,
        ),
        ("resnet18", replace(TINY_C4, norm="FrozenBN"), {"backbone": 75, "roi_head.shared_head": 25}),
        # 265 tensors: stem and three stages 215, the last stage 50.
        ("resnet50", TINY_C4, {"backbone": 215, "roi_head.shared_head": 50}),
    ],
)
def test_every_tensor_arrives_and_computes_what_torchvision_computes(arch, recipe, parts):
    backbone = random_backbone(arch, 4)
    verification = verify_detector(detector(recipe, backbone), backbone)
    assert verification.by_part == parts
    assert verification.tensors == verification.expected == sum(parts.values())
    assert max(verification.stage_error.values()) < 1e-4


@pytest.mark.parametrize("recipe", [TINY, TINY_C4])
def test_a_changed_tensor_is_refused_by_name(recipe):
    model = detector(recipe)
    owner = model.roi_head.shared_head if recipe.neck == "c4" else model.backbone
    with torch.no_grad():
        owner.layer4[1].conv2.weight[0, 0, 0, 0] += 1e-3
    with pytest.raises(EngineError, match="did not take over") as caught:
        verify_detector(model, BACKBONE)
    assert "layer4.1.conv2.weight" in str(caught.value)


def test_a_renamed_tensor_is_refused_by_name():
    model = detector(TINY)
    block = model.backbone.layer2[0]
    block.another = block.conv1
    del block.conv1
    with pytest.raises(EngineError, match="did not take over") as caught:
        verify_detector(model, BACKBONE)
    assert "absent: layer2.0.conv1.weight" in str(caught.value)


def test_swapped_channels_are_refused():
    config = build_config(TINY, BACKBONE, CLASSES)
    config.model.data_preprocessor.bgr_to_rgb = False
    with pytest.raises(EngineError, match="something else than the reference network"):
        verify_detector(build_detector(config, BACKBONE, 0), BACKBONE)


def test_a_wrong_stride_is_refused():
    backbone = random_backbone("resnet50", 0)
    config = build_config(TINY, backbone, CLASSES)
    config.model.backbone.style = "caffe"
    with pytest.raises(EngineError, match="something else than the reference network"):
        verify_detector(build_detector(config, backbone, 0), backbone)


def test_nothing_is_trained_with_weights_that_did_not_arrive(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(model_module, "load_backbone", lambda model, backbone: None)
    with pytest.raises(EngineError, match="nothing was trained"):
        ENGINE.run(job_of(dataset, tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_runner_does_not_initialise_the_weights_again(dataset, tmp_path):
    recipe = replace(TINY, iterations=1, steps=(), lr=1e-12, precise_bn=0)
    detector = MMDetector(job_of(dataset, tmp_path, recipe))
    train(detector)
    for name, parameter in detector.model.backbone.named_parameters():
        torch.testing.assert_close(parameter, BACKBONE.state[name], rtol=0, atol=1e-7)


# -- runs


def checkpoint_of(job):
    return torch.load((job.workdir / CHECKPOINT_FILE), weights_only=True)


def assert_equal_states(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def assert_equal_detections(one, other):
    for name in ("image_ids", "labels", "boxes", "scores"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


class Interrupted(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [
        replace(TINY, iterations=4, steps=(3,), precise_bn=1),
        pytest.param(replace(TINY_C4, iterations=4, batch=1), marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(dataset, tmp_path, monkeypatch, recipe):
    whole, parted = (job_of(dataset, tmp_path / name, recipe) for name in ("whole", "parted"))
    expected = ENGINE.run(whole)
    step = TrainingLog.step

    def interrupt(log, iteration, lr, losses):
        if iteration == recipe.iterations - 1:  # one iteration after the last checkpoint
            raise Interrupted
        step(log, iteration, lr, losses)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLog, "step", interrupt)
        with pytest.raises(Interrupted):
            ENGINE.run(parted)
    assert checkpoint_of(parted)["iteration"] == recipe.iterations - 2
    read = []
    original = data.read_pixels
    monkeypatch.setattr(data, "read_pixels", lambda image, order: read.append(image) or original(image, order))
    resumed = ENGINE.run(parted)
    # Two iterations, PreciseBN, prediction: nothing of what was seen before the interruption is read again.
    assert len(read) == (2 + recipe.precise_bn) * recipe.batch + len(dataset)
    assert checkpoint_of(parted)["iteration"] == recipe.iterations
    assert_equal_states(checkpoint_of(parted)["model"], checkpoint_of(whole)["model"])
    assert_equal_detections(resumed.detections, expected.detections)
    again = ENGINE.run(parted)  # a finished training is not done again
    assert_equal_detections(again.detections, expected.detections)


@pytest.mark.slow
def test_loss_components_add_up_and_accuracy_is_none_of_them(dataset, tmp_path):
    job = job_of(dataset, tmp_path, replace(TINY, iterations=1, steps=(), precise_bn=0))
    ENGINE.run(job)
    (row,) = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    parts = {"loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox"}
    assert set(row) == parts | {"step", "lr", "loss", "seconds"}
    assert row["loss"] == pytest.approx(sum(row[part] for part in parts))
    assert row["lr"] == pytest.approx(0.01 * 1e-3)


def damage(path):
    path.write_bytes(path.read_bytes()[:5000])


def of_another_program(path):
    torch.save({"state_dict": {}}, path)


@pytest.mark.parametrize(("spoil", "word"), [(damage, "damaged"), (of_another_program, "not written by")])
def test_a_bad_checkpoint_stops_the_run_and_says_what_to_do(dataset, tmp_path, spoil, word):
    job = job_of(dataset, tmp_path)
    Training.of(MMDetector(job)).save(tmp_path / CHECKPOINT_FILE, 2)
    spoil(job.workdir / CHECKPOINT_FILE)
    with pytest.raises(TrainingError, match=word) as caught:
        ENGINE.run(job)
    assert "checkpoint.pth" in str(caught.value)
    assert "delete" in caught.value.todo


@pytest.mark.parametrize("change", [{"seed": 4}, {"recipe": replace(TINY, lr=0.02)}, {"world": World(0, 2)}])
def test_a_checkpoint_of_another_run_is_refused(dataset, tmp_path, change):
    job, other = job_of(dataset, tmp_path), job_of(dataset, tmp_path, **change)
    path = tmp_path / CHECKPOINT_FILE
    Training.of(MMDetector(job)).save(path, 2)
    assert Training.of(MMDetector(job)).take_up(path, "cpu") == 2
    training = Training.of(MMDetector(replace(other, world=ALONE)))
    training.run = digest(other, "mmdet")
    with pytest.raises(TrainingError, match="not written by this run"):
        training.take_up(path, "cpu")


def test_a_training_that_began_with_other_weights_is_refused_before_its_next_step(dataset, tmp_path, monkeypatch):
    """What the file's reader makes of it may change; its sha256 does not."""
    job = job_of(dataset, tmp_path, replace(TINY, iterations=2, precise_bn=0))
    training = Training.of(MMDetector(job))
    training.proof = {"weights": "0" * 64, "device": "cpu"}
    training.save(tmp_path / CHECKPOINT_FILE, 1)
    steps = []
    monkeypatch.setattr(TrainingLog, "step", lambda *given: steps.append(given))
    with pytest.raises(TrainingError, match="other weights"):
        ENGINE.run(job)
    assert steps == []


def test_opencv_keeps_to_its_thread(dataset, tmp_path):
    import cv2

    cv2.setNumThreads(2)
    ENGINE.build(job_of(dataset, tmp_path))
    assert cv2.getNumThreads() == 1


@pytest.mark.slow
def test_a_diverging_loss_stops_the_run(dataset, tmp_path):
    with pytest.raises(TrainingError, match="loss is"):
        ENGINE.run(job_of(dataset, tmp_path, replace(TINY, lr=1e12, warmup_iterations=0)))


@pytest.mark.slow
def test_an_untrained_detector_predicts_on_the_checkpoints_statistics(dataset, tmp_path):
    recipe = replace(TINY, iterations=0, score_threshold=0.0, max_detections=7)
    job = job_of(dataset, tmp_path, recipe)
    outcome = ENGINE.run(job)
    found = outcome.detections
    assert not (tmp_path / "metrics.jsonl").exists()
    assert len(found) == 7 * len(dataset)
    assert found.boxes.dtype == found.scores.dtype == np.float32
    assert set(found.labels.tolist()) <= {0, 1}
    assert set(found.image_ids.tolist()) == {1, 2, 3, 4, 5}
    sizes = {image.image_id: (image.width, image.height) for image in dataset.images}
    limits = np.array([sizes[number] for number in found.image_ids.tolist()])
    assert (found.boxes >= 0).all()
    assert (found.boxes[:, 2:] <= limits).all()
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
    # The same detector once more, in the same process, from the same seed.
    assert_equal_detections(ENGINE.run(job).detections, found)
    built = MMDetector(job)
    model = built.model
    assert_equal_detections(predict(built), found)
    assert torch.equal(model.backbone.layer3[0].bn1.running_mean, BACKBONE.state["layer3.0.bn1.running_mean"])


@pytest.mark.slow
def test_precise_bn_replaces_the_statistics_and_nothing_else(dataset, tmp_path):
    job, states = job_of(dataset, tmp_path), []
    for _ in range(2):
        built = MMDetector(job)
        renew_statistics(built)
        states.append(built.model.state_dict())
    before = MMDetector(job).model.state_dict()
    assert_equal_states(*states)
    for name, value in before.items():
        changed = name.endswith(("running_mean", "running_var", "num_batches_tracked"))
        assert torch.equal(value, states[0][name]) != changed, name


@pytest.mark.slow
def test_a_detector_learns_red_from_green(dataset, tmp_path):
    recipe = replace(TINY, iterations=100, steps=(80,), lr=0.005, warmup_iterations=20, precise_bn=10, roi_resolution=4)
    found = ENGINE.run(job_of(dataset, tmp_path, recipe, checkpoint_every=100)).detections
    hits = 0
    for image in dataset.images:
        here = np.flatnonzero((found.image_ids == image.image_id) & (found.scores > 0.5))
        for box, label in zip(image.boxes, image.labels, strict=True):
            same = here[found.labels[here] == label]
            hits += any(np.abs(found.boxes[index] - box).max() < 6 for index in same)
    assert hits >= 5  # of 7 rectangles
