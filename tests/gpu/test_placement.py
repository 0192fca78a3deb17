"""Without a GPU: no step mixes devices, and none waits for the device more often than is said here."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from code_for_gpus import ON_A_CPU, TESTS, lines_that_name_a_gpu, reached
from evidence import lines, read
from fake_gpu import GPU, fake_gpu
from report import OUT, rendered

from detection.engines import mmcv_ops
from pretrain.device_views import colour_batch
from pretrain.forces import Forces
from pretrain.health import force_report, health
from pretrain.methods import find_method
from pretrain.nuclear import smoothed_nuclear_norm
from pretrain.optimizers import build_optimizer
from pretrain.presets import method_names
from pretrain.recipe import EncoderSpec
from pretrain.step import Step
from pretrain.views import Draw, to_network
from transfer.checkpoints.backbone import random_backbone
from transfer.classification.sgd.bank import Bank, Head, Rule
from transfer.classification.sgd.data import Batch
from transfer.classification.sgd.learners import FineTuned, FineTuner
from transfer.classification.trunk import Trunk
from transfer.runtime.world import ALONE
from transfer.task import load_task

SMALL = {"hidden": 16, "dimensions": 4, "width": 16, "prototypes": 12, "queue": 16, "groups": 2, "whitening_size": 8}
# pretrain/step.py asks once a step whether the loss is finite, before the update. What else waits is the method's own.
ONCE = "pretrain/step.py: if not bool(loss.isfinite()):"
WHITENED = "pretrain/methods/wmse.py: if bool((failed > 0).any() | ~(own > least).all()):"


def step_of(name, **changes):
    """A method of small widths on the fake GPU, its step, and the views of 8 images."""
    module = find_method(name)
    recipe, settings = module.PRESETS["demo"]
    known = {field.name for field in fields(settings)}
    small = {key: value for key, value in SMALL.items() if key in known}
    settings = replace(settings, **small, forces=Forces(singular=0.1, brownian=0.1))
    recipe = replace(recipe, arch="resnet18", crop=32, batch=8, **changes)
    with torch.device(GPU):  # fake networks cannot be moved when something else refers to their tensors
        method = module.build(EncoderSpec("resnet18", classes=3), settings).train()
    sides = [32] * getattr(settings, "views", 1) + [16] * getattr(settings, "small_views", 0)
    views = [torch.rand(8, 3, side, side, device=GPU) for side in sides]
    return method, Step(method, build_optimizer(recipe, method), recipe, GPU), views


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name == "swav" else pytest.mark.slow) for name in method_names()],
)
def test_a_pretraining_step_stays_on_its_device(name):
    with fake_gpu("(failed > 0)") as waits:
        method, step, views = step_of(name)
        labels = torch.zeros(8, dtype=torch.int64, device=GPU)
        step([views], labels, 0, 0.0, None)  # what is asked once and then known
        waits.places.clear()
        outcome = step([views], labels, 1, 0.1, None)
        assert outcome.loss.device == GPU
        assert all(parameter.device == GPU for parameter in method.parameters())
    # W-MSE asks once more: what cannot be whitened cannot be gone on with.
    assert Counter(waits.places) == {ONCE: 1} | ({WHITENED: 1} if name == "wmse" else {})
    assert waits.autocast == {GPU.type}


@pytest.mark.slow
def test_a_step_in_parts_asks_no_more_often():
    with fake_gpu() as waits:
        _, step, views = step_of("msbreg", accumulate=2)
        parts = [[view[:4] for view in views], [view[4:] for view in views]]
        waits.places.clear()
        step(parts, None, 0, 0.0, None)
    assert Counter(waits.places) == {ONCE: 1}


def test_views_are_coloured_and_normalised_where_they_lie():
    draws = [Draw((0, 0, 32, 32), False, ((0, 1.1), (1, 0.9), (2, 1.2), (3, 0.1)), True, 0.7, True)] * 3
    with fake_gpu() as waits:
        views = torch.zeros(3, 3, 32, 32, dtype=torch.uint8, device=GPU)
        coloured = colour_batch(views, draws)
        (ready,) = to_network([coloured], GPU)
    assert coloured.device == ready.device == GPU
    assert len(waits.places) <= 1, waits.places  # how far the blur reaches


def test_the_nuclear_norm_as_a_gpu_has_it():
    with fake_gpu() as waits:
        z = torch.rand(2, 16, 8, device=GPU, requires_grad=True)
        smoothed_nuclear_norm(z, way="newton-schulz").sum().backward()
    assert z.grad.device == GPU
    assert len(waits.places) == 1  # every fourth iteration asks whether it has converged; here it has at once


def test_the_signs_of_health():
    with fake_gpu():
        z = torch.nn.functional.normalize(torch.rand(2, 16, 8, device=GPU), dim=-1)
        assert health(z)["std"] == 1
        method, _, views = step_of("msbreg")
        assert force_report(method, method(views), None, None)


@pytest.fixture
def unproved(monkeypatch):
    """A fake network has no weights to compare with the checkpoint's."""
    monkeypatch.setattr(Trunk, "proof", None)
    monkeypatch.setattr(FineTuned, "prove", lambda self: None)


def test_a_frozen_network_and_its_classifiers(unproved):
    backbone = random_backbone("resnet18", 0)
    with fake_gpu() as waits:
        trunk = Trunk(backbone, ("avg", "max"), GPU)
        heads = [Head(0.1, 0.0, "avg"), Head(0.2, 1e-4, "max")]
        bank = Bank(heads, trunk.widths, 3, rule=Rule(0.9, True), seed=0, device=GPU)
        pixels = torch.zeros(4, 3, 64, 64, dtype=torch.uint8)
        labels = torch.zeros(4, dtype=torch.int64, device=GPU)
        waits.places.clear()
        losses = bank.step(trunk(pixels), labels, 1.0, 4)
    assert losses.device == GPU
    assert not waits.places  # a whole step of a linear search never waits


def test_fine_tuning(unproved):
    backbone = random_backbone("resnet18", 0)
    with fake_gpu() as waits:
        model = FineTuned(backbone, 3, 0, GPU).train()
        learner = FineTuner(model, load_task("transfer.imagenet_semi_1").protocols["vicreg"].sgd, ALONE)
        places = torch.arange(4)
        batch = Batch(torch.zeros(4, 3, 64, 64, dtype=torch.uint8), places, torch.zeros_like(places), {})
        labels = torch.zeros(4, dtype=torch.int64, device=GPU)
        waits.places.clear()
        loss = learner.step(batch, labels, 1.0, 4, 1)
    assert loss.device == GPU
    assert [place.partition(": ")[2] for place in waits.places] == ["if not bool(loss.isfinite()):"]


def test_the_focal_loss_that_stands_in_for_mmcvs():
    with fake_gpu() as waits:
        logits, target = torch.rand(5, 3, device=GPU), torch.zeros(5, dtype=torch.int64, device=GPU)
        for kernel in (mmcv_ops.sigmoid_focal_loss_forward, mmcv_ops.sigmoid_focal_loss_backward):
            kernel(logits, target, logits.new_empty(0), torch.empty_like(logits), 2.0, 0.25)
    assert not waits.places


def test_a_tensor_of_another_device_is_seen():
    with fake_gpu(), pytest.raises(RuntimeError, match="different devices"):
        torch.zeros(3, device=GPU) + torch.zeros(3)


def test_a_wait_is_seen():
    with fake_gpu() as waits:
        z = torch.rand(4, 8, device=GPU)
        health(z[None])
    assert any(place.startswith("pretrain/health.py") for place in waits.places)


def test_no_line_moves_to_a_gpu_by_itself():
    root = Path(__file__).resolve().parents[2]
    for path in (path for room in ("pretrain", "transfer") for path in (root / room).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert ".cuda(" not in text, path
        assert "set_default_device" not in text, path


def test_every_line_that_only_a_gpu_reaches_has_a_test():
    files = {place.partition(": ")[0] for place in lines_that_name_a_gpu()}
    assert files == set(TESTS) | set(ON_A_CPU)
    known = {line.test for line in lines()}
    assert {test for tests in reached().values() for test in tests} <= known


def test_the_page_is_what_the_evidence_says():
    assert OUT.read_text(encoding="utf-8") == rendered(read()), "type  python tests/gpu/report.py"


def test_a_line_that_failed_and_one_that_was_never_run_say_so(tmp_path):
    from evidence import keep

    first, second = lines()[:2]
    run = {"gpu": "A", "gib": 80, "cuda": "13", "commit": "c", "date": "2026-01-01", "versions": {"torch": "2"}}
    path = tmp_path / "evidence.json"
    seen = {"outcome": "failed", "seconds": 3.0, "measured": {"x": "1 s"}, "said": "no memory"}
    keep(path, run, f"{first.test}[mmdet]", seen)
    page = rendered(read(path))
    assert "FAILED: no memory in 3 s (run 0): x 1 s" in page
    assert f"| `{second.test}` | {second.title} | never run on a GPU |" in page
    keep(path, run | {"commit": "d"}, f"{first.test}[mmdet]", seen | {"outcome": "passed", "said": ""})
    content = read(path)
    assert [each["commit"] for each in content["runs"]] == ["d"]  # the first run vouches for nothing any more
    assert "passed in 3 s (run 0)" in rendered(content)
