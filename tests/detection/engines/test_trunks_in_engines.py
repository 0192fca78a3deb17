"""Trunks in each engine: verified, refused when damaged, resumed bit for bit, their notes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from trunk_toy import ARCH, COUNTS, RECIPES, TINY, trunk_job, untrained

from detection.engines.checkpoint import CHECKPOINT_FILE
from detection.engines.choose import load_engine
from detection.engines.progress import TrainingLog
from detection.engines.run import prove
from detection.engines.trunk import PLACE
from transfer.runtime.errors import EngineError

SLOW = pytest.mark.slow
BOXES = [name for name in RECIPES if "masks" not in name]
MASKS = [name for name in RECIPES if "masks" in name]
DAMAGED = {
    "vitdet": "blocks.2.mlp.fc1.weight",
    "vit": "network.cls_token",
    "convnext": "network.stages.2.blocks.3.conv_dw.weight",
    "swin": "network.layers.2.blocks.1.attn.relative_position_bias_table",
}
ENGINES = ("mmdet", pytest.param("detectron2", marks=pytest.mark.detectron2))


@pytest.fixture
def engine(request):
    if request.param == "detectron2":
        pytest.importorskip("detectron2")
    return load_engine(request.param)


def of_engines(*more):
    return pytest.mark.parametrize("engine", [*ENGINES, *more], indirect=True)


@of_engines()
@pytest.mark.parametrize("form", BOXES)
def test_every_tensor_arrives_and_one_damaged_is_refused(engine, form, dataset, tmp_path):
    detector = engine.build(trunk_job(dataset, tmp_path, RECIPES[form]))
    proof = prove(detector)
    assert proof.tensors == proof.expected == COUNTS[form]
    assert proof.by_part == {PLACE: COUNTS[form]}
    assert max(proof.stage_error.values()) < 1e-6
    own = [name for name in proof.stage_error if "windows off" in name or "as trained" in name]
    assert 2 * len(own) == len(proof.stage_error)
    with torch.no_grad():
        detector.model.get_parameter(f"{PLACE}.{DAMAGED[form]}").view(-1)[0] += 1e-3
    with pytest.raises(EngineError, match="did not take over") as caught:
        prove(detector)
    assert f"{DAMAGED[form]} in {PLACE}" in str(caught.value)


@of_engines()
@pytest.mark.parametrize("arch", ["vit_64x4_patch8_64", "vit_64x4_patch14_70", "beit_64x4_patch16_64.norel.abs"])
def test_other_patches_and_caes_form_train_in_an_fpn(engine, arch, dataset, tmp_path):
    outcome = engine.run(trunk_job(dataset, tmp_path, replace(RECIPES["vit"], iterations=1, steps=()), arch))
    assert outcome.verification.tensors == outcome.verification.expected > 50
    assert max(outcome.verification.stage_error.values()) < 1e-6
    assert any("shrunk" in note for note in outcome.notes) == ("patch14" in arch)


@of_engines()
def test_swapped_channels_are_refused(engine, dataset, tmp_path):
    detector = engine.build(trunk_job(dataset, tmp_path))
    if engine.name == "mmdet":
        detector.model.data_preprocessor._channel_conversion = False
    else:
        detector.model.input_format = "BGR"
    with pytest.raises(EngineError, match="something else than the reference network"):
        prove(detector)


@of_engines()
def test_images_lie_on_the_canvas(engine, dataset, tmp_path):
    detector = engine.build(trunk_job(dataset, tmp_path))
    seen = []
    trunk = detector.model.get_submodule("backbone.trunk")
    trunk.register_forward_pre_hook(lambda module, given: seen.append(tuple(given[0].shape)))
    detector.model.train()
    (batch,) = detector.batches(0, 0, 1)
    detector.losses(batch)
    detector.model.eval()
    with torch.no_grad():
        next(iter(detector.detect(dataset.images[:1])))
    assert seen == [(2, 3, 128, 128), (1, 3, 128, 128)]


@of_engines()
def test_images_at_a_size_are_padded_to_multiples_of_32(engine, dataset, tmp_path):
    recipe = replace(RECIPES["vit"], train_sizes=(70,), crop_share=0.0, test_size=70)
    detector = engine.build(trunk_job(dataset, tmp_path, recipe))
    seen = []
    detector.model.get_submodule(PLACE).register_forward_pre_hook(lambda module, given: seen.append(given[0].shape[2:]))
    detector.model.train()
    (batch,) = detector.batches(0, 0, 1)
    detector.losses(batch)
    detector.model.eval()
    with torch.no_grad():
        next(iter(detector.detect(dataset.images[:1])))
    assert len(seen) == 2
    assert all(side % 32 == 0 and side >= 96 for shape in seen for side in shape)


@of_engines()
def test_an_untrained_detector_predicts_and_says_what_was_left_out(engine, dataset, tmp_path):
    outcome = engine.run(trunk_job(dataset, tmp_path, untrained(TINY)))
    assert len(outcome.detections) == 7 * len(dataset)
    assert any("cls_token" in note and "rel_pos_h" in note for note in outcome.notes)


class Interrupted(Exception):
    pass


@of_engines()
@pytest.mark.parametrize(
    "name", ["vitdet", "convnext", *(pytest.param(each, marks=SLOW) for each in ("vit", "swin", *MASKS))]
)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(engine, name, dataset, tmp_path, monkeypatch):
    recipe = replace(RECIPES[name], drop_path=0.2)
    whole, parted = (trunk_job(dataset, tmp_path / folder, recipe) for folder in ("whole", "parted"))
    expected = engine.run(whole)
    step = TrainingLog.step

    def interrupt(log, iteration, lr, losses):
        if iteration == recipe.iterations - 1:
            raise Interrupted
        step(log, iteration, lr, losses)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLog, "step", interrupt)
        with pytest.raises(Interrupted):
            engine.run(parted)
    resumed = engine.run(parted)
    states = [torch.load(job.workdir / CHECKPOINT_FILE, weights_only=True)["model"] for job in (whole, parted)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    for field in ("image_ids", "labels", "boxes", "scores"):
        assert np.array_equal(getattr(resumed.detections, field), getattr(expected.detections, field))
    assert any("taken up after 2 of 4" in note for note in resumed.notes)


@of_engines()
@SLOW
@pytest.mark.parametrize("form", BOXES)
def test_blocks_that_are_computed_again_give_the_same_numbers(engine, form, dataset, tmp_path):
    recipe = replace(RECIPES[form], drop_path=0.2)
    states = []
    for recompute in (False, True):
        job = trunk_job(dataset, tmp_path / str(recompute), recipe, recompute=recompute)
        engine.run(job)
        states.append(torch.load(job.workdir / CHECKPOINT_FILE, weights_only=True)["model"])
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@of_engines()
@SLOW
@pytest.mark.parametrize("form", MASKS)
def test_it_trains_in_bf16(engine, form, dataset, tmp_path):
    proof = engine.run(trunk_job(dataset, tmp_path, replace(RECIPES[form], amp="bf16"))).verification
    assert proof.precision == "bf16"
    assert 0 < max(proof.rounding.values()) < 0.05


@of_engines()
@SLOW
def test_a_detector_learns_red_from_green(engine, dataset, tmp_path):
    recipe = replace(
        TINY, iterations=150, steps=(120,), warmup_iterations=10, scales=(0.9, 1.1), layer_decay=1.0, drop_path=0.0,
        weight_decay_bias=0.0, roi_batch=32, rpn_batch=64,
    )  # fmt: skip
    job = replace(trunk_job(dataset, tmp_path, recipe, ARCH), checkpoint_every=150)
    found = engine.run(job).detections
    hits = 0
    for image in dataset.images:
        here = np.flatnonzero((found.image_ids == image.image_id) & (found.scores > 0.5))
        for box, label in zip(image.boxes, image.labels, strict=True):
            same = here[found.labels[here] == label]
            hits += any(np.abs(found.boxes[index] - box).max() < 8 for index in same)
    assert hits >= 5  # of 7 rectangles
