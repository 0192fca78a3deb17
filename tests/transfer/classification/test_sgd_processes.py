"""Trainings by SGD that are killed, and trainings of two processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from sgd_processes import KINDS, STEPS, rows, same, train, weights

ROOT = Path(__file__).parents[3]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_and_resumed_the_weights_are_those_of_the_uninterrupted_run(
    number: int, kind: str, tmp_path: Path
) -> None:
    command = [sys.executable, str(Path(__file__).with_name("sgd_processes.py")), kind]
    subprocess.run([*command, str(tmp_path / "whole")], env=environment(), check=True, timeout=300)
    running = subprocess.Popen([*command, str(tmp_path / "cut"), "--delay", "0.05"], env=environment())
    deadline = time.monotonic() + 200
    while not (tmp_path / "cut" / "fit.pth").exists():
        assert time.monotonic() < deadline
        assert running.poll() is None
        time.sleep(0.01)
    running.send_signal(number)
    assert running.wait() in (-number, 1)  # 1: Python's own for Ctrl-C, which `transfer.runtime.command` answers
    assert torch.load(tmp_path / "cut" / "fit.pth", weights_only=True)["step"] < STEPS[kind]
    subprocess.run([*command, str(tmp_path / "cut")], env=environment(), check=True, timeout=300)
    whole, cut = (torch.load(tmp_path / name / "weights0.pth", weights_only=True) for name in ("whole", "cut"))
    assert same(whole, cut)


@pytest.mark.slow
@pytest.mark.parametrize("kind", STEPS)
def test_two_processes_train_as_one(kind: str, tmp_path: Path) -> None:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = str(Path(__file__).with_name("sgd_processes.py"))
    subprocess.run([*start, script, kind, str(tmp_path)], env=environment(), check=True, timeout=300)
    first, second = (torch.load(tmp_path / f"weights{rank}.pth", weights_only=True) for rank in (0, 1))
    assert same(first, second)
    one = weights(train(kind, tmp_path / "one"))
    for name, tensor in one.items():
        torch.testing.assert_close(
            first[name], tensor, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
    curves = [rows(folder) for folder in (tmp_path, tmp_path / "one")]
    assert [row["step"] for row in curves[0]] == list(range(1, STEPS[kind] + 1))  # one process writes
    for row, other in zip(*curves, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-4)
