"""The learning rate of every published preset at every step, against its authors' code written anew."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pretrain.__main__ import main, parse
from pretrain.checkpoint import differences
from pretrain.presets import find_presets, method_names
from pretrain.recipe import Recipe, demo

STEPS = 7  # an epoch, but where an epoch of the true size matters

Rates = Callable[[int, int], Iterator[float]]  # (epochs, steps an epoch) → the rate of every step


def scaled(base: float, batch: int, end: float = 0.0) -> Rates:
    """barlowtwins: main.py, vicreg: main_vicreg.py (both adjust_learning_rate), byol: utils/schedules.py, simclr:
    model_util.py (both end at 0)."""

    def rates(epochs: int, epoch: int) -> Iterator[float]:
        peak, warm, rest = base * batch / 256, 10 * epoch, (epochs - 10) * epoch
        for step in range(epochs * epoch):
            q = 0.5 * (1 + math.cos(math.pi * (step - warm) / rest))
            yield peak * step / warm if step < warm else peak * q + end * peak * (1 - q)

    return rates


def swav(base: float, final: float, start: float, warm: int) -> Rates:
    """swav: main_swav.py; dino: utils.py, cosine_scheduler."""

    def rates(epochs: int, epoch: int) -> Iterator[float]:
        yield from np.linspace(start, base, epoch * warm).tolist()
        rest = epoch * (epochs - warm)
        for t in range(rest):
            yield final + 0.5 * (base - final) * (1 + math.cos(math.pi * t / rest))

    return rates


def once_an_epoch(base: float) -> Rates:
    """moco: main_moco.py with --cos, simsiam: main_simsiam.py (both adjust_learning_rate)."""

    def rates(epochs: int, epoch: int) -> Iterator[float]:
        for number in range(epochs):
            yield from [base * 0.5 * (1.0 + math.cos(math.pi * number / epochs))] * epoch

    return rates


def every_30_epochs(epochs: int, epoch: int) -> Iterator[float]:
    """pytorch/examples: imagenet/main.py."""
    for number in range(epochs):
        yield from [0.1 * 0.1 ** (number // 30)] * epoch


def whitened(base: float) -> Rates:
    """htdt/self-supervised: train.py, --lr_step step with the defaults --drop 50 25 and --drop_gamma 0.2."""

    def rates(epochs: int, epoch: int) -> Iterator[float]:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=base)
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [epochs - 50, epochs - 25], gamma=0.2)
        done = 0
        for _ in range(epochs):
            for _ in range(epoch):
                if done < 500:
                    optimizer.param_groups[0]["lr"] = base * (done + 1) / 500
                    done += 1
                yield optimizer.param_groups[0]["lr"]
            optimizer.step()
            scheduler.step()

    return rates


BYOL = {"100": scaled(0.45, 4096), "300": scaled(0.3, 4096), "1000": scaled(0.2, 4096)}
PUBLISHED: dict[str, dict[str, Rates]] = {
    "barlow_twins": {"300": scaled(0.2, 2048, 0.001), "1000": scaled(0.2, 2048, 0.001)},
    "byol": BYOL,
    "dino": {"100": swav(5e-4 * 512 / 256, 1e-6, 0.0, 10), "300": swav(5e-4 * 1024 / 256, 1e-6, 0.0, 10)},
    "mocov2": {"200": once_an_epoch(0.03), "800": once_an_epoch(0.03)},
    "msbreg": BYOL,
    "simclr": {"100": scaled(0.3, 4096), "1000": scaled(0.3, 4096)},
    "simsiam": {
        "100": once_an_epoch(0.05 * 512 / 256),
        **{epochs: once_an_epoch(0.05) for epochs in ("200", "400", "800")},
    },
    "supervised": {"90": every_30_epochs},
    "swav": {
        **{epochs: swav(4.8, 0.0048, 0.3, 10) for epochs in ("100", "200", "400", "800")},
        **{f"{epochs}-batch256": swav(0.6, 0.0006, 0.0, 0) for epochs in ("200", "400")},
    },
    "vicreg": {
        "100": scaled(0.3, 512, 0.001),  # README.md
        "100-paper": scaled(0.4, 512, 0.001),  # the paper, appendix C.4
        "1000": scaled(0.2, 2048, 0.001),
    },
    "wmse": {
        "240": whitened(2e-3),
        "240-views4": whitened(2e-3),
        "1000": whitened(3e-3),
        "1000-views4": whitened(3e-3),
    },
}


def test_no_published_preset_is_left_out() -> None:
    assert {name: {*find_presets(name).PROTOCOLS} for name in method_names()} == {
        name: set(presets) for name, presets in PUBLISHED.items()
    }


def ours(recipe: Recipe, epoch: int) -> NDArray[np.float64]:
    images = epoch * recipe.batch + 1
    peak = recipe.peak(recipe.lr)
    return np.array([peak * recipe.rate_at(step, images) for step in range(recipe.total_steps(images))])


@pytest.mark.parametrize(
    ("method", "preset"), [(method, preset) for method in PUBLISHED for preset in PUBLISHED[method]]
)
def test_the_rate_of_every_step_is_the_published_one(method: str, preset: str) -> None:
    recipe, _ = find_presets(method).PROTOCOLS[preset]
    wanted = np.array(list(PUBLISHED[method][preset](recipe.epochs, STEPS)))
    np.testing.assert_allclose(ours(recipe, STEPS), wanted, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("method", "preset", "epoch"), [("swav", "100", 312), ("wmse", "240", 126_689 // 512)])
def test_an_epoch_of_the_true_size(method: str, preset: str, epoch: int) -> None:
    recipe, _ = find_presets(method).PROTOCOLS[preset]
    wanted = np.array(list(PUBLISHED[method][preset](recipe.epochs, epoch)))
    np.testing.assert_allclose(ours(recipe, epoch), wanted, rtol=1e-12, atol=1e-15)


def test_a_demo_loses_no_step_to_a_rate_of_0() -> None:
    recipe = demo()
    rates = [recipe.rate_at(step, 64) for step in range(6)]
    assert rates[:5] == pytest.approx([1 / 5, 2 / 5, 3 / 5, 4 / 5, 1])
    assert rates[5] < 1


def test_one_step_of_warm_up_is_the_start() -> None:
    recipe = Recipe(steps=3, warmup_steps=1, start_lr=0.25, warmup_inclusive=True, batch=4)
    assert [recipe.rate_at(step, 4) for step in range(3)] == [0.25, 1, 0.5]


NEW = ("start_lr", "warmup_inclusive", "milestones", "factor", "per_epoch")


def test_what_was_begun_before_these_fields_is_compared_with_what_was_done_then() -> None:
    old = {name: value for name, value in asdict(Recipe()).items() if name not in NEW}
    assert differences({"recipe": old}, {"recipe": asdict(Recipe())}) == []
    assert differences({"recipe": old}, {"recipe": asdict(Recipe()) | {"milestones": []}}) == []  # JSON's
    swav_, _ = find_presets("swav").PROTOCOLS["100"]
    lines = differences({"recipe": old}, {"recipe": asdict(replace(Recipe(), start_lr=swav_.start_lr))})
    assert lines == ["recipe.start_lr: None in the checkpoint, 0.0625 now"]


def test_a_checkpoint_without_these_fields_is_resumed(
    tiny: None,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    out = tmp_path / "out"
    typed = [
        *(str(images), "--out", str(out), "--preset", "demo", "--device", "cpu", "--crop", "32", "--batch", "4"),
        *("--steps", "2", "--warmup-steps", "1", "--hidden", "8", "--dimensions", "4"),
    ]
    assert main(typed) == 0
    path = out / "checkpoint.pth"
    state = torch.load(path, weights_only=True)
    for name in NEW:
        del state["config"]["recipe"][name]
    torch.save(state, path)
    caplog.set_level(logging.INFO, logger="pretrain")
    assert main(typed) == 0
    assert "is finished" in caplog.text
    assert main([*typed, "--start-lr", "0"]) == 2
    assert "recipe.start_lr: None in the checkpoint, 0.0 now" in capsys.readouterr().err


def test_the_schedule_can_be_typed() -> None:
    recipe = parse(["images", "--method", "supervised", "--factor", "1", "--milestones"]).recipe
    assert (recipe.milestones, recipe.factor) == ((), 1.0)
    recipe = parse(["images", "--method", "supervised", "--milestones", "3", "4", "--epochs", "5"]).recipe
    assert (recipe.milestones, recipe.factor) == ((3, 4), 0.1)
    assert parse(["images", "--method", "byol", "--start-lr", "None"]).recipe.start_lr is None
