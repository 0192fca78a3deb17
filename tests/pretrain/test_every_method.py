"""What every method owes: it trains, resumes as if nothing had happened, takes the forces, and leaves a backbone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain import train
from pretrain.forces import Forces
from pretrain.machine import Machine
from pretrain.methods import Method, find_method
from pretrain.presets import method_names
from pretrain.recipe import Arch
from pretrain.train import pretrain
from transfer.checkpoints.formats.msbreg import AVERAGED
from transfer.checkpoints.read import read_backbone
from transfer.runtime.curve import read

ROOT = Path(__file__).parents[2]
METHODS = method_names()
MACHINE = Machine(device="cpu", workers=0, log_every=1, save_every=2)
PUBLISHED = {
    *("barlow_twins", "byol", "dino", "mocov2", "msbreg", "simclr", "simsiam", "supervised", "swav", "vicreg", "wmse"),
}
SMALL = {"hidden": 16, "dimensions": 8, "width": 16, "prototypes": 12, "queue": 16, "groups": 2, "whitening_size": 16}


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for index in range(18):
        path = root / f"class{index % 3}" / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return root


def start(
    name: str, images: Path, out: Path, forces: Forces | None = None, steps: int = 4, arch: Arch = "resnet18_quarter"
) -> dict[str, Any]:
    module = find_method(name)
    recipe, settings = module.PRESETS["demo"]
    known = {f.name for f in fields(settings)}
    small = {key: value for key, value in SMALL.items() if key in known}
    settings = replace(settings, **small, forces=forces or settings.forces)
    recipe = replace(recipe, arch=arch, crop=32, batch=16, steps=steps, warmup_steps=min(1, steps - 1))
    state: dict[str, Any] = torch.load(pretrain(images, out, name, recipe, settings, MACHINE), weights_only=True)
    return state


def flat(state: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(state, dict):
        return {k: v for name, part in state.items() for k, v in flat(part, f"{prefix}{name}.").items()}
    if isinstance(state, list):
        return flat(dict(enumerate(state)), prefix)
    return {prefix: state}


def test_the_methods_of_the_paper_are_here() -> None:
    assert set(METHODS) == PUBLISHED


def test_the_branch_that_is_evaluated_is_the_one_that_is_read() -> None:
    averaged = {
        name
        for name in METHODS
        for made in vars(find_method(name)).values()
        if isinstance(made, type) and issubclass(made, Method) and made.evaluated == "target"
    }
    assert averaged == set(AVERAGED)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_it_trains_resumes_exactly_and_leaves_a_backbone(
    name: str, classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = start(name, classes, tmp_path / "whole")
    original = train._Run._step

    def stopped(self: Any, *arguments: Any) -> Any:
        if self.done == 3:
            raise KeyboardInterrupt
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(train._Run, "_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            start(name, classes, tmp_path / "cut")
    halfway = torch.load(tmp_path / "cut" / "checkpoint.pth", weights_only=True)
    assert halfway["step"] == 2
    assert not torch.equal(halfway["online"]["encoder.conv1.weight"], whole["online"]["encoder.conv1.weight"])
    torch.manual_seed(4321)
    resumed = start(name, classes, tmp_path / "cut")
    one, other = flat(whole), flat(resumed)
    assert one.keys() == other.keys()
    for key, value in one.items():
        same = torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key]
        assert same, key
    short = start(name, classes, tmp_path / "short", steps=1, arch="resnet18")
    backbone = read_backbone(tmp_path / "short" / "checkpoint.pth")
    assert backbone.arch == "resnet18"
    taken = short["target" if name == "dino" else "online"]  # what its authors evaluate
    assert torch.equal(backbone.state["conv1.weight"], taken["encoder.conv1.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_it_trains_a_vision_transformer(name: str, classes: Path, tmp_path: Path) -> None:
    saved = start(name, classes, tmp_path, steps=2, arch="vit_tiny")
    backbone = read_backbone(tmp_path / "checkpoint.pth")
    assert backbone.arch == saved["arch"] == "vit_tiny_patch16_32" + (".offset" if name == "dino" else "")
    taken = saved["target" if name == "dino" else "online"]
    tensors = {key.removeprefix("encoder."): value for key, value in taken.items() if key.startswith("encoder.")}
    assert tensors.keys() == backbone.state.keys()
    assert all(torch.equal(tensor, backbone.state[key]) for key, tensor in tensors.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_the_forces_can_be_added_to_it(name: str, classes: Path, tmp_path: Path) -> None:
    without = start(name, classes, tmp_path / "without", Forces(), steps=2)
    added = start(name, classes, tmp_path / "with", Forces(singular=0.004, brownian=0.5), steps=2)
    assert not torch.equal(without["online"]["encoder.conv1.weight"], added["online"]["encoder.conv1.weight"])
    first, plain = (read(tmp_path / folder / "metrics.jsonl")[0] for folder in ("with", "without"))
    # the first step starts from the same weights: the difference of the losses is the forces alone
    total = 0.004 * first["singular"] + 0.5 * first["brownian"]
    assert first["loss"] - plain["loss"] == pytest.approx(total, abs=1e-3 * max(1.0, abs(plain["loss"])))
    assert not {"singular", "brownian"} & plain.keys()


# 64-pixel images, a handful of regions, two iterations: the whole way, as small as it goes.
DETECTOR = (
    "--engine mmdet --preset smoke --device cpu"
    " --detector.train-sizes 64 --detector.test-size 64 --detector.max-size 96"
    " --detector.precise-bn 2 --detector.roi-batch 16 --detector.rpn-post-nms-train 50 --detector.rpn-post-nms-test 20"
    " --detector.warmup-iterations 1 --detector.iterations 2 --detector.steps 1 --train train --test val"
)


@pytest.mark.slow
def test_checkpoints_of_all_methods_run_through_detection_unchanged(classes: Path, tmp_path: Path) -> None:
    pytest.importorskip("mmdet")
    for name in METHODS:
        start(name, classes, tmp_path / name, steps=2, arch="resnet18")
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    toy = [sys.executable, "-m", "transfer", "toy", str(tmp_path / "toy")]
    subprocess.run(toy, check=True, cwd=ROOT, env=environment, capture_output=True)
    checkpoints = [str(tmp_path / name / "checkpoint.pth") for name in METHODS]
    options = [*DETECTOR.split(), "--voc-root", str(tmp_path / "toy" / "voc"), "--runs", str(tmp_path / "runs")]
    command = ["bash", str(ROOT / "detection" / "run_voc.sh"), *checkpoints, "--labels", *METHODS, *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    # directly before its first step
    assert done.stderr.count("verified: 100 of 100 tensors equal") == len(METHODS)
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (tmp_path / "runs" / "records").rglob("*.json")]
    assert {record["checkpoint"]["label"] for record in records} == set(METHODS)
    assert {record["status"] for record in records} == {"finished"}
