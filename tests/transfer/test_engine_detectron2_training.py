"""The Detectron2 engine: training that can be resumed, evaluation, and files that cannot be used."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2_toy import TINY

from transfer.backbone import Backbone
from transfer.detector import DetectionJob
from transfer.engines.detectron2 import ENGINE
from transfer.errors import TrainingError

pytest_plugins = ["detectron2_toy"]
pytestmark = [pytest.mark.detectron2, pytest.mark.usefixtures("one_thread")]
pytest.importorskip("detectron2")

from transfer.engines.detectron2.config import build_cfg  # noqa: E402
from transfer.engines.detectron2.data import TrainMapper  # noqa: E402
from transfer.engines.detectron2.model import build_verified_model  # noqa: E402
from transfer.engines.detectron2.training import CHECKPOINT_FILE, METRICS_FILE, renew_statistics, train  # noqa: E402


def train_tiny(job: DetectionJob) -> Any:
    cfg = build_cfg(job)
    model, _ = build_verified_model(cfg, job.backbone, job.seed)
    train(cfg, job, model)
    renew_statistics(cfg, job, model)
    return model


class Interruption(Exception):
    pass


def test_a_resumed_run_equals_an_uninterrupted_one(
    make_job: Callable[..., DetectionJob], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: Any
) -> None:
    whole = train_tiny(make_job(workdir=tmp_path / "whole"))
    job = make_job(workdir=tmp_path / "parts")

    from transfer.engines.progress import TrainingLog

    step = TrainingLog.step

    def interrupted(log: TrainingLog, iteration: int, *rest: Any) -> None:
        step(log, iteration, *rest)
        if iteration == 2:
            raise Interruption

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLog, "step", interrupted)
        with pytest.raises(Interruption):
            train_tiny(job)
    content = torch.load(job.workdir / CHECKPOINT_FILE, weights_only=True)
    assert (content["engine"], content["iteration"]) == ("detectron2", 2)

    read: list[str] = []
    original = TrainMapper.__call__
    monkeypatch.setattr(TrainMapper, "__call__", lambda self, image: read.append(image.name) or original(self, image))
    resumed = train_tiny(job)
    # Two batches of two are left, and one for PreciseBN: nothing is read again.
    assert len(read) == 6
    assert list(tmp_path.glob("parts/*.part")) == []
    ours, theirs = resumed.state_dict(), whole.state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []
    assert not all(
        torch.equal(theirs[f"backbone.bottom_up.stem.conv1.{n}"], job.backbone.state[f"conv1.{n}"]) for n in ["weight"]
    )
    rows = [(job.workdir.parent / name / METRICS_FILE).read_text() for name in ("whole", "parts")]
    last = [json.loads(row.splitlines()[-1]) for row in rows]
    for row in last:
        row.pop("seconds_per_iteration")
    assert last[0] == last[1]
    assert last[0]["iteration"] == 3
    assert {"loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"} < set(last[0])
    assert last[0]["loss"] == pytest.approx(sum(value for name, value in last[0].items() if name.startswith("loss_")))


def test_learning_rate_follows_the_recipe(
    make_job: Callable[..., DetectionJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transfer.engines.progress import TrainingLog

    seen: list[float] = []
    monkeypatch.setattr(TrainingLog, "step", lambda log, iteration, lr, losses: seen.append(lr))
    recipe = dataclasses.replace(
        TINY, lr=0.01, warmup_factor=0.5, warmup_iterations=2, steps=(3, 4), gamma=0.1, batch=1
    )
    train_tiny(make_job(recipe=dataclasses.replace(recipe, iterations=5, precise_bn=0, train_sizes=(32,))))
    assert seen == pytest.approx([0.005, 0.0075, 0.01, 0.001, 0.0001])


def test_weight_decay_spares_norms(make_job: Callable[..., DetectionJob], r18: Backbone) -> None:
    from detectron2.solver import build_optimizer

    cfg = build_cfg(make_job())
    model, _ = build_verified_model(cfg, r18, seed=0)
    decay = {id(p): g["weight_decay"] for g in build_optimizer(cfg, model).param_groups for p in g["params"]}
    assert decay[id(model.backbone.bottom_up.stem.conv1.weight)] == 1e-4
    assert decay[id(model.backbone.bottom_up.stem.conv1.norm.weight)] == 0.0


def test_untrained_run_keeps_the_checkpoint_and_predicts(make_job: Callable[..., DetectionJob]) -> None:
    recipe = dataclasses.replace(TINY, iterations=0, norm="SyncBN", score_threshold=0.0, max_detections=5)
    job = make_job(recipe=recipe)
    outcome = ENGINE.run(job)
    assert outcome.verification.by_part == {"backbone.bottom_up": 100}
    assert outcome.differences == (("normalisation", "SyncBN over 8 processes", "BN on 1 process"),)
    assert not (job.workdir / CHECKPOINT_FILE).exists()
    found = outcome.detections
    assert set(found.image_ids.tolist()) == {1, 2, 3, 4}
    assert set(found.labels.tolist()) <= {0, 1}
    assert max(np.bincount(found.image_ids)) <= 5
    assert found.boxes.dtype == np.float32
    # Original pixels: images are 96×64 and 64×80, the network saw other sizes.
    for image in job.test.images:
        boxes = found.boxes[found.image_ids == image.image_id]
        assert (boxes >= 0).all()
        assert (boxes[:, [0, 2]] <= image.width).all()
        assert (boxes[:, [1, 3]] <= image.height).all()
    assert logging.getLogger("detectron2").level == logging.NOTSET


@pytest.mark.slow
def test_c4_runs_from_end_to_end_twice_with_equal_numbers(
    make_job: Callable[..., DetectionJob], tmp_path: Path
) -> None:
    recipe = dataclasses.replace(TINY, neck="c4", extra_norm=True, roi_resolution=7, iterations=1, score_threshold=0.0)
    outcomes = [ENGINE.run(make_job(recipe=recipe, workdir=tmp_path / name)) for name in ("one", "two")]
    assert len(outcomes[0].detections) > 0
    assert outcomes[0].detections.to_coco(job.test) == outcomes[1].detections.to_coco(job.test)


def test_divergence_is_a_training_error(make_job: Callable[..., DetectionJob], caplog: Any) -> None:
    job = make_job(recipe=dataclasses.replace(TINY, lr=1e12, warmup_iterations=0, steps=(), iterations=6))
    with pytest.raises(TrainingError, match=r"diverged at iteration|the loss is") as caught:
        ENGINE.run(job)
    assert "learning rate" in caught.value.todo
    assert "Traceback" not in caplog.text


def truncated(path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"engine": "detectron2", "model": {"x": torch.zeros(1000)}}, buffer)
    path.write_bytes(buffer.getvalue()[:2000])


def foreign(path: Path) -> None:
    torch.save({"state_dict": {"conv1.weight": torch.zeros(3)}}, path)


def of_another_run(path: Path) -> None:
    content = {"engine": "detectron2", "run": "0" * 64, "iteration": 2, "model": {}, "optimizer": {}, "scheduler": {}}
    torch.save(content, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, "cannot be read"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: path.write_text("<html></html>"), "cannot be read"),
        (foreign, "no checkpoint of the detectron2 engine"),
        (of_another_run, "another run"),
    ],
)
def test_a_bad_checkpoint_is_named(
    damage: Callable[[Path], None], message: str, make_job: Callable[..., DetectionJob]
) -> None:
    job = make_job()
    job.workdir.mkdir()
    damage(job.workdir / CHECKPOINT_FILE)
    with pytest.raises(TrainingError, match=message) as caught:
        ENGINE.run(job)
    assert CHECKPOINT_FILE in caught.value.what
    assert "delete the file" in caught.value.todo


def test_versions_name_what_decides_the_numbers() -> None:
    assert ENGINE.missing() is None
    versions = ENGINE.versions()
    assert {"detectron2", "torch", "torchvision"} <= set(versions)
    assert versions["torch"] == torch.__version__.split("+")[0]
