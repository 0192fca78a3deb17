"""The training loop: what it writes, how it stops, and that it goes on as if nothing had happened."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from pretrain import networks, train
from pretrain.__main__ import main, parse
from pretrain.curves import read_curves
from pretrain.health import collapse_warning, health
from pretrain.losses import MSBReg
from pretrain.methods import find_method, method_names
from pretrain.methods.msbreg import PRESETS, Settings
from pretrain.networks import Branch, decay_at, follow, slow_copy
from pretrain.optimizers import build_optimizer
from pretrain.recipe import Recipe
from pretrain.train import Machine, pretrain
from transfer.errors import TrainingError, UserError

RECIPE = Recipe(arch="resnet18", crop=32, steps=6, warmup_steps=2, batch=4, optimizer="sgd", lr=0.5)
SETTINGS = Settings(views=2, hidden=16, dimensions=8)
MACHINE = Machine(device="cpu", workers=0, log_every=1, save_every=2)


class TinyEncoder(nn.Module):
    """Stands in for a ResNet where its size does not matter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=4)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.bn(self.conv(images)).relu().mean((-2, -1)))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.models, "get_model", lambda *_, **__: TinyEncoder())


@pytest.fixture
def images(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    root.mkdir()
    for index in range(9):
        pixels = np.random.default_rng(index).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{index}.png")
    return root


def run(images: Path, out: Path, recipe: Recipe = RECIPE, settings: Settings = SETTINGS, **more: Any) -> dict[str, Any]:
    path = pretrain(images, out, "msbreg", recipe, settings, **({"machine": MACHINE} | more))
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int, error: BaseException) -> None:
    original = train._Run._step

    def stopped(self: Any, batch: torch.Tensor) -> Any:
        if self.done == step:
            raise error
        return original(self, batch)

    monkeypatch.setattr(train._Run, "_step", stopped)


def assert_same(a: Any, b: Any) -> None:
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for name in a:
            assert_same(a[name], b[name])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    else:
        assert a == b


@pytest.mark.parametrize("stop", [1, 3, 5])
@pytest.mark.parametrize("optimizer", ["sgd", "lars"])
def test_resumed_run_is_bit_equal(
    tiny: None, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int, optimizer: str
) -> None:
    recipe = replace(RECIPE, optimizer=optimizer)
    whole = run(images, tmp_path / "whole", recipe)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at(patch, stop, KeyboardInterrupt())
        run(images, tmp_path / "cut", recipe)
    torch.manual_seed(12345)  # whatever the global stream does in between
    resumed = run(images, tmp_path / "cut", recipe, machine=replace(MACHINE, workers=1))
    assert_same(whole, resumed)
    rows = [read_curves(tmp_path / name / "metrics.jsonl") for name in ("whole", "cut")]
    timing = {"images_per_second", "data_wait"}
    strip = [[{k: v for k, v in row.items() if k not in timing} for row in part] for part in rows]
    assert strip[0] == strip[1]
    assert [row["step"] for row in rows[1]] == [1, 2, 3, 4, 5, 6]


def test_seed_decides(tiny: None, images: Path, tmp_path: Path) -> None:
    a, b = (run(images, tmp_path / str(seed), replace(RECIPE, seed=seed, steps=2)) for seed in (0, 1))
    assert not torch.equal(a["online"]["encoder.conv.weight"], b["online"]["encoder.conv.weight"])


def test_checkpoint_layout_of_a_resnet18(images: Path, tmp_path: Path) -> None:
    state = run(images, tmp_path / "out", replace(RECIPE, steps=1))
    expected = {k: v for k, v in torchvision.models.resnet18().state_dict().items() if not k.startswith("fc.")}
    for branch in ("online", "target"):
        encoder = {k.removeprefix("encoder."): v for k, v in state[branch].items() if k.startswith("encoder.")}
        assert {k: v.shape for k, v in encoder.items()} == {k: v.shape for k, v in expected.items()}
        assert all(tensor.is_contiguous() for tensor in state[branch].values())
    heads = {name: {key.split(".")[0] for key in state[name]} for name in ("online", "target")}
    assert heads["online"] == {"encoder", "projector", "predictor"}
    assert heads["target"] == {"encoder", "projector"}
    head = {key: state[key] for key in ("format", "version", "arch", "method", "epoch", "step", "stem", "input")}
    assert head == {
        "format": "msbreg-checkpoint",
        "version": 1,
        "arch": "resnet18",
        "method": "msbreg",
        "epoch": 0,
        "step": 1,
        "stem": "imagenet",
        "input": {"channels": "RGB", "value_range": 1.0, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    }
    json.dumps(state["config"])  # plain values only
    assert {"optimizer", "progress"} < state.keys()


def test_curves_hold_what_is_promised(tiny: None, images: Path, tmp_path: Path) -> None:
    run(images, tmp_path / "out")
    rows = read_curves(tmp_path / "out" / "metrics.jsonl")
    wanted = {"loss", "centroid", "singular", "brownian", "lr", "ema", "images_per_second", "std", "effective_rank"}
    for row in rows:
        assert wanted < row.keys()
        total = row["centroid"] + 0.004 * row["singular"] + 0.5 * row["brownian"]
        assert row["loss"] == pytest.approx(total, abs=1e-5)
    assert rows[0]["ema"] == pytest.approx(0.99)
    assert rows[-1]["lr"] < rows[2]["lr"]


def test_byol_is_the_case_without_forces(tiny: None, images: Path, tmp_path: Path) -> None:
    run(images, tmp_path / "out", replace(RECIPE, steps=1), replace(SETTINGS, loss=MSBReg(singular=0, brownian=0)))
    (row,) = read_curves(tmp_path / "out" / "metrics.jsonl")
    assert row["loss"] == row["centroid"]
    assert not {"singular", "brownian"} & row.keys()


def test_finished_run_is_found_and_redone_only_on_demand(
    tiny: None, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    run(images, out)
    before = (out / "checkpoint.pth").stat().st_mtime_ns
    interrupt_at(monkeypatch, 0, RuntimeError("trained again"))
    with caplog.at_level(logging.INFO):
        run(images, out)
    assert "finished" in caplog.text
    assert (out / "checkpoint.pth").stat().st_mtime_ns == before
    with pytest.raises(RuntimeError, match="trained again"):
        run(images, out, overwrite=True)


def test_other_settings_or_images_are_refused_with_the_difference(tiny: None, images: Path, tmp_path: Path) -> None:
    run(images, tmp_path / "out")
    with pytest.raises(TrainingError) as caught:
        run(images, tmp_path / "out", replace(RECIPE, lr=0.25), replace(SETTINGS, loss=MSBReg(brownian=0.1)))
    assert caught.value.found.splitlines() == [
        "recipe.lr: 0.5 in the checkpoint, 0.25 now",
        "settings.loss.brownian: 0.5 in the checkpoint, 0.1 now",
    ]
    (images / "8.png").unlink()
    with pytest.raises(TrainingError, match="other settings"):
        run(images, tmp_path / "out")


def test_broken_checkpoint_is_refused(tiny: None, images: Path, tmp_path: Path) -> None:
    path = tmp_path / "out" / "checkpoint.pth"
    path.parent.mkdir()
    torch.save({"model": {}}, path)
    foreign = path.read_bytes()
    for content in (foreign, foreign[: len(foreign) // 2], b"<html>", b""):
        path.write_bytes(content)
        with pytest.raises(TrainingError, match="cannot resume"):
            run(images, tmp_path / "out")
        assert path.read_bytes() == content


def test_nan_stops_and_keeps_the_last_good_checkpoint(
    tiny: None, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = train.to_network, []

    def poisoned(*arguments: Any) -> Any:
        calls.append(1)
        views = original(*arguments)
        return [view * math.nan for view in views] if len(calls) == 4 else views

    monkeypatch.setattr(train, "to_network", poisoned)
    with pytest.raises(TrainingError, match="loss is nan at step 4") as caught:
        run(images, tmp_path / "out")
    assert "checkpoint of step 2 is kept" in caught.value.todo
    kept = torch.load(tmp_path / "out" / "checkpoint.pth", weights_only=True)
    assert kept["step"] == 2
    assert all(tensor.isfinite().all() for tensor in kept["online"].values())


def test_collapse_is_said_in_words(
    tiny: None, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original = train.to_network
    monkeypatch.setattr(train, "to_network", lambda *a: [torch.ones_like(view) for view in original(*a)])
    run(images, tmp_path / "out", replace(RECIPE, steps=2))
    assert caplog.text.count("collapsing") == 1


def test_health_by_hand() -> None:
    spread = health(torch.eye(8))
    assert spread["effective_rank"] == pytest.approx(8)
    # one dimension of a unit vector e_i over 8 images: variance 1/8 − 1/64
    assert spread["std"] == pytest.approx(math.sqrt((1 / 8 - 1 / 64) * 8))
    assert not collapse_warning(spread)
    collapsed = health(torch.eye(8)[:1].expand(8, 8))
    assert collapsed == pytest.approx({"std": 0.0, "effective_rank": 1.0}, abs=1e-4)
    assert "collapsing" in collapse_warning(collapsed)


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_encoder_has_torchvision_names(arch: networks.Arch) -> None:
    with torch.device("meta"):
        encoder, features = networks.build_encoder(arch)
        expected = torchvision.models.get_model(arch).state_dict()
    assert features == expected["fc.weight"].shape[1]
    assert encoder.state_dict().keys() == {name for name in expected if not name.startswith("fc.")}


def test_heads_have_the_published_sizes() -> None:
    with torch.device("meta"):
        online = Branch("resnet50", Settings().hidden, Settings().dimensions, predictor=True)
    shapes = {name: tuple(p.shape) for name, p in online.named_parameters() if not name.startswith("encoder")}
    assert shapes["projector.0.weight"] == (4096, 2048)
    assert shapes["projector.3.weight"] == (256, 4096)
    assert shapes["predictor.0.weight"] == (4096, 256)
    assert shapes["predictor.3.weight"] == (256, 4096)


def test_slow_copy_follows(tiny: None) -> None:
    online = Branch("resnet18", 16, 8, predictor=True)
    target = slow_copy(online)
    before = target.projector[0].weight.clone()
    with torch.no_grad():
        for parameter in online.parameters():
            parameter.add_(1)
    follow(target, online, 0.75)
    torch.testing.assert_close(target.projector[0].weight, before + 0.25)
    assert not any(parameter.requires_grad for parameter in target.parameters())


def test_schedules_by_hand() -> None:
    assert decay_at(0, 0.99) == pytest.approx(0.99)
    assert decay_at(0.5, 0.99) == pytest.approx(0.995)
    assert decay_at(1, 0.99) == 1
    recipe = Recipe(epochs=20, warmup_epochs=10, batch=512, lr=0.3)  # 4 steps an epoch of 2,048 images
    assert recipe.total_steps(2048) == 80
    rates = [recipe.lr_at(step, 2048) for step in range(80)]
    assert rates[40] == pytest.approx(0.6)
    assert rates[60] == pytest.approx(0.3)
    assert np.allclose(np.diff(rates[:41]), 0.6 / 41)
    assert rates[79] < 0.001


def test_presets_are_the_published_ones() -> None:
    table = {name: (r.epochs, r.lr, r.weight_decay, s.ema) for name, (r, s) in PRESETS.items() if name.isdigit()}
    assert table == {
        "100": (100, 0.45, 1e-6, 0.99),
        "300": (300, 0.3, 1e-6, 0.99),
        "1000": (1000, 0.2, 1.5e-6, 0.996),
    }
    for name in table:
        recipe, settings = PRESETS[name]
        assert (recipe.batch, recipe.optimizer, recipe.momentum, recipe.trust) == (4096, "lars", 0.9, 1e-3)
        assert (recipe.crop, recipe.warmup_epochs, settings.hidden, settings.dimensions) == (224, 10, 4096, 256)
        assert (settings.views, settings.loss) == (4, MSBReg(0.004, 0.5, "nuclear", "view", "others"))


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lars_adapts_weights_and_leaves_biases_alone(weight_decay: float) -> None:
    layer = nn.Linear(3, 2)
    optimizer = build_optimizer(Recipe(weight_decay=weight_decay), layer)
    w, b = layer.weight.detach().clone(), layer.bias.detach().clone()
    layer.weight.grad, layer.bias.grad = torch.ones(2, 3), torch.ones(2)
    for group in optimizer.param_groups:
        group["lr"] = 2.0
    optimizer.step()
    trust = 1e-3 * w.norm() / (math.sqrt(6) + weight_decay * w.norm())
    torch.testing.assert_close(layer.weight.detach(), w - 2 * trust * (1 + weight_decay * w))
    torch.testing.assert_close(layer.bias.detach(), b - 2)


def test_methods_are_found_by_their_files() -> None:
    assert "msbreg" in method_names()
    for name in method_names():
        module = find_method(name)
        assert {"PRESETS", "Settings", "build"} <= vars(module).keys()
        assert all(isinstance(settings, module.Settings) for _, settings in module.PRESETS.values())


# -- command line


def test_options_change_a_preset() -> None:
    command = parse(["DATA", "--preset", "demo", "--views", "2", "--singular", "0", "--lr=0.1", "--workers", "3"])
    recipe, settings = PRESETS["demo"]
    assert command.data == Path("DATA")
    assert command.recipe == replace(recipe, lr=0.1)
    assert command.settings == replace(settings, views=2, loss=MSBReg(singular=0))
    assert command.machine.workers == 3


def test_help_names_presets_and_says_what_demo_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    text = capsys.readouterr().out
    assert caught.value.code == 0
    for words in ("--arch", "--preset", "demo is NOT a", "--singular", "--overwrite"):
        assert words in text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--batch", "64"], "9 images are fewer than a batch of 64"),
        (["--views", "1"], "--views is 1"),
        (["--preset", "dmo"], "unknown preset 'dmo'"),
        (["--method", "byoll"], "unknown method 'byoll'"),
        (["--lr", "-1"], "--lr is -1.0"),
        (["--precision", "bf16", "--device", "cpu"], "bf16 needs a GPU"),
        (["--device", "tpu9000"], "unknown device"),
        (["--steps", "-1"], "--steps is -1"),
    ],
)
def test_bad_input_is_one_message_and_status_2(
    tiny: None, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    base = ["--preset", "demo", "--batch", "4", "--crop", "32", "--out", str(tmp_path / "out")]
    assert main([str(images), *base, *options]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_missing_folder_and_debug(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere"), "--preset", "demo", "--out", str(tmp_path)]) == 2
    assert "nowhere" in capsys.readouterr().err
    with pytest.raises(UserError):
        main([str(tmp_path / "nowhere"), "--preset", "demo", "--out", str(tmp_path), "--debug"])


def test_interrupt_says_how_to_go_on(
    tiny: None, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_at(monkeypatch, 1, KeyboardInterrupt())
    options = ["--preset", "demo", "--batch", "4", "--crop", "32", "--workers", "0", "--out", str(tmp_path / "out")]
    assert main([str(images), *options]) == 130
    assert "type the same command again" in capsys.readouterr().err


def test_full_disk_is_said_and_leaves_nothing_half_written(
    tiny: None, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    run(images, tmp_path / "out", replace(RECIPE, steps=2))
    before = (tmp_path / "out" / "checkpoint.pth").read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="cannot write") as caught:
        run(images, tmp_path / "out", overwrite=True)
    assert "No space left" in caught.value.found
    assert (tmp_path / "out" / "checkpoint.pth").read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["checkpoint.pth", "metrics.jsonl"]


def test_plot_draws_a_picture(tiny: None, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(images, tmp_path / "out")
    assert main(["plot", str(tmp_path / "out")]) == 0
    with Image.open(capsys.readouterr().out.strip()) as picture:
        assert picture.size[0] > 500
    assert main(["plot", str(tmp_path)]) == 2


@pytest.mark.slow
def test_kill_and_resume_ends_with_the_same_weights(images: Path, tmp_path: Path) -> None:
    options = [str(images), "--preset", "demo", "--batch", "4", "--crop", "32", "--hidden", "16", "--steps", "6"]
    options += ["--save-every", "1", "--device", "cpu", "--workers", "1", "--out"]
    command = [sys.executable, "-m", "pretrain", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([*command, str(tmp_path / "whole")], check=True, env=environment, capture_output=True)
    checkpoint = tmp_path / "cut" / "checkpoint.pth"
    for _ in range(2):
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        process = subprocess.Popen([*command, str(tmp_path / "cut")], env=environment, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    subprocess.run([*command, str(tmp_path / "cut")], check=True, env=environment, capture_output=True)
    whole, cut = (torch.load(tmp_path / name / "checkpoint.pth", weights_only=True) for name in ("whole", "cut"))
    assert_same(whole, cut)
    assert not list((tmp_path / "cut").glob(".*.part"))
