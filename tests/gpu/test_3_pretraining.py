"""MSBReg's step: ResNet-50, K = 4, mixed precision, views on the device, NCCL, loss scaling, compiled, resumed."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import torch
from runs import pictures, program

from transfer.checkpoints.read import read_backbone

pytestmark = [pytest.mark.gpu, pytest.mark.slow]


@pytest.fixture(scope="module")
def images(pick, tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("images"), pick(256, 24), pick(256, 48))


@pytest.fixture
def typed(images, device, pick):
    """`python -m pretrain` for six steps of a batch that one GPU holds."""
    return [
        *("-m", "pretrain", str(images), "--device", device.type, "--arch", pick("resnet50", "resnet18")),
        *("--preset", pick("100", "demo"), "--steps", "6", "--warmup-steps", "2", "--batch", pick("128", "8")),
        *("--crop", pick("224", "32"), "--workers", pick("8", "0"), "--log-every", "1", "--save-every", "3"),
        *pick((), ("--hidden", "16", "--dimensions", "8")),
    ]


def rows(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def weights(out: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = read_backbone(out / "checkpoint.pth").state
    return state


def test_bf16_with_views_on_the_device(typed, tmp_path, measured):
    """MSBReg, K = 4, bf16, colour and blur of the views on the device: six steps, every loss finite."""
    out = tmp_path / "out"
    program(*typed, "--precision", "bf16", "--views-on", "device", "--out", str(out))
    losses = [row["loss"] for row in rows(out)]
    assert len(losses) == 6
    assert torch.tensor(losses).isfinite().all()
    measured("images a second, the last step", rows(out)[-1]["images_per_second"])


def test_nccl_with_one_process(typed, device, tmp_path):
    """`torchrun` with one process a GPU (NCCL; gloo on a CPU) trains as one without, to rounding."""
    alone, joined = tmp_path / "alone", tmp_path / "joined"
    program(*typed, "--out", str(alone))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # torchrun of one process joins nobody: the group is made here, as it is for several
    program("tests/gpu/one_process.py", str(port), *typed[2:], "--out", str(joined))
    ours, theirs = ([row["loss"] for row in rows(out)] for out in (alone, joined))
    assert ours == pytest.approx(theirs, rel=0.05 if device.type == "cuda" else 1e-5)


def test_loss_scaling(typed, device, tmp_path):
    """fp16 with a scaled loss: the scale is in the curve, steps that overflow are left out; refused on a CPU."""
    out = tmp_path / "out"
    if device.type == "cpu":
        assert "fp16 needs a GPU" in program(*typed, "--precision", "fp16", "--out", str(out), status=2).stderr
        return
    program(*typed, "--precision", "fp16", "--out", str(out))
    assert all("loss_scale" in row and "skipped" in row for row in rows(out))
    assert sum(row["skipped"] for row in rows(out)) < 6


def test_compiled(typed, device, tmp_path):
    """`torch.compile` of the networks gives the losses of the first steps without it, to rounding."""
    plain, compiled = tmp_path / "plain", tmp_path / "compiled"
    program(*typed, "--out", str(plain))
    # A CPU takes minutes to compile: there the option alone is tried.
    uncompiled = {"TORCHDYNAMO_DISABLE": "1"} if device.type == "cpu" else {}
    program(*typed, "--compile", "--out", str(compiled), **uncompiled)
    ours, theirs = (rows(out)[0]["loss"] for out in (plain, compiled))
    assert ours == pytest.approx(theirs, rel=0.02)


def test_resumed(typed, device, tmp_path, measured):
    """A training that was stopped after three steps ends with the weights of the undisturbed one."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    program(*typed, "--out", str(whole))
    program("tests/gpu/stopped.py", "3", *typed[2:], "--out", str(parts), status=130)
    program(*typed, "--out", str(parts))
    ours, theirs = weights(whole), weights(parts)
    furthest = max(float((ours[name].double() - theirs[name].double()).abs().max()) for name in ours)
    measured("largest difference of a weight", furthest)
    assert [row["step"] for row in rows(parts)] == [1, 2, 3, 4, 5, 6]
    if device.type == "cpu":
        assert furthest == 0
    else:  # sums of atomic additions have no order on a GPU
        assert furthest < 0.05
