"""The bank of classifiers against plain torch: nn.Linear, autograd, torch.optim.SGD and its schedulers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR

from transfer.classification.sgd.bank import Bank, Head, Norm, Rule, train_on_features
from transfer.classification.sgd.recipe import SgdSchedule, epoch_order
from transfer.runtime.errors import DataError, TrainingError, UserError

CPU = torch.device("cpu")
PLAIN = Rule(0.0, False)
ROWS, WIDTH, CLASSES = 45, 12, 4
SCHEDULE = SgdSchedule(epochs=3, batch=16, momentum=0.9, schedule="cosine")
GRID = [Head(0.5, 0.0, "avg"), Head(0.05, 1e-2, "avg"), Head(0.5, 1e-3, "max"), Head(2.0, 0.1, "avg")]


def data(seed: int = 0, rows: int = ROWS) -> tuple[dict[str, Tensor], Tensor]:
    """Features of two poolings, of different widths, that tell something about the labels."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (rows,), generator=random)
    centres = torch.randn(CLASSES, WIDTH + 5, generator=random)
    x = centres[labels] + torch.randn(rows, WIDTH + 5, generator=random)
    return {"avg": x[:, :WIDTH].contiguous(), "max": x.contiguous()}, labels


def by_torch(
    head: Head, first: tuple[Tensor, Tensor], schedule: SgdSchedule, seed: int, train: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """The same training written with autograd, an optimiser and a scheduler of torch, in float64."""
    linear = nn.Linear(train.shape[1], CLASSES).double()
    with torch.no_grad():
        linear.weight.copy_(first[0])
        linear.bias.copy_(first[1])
    optimizer = torch.optim.SGD(
        linear.parameters(), head.lr, schedule.momentum, 0, head.weight_decay, schedule.nesterov
    )
    scheduler = scheduler_of(schedule, optimizer, len(train))
    per_epoch = -(-len(train) // schedule.batch)
    for epoch in range(schedule.epochs):
        order = torch.from_numpy(epoch_order(len(train), seed, epoch))
        for rows in order.split(schedule.batch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(linear(train[rows].double()), labels[rows]).backward()
            optimizer.step()
            if not schedule.per_epoch and schedule.schedule == "cosine":
                scheduler.step()
        if schedule.per_epoch or schedule.schedule == "steps":
            scheduler.step()
    assert per_epoch == schedule.epoch_steps(len(train))
    return linear.weight.detach(), linear.bias.detach()


def scheduler_of(schedule: SgdSchedule, optimizer: torch.optim.Optimizer, images: int) -> LRScheduler:
    if schedule.schedule == "steps":
        return MultiStepLR(optimizer, list(schedule.milestones), schedule.factor)
    return CosineAnnealingLR(optimizer, schedule.epochs if schedule.per_epoch else schedule.total_steps(images))


def first_weights(head: Head, seed: int) -> tuple[Tensor, Tensor]:
    widths = {"avg": WIDTH, "max": WIDTH + 5}
    bank = Bank([head], widths, CLASSES, rule=PLAIN, seed=seed, device=CPU)
    return bank.classifier(0)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
    nesterov=st.booleans(),
    decay=st.sampled_from([0.0, 1e-3, 0.1]),
    kind=st.sampled_from(["cosine per step", "cosine per epoch", "steps"]),
    batch=st.integers(1, 50),
    seed=st.integers(0, 5),
)
def test_a_bank_of_one_is_torchs_sgd(
    momentum: float, nesterov: bool, decay: float, kind: str, batch: int, seed: int
) -> None:
    schedule = SgdSchedule(
        epochs=3,
        batch=batch,
        momentum=momentum,
        nesterov=nesterov and momentum > 0,
        schedule="steps" if kind == "steps" else "cosine",
        milestones=(1, 2) if kind == "steps" else (),
        factor=0.2 if kind == "steps" else 1.0,
        per_epoch=kind == "cosine per epoch",
    )
    train, labels = data()
    head = Head(0.1, decay, "avg")
    bank = train_on_features(train, labels, [head], schedule, classes=CLASSES, seed=seed)
    weight, bias = by_torch(head, first_weights(head, seed), schedule, seed, train["avg"], labels)
    mine = bank.classifier(0)
    scale = weight.abs().max()
    assert (mine[0] - weight).abs().max() < 2e-5 * scale
    assert (mine[1] - bias).abs().max() < 2e-5 * scale


@pytest.mark.parametrize("nesterov", [False, True])
def test_each_head_of_a_bank_is_the_head_alone(nesterov: bool) -> None:
    train, labels = data()
    schedule = replace(SCHEDULE, nesterov=nesterov)
    bank = train_on_features(train, labels, GRID, schedule, classes=CLASSES, seed=3)
    for place, head in enumerate(GRID):
        alone = train_on_features(train, labels, [head], schedule, classes=CLASSES, seed=3)
        for mine, other in zip(bank.classifier(place), alone.classifier(0), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
        mine, other = bank.logits(train)[:, place], alone.logits(train)[:, 0]
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


def test_heads_of_one_width_start_equal_small_and_without_bias() -> None:
    heads = [Head(0.1, 0, "avg"), Head(1, 0, "avg"), Head(1, 0, "max")]
    bank = Bank(heads, {"avg": 500, "max": 500}, 20, rule=PLAIN, seed=4, device=CPU)
    (first, bias), (second, _), (third, _) = (bank.classifier(place) for place in range(3))
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    assert not bias.any()
    assert first.std().item() == pytest.approx(0.01, rel=0.03)
    assert abs(first.mean().item()) < 0.0005


def test_a_diverging_head_is_marked_and_disturbs_no_other() -> None:
    train, labels = data()
    wild = [Head(1e30, 1e10, "avg"), *GRID]
    schedule = replace(SCHEDULE, epochs=6)
    bank = train_on_features(train, labels, wild, schedule, classes=CLASSES, seed=1)
    calm = train_on_features(train, labels, GRID, schedule, classes=CLASSES, seed=1)
    assert bank.lost.tolist() == [True, False, False, False, False]
    for place in range(len(GRID)):
        torch.testing.assert_close(bank.classifier(place + 1), calm.classifier(place), rtol=1e-4, atol=1e-5)


def test_what_the_last_step_destroys_is_marked_too() -> None:
    train, labels = data()
    one = SgdSchedule(steps=1, batch=ROWS, momentum=0, schedule="steps")
    heads = [Head(1e38, 1e38, "avg"), GRID[0]]
    bank = train_on_features(train, labels, heads, one, classes=CLASSES)
    assert bank.lost.tolist() == [True, False]


def test_nothing_left_is_an_error() -> None:
    train, labels = data()
    with pytest.raises(TrainingError, match="every linear classifier has diverged"):
        train_on_features(train, labels, [Head(1e30, 1e10, "avg")] * 2, SCHEDULE, classes=CLASSES)
    train["avg"][7, 3] = torch.nan
    with pytest.raises(TrainingError, match="not finite"):
        train_on_features(train, labels, GRID[:2], SCHEDULE, classes=CLASSES)


def test_features_on_the_disk_train_like_those_in_memory(tmp_path: Path) -> None:
    train, labels = data()
    halves = {pooling: x.half() for pooling, x in train.items()}
    mapped = {}
    for pooling, x in halves.items():
        np.save(tmp_path / f"{pooling}.npy", x.numpy())
        mapped[pooling] = np.load(tmp_path / f"{pooling}.npy", mmap_mode="r")
    disk = train_on_features(mapped, labels.numpy(), GRID, SCHEDULE, classes=CLASSES, seed=2)
    memory = train_on_features(halves, labels, GRID, SCHEDULE, classes=CLASSES, seed=2)
    assert all(torch.equal(disk.state()[name], tensor) for name, tensor in memory.state().items())


@pytest.mark.parametrize("trust", [0.0, 0.01])
@pytest.mark.parametrize("norm", [None, Norm(1, True, 1e-5, 0.1)], ids=["plain", "norm"])
def test_a_bank_goes_on_from_its_state(norm: Norm | None, trust: float) -> None:
    train, labels = data()
    options = {"rule": Rule(0.9, True, trust), "norm": norm, "seed": 0, "device": CPU}
    widths = {pooling: x.shape[1] for pooling, x in train.items()}
    whole, other = (Bank(GRID, widths, CLASSES, **options) for _ in range(2))
    for _ in range(3):
        whole.step(train, labels, 1.0, ROWS)
    other.load({name: tensor.clone() for name, tensor in whole.state().items()})
    for bank in (whole, other):
        bank.step(train, labels, 0.5, ROWS)
    assert all(torch.equal(other.state()[name], tensor) for name, tensor in whole.state().items())
    with pytest.raises(UserError, match="do not fit"):
        Bank(GRID[:1], widths, CLASSES, **options).load(whole.state())


def test_losses_are_mean_cross_entropies() -> None:
    train, labels = data()
    widths = {pooling: x.shape[1] for pooling, x in train.items()}
    bank = Bank(GRID, widths, CLASSES, rule=Rule(0.9, False), seed=0, device=CPU)
    for _ in range(4):
        logits = bank.logits(train)
        losses = bank.step(train, labels, 1.0, ROWS)
        for place in range(len(GRID)):
            wanted = nn.functional.cross_entropy(logits[:, place], labels)
            assert losses[place].item() == pytest.approx(wanted.item(), rel=1e-5)


@given(epochs=st.integers(1, 40), images=st.integers(1, 300), batch=st.integers(1, 64), per_epoch=st.booleans())
@settings(max_examples=30, deadline=None)
def test_the_cosine_is_torchs(epochs: int, images: int, batch: int, per_epoch: bool) -> None:
    schedule = SgdSchedule(epochs=epochs, batch=batch, momentum=0.9, schedule="cosine", per_epoch=per_epoch)
    every = schedule.epoch_steps(images) if per_epoch else 1
    assert_follows(schedule, images, lambda optimizer: scheduler_of(schedule, optimizer, images), every)


@given(milestones=st.sets(st.integers(1, 12), max_size=4), images=st.integers(1, 300), batch=st.integers(1, 64))
@settings(max_examples=30, deadline=None)
def test_the_steps_are_torchs(milestones: set[int], images: int, batch: int) -> None:
    schedule = SgdSchedule(
        epochs=12, batch=batch, momentum=0.9, schedule="steps", milestones=tuple(sorted(milestones)), factor=0.2
    )
    every = schedule.epoch_steps(images)
    assert_follows(schedule, images, lambda optimizer: scheduler_of(schedule, optimizer, images), every)


def assert_follows(
    schedule: SgdSchedule, images: int, make: Callable[[torch.optim.Optimizer], LRScheduler], every: int
) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    for step in range(schedule.total_steps(images)):
        assert schedule.share(step, images) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6, abs=1e-9)
        optimizer.step()
        if (step + 1) % every == 0:
            scheduler.step()


def test_a_length_in_steps_cuts_the_last_epoch() -> None:
    schedule = SgdSchedule(steps=7, batch=16, momentum=0.9, schedule="cosine")
    assert schedule.total_steps(ROWS) == 7
    assert schedule.epoch_steps(ROWS) == 3
    # lr / 2 · (1 + cos(π s / S)), one step of the schedule for every step of the optimiser
    assert schedule.share(3, ROWS) == pytest.approx((1 + np.cos(np.pi * 3 / 7)) / 2)


@given(images=st.integers(1, 200), seed=st.integers(0, 9), epoch=st.integers(0, 9))
def test_an_epoch_is_a_permutation_of_its_own(images: int, seed: int, epoch: int) -> None:
    order = epoch_order(images, seed, epoch)
    assert sorted(order.tolist()) == list(range(images))
    assert np.array_equal(order, epoch_order(images, seed, epoch))
    if images > 50:
        assert not np.array_equal(order, epoch_order(images, seed, epoch + 1))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"epochs": 0}, "epochs 0, steps 0"),
        ({"steps": 5}, "epochs 3, steps 5"),
        ({"batch": 0}, "batch 0"),
        ({"momentum": 1.0}, "momentum 1.0"),
        ({"momentum": 0.0, "nesterov": True}, "nesterov without momentum"),
        ({"schedule": "steps", "milestones": (2, 1)}, "milestones"),
        ({"milestones": (2,)}, "cosine with milestones"),
        ({"factor": 0.0}, "factor 0"),
        ({"epochs": 0, "steps": 5, "per_epoch": True}, "without epochs"),
    ],
)
def test_schedules_that_make_no_sense_are_refused(change: dict[str, object], found: str) -> None:
    train, labels = data()
    with pytest.raises(UserError, match="cannot be trained") as caught:
        train_on_features(train, labels, GRID, replace(SCHEDULE, **change), classes=CLASSES)
    assert found in caught.value.found


def test_features_labels_and_heads_that_do_not_fit_are_refused() -> None:
    train, labels = data()
    for features, target in (
        (train, labels[:-1]),
        ({"avg": train["avg"][0]}, labels),
        (train, labels[:0]),
        ({}, labels),
    ):
        with pytest.raises(DataError, match="do not fit together"):
            train_on_features(features, target, GRID[:1], SCHEDULE, classes=CLASSES)
    for off in (torch.full_like(labels, -1), torch.full_like(labels, CLASSES), labels.float()):
        with pytest.raises(DataError, match="no class numbers"):
            train_on_features(train, off, GRID, SCHEDULE, classes=CLASSES)
    for heads, what in (
        ([], "no linear classifier"),
        ([Head(0.1, 0, "grid")], "'grid'"),
        ([Head(float("nan"), 0, "avg")], "numbers from 0"),
        ([Head(0.1, -1, "avg")], "numbers from 0"),
    ):
        with pytest.raises(UserError, match=what):
            train_on_features(train, labels, heads, SCHEDULE, classes=CLASSES)
