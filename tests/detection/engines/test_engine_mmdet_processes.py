"""The MMDetection engine in two processes of torchrun, each with one image of every batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import mmdet_toy
import numpy as np
import pytest
import torch
from mmdet_toy import detector, job_of, process_recipe, small_run, toy_dataset

from detection.engines.mmdet.data import training_batches
from detection.engines.plan import seed_for_iteration
from transfer.runtime.world import World

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
NAMES = ("image_ids", "labels", "boxes", "scores", "masks")


def run_in_two_processes(name: str, iterations: int, norm: str, folder: Path) -> None:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    given = [mmdet_toy.__file__, *name.split(), str(iterations), norm, str(folder)]
    subprocess.run([*start, *given], env=environment, check=True, timeout=500)


def assert_same_detections(one: Path, other: Path) -> None:
    first, second = np.load(one), np.load(other)
    for name in NAMES:
        assert np.array_equal(first[name], second[name]), name


def checkpoint(folder: Path) -> dict:
    return torch.load(folder / "checkpoint.pth", weights_only=True)


@pytest.mark.parametrize(
    ("name", "norm"), [("mask_rcnn fpn", "SyncBN"), ("faster_rcnn c4", "SyncBN"), ("retinanet fpn", "BN")]
)
def test_two_processes_train_one_detector(tmp_path, name, norm):
    """Weights are compared at every checkpoint, statistics after PreciseBN: the run would end with an error."""
    run_in_two_processes(name, 2, norm, tmp_path)
    assert_same_detections(tmp_path / "found0.npz", tmp_path / "found1.npz")
    assert checkpoint(tmp_path)["iteration"] == 2
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in rows] == [2]  # one process writes


def test_untrained_detections_are_those_of_one_process(tmp_path):
    run_in_two_processes("mask_rcnn fpn", 0, "BN", tmp_path / "two")
    small_run(tmp_path / "one", process_recipe("mask_rcnn fpn", 0, "BN"))
    assert_same_detections(tmp_path / "two" / "found1.npz", tmp_path / "one" / "found0.npz")


@pytest.mark.parametrize("name", ["faster_rcnn fpn", "retinanet fpn"])
def test_the_update_is_that_of_the_mean_of_both_processes_gradients(tmp_path, name):
    """With frozen norms nothing else connects the processes; RetinaNet's normaliser is each one's own."""
    run_in_two_processes(name, 1, "FrozenBN", tmp_path / "two")
    recipe = process_recipe(name, 1, "FrozenBN")
    (tmp_path / "pictures").mkdir()
    dataset = toy_dataset(tmp_path / "pictures")
    gradients, model = [], detector(recipe, seed=3)
    for rank in (0, 1):
        job = job_of(dataset, tmp_path, recipe, world=World(rank, 2))
        (batch,) = training_batches(job, job.seed, 0, 1)
        model.train().zero_grad()
        seed_for_iteration(job.seed, 0, rank)
        losses, _ = model.parse_losses(model(**model.data_preprocessor(batch, True), mode="loss"))
        losses.backward()
        gradients.append({key: value.grad for key, value in model.named_parameters() if value.grad is not None})
    trained = checkpoint(tmp_path / "two")["model"]
    assert gradients[0].keys() == gradients[1].keys()
    for key, value in model.named_parameters():
        if key not in gradients[0]:
            assert not value.requires_grad
            continue
        mean = (gradients[0][key] + gradients[1][key]) / 2 + recipe.weight_decay * value
        torch.testing.assert_close(trained[key], value - recipe.lr * mean, rtol=1e-5, atol=1e-7)
