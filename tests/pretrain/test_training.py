"""The training loop: what it writes, how it stops, and that it goes on as if nothing had happened."""

from __future__ import annotations

import json
import logging
import math
import os
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from PIL import Image

from pretrain import train
from pretrain.forces import Forces
from pretrain.machine import Machine
from pretrain.methods.msbreg import Settings
from pretrain.recipe import Recipe
from pretrain.train import pretrain
from transfer.checkpoints.read import read_backbone
from transfer.runtime.curve import read
from transfer.runtime.errors import CheckpointError, DataError, TrainingError, UserError
from transfer.runtime.files import locked

RECIPE = Recipe(arch="resnet18", crop=32, steps=6, warmup_steps=1, batch=4, optimizer="sgd", lr=0.5)
SETTINGS = Settings(views=2, hidden=16, dimensions=8)
MACHINE = Machine(device="cpu", workers=0, log_every=1, save_every=2)


def run(images: Path, out: Path, recipe: Recipe = RECIPE, settings: Settings = SETTINGS, **more: Any) -> dict[str, Any]:
    path = pretrain(images, out, "msbreg", recipe, settings, **({"machine": MACHINE} | more))
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int, error: BaseException) -> None:
    original = train._Run._step

    def stopped(self: Any, batch: Any, *more: Any) -> Any:
        if self.done == step:
            raise error
        return original(self, batch, *more)

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


@pytest.mark.parametrize(("stop", "optimizer"), [(1, "sgd"), (5, "sgd"), (3, "lars")])
def test_resumed_run_is_bit_equal(
    tiny: None, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int, optimizer: str
) -> None:
    recipe = replace(RECIPE, optimizer=optimizer)
    whole = run(images, tmp_path / "whole", recipe)
    with monkeypatch.context() as patch:
        interrupt_at(patch, stop, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run(images, tmp_path / "cut", recipe)
    torch.manual_seed(12345)  # whatever the global stream does in between
    resumed = run(images, tmp_path / "cut", recipe, machine=replace(MACHINE, workers=1))
    assert_same(whole, resumed)
    rows = [read(tmp_path / name / "metrics.jsonl") for name in ("whole", "cut")]
    timing = {"images_per_second", "data_wait"}
    strip = [[{k: v for k, v in row.items() if k not in timing} for row in part] for part in rows]
    assert strip[0] == strip[1]
    assert [row["step"] for row in rows[1]] == [1, 2, 3, 4, 5, 6]


def test_threads_are_set_kept_and_compared(
    tiny: None, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    torch.set_num_threads(3)  # as a machine or OMP_NUM_THREADS would
    two = replace(MACHINE, threads=2)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run(images, tmp_path, machine=two)
    assert torch.get_num_threads() == 2
    state = run(images, tmp_path)
    assert torch.get_num_threads() == 1
    assert [each["threads"] for each in state["progress"]["conditions"]] == [2, 1]
    assert "compared with the training so far: the number of CPU threads was 2 and is now 1" in caplog.text
    caplog.clear()
    run(images, tmp_path, machine=two)  # finished: found, and said
    assert "compared with the training so far: the number of CPU threads was 1 and is now 2" in caplog.text
    with pytest.raises(UserError, match="--threads"):
        run(images, tmp_path / "none", machine=replace(MACHINE, threads=0))


def test_a_checkpoint_of_older_code_says_that_it_does_not_know_its_conditions(
    tiny: None, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = run(images, tmp_path)
    del state["progress"]["conditions"]
    torch.save(state, tmp_path / "checkpoint.pth")
    run(images, tmp_path)
    assert "its threads, instruction set and arithmetic were not recorded" in caplog.text


def test_seed_decides(tiny: None, images: Path, tmp_path: Path) -> None:
    a, b = (run(images, tmp_path / str(seed), replace(RECIPE, seed=seed, steps=2)) for seed in (0, 1))
    assert not torch.equal(a["online"]["encoder.conv.weight"], b["online"]["encoder.conv.weight"])


def test_checkpoint_layout_of_a_resnet18(images: Path, tmp_path: Path) -> None:
    state = run(images, tmp_path / "out", replace(RECIPE, steps=1, warmup_steps=0))
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
    rows = read(tmp_path / "out" / "metrics.jsonl")
    wanted = {"loss", "centroid", "singular", "brownian", "lr", "ema", "images_per_second", "std", "effective_rank"}
    for row in rows:
        assert wanted < row.keys()
        total = row["centroid"] + 0.004 * row["singular"] + 0.5 * row["brownian"]
        assert row["loss"] == pytest.approx(total, abs=1e-5)
    assert rows[0]["ema"] == pytest.approx(0.99)
    assert rows[-1]["lr"] < rows[2]["lr"]


def test_byol_is_the_case_without_forces(tiny: None, images: Path, tmp_path: Path) -> None:
    run(images, tmp_path / "out", replace(RECIPE, steps=1, warmup_steps=0), replace(SETTINGS, forces=Forces()))
    (row,) = read(tmp_path / "out" / "metrics.jsonl")
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
        run(images, tmp_path / "out", replace(RECIPE, lr=0.25), replace(SETTINGS, forces=Forces(0.004, 0.1)))
    assert caught.value.found.splitlines() == [
        "recipe.lr: 0.5 in the checkpoint, 0.25 now",
        "settings.forces.brownian: 0.5 in the checkpoint, 0.1 now",
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


def test_full_disk_is_said_and_leaves_nothing_half_written(
    tiny: None, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        interrupt_at(patch, 3, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run(images, tmp_path / "out")
    before = (tmp_path / "out" / "checkpoint.pth").read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="cannot write") as caught:
        run(images, tmp_path / "out")
    assert "No space left" in caught.value.found
    assert (tmp_path / "out" / "checkpoint.pth").read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".lock", "checkpoint.pth", "metrics.jsonl"]


def test_weights_that_are_not_finite_never_replace_good_ones(
    tiny: None, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = train.build_optimizer

    def late_poison(recipe: Recipe, method: Any) -> torch.optim.Optimizer:
        optimizer, calls = original(recipe, method), []

        def poison(*_: Any) -> None:
            calls.append(1)
            if len(calls) == 4:  # after its update: the loss of this step was still finite
                next(method.parameters()).data.fill_(math.nan)

        optimizer.register_step_post_hook(poison)
        return optimizer

    monkeypatch.setattr(train, "build_optimizer", late_poison)
    with pytest.raises(TrainingError, match="no longer finite after step 4"):
        run(images, tmp_path / "out")
    assert torch.load(tmp_path / "out" / "checkpoint.pth", weights_only=True)["step"] == 2


def test_an_interrupted_overwrite_does_not_bring_the_old_run_back(
    tiny: None, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(images, tmp_path / "out")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run(images, tmp_path / "out", overwrite=True)
    interrupt_at(monkeypatch, 0, RuntimeError("trained again"))
    with pytest.raises(RuntimeError, match="trained again"):
        run(images, tmp_path / "out")


def test_unreadable_images_are_listed_and_replaced_up_to_the_budget(
    tiny: None, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for index in (2, 5):
        (images / f"{index}.png").write_bytes(b"\x89PNG rubbish")
    state = run(images, tmp_path / "out", machine=replace(MACHINE, unreadable=2))
    assert sorted(Path(name).name for name in state["progress"]["unreadable"]) == ["2.png", "5.png"]
    for name in ("2.png", "5.png"):
        assert caplog.text.count(f"{name} (") == 1  # said once, however often it comes


def test_one_unreadable_image_too_many_stops_with_the_list(tiny: None, images: Path, tmp_path: Path) -> None:
    whole = replace(RECIPE, batch=8, steps=2)
    for index in (2, 5, 6):
        (images / f"{index}.png").write_bytes(b"")
    with pytest.raises(DataError, match="3 images cannot be read, --unreadable allows 2") as caught:
        run(images, tmp_path / "out", whole, machine=replace(MACHINE, unreadable=2))
    assert all(f"{index}.png" in caught.value.found for index in (2, 5, 6))
    for path in images.iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="cannot be read"):
        run(images, tmp_path / "other", machine=replace(MACHINE, unreadable=1000))


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "bf16"},
        {"views_on": "device"},
        {"accumulate": 2},
        {"optimizer": "adamw", "lr": 1e-3},
        {"clip": 0.1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_resuming_is_bit_equal_whatever_the_recipe(
    tiny: None, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    recipe = replace(RECIPE, **change)
    whole = run(images, tmp_path / "whole", recipe)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run(images, tmp_path / "cut", recipe)
    assert_same(whole, run(images, tmp_path / "cut", recipe))


def test_recipe_options_reach_the_training(tiny: None, images: Path, tmp_path: Path) -> None:
    plain = run(images, tmp_path / "plain")
    for change in ({"precision": "bf16"}, {"clip": 1e-4}, {"final_lr": 0.5}, {"bias_lr": 0.01}):
        other = run(images, tmp_path / next(iter(change)), replace(RECIPE, **change))
        assert not torch.equal(plain["online"]["encoder.conv.weight"], other["online"]["encoder.conv.weight"]), change
    device = run(images, tmp_path / "device", replace(RECIPE, views_on="device"))
    one, other = (state["online"]["encoder.conv.weight"] for state in (plain, device))
    assert not torch.equal(one, other)  # the same draws, other rounding


def test_probes_of_a_labelled_set(tiny: None, images: Path, tmp_path: Path) -> None:
    labelled = tmp_path / "labelled"
    for index in range(12):
        path = labelled / f"class{index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 50), (250, 10, 10) if index % 2 else (10, 10, 250)).save(path)
    machine = replace(MACHINE, probe_train=labelled, probe_test=labelled, probe_every=1)
    whole, plain = run(images, tmp_path / "probed", machine=machine), run(images, tmp_path / "plain")
    assert_same(whole, plain)  # looking does not change what is trained
    found = [row for row in read(tmp_path / "probed" / "metrics.jsonl") if "knn" in row]
    assert [row["step"] for row in found] == [0, 2, 4, 6]  # 9 images, batches of 4: two steps an epoch
    assert all(0 <= row[name] <= 100 for row in found for name in ("knn", "linear"))
    assert found[-1]["linear"] == 100  # red and blue
    for row in found:
        assert row["knn_error"] == pytest.approx(math.sqrt(row["knn"] * (100 - row["knn"]) / 12))
    (labelled / "class2").mkdir()
    Image.new("RGB", (8, 8)).save(labelled / "class2" / "x.png")
    other = tmp_path / "labelled2"
    other.mkdir()
    (labelled / "class0").rename(other / "class0")
    with pytest.raises(DataError, match="classes"):
        run(images, tmp_path / "out", machine=replace(machine, probe_test=tmp_path / "labelled2"))


@pytest.mark.slow
def test_a_second_process_is_refused(tiny: None, images: Path, tmp_path: Path) -> None:
    with locked(tmp_path / "out", "", "", name=".lock"), pytest.raises(UserError, match="another process trains"):
        run(images, tmp_path / "out")


@pytest.mark.slow
def test_the_cifar_stem_is_said_not_to_convert(images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        state = run(images, tmp_path / "out", replace(RECIPE, stem="cifar", steps=1, warmup_steps=0))
    assert "does not convert to detectors" in caplog.text
    assert state["stem"] == "cifar"
    with pytest.raises(CheckpointError, match="stem 'cifar'"):
        read_backbone(tmp_path / "out" / "checkpoint.pth")


def test_every_kind_of_source_trains_alike(tiny: None, images: Path, tmp_path: Path) -> None:
    """The same images in the same order: from a folder, a list, and tar shards in webdataset's layout."""
    names = sorted(path.name for path in images.iterdir())
    (tmp_path / "list.txt").write_text("".join(f"images/{name}\n" for name in names), encoding="utf-8")
    with tarfile.open(tmp_path / "shard-000000.tar", "w") as shard:
        for name in names:
            shard.add(images / name, arcname=name)
    from_folder = run(images, tmp_path / "folder", replace(RECIPE, steps=2))
    for source in ("list.txt", "shard-{000000..000000}.tar"):
        state = run(tmp_path / source, tmp_path / "out" / source[:4], replace(RECIPE, steps=2))
        assert_same(from_folder["online"], state["online"])


def test_a_broken_probe_image_costs_no_training(tiny: None, images: Path, tmp_path: Path) -> None:
    labelled = tmp_path / "labelled"
    for index in range(8):
        path = labelled / f"class{index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (30 * index, 9, 9)).save(path)
    good = (labelled / "class0" / "0.png").read_bytes()
    machine = replace(MACHINE, probe_train=labelled, probe_test=labelled, probe_every=1000, workers=1)
    (labelled / "class0" / "0.png").write_bytes(b"rubbish")
    with pytest.raises(DataError, match=r"0\.png") as caught:  # the untrained encoder is probed: it shows at once
        run(images, tmp_path / "out", machine=machine)
    assert "Traceback" not in str(caught.value)
    assert not (tmp_path / "out" / "checkpoint.pth").exists()
    (labelled / "class0" / "0.png").write_bytes(good)
    state = run(images, tmp_path / "out", machine=MACHINE)  # without probes
    (labelled / "class0" / "0.png").write_bytes(b"rubbish")
    with pytest.raises(DataError):  # the probe that is missing is asked for; what is trained stays
        run(images, tmp_path / "out", machine=machine)
    (labelled / "class0" / "0.png").write_bytes(good)
    assert_same(state, run(images, tmp_path / "out", machine=machine))
    rows = read(tmp_path / "out" / "metrics.jsonl")
    assert [row["step"] for row in rows if "knn" in row] == [6]


def test_overwrite_keeps_the_old_run_until_a_step_has_succeeded(
    tiny: None, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = run(images, tmp_path / "out")
    interrupt_at(monkeypatch, 0, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run(images, tmp_path / "out", overwrite=True)
    assert_same(state, torch.load(tmp_path / "out" / "checkpoint.pth", weights_only=True))
