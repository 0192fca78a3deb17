"""A step means the same however its batch is cut: into processes, into parts, or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pretrain.presets import method_names
from transfer.runtime.batch_norm import GlobalBatchNorm, sync_batchnorm

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("two_processes.py")


def train(tmp_path: Path, label: str, method: str, processes: int = 1, *options: str) -> dict[str, Any]:
    out = tmp_path / f"{label}.pth"
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [*(start if processes > 1 else [sys.executable]), str(WORKER), method, str(out), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = torch.load(out, weights_only=True)
    return result


def assert_equal_training(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Losses, gradients of every step and the final state, to the rounding of float32."""
    assert one["loss"] == pytest.approx(other["loss"], rel=2e-5, abs=2e-6)
    assert one["gradients"].keys() == other["gradients"].keys()
    scale = max(gradient.abs().max() for gradient in one["gradients"].values())
    for name, gradient in one["gradients"].items():
        torch.testing.assert_close(other["gradients"][name], gradient, rtol=1e-3, atol=float(2e-5 * scale), msg=name)
    assert one["state"].keys() == other["state"].keys()
    for name, tensor in one["state"].items():
        torch.testing.assert_close(other["state"][name].float(), tensor.float(), rtol=1e-3, atol=2e-5, msg=name)


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    """gloo, SyncBatchNorm, all three forces on: the singular term's statistics are those of the global batch."""
    one, two = train(tmp_path, "one", "msbreg"), train(tmp_path, "two", "msbreg", 2)
    assert_equal_training(one, two)
    assert len(one["gradients"]) > 20


@pytest.mark.slow
@pytest.mark.parametrize("method", method_names())
def test_every_method_trains_alike_in_two_processes(tmp_path: Path, method: str) -> None:
    assert_equal_training(train(tmp_path, "one", method), train(tmp_path, "two", method, 2))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_accumulation_keeps_the_loss(tmp_path: Path, processes: int) -> None:
    fixed = ("--fixed-statistics",)  # BatchNorm apart, which sees a part
    whole = train(tmp_path, "whole", "msbreg", 1, *fixed)
    parts = train(tmp_path, "parts", "msbreg", processes, *fixed, "--accumulate", "4")
    assert_equal_training(whole, parts)


@pytest.mark.slow
def test_accumulation_counts_every_image_once_in_running_statistics(tmp_path: Path) -> None:
    state = train(tmp_path, "parts", "msbreg", 1, "--accumulate", "4", "--steps", "3")["state"]
    views, parts, steps = 4, 4, 3
    counts = {int(tensor) for name, tensor in state.items() if name.endswith("num_batches_tracked")}
    assert counts == {views * parts * steps}


def test_global_batchnorm_alone_is_batchnorm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its arithmetic, in a world that holds the same batch twice: the statistics are then those of one batch."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(6, 5, 4, 4, generator=generator) * 3 + 1
    usual = nn.Sequential(nn.BatchNorm2d(5))
    nn.init.normal_(usual[0].weight)
    usual.train()
    made = sync_batchnorm(nn.Sequential(nn.BatchNorm2d(5)), torch.device("cpu"))
    assert isinstance(made[0], GlobalBatchNorm)  # type: ignore[index]
    made.load_state_dict(usual.state_dict())
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("transfer.runtime.batch_norm._sum", lambda part: part * 2)
    ours, theirs = images.clone().requires_grad_(), images.clone().requires_grad_()
    weights = torch.randn(6, 5, 4, 4, generator=generator)
    (made(ours) * weights).sum().backward()
    (usual(theirs) * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    for name in ("weight", "bias"):
        torch.testing.assert_close(getattr(made[0], name).grad, getattr(usual[0], name).grad)  # type: ignore[index]
    torch.testing.assert_close(made[0].running_mean, usual[0].running_mean)  # type: ignore[index]
    # twice the images: the unbiased variance divides by 2·96 − 1
    factor = (192 / 191) / (96 / 95)
    expected = 0.9 + (usual[0].running_var - 0.9) * factor
    torch.testing.assert_close(made[0].running_var, expected)  # type: ignore[index]
