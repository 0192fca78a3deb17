"""`torchrun --nproc-per-node 2 -m pretrain` on the CPU: the training of one process, resumed on any number of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from transfer.runtime.curve import read

ROOT = Path(__file__).parents[2]
OPTIONS = [
    *("--preset", "demo", "--arch", "resnet18_quarter", "--batch", "8", "--crop", "32"),
    *("--hidden", "16", "--dimensions", "8"),
    *("--device", "cpu", "--workers", "0", "--save-every", "2"),
]


def command(images: Path, out: Path, processes: int, *more: str) -> list[str]:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [
        *(start if processes > 1 else [sys.executable]),
        "-m",
        "pretrain",
        str(images),
        *OPTIONS,
        "--out",
        str(out),
        *more,
    ]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def train(images: Path, out: Path, processes: int, *more: str) -> dict[str, Any]:
    done = subprocess.run(
        command(images, out, processes, *more), env=environment(), capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("checkpoint.pth") == 1  # one process speaks
    state: dict[str, Any] = torch.load(out / "checkpoint.pth", weights_only=True)
    return state


def kill_after_first_checkpoint(images: Path, out: Path, processes: int, *more: str) -> None:
    """Kill -9 of all processes as soon as a checkpoint lies there."""
    running = subprocess.Popen(
        command(images, out, processes, *more), env=environment(), stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 300
    while not (out / "checkpoint.pth").exists():
        assert time.monotonic() < deadline
        assert running.poll() is None
        time.sleep(0.01)
    # torchrun's workers have sessions of their own: all that were started with this folder are killed.
    for process in Path("/proc").glob("[0-9]*"):
        try:
            ours = str(out).encode() in (process / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if ours:
            os.kill(int(process.name), signal.SIGKILL)
    running.wait()


def assert_close(one: dict[str, Any], other: dict[str, Any], tolerance: float) -> None:
    """Weights and running statistics; the projector's last BatchNorm input is tiny, hence an absolute tolerance."""
    assert one["step"] == other["step"]
    for branch in ("online", "target"):
        for name, tensor in one[branch].items():
            difference = (tensor.float() - other[branch][name].float()).abs().max()
            assert difference <= tolerance * (1 + tensor.float().abs().max()), name


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import numpy as np
    from PIL import Image

    root = tmp_path_factory.mktemp("pictures")
    for index in range(17):
        pixels = np.random.default_rng(index).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{index}.png")
    return root


@pytest.mark.slow
def test_two_processes_train_as_one(pictures: Path, tmp_path: Path) -> None:
    one = train(pictures, tmp_path / "one", 1, "--steps", "3", "--warmup-steps", "1", "--lr", "0.05")
    two = train(pictures, tmp_path / "two", 2, "--steps", "3", "--warmup-steps", "1", "--lr", "0.05")
    assert_close(one, two, 1e-3)
    rows = [read(tmp_path / name / "metrics.jsonl") for name in ("one", "two")]
    assert [row["step"] for row in rows[1]] == [1, 2, 3]  # one process writes
    for row, other in zip(*rows, strict=True):
        assert other["loss"] == pytest.approx(row["loss"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 1), (1, 2)])
def test_killed_and_resumed_on_another_number_of_processes(
    pictures: Path, tmp_path: Path, before: int, after: int
) -> None:
    options = ("--steps", "6", "--warmup-steps", "1", "--lr", "0.01")
    whole = train(pictures, tmp_path / "whole", after, *options)
    kill_after_first_checkpoint(pictures, tmp_path / "cut", before, *options)
    cut = train(pictures, tmp_path / "cut", after, *options)
    rows = [read(tmp_path / name / "metrics.jsonl") for name in ("whole", "cut")]
    assert [row["step"] for row in rows[1]] == [1, 2, 3, 4, 5, 6]
    # With equal numbers of processes bit for bit, otherwise to the rounding of sums in another order, which BatchNorm
    # over eight images of one pixel amplifies from step to step. Other images would show at once.
    for row, other in zip(*rows, strict=True):
        assert other["loss"] == pytest.approx(row["loss"], rel=0 if before == after else 0.01)
    assert_close(whole, cut, 0.0 if before == after else 5e-3)


@pytest.mark.slow
def test_a_batch_that_does_not_divide_is_refused_once(pictures: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        command(pictures, tmp_path / "out", 2, "--batch", "7"),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode != 0
    assert "--batch 7 does not divide" in done.stderr
