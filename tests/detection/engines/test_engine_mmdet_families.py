"""Faster and Mask R-CNN, RetinaNet and FCOS of the MMDetection engine, with every neck they have."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet_toy import BACKBONE, CLASSES, ENGINE, FAMILIES, detector, job_of, toy_dataset

from detection.engines import run as engine_run
from detection.engines.checkpoint import CHECKPOINT_FILE, Training
from detection.engines.mmdet.config import build_config
from detection.engines.mmdet.detector import keep_full_precision
from detection.engines.mmdet.model import build_detector, verify_detector
from detection.engines.mmdet.rehearsal import rehearse
from detection.engines.progress import TrainingLog
from transfer.checkpoints.backbone import random_backbone
from transfer.datasets.boxes.masks import Mask
from transfer.runtime.errors import EngineError, TrainingError
from transfer.runtime.world import ALONE

DENSE = ("retinanet fpn", "fcos fpn")
SHORT = {"iterations": 3, "steps": (2,), "warmup_iterations": 1, "precise_bn": 1}


def state_of(job):
    return torch.load((job.workdir / CHECKPOINT_FILE), weights_only=True)["model"]


def assert_equal_states(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


# -- what is built


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "mask_rcnn c4" else ()) for name in FAMILIES]
)
def test_weights_arrive_and_every_key_is_read(name):
    model = detector(FAMILIES[name])
    verification = verify_detector(model, BACKBONE)
    assert verification.tensors == verification.expected == 100
    before = {key: value.clone() for key, value in model.state_dict().items()}
    rehearse(model)  # raises if a key is read by nobody
    assert_equal_states(before, model.state_dict())
    assert model.training


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "name"),
    [(arch, name) for arch in ("resnet34", "resnet101") for name in ("faster_rcnn c4", "faster_rcnn fpn")]
    + [("resnet50", name) for name in FAMILIES],  # of both kinds of blocks, and every neck
)
def test_weights_of_larger_backbones_arrive(arch, name):
    backbone = random_backbone(arch, 0)
    verification = verify_detector(detector(FAMILIES[name], backbone), backbone)
    assert verification.tensors == verification.expected
    assert max(verification.stage_error.values()) < 1e-4


@pytest.mark.parametrize("name", ["mask_rcnn fpn", "fcos fpn"])
def test_a_dead_key_of_train_and_test_options_stops_before_training(name):
    config = build_config(FAMILIES[name], BACKBONE, CLASSES)
    regions = "rcnn" in config.model.test_cfg
    (config.model.test_cfg.rcnn if regions else config.model.test_cfg)["score_threshold"] = 0.1
    expected = "model.test_cfg.rcnn.score_threshold" if regions else "model.test_cfg.score_threshold"
    with pytest.raises(EngineError, match="dead config keys") as caught:
        rehearse(build_detector(config, BACKBONE, 0))
    assert caught.value.found == expected


@pytest.mark.parametrize(
    "path",
    ["train_cfg.rpn.sampler", "train_cfg.rcnn.assigner", "roi_head.bbox_head", "backbone", "roi_head.shared_head"],
)
def test_a_dead_argument_is_refused_by_name_before_anything_is_built(path):
    config = build_config(FAMILIES["faster_rcnn c4"], BACKBONE, CLASSES)
    node = config.model
    for part in path.split("."):
        node = node[part]
    node["pos_neg_ratio"] = 1
    with pytest.raises(EngineError, match="dead config keys") as caught:
        build_detector(config, BACKBONE, 0)
    assert caught.value.found == f"model.{path}.pos_neg_ratio"


@pytest.mark.parametrize(("name", "source"), [("retinanet fpn", 512), ("fcos fpn", 64)])
def test_p6_and_p7_have_no_norm_and_come_from_where_detectron2_takes_them(name, source):
    """Detectron2: RetinaNet's p6 from res5, FCOS's from p5; p7 from the rectified p6."""
    neck = detector(FAMILIES[name]).neck.eval()
    assert [conv.with_norm for conv in neck.fpn_convs] == [True] * 3 + [False] * 2
    assert neck.fpn_convs[3].conv.in_channels == source
    inputs = [torch.randn(1, channels, side, side) for channels, side in ((64, 16), (128, 8), (256, 4), (512, 2))]
    with torch.no_grad():
        levels = neck(inputs)
        p6 = neck.fpn_convs[3](inputs[3] if name.startswith("retina") else levels[2])
        p7 = neck.fpn_convs[4](p6.relu())
    assert [level.shape[-1] for level in levels] == [8, 4, 2, 1, 1]
    assert torch.equal(levels[3], p6)
    assert torch.equal(levels[4], p7)


def test_retinanets_anchors_are_detectron2s():
    """Three octaves by three ratios of area size², on corners of cells."""
    head = detector(FAMILIES["retinanet fpn"]).bbox_head
    anchors = head.prior_generator.grid_priors([(1, 1)] * 5, device="cpu")
    for level, size in zip(anchors, (32, 64, 128, 256, 512), strict=True):
        sides = level[:, 2:] - level[:, :2]
        areas = sorted((size * 2 ** (octave / 3)) ** 2 for octave in range(3) for _ in range(3))
        np.testing.assert_allclose(sorted(sides.prod(1).tolist()), areas, rtol=1e-5)
        np.testing.assert_allclose(
            sorted((sides[:, 1] / sides[:, 0]).tolist()), [0.5] * 3 + [1.0] * 3 + [2.0] * 3, rtol=1e-5
        )
        np.testing.assert_allclose((level[:, 2:] + level[:, :2]).numpy(), 0, atol=1e-4)


@pytest.mark.parametrize("name", DENSE)
def test_an_untrained_classifier_gives_the_prior(name):
    recipe = replace(FAMILIES[name], dense=replace(FAMILIES[name].dense, prior=0.05))
    head = detector(recipe).bbox_head
    last = head.retina_cls if hasattr(head, "retina_cls") else head.conv_cls
    np.testing.assert_allclose(last.bias.detach().sigmoid().numpy(), 0.05, rtol=1e-5)


def test_fcos_scores_are_roots_of_products_and_its_scales_are_fixed(dataset, tmp_path):
    model = detector(replace(FAMILIES["fcos fpn"], score_threshold=0.0)).eval()
    head, levels = model.bbox_head, [torch.randn(1, 64, side, side) for side in (8, 4, 2, 1, 1)]
    with torch.no_grad():
        classes, _, centreness = head(levels)
        meta = {"img_shape": (64, 64), "scale_factor": (1.0, 1.0), "ori_shape": (64, 64)}
        (found,) = head.predict_by_feat(*head(levels), batch_img_metas=[meta], with_nms=False)
    scores = torch.cat([(c.sigmoid() * f.sigmoid()).sqrt().flatten() for c, f in zip(classes, centreness, strict=True)])
    np.testing.assert_allclose(sorted(found.scores.tolist()), sorted(scores.tolist()), rtol=1e-4)
    assert all(scale.scale.item() == 1 and not scale.scale.requires_grad for scale in head.scales)


def test_frozen_norms_of_a_pyramid_stay_frozen():
    model = detector(replace(FAMILIES["faster_rcnn fpn"], norm="FrozenBN")).train()
    norms = [module for module in model.neck.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(norms) == 8
    assert not any(norm.training or norm.weight.requires_grad for norm in norms)


def test_norms_are_synchronised_on_several_processes_only():
    kinds = [
        {type(module).__name__ for module in detector(FAMILIES["faster_rcnn c4"], processes=processes).modules()}
        for processes in (1, 2)
    ]
    assert "NaiveSyncBatchNorm" not in kinds[0] | kinds[1]  # the recipe says BN
    synced = replace(FAMILIES["faster_rcnn c4"], norm="SyncBN")
    assert "NaiveSyncBatchNorm" not in {type(module).__name__ for module in detector(synced).modules()}
    found = [module for module in detector(synced, processes=2).modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert {type(module).__name__ for module in found} == {"NaiveSyncBatchNorm"}


# -- runs

LOSSES = {
    "mask_rcnn": {"loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox", "loss_mask"},
    "retinanet": {"loss_cls", "loss_bbox"},
    "fcos": {"loss_cls", "loss_bbox", "loss_centerness"},
}


class Interrupted(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("name", ["retinanet fpn", "mask_rcnn fpn", "mask_rcnn c4", "fcos fpn"])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(dataset, tmp_path, monkeypatch, name):
    recipe = replace(FAMILIES[name], **SHORT)
    whole, parted = (job_of(dataset, tmp_path / part, recipe) for part in ("whole", "parted"))
    expected = ENGINE.run(whole)
    step = TrainingLog.step

    def interrupt(log, iteration, lr, losses):
        if iteration == 2:
            raise Interrupted
        step(log, iteration, lr, losses)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLog, "step", interrupt)
        with pytest.raises(Interrupted):
            ENGINE.run(parted)
    found = ENGINE.run(parted)
    assert_equal_states(state_of(whole), state_of(parted))
    assert np.array_equal(found.detections.scores, expected.detections.scores)
    assert found.detections.masks == expected.detections.masks
    assert found.notes == ("training was taken up after 2 of 3 iterations",)
    (row,) = [json.loads(line) for line in (whole.workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {key for key in row if key.startswith("loss_")} == LOSSES[recipe.family]


@pytest.mark.slow
@pytest.mark.parametrize("runs", [False, True])
def test_predicted_masks_are_run_lengths_of_the_whole_image(tmp_path, runs):
    dataset = toy_dataset(tmp_path, runs)
    recipe = replace(FAMILIES["mask_rcnn fpn"], **SHORT, score_threshold=0.0, max_detections=4)
    found = ENGINE.run(job_of(dataset, tmp_path / "run", recipe)).detections
    assert len(found.masks) == len(found) > 0
    for image_id, box, counts in zip(found.image_ids, found.boxes, found.masks, strict=True):
        image = dataset.images[image_id - 1]
        pixels = Mask(image.height, image.width, counts=counts).pixels()
        rows, columns = np.nonzero(pixels)
        if len(rows):  # inside their box, up to the pixel that its border cuts
            assert columns.min() >= np.floor(box[0]) - 1
            assert rows.max() <= np.ceil(box[3]) + 1


@pytest.mark.parametrize("name", ["mask_rcnn fpn", "fcos fpn"])
def test_an_untrained_detector_without_detections_has_none(dataset, tmp_path, name):
    recipe = replace(FAMILIES[name], iterations=0, score_threshold=0.999)
    found = ENGINE.run(job_of(dataset, tmp_path, recipe)).detections
    assert len(found) == 0
    assert found.masks == (() if recipe.masks else None)


def test_masks_are_demanded_by_a_mask_rcnn(dataset, tmp_path):
    without = replace(dataset, images=tuple(replace(image, masks=None) for image in dataset.images))
    with pytest.raises(EngineError, match="trained on masks"):
        ENGINE.run(job_of(without, tmp_path, FAMILIES["mask_rcnn fpn"]))


@pytest.mark.slow
def test_a_curve_changes_nothing_but_the_log(dataset, tmp_path):
    recipe = replace(FAMILIES["retinanet fpn"], **SHORT)
    scored = []

    def score(detections):
        scored.append(detections)
        return {"AP": float(len(scored))}

    plain = job_of(dataset, tmp_path / "plain", recipe)
    curved = job_of(dataset, tmp_path / "curved", replace(recipe, evaluate_every=1), score=score)
    for job in (plain, curved):
        ENGINE.run(job)
    assert_equal_states(state_of(plain), state_of(curved))
    rows = [json.loads(line) for line in (curved.workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    # the last iteration is the run's own evaluation
    assert [(row["step"], row["test/AP"]) for row in rows if "test/AP" in row] == [(1, 1.0), (2, 2.0)]


# -- precision, clipping, steps


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mask_rcnn fpn", "retinanet fpn", "fcos fpn"])
def test_bf16_trains_on_a_cpu(dataset, tmp_path, name):
    recipe = replace(FAMILIES[name], **SHORT, amp="bf16")
    half = job_of(dataset, tmp_path / "half", recipe)
    ENGINE.run(half)
    single = job_of(dataset, tmp_path / "single", replace(recipe, amp="off"))
    ENGINE.run(single)
    ours, theirs = state_of(half), state_of(single)
    weight = "backbone.layer4.1.conv2.weight"
    assert ours[weight].dtype == torch.float32
    assert not torch.equal(ours[weight], theirs[weight])
    torch.testing.assert_close(ours[weight], theirs[weight], rtol=0.1, atol=0.01)


def test_boxes_and_scores_are_computed_in_full_precision():
    """bf16 has 8 bits: an anchor at 301 would be at 302."""
    model = detector(FAMILIES["retinanet fpn"])
    keep_full_precision(model)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        features = model.neck(model.backbone(torch.randn(1, 3, 64, 64)))
        outputs = model.bbox_head(features)
    assert features[0].dtype == torch.bfloat16
    assert {level.dtype for kind in outputs for level in kind} == {torch.float32}


def test_fp16_is_refused_on_a_cpu(dataset, tmp_path):
    with pytest.raises(EngineError, match="fp16"):
        ENGINE.run(job_of(dataset, tmp_path, replace(FAMILIES["fcos fpn"], amp="fp16")))


def test_gradients_are_clipped_by_their_common_norm():
    from mmengine.optim import build_optim_wrapper

    model = torch.nn.Linear(3, 2, bias=False)
    config = build_config(replace(FAMILIES["fcos fpn"], momentum=0.0, lr=1.0), BACKBONE, CLASSES)
    optimizer = build_optim_wrapper(model, config.optim_wrapper).optimizer
    optimizer.param_groups[0]["weight_decay"] = 0.0
    before = model.weight.detach().clone()
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    training = Training(SimpleNamespace(model=model), "", optimizer, None, scaler, ALONE)
    engine_run.take_step(training, 100 * model.weight.sum(), 0.5)
    step = before - model.weight.detach()
    assert step.norm().item() == pytest.approx(0.5, rel=1e-5)
    assert torch.allclose(step, step[0, 0].expand_as(step))


@pytest.mark.slow
def test_weights_that_are_not_finite_are_not_saved(dataset, tmp_path, monkeypatch):
    job = job_of(dataset, tmp_path, replace(FAMILIES["fcos fpn"], **SHORT), checkpoint_every=1)
    take_step, steps = engine_run.take_step, []

    def spoil(training, loss, largest_norm):
        take_step(training, loss, largest_norm)
        steps.append(loss)
        if len(steps) == 2:
            with torch.no_grad():
                training.model.bbox_head.conv_reg.weight.fill_(float("nan"))

    monkeypatch.setattr(engine_run, "take_step", spoil)
    with pytest.raises(TrainingError, match="NaN or infinite after 2 iterations"):
        ENGINE.run(job)
    saved = torch.load((job.workdir / CHECKPOINT_FILE), weights_only=True)
    assert saved["iteration"] == 1
    assert all(torch.isfinite(value).all() for value in saved["model"].values())
