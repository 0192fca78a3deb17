"""The MMDetection engine with blocks that are computed again: the same detector, also in two processes."""

import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mmdet_toy
import numpy as np
import pytest
import torch
from mmdet_toy import ENGINE, FAMILIES, job_of, toy_dataset

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]


def differing(one: Path, other: Path) -> list[str]:
    """Names of tensors of two checkpoints that are not equal bit for bit."""
    ours, theirs = (torch.load(folder / "checkpoint.pth", weights_only=True)["model"] for folder in (one, other))
    assert ours.keys() == theirs.keys()
    return [name for name in theirs if not torch.equal(ours[name], theirs[name])]


@pytest.mark.parametrize("changes", [{}, {"norm": "FrozenBN", "freeze_at": 2}])
def test_blocks_computed_again_train_the_same_detector(changes, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    dataset = toy_dataset(tmp_path)
    small = {"roi_resolution": 4, "roi_batch": 8, "iterations": 2, "steps": (1,), "warmup_iterations": 1}
    recipe = replace(FAMILIES["mask_rcnn c4"], score_threshold=0.0, **small, **changes)
    found = {}
    for name in ("kept", "again"):
        found[name] = ENGINE.run(job_of(dataset, tmp_path / name, recipe, recompute=name == "again")).detections
    torch.set_num_threads(threads)
    assert caplog.text.count("8 blocks are computed again") == 1  # of a ResNet-18, those of the RoI head included
    assert differing(tmp_path / "again", tmp_path / "kept") == []
    assert len(found["kept"])
    assert np.array_equal(found["again"].scores, found["kept"].scores)


def test_two_processes_meet_twice_in_the_same_order(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", mmdet_toy.__file__]
    for name in ("kept", "again"):
        given = [
            "faster_rcnn",
            "c4",
            "2",
            "SyncBN",
            str(tmp_path / name),
            *(["--recompute"] if name == "again" else []),
        ]
        subprocess.run([*start, *given], env=environment, check=True, timeout=500)
    assert differing(tmp_path / "again", tmp_path / "kept") == []
