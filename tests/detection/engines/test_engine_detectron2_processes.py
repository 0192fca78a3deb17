"""The Detectron2 engine on two processes: what must be equal, and what must be the average of both."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2_toy import toy_images, two_process_jobs

from detection.engines.detector import DetectionJob
from transfer.runtime.world import ALONE, World

pytestmark = [pytest.mark.detectron2, pytest.mark.slow]
pytest.importorskip("detectron2")

ROOT = Path(__file__).parents[3]


def gradients(job: DetectionJob, rank: int) -> dict[str, torch.Tensor]:
    """What process `rank` of two computes in the first iteration, without any of the engine's training code."""
    from detectron2.utils.events import EventStorage
    from detectron2_toy import build_verified_model

    from detection.engines.detectron2.config import build_cfg
    from detection.engines.detectron2.data import TrainMapper
    from detection.engines.plan import plan_batches, planned_loader, seed_for_iteration

    cfg = build_cfg(job)
    model, _ = build_verified_model(cfg, job.backbone, job.seed)
    plan = plan_batches(job.train, 1, job.recipe.batch, job.seed, group=1)
    load = TrainMapper(cfg, job.recipe.flip)
    (batch,) = planned_loader(job.train, load, plan, job.seed, 0, 0, list, World(rank, 2))
    seed_for_iteration(job.seed, 0, rank)
    with EventStorage():
        sum(model.train()(batch).values()).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    toy_images(tmp_path)
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    script = str(Path(__file__).with_name("detectron2_toy.py"))
    subprocess.run([*start, script, str(tmp_path)], env=environment, check=True, timeout=600)
    first, second = (torch.load(tmp_path / f"states{rank}.pth", weights_only=True) for rank in (0, 1))

    for name in ("one step", "synchronised", "left to themselves", "whole", "interrupted"):
        assert same(first[name], second[name]), name  # statistics of batch norms too
    assert same(first["interrupted"], first["whole"])
    assert same(first["left to themselves"], first["whole"])  # evaluated after every iteration, or never
    assert first["normalizer"] != second["normalizer"]  # as each saw its own images
    for state in (first, second):
        assert state["diverging"].startswith("the loss is nan at iteration 0")

    alone = {
        name: dataclasses.replace(job, world=ALONE, workdir=tmp_path / "alone" / name)
        for name, job in two_process_jobs(tmp_path, ALONE).items()
    }
    from detection.engines.detectron2 import ENGINE

    job = alone["untrained"]
    assert first["untrained"] == second["untrained"] == ENGINE.run(job).detections.to_coco(job.test)
    assert len(first["untrained"]) == 5 * len(job.test)

    job = alone["one step"]
    each = [gradients(job, rank) for rank in (0, 1)]
    before = start_weights(job)
    assert any(not torch.equal(each[0][name], each[1][name]) for name in each[0])
    for name in each[0]:
        mean = (each[0][name] + each[1][name]) / 2
        torch.testing.assert_close(first["one step"][name], before[name] - job.recipe.lr * mean, rtol=1e-5, atol=1e-7)


def start_weights(job: DetectionJob) -> dict[str, torch.Tensor]:
    from detectron2_toy import build_verified_model

    from detection.engines.detectron2.config import build_cfg

    model, _ = build_verified_model(build_cfg(job), job.backbone, job.seed)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}
