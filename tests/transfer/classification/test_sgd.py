"""Linear fits and fine-tuning against the same written in plain torch; resumes, unreadable images, processes."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sgd_processes import (
    CLASSES,
    FINE_TUNING,
    GRID,
    KINDS,
    LINEAR,
    SMALL,
    STEPS,
    Coloured,
    SmallBackbone,
    coloured,
    rows,
    same,
    train,
    weights,
)
from torch import Tensor, nn
from torch.utils.data import DistributedSampler

from transfer.checkpoints.backbone import Backbone, random_backbone
from transfer.classification.sgd import loop
from transfer.classification.sgd.bank import Head, train_on_features
from transfer.classification.sgd.data import Crops, Deal, Order
from transfer.classification.sgd.fit import SgdMachine, evaluate, fine_tune, fit_linear
from transfer.classification.sgd.recipe import SgdRecipe, epoch_order
from transfer.classification.trunk import Trunk
from transfer.classification.views import to_network
from transfer.datasets.labels.labelled import LabelledImages
from transfer.runtime import progress
from transfer.runtime.errors import DataError, TrainingError, UserError

CPU = torch.device("cpu")
RESNET = random_backbone("resnet18", 0)
BACKBONES = pytest.mark.parametrize(
    "backbone", [SMALL, pytest.param(RESNET, marks=pytest.mark.slow)], ids=["small", "r18"]
)


def views(data: LabelledImages, recipe: SgdRecipe, seed: int, epoch: int, places: list[int]) -> Tensor:
    crops = Crops(data.images, recipe.training_view(), seed)
    return torch.stack([crops[(index, epoch, 0)].view for index in places])


@pytest.fixture(scope="module", params=KINDS)
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Kind and folder of a training that ran to its end; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    fit = train(request.param, folder)
    torch.save(weights(fit), folder / "weights.pth")
    return request.param, folder


# The protocols, written out


@BACKBONES
def test_a_linear_fit_is_torchs_on_the_same_crops(backbone: Backbone | SmallBackbone, tmp_path: Path) -> None:
    data, recipe, head = coloured(13), replace(LINEAR, per_epoch=False), Head(0.2, 1e-3, "avg")
    fit = fit_linear(backbone, data, recipe, [head], seed=7, folder=tmp_path)
    network = backbone.network()
    start = torch.randn(3, 512, generator=torch.Generator().manual_seed(7)) * 0.01
    linear = nn.Linear(512, 3)
    with torch.no_grad():
        linear.weight.copy_(start)
        linear.bias.zero_()
    optimizer = torch.optim.SGD(linear.parameters(), 0.2, momentum=0.9, weight_decay=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3 * 2)
    for epoch in range(3):
        order = epoch_order(13, 7, epoch).tolist()
        for places in (order[:8], order[8:]):
            with torch.no_grad():
                x = network(to_network(views(data, recipe, 7, epoch, places), backbone.input, CPU))
            optimizer.zero_grad()
            nn.functional.cross_entropy(linear(x), torch.from_numpy(data.labels)[places]).backward()
            optimizer.step()
            scheduler.step()
    weight, bias = fit.bank.classifier(0)
    torch.testing.assert_close(weight, linear.weight.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(bias, linear.bias.detach(), rtol=1e-4, atol=1e-5)


class Plain(Coloured):
    """Every image of one colour: a crop of it is the image again."""

    def read(self, index: int) -> Image.Image:
        colour = np.random.default_rng(index).integers(0, 160, 3)
        colour[self.labels[index]] += 95
        return Image.new("RGB", (self.side, self.side), tuple(colour.tolist()))


def test_both_forms_are_one_protocol_where_crops_change_nothing(tmp_path: Path) -> None:
    labels = np.arange(30, dtype=np.int64) % len(CLASSES)
    data = LabelledImages("plain", Plain(labels), labels, CLASSES)
    crops = fit_linear(SMALL, data, LINEAR, GRID, seed=3, folder=tmp_path)
    trunk, view = Trunk(SMALL, ("avg", "max"), CPU), LINEAR.evaluation_view()
    features = trunk(torch.stack([view(data.images.read(index)) for index in range(30)]))
    cached = train_on_features(features, labels, GRID, LINEAR, classes=len(CLASSES), seed=3)
    for ours, theirs in zip(crops.bank.state().values(), cached.state().values(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_a_linear_fit_leaves_the_network_alone(tmp_path: Path) -> None:
    fit = train("linear", tmp_path)
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    for pooling, x in Trunk(SMALL, ["avg", "max"], CPU)(pixels).items():
        assert torch.equal(fit.trunk(pixels)[pooling], x)


@BACKBONES
def test_fine_tuning_in_two_parts_is_two_processes_of_ddp(backbone: Backbone | SmallBackbone, tmp_path: Path) -> None:
    """Two models see half a batch each, gradients are averaged, the first's running statistics are kept."""
    data, recipe = coloured(9), replace(FINE_TUNING, epochs=2, batch=4, weight_decay=1e-3)
    fit = fine_tune(backbone, data, recipe, seed=3, folder=tmp_path)
    models = [backbone.network().train() for _ in range(2)]
    optimizers = []
    for model in models:
        model.fc = nn.Linear(512, 3)
        with torch.no_grad():
            model.fc.weight.copy_(torch.randn(3, 512, generator=torch.Generator().manual_seed(3)) * 0.01)
            model.fc.bias.zero_()
        rest = [p for name, p in model.named_parameters() if not name.startswith("fc.")]
        groups = [{"params": model.fc.parameters(), "lr": recipe.lr}, {"params": rest, "lr": recipe.lr_backbone}]
        optimizers.append(torch.optim.SGD(groups, momentum=0.9, weight_decay=1e-3, nesterov=True))
    schedulers = [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2) for optimizer in optimizers]
    for epoch in range(2):
        order = epoch_order(9, 3, epoch).tolist()
        shares = [[*order, order[0]][rank::2] for rank in range(2)]  # 9 images, filled up to 10
        for start in (0, 2, 4):
            for model, optimizer, share in zip(models, optimizers, shares, strict=True):
                places = share[start : start + 2]
                optimizer.zero_grad()
                logits = model(to_network(views(data, recipe, 3, epoch, places), backbone.input, CPU))
                nn.functional.cross_entropy(logits, torch.from_numpy(data.labels)[places]).backward()
            for one, other in zip(*(model.parameters() for model in models), strict=True):
                mean = (one.grad + other.grad) / 2
                one.grad.copy_(mean)
                other.grad.copy_(mean)
            for optimizer in optimizers:
                optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    mine, wanted = fit.network.state_dict(), models[0].state_dict()
    assert mine.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(
            mine[name], tensor, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
    statistics = models[1].state_dict()["bn1.running_mean"]
    assert (mine["bn1.running_mean"] - statistics).abs().max() > 1e-3  # those of the second are others
    assert int(mine["bn1.num_batches_tracked"]) == 2 * 3


@given(
    images=st.integers(1, 60), processes=st.sampled_from([1, 2, 3, 4]), each=st.integers(1, 5), epoch=st.integers(0, 3)
)
@settings(max_examples=60, deadline=None)
def test_images_are_dealt_out_as_by_distributed_sampler(images: int, processes: int, each: int, epoch: int) -> None:
    batch = processes * each
    shuffled = epoch_order(images, 1, epoch).tolist()
    steps = math.ceil(math.ceil(images / processes) / each)
    for rank in range(processes):
        sampler = DistributedSampler(shuffled, processes, rank, shuffle=False)
        wanted = [shuffled[place] for place in sampler]
        deal = Deal(processes, processes, range(rank, rank + 1))
        order = Order(images, batch, 1, epoch * steps, (epoch + 1) * steps, deal)
        found = list(order)
        assert [index for places in found for index, _, _ in places] == wanted
        assert [len(places) for places in found] == [min(each, len(wanted) - s * each) for s in range(steps)]
        assert {(e, part) for places in found for _, e, part in places} == {(epoch, rank)}


@pytest.mark.parametrize("kind", KINDS)
def test_something_is_learned(kind: str, tmp_path: Path) -> None:
    data = coloured(24)
    if kind == "linear":
        fit = fit_linear(SMALL, data, replace(LINEAR, epochs=4), GRID, seed=0, folder=tmp_path)
    else:
        recipe = replace(FINE_TUNING, epochs=8)
        fit = fine_tune(SMALL, data, recipe, seed=0, folder=tmp_path)
    test = coloured(45).subset(range(24, 45), "others")
    logits = evaluate(fit, test, LINEAR.evaluation_view(), batch=10)
    found = logits.argmax(-1).view(len(test), -1)
    right = (found == torch.from_numpy(test.labels)[:, None]).float().mean(0)
    assert right.max() > 0.9


# Evaluation


def test_evaluation_is_in_the_order_of_the_set(tmp_path: Path) -> None:
    fit, data = train("linear", tmp_path), coloured(7)
    view = LINEAR.evaluation_view()
    logits = evaluate(fit, data, view, batch=3)
    assert logits.shape == (7, len(GRID), len(CLASSES))
    for index in range(7):
        torch.testing.assert_close(logits[index], fit(view(data.images.read(index))[None])[0], rtol=1e-4, atol=1e-4)
    best = evaluate(fit, data, view, batch=4, keep=lambda batch: batch.argmax(-1))
    assert torch.equal(best, logits.argmax(-1))


def test_evaluation_leaves_no_image_out(tmp_path: Path) -> None:
    fit = train("linear", tmp_path)
    with pytest.raises(DataError, match="2 images of colours cannot be read") as caught:
        evaluate(fit, coloured(9, broken=frozenset({1, 8})), LINEAR.evaluation_view(), batch=2)
    assert "001.png" in caught.value.found
    assert "008.png" in caught.value.found


def test_training_and_evaluation_say_how_far_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[progress.Progress] = []
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(progress._Report, "write", lambda _, found: said.append(found))
    data = coloured(9, broken=frozenset({8}))
    with progress.report_to(tmp_path / progress.FILE):
        recipe = replace(LINEAR, epochs=2, batch=4)
        fit = fit_linear(SMALL, data, recipe, GRID, seed=3, folder=tmp_path, machine=SgdMachine(unreadable=1))
        trained = [(found.what, found.unit, found.done, found.total) for found in said]
        said.clear()
        evaluate(fit, data.subset(range(7), "others"), LINEAR.evaluation_view(), batch=3)
    steps = [0, 1, 2, 3, 4, 5, 6, 6]  # two epochs of 4, 4 and 1 images; the last is said again when it ends
    assert trained == [("training on colours", "step", step, 6) for step in steps]
    assert [(found.what, found.unit, found.done, found.total) for found in said] == [
        ("predictions on others", "im", done, 7) for done in (0, 3, 6, 7, 7)
    ]


# Kills, resumes, finished fits


@pytest.mark.parametrize("reads", [4, 22])
def test_an_interrupted_fit_goes_on_bit_for_bit(finished: tuple[str, Path], reads: int, tmp_path: Path) -> None:
    kind, whole = finished
    with pytest.raises(RuntimeError, match="power"):
        train(kind, tmp_path, coloured(fails_after=reads))
    assert (tmp_path / "fit.pth").exists() == (reads > 14)
    resumed = train(kind, tmp_path)
    assert same(weights(resumed), torch.load(whole / "weights.pth", weights_only=True))
    curves = [[{**row, "seconds": 0} for row in rows(folder)] for folder in (whole, tmp_path)]
    assert curves[0] == curves[1]
    assert [row["step"] for row in curves[0]] == list(range(1, STEPS[kind] + 1))


def test_a_finished_fit_is_read_and_not_repeated(finished: tuple[str, Path]) -> None:
    kind, folder = finished
    data = coloured()
    fit = train(kind, folder, data)
    assert data.images.reads == []
    assert same(weights(fit), torch.load(folder / "weights.pth", weights_only=True))
    content = torch.load(folder / "fit.pth", weights_only=True)
    assert content["step"] == content["steps"] == STEPS[kind]


def test_workers_change_nothing(tmp_path: Path) -> None:
    here, workers = train("linear", tmp_path / "here"), train("linear", tmp_path / "workers", workers=2)
    assert same(weights(here), weights(workers))


def test_a_folder_belongs_to_one_training(tmp_path: Path) -> None:
    train("linear", tmp_path)
    with pytest.raises(TrainingError, match="other settings") as caught:
        fit_linear(SMALL, coloured(), replace(LINEAR, smallest=0.08), GRID[:1], seed=6, folder=tmp_path)
    for line in ("recipe.smallest: 0.2 in the checkpoint, 0.08 now", "seed: 5 in the checkpoint, 6 now", "grid:"):
        assert line in caught.value.found
    with pytest.raises(TrainingError, match="other settings") as caught:
        train("linear", tmp_path, coloured(20))
    assert "data.images: 13 in the checkpoint, 20 now" in caught.value.found


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    train("linear", tmp_path)
    (tmp_path / ".fit.pth.x.part").touch()
    content = (tmp_path / "fit.pth").read_bytes()
    (tmp_path / "fit.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(TrainingError, match=r"cannot resume from .*fit\.pth"):
        train("linear", tmp_path)
    assert not list(tmp_path.glob("*.part"))


# What can go wrong


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_images_are_left_out_up_to_the_budget(
    workers: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = coloured(broken=frozenset({2, 11}))
    with caplog.at_level(logging.WARNING):
        fit = train("linear", tmp_path / "two", broken, unreadable=2, workers=workers)
    assert sum("left out" in message for message in caplog.messages) == 2  # once each, not every epoch
    content = torch.load(tmp_path / "two" / "fit.pth", weights_only=True)
    assert content["unreadable"] == {2: "a broken header", 11: "a broken header"}
    assert not fit.bank.lost.any()
    with pytest.raises(DataError, match="2 images of colours cannot be read, --unreadable allows 1") as caught:
        train("linear", tmp_path / "one", broken, unreadable=1, workers=workers)
    assert "002.png: a broken header" in caught.value.found
    assert "--unreadable 2" in caught.value.todo


def test_an_unreadable_image_has_no_part_in_the_mean(tmp_path: Path) -> None:
    """A batch of which one image is lost trains as the batch of the others."""
    recipe = SgdRecipe(**{**LINEAR.__dict__, "epochs": 1, "batch": 6, "per_epoch": False})
    machine = SgdMachine(unreadable=1)
    fit = fit_linear(
        SMALL, coloured(6, broken=frozenset({4})), recipe, GRID[:1], seed=1, folder=tmp_path, machine=machine
    )
    places = [place for place in epoch_order(6, 1, 0).tolist() if place != 4]
    x = fit.trunk(views(coloured(6), recipe, 1, 0, places))["avg"]
    labels = torch.tensor([place % 3 for place in places])
    linear = nn.Linear(512, 3)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(3, 512, generator=torch.Generator().manual_seed(1)) * 0.01)
        linear.bias.zero_()
    nn.functional.cross_entropy(linear(x), labels).backward()
    wanted = linear.weight - GRID[0].lr * (linear.weight.grad + GRID[0].weight_decay * linear.weight)
    torch.testing.assert_close(fit.bank.classifier(0)[0], wanted.detach(), rtol=1e-4, atol=1e-6)


def test_a_batch_without_readable_images_changes_nothing(tmp_path: Path) -> None:
    data, machine = coloured(4, broken=frozenset(range(4))), SgdMachine(unreadable=4, log_every=1)
    recipe = replace(LINEAR, epochs=1, batch=2)
    fit = fit_linear(SMALL, data, recipe, GRID[:1], seed=1, folder=tmp_path, machine=machine)
    first = torch.randn(3, 512, generator=torch.Generator().manual_seed(1)) * 0.01
    assert torch.equal(fit.bank.classifier(0)[0], first)


def test_a_fine_tuning_that_diverges_stops_at_once(tmp_path: Path) -> None:
    recipe = replace(FINE_TUNING, lr=1e20, lr_backbone=1e20)
    data = coloured()
    with pytest.raises(TrainingError, match=r"the loss is .* at step [23]"):
        fine_tune(SMALL, data, recipe, seed=0, folder=tmp_path)
    assert len(data.images.reads) <= 3 * recipe.batch
    assert not (tmp_path / "fit.pth").exists()


def test_heads_that_diverge_stop_a_fit_when_none_is_left(tmp_path: Path) -> None:
    wild = [Head(1e30, 1e10, "avg"), Head(1e25, 1e15, "max")]
    fit = fit_linear(SMALL, coloured(), LINEAR, [*wild, GRID[0]], seed=0, folder=tmp_path / "some")
    assert fit.bank.lost.tolist() == [True, True, False]
    row = rows(tmp_path / "some")[-1]
    assert row["losses"][:2] == [None, None]
    assert row["loss"] == row["losses"][2]
    with pytest.raises(TrainingError, match="every linear classifier has diverged"):
        fit_linear(SMALL, coloured(), LINEAR, wild, seed=0, folder=tmp_path / "none")


def test_the_curve_follows_the_schedule(finished: tuple[str, Path]) -> None:
    kind, folder = finished
    recipe = LINEAR if kind == "linear" else FINE_TUNING
    for row in rows(folder):
        epoch = (row["step"] - 1) // 2
        share = (1 + math.cos(math.pi * epoch / recipe.epochs)) / 2  # lr_e = lr / 2 · (1 + cos(π e / E))
        assert row["lr"] == pytest.approx(recipe.lr * share)
        if kind == "fine-tuning":
            assert row["lr_backbone"] == pytest.approx(recipe.lr_backbone * share)
        assert row["epoch"] == row["step"] / 2
        assert row["loss"] > 0
        assert row["seconds"] > 0


@pytest.mark.parametrize(
    ("kind", "change", "found"),
    [
        ("linear", {"lr_backbone": 0.1}, "lr_backbone 0.1"),
        ("fine-tuning", {"lr_backbone": 0.0}, "lr_backbone 0.0"),
        ("fine-tuning", {"processes": 3}, "batch 8, processes 3"),
        ("fine-tuning", {"lr": math.inf}, "lr inf"),
        ("fine-tuning", {"weight_decay": -1.0}, "weight_decay -1"),
        ("fine-tuning", {"crop": 32, "processes": 4, "batch": 4}, "crop 32, batch 4"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(
    kind: str, change: dict[str, object], found: str, tmp_path: Path
) -> None:
    fit, recipe, grid = (fit_linear, LINEAR, (GRID,)) if kind == "linear" else (fine_tune, FINE_TUNING, ())
    with pytest.raises(UserError) as caught:
        fit(SMALL, coloured(), replace(recipe, **change), *grid, seed=0, folder=tmp_path)
    assert found in caught.value.found


def test_several_labels_an_image_and_odd_machines_are_refused(tmp_path: Path) -> None:
    many = LabelledImages("many", coloured(3).images, np.ones((3, 3), dtype=np.int8), CLASSES)
    with pytest.raises(UserError, match="several labels"):
        train("linear", tmp_path, many)
    for name in ("workers", "save_every", "log_every", "unreadable"):
        with pytest.raises(UserError, match=f"--{name.replace('_', '-')} -1"):
            train("linear", tmp_path, **{name: -1})


def test_asked_to_leave_it_saves_after_the_step_and_goes_on_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = weights(train("fine-tuning", tmp_path / "whole"))
    calls = iter([False, True])
    monkeypatch.setattr(loop, "asked", lambda: next(calls))
    with pytest.raises(KeyboardInterrupt):
        train("fine-tuning", tmp_path / "cut")
    assert torch.load(tmp_path / "cut" / "fit.pth", weights_only=True)["step"] == 2
    monkeypatch.undo()
    assert same(whole, weights(train("fine-tuning", tmp_path / "cut")))
