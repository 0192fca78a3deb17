"""VOC2007 as the source of its two protocols has it: logistic regressions and fine-tuning, against the same by hand."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from classification_runs import SMALL as SMALL_VIEW
from classification_runs import run, write_images
from numpy.typing import NDArray
from official_layouts import write_text
from PIL import Image
from scipy.optimize import minimize
from sgd_processes import CLASSES, FINE_TUNING, SMALL, Coloured, rows, same, weights
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from transfer.__main__ import main
from transfer.checkpoints.backbone import random_backbone
from transfer.classification.multilabel import mean_precision
from transfer.classification.probes.penalty import choose_shared_penalty
from transfer.classification.score import average_precisions
from transfer.classification.sgd.data import Crops
from transfer.classification.sgd.fit import FineTuned, SgdMachine, evaluate, fine_tune, fit_linear
from transfer.classification.sgd.learners import summed_loss
from transfer.classification.sgd.recipe import SgdRecipe, epoch_order
from transfer.classification.trunk import Trunk
from transfer.classification.views import WholeView, to_network
from transfer.cli import _script
from transfer.datasets.boxes.voc import VOC_CLASSES
from transfer.datasets.labels.catalogue import ClassificationData, load
from transfer.datasets.labels.labelled import ABSENT, DIFFICULT, PRESENT, LabelledImages
from transfer.datasets.toy import ToySizes, make_toy
from transfer.runtime.errors import DataError, UserError
from transfer.runtime.files import ROOT

RANDOM = "random:resnet18"
TINY_TUNE = ["--sgd.crop", "32", "--sgd.resize", "32", "--sgd.batch", "8", "--sgd.steps", "3"]
SIZES = {"train": 40, "val": 24, "test": 30}
CPU = torch.device("cpu")


# Numbers by hand


def eleven_points(scores: NDArray[np.float64], wanted: NDArray[np.bool_]) -> float:
    """VOC2007's AP of one class in percent: at every score as threshold, then the best precision at recalls from t."""
    points = []
    for threshold in set(scores.tolist()):
        taken = scores >= threshold
        points.append(((taken & wanted).sum() / wanted.sum(), (taken & wanted).sum() / taken.sum()))
    best = [max((p for r, p in points if r >= t), default=0.0) for t in np.linspace(0, 1, 11)]
    return 100 * sum(best) / 11


def mean_eleven_points(scores: NDArray[np.float64], labels: NDArray[np.int8]) -> float:
    """The mean over classes, difficult images as absent."""
    return float(np.mean([eleven_points(scores[:, c], labels[:, c] == PRESENT) for c in range(labels.shape[1])]))


def binary(
    features: NDArray[np.float64], wanted: NDArray[np.bool_], penalty: float, tol: float = 1e-10
) -> LogisticRegression:
    """scikit-learn's single sigmoid, whose penalty is half of that on both rows of the multinomial form."""
    return LogisticRegression(C=2 / penalty, tol=tol, max_iter=10_000).fit(features, wanted)


def clouds(seed: int, images: int, classes: int = 3, width: int = 6) -> tuple[Tensor, Tensor]:
    """Features float32 [n, width] and labels bool [n, classes] that depend on them, not wholly."""
    rng = np.random.default_rng(seed)
    turn = np.random.default_rng(0).normal(size=(width, classes))
    x = rng.normal(size=(images, width)) + 0.5
    labels = x @ turn + 2 * rng.normal(size=(images, classes)) > 0.7
    return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(labels)


@pytest.mark.parametrize("difficult", ["absent", "ignored"])
@pytest.mark.parametrize("ties", [False, True])
def test_the_eleven_point_mean_is_the_one_by_hand(difficult: str, ties: bool) -> None:
    rng = np.random.default_rng(3)
    labels = rng.choice([PRESENT, DIFFICULT, ABSENT], (80, 5), p=[0.25, 0.15, 0.6]).astype(np.int8)
    scores = rng.normal(size=(80, 5)) + 0.8 * (labels == PRESENT)
    scores = scores.round(1) if ties else scores
    found = average_precisions(scores, labels, difficult)  # type: ignore[arg-type]
    for c in range(5):
        seen = labels[:, c] != DIFFICULT if difficult == "ignored" else np.ones(80, dtype=bool)
        assert found.eleven_point[c] == pytest.approx(eleven_points(scores[seen, c], labels[seen, c] == PRESENT))
    assert found.metrics()["mAP_11point"] == pytest.approx(found.eleven_point.mean())


def test_difficult_images_move_the_number_only_where_they_count() -> None:
    labels = np.array([[DIFFICULT, PRESENT], [PRESENT, ABSENT], [ABSENT, ABSENT]], dtype=np.int8)
    scores = np.array([[3.0, 3.0], [2.0, 2.0], [1.0, 1.0]])
    assert mean_precision(scores, labels, "mAP_11point", "ignored") == 100
    assert mean_precision(scores, labels, "mAP_11point", "absent") == 75  # the difficult one comes first
    assert mean_precision(scores, labels, "mAP", "absent") == 75
    with pytest.raises(UserError, match="no validation image shows any class"):
        mean_precision(scores, np.full_like(labels, ABSENT), "mAP_11point", "absent")


# Logistic regressions


@pytest.mark.parametrize("penalty", [1e-2, 1.0, 100.0])
def test_each_class_is_scikit_learns_regression(penalty: float) -> None:
    (x, labels), (val, val_labels), (test, _) = clouds(1, 90), clouds(2, 40), clouds(3, 30)
    chosen = choose_shared_penalty(
        x, labels, val, val_labels, test, classes=CLASSES, score=lambda _: 1.0, penalties=[penalty], tolerance=1e-7
    )
    both, known = torch.cat([x, val]).double().numpy(), torch.cat([labels, val_labels]).numpy()
    for c, fit in enumerate(chosen.fits):
        theirs = binary(both, known[:, c], penalty)
        np.testing.assert_allclose(fit.weight[1] - fit.weight[0], theirs.coef_[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(fit.bias[1] - fit.bias[0], theirs.intercept_[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            chosen.scores[:, c], theirs.decision_function(test.double().numpy()), rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(fit.weight[0], -fit.weight[1], atol=1e-6, rtol=1e-5)
    assert chosen.unconverged == ()


def test_the_penalty_is_on_both_rows_as_in_the_multinomial_form() -> None:
    (x, labels), penalty = clouds(4, 60, classes=1, width=3), 3.0
    chosen = choose_shared_penalty(
        x[:40], labels[:40], x[40:], labels[40:], x, classes=["one"], score=lambda _: 1.0, penalties=[penalty],
        tolerance=1e-7,
    )  # fmt: skip
    rows_, place = x.double().numpy(), labels[:, 0].long().numpy()

    def objective(flat: NDArray[np.float64]) -> float:
        weight, bias = flat[:6].reshape(2, 3), flat[6:]
        scores = rows_ @ weight.T + bias
        losses = np.logaddexp(scores[:, 0], scores[:, 1]) - scores[np.arange(60), place]
        return float(losses.sum() + penalty / 2 * (weight**2).sum())

    found = minimize(objective, np.zeros(8), options={"gtol": 1e-7}).x
    np.testing.assert_allclose(chosen.fits[0].weight, found[:6].reshape(2, 3), atol=1e-4)


def test_the_penalty_is_the_one_of_the_best_mean_precision_on_validation() -> None:
    (x, labels), (val, val_labels), (test, _) = (
        clouds(5, 30, width=20),
        clouds(6, 60, width=20),
        clouds(7, 10, width=20),
    )
    known = np.where(val_labels.numpy(), PRESENT, ABSENT).astype(np.int8)
    grid = (100.0, 0.01, 1.0, 10.0, 0.1)

    def score(odds: Tensor) -> float:
        return mean_precision(odds.numpy(), known, "mAP_11point", "absent")

    chosen = choose_shared_penalty(
        x, labels, val, val_labels, test, classes=CLASSES, score=score, penalties=grid, tolerance=1e-6
    )
    values = {}
    for penalty in sorted(grid):
        fits = [binary(x.double().numpy(), labels[:, c].numpy(), penalty) for c in range(3)]
        odds = np.stack([fit.decision_function(val.double().numpy()) for fit in fits], axis=1)
        values[penalty] = mean_eleven_points(odds, known)
    assert len(set(values.values())) > 2
    assert chosen.table == pytest.approx(values)
    assert chosen.penalty == max(values, key=values.__getitem__)
    assert list(chosen.table) == sorted(grid)


def test_of_equal_penalties_the_smallest_and_a_class_that_nothing_tells_apart_is_refused() -> None:
    (x, labels), (val, val_labels) = clouds(8, 30), clouds(9, 20)

    def choose(present: Tensor, score: Callable[[Tensor], float] = lambda _: 1.0) -> float:
        return choose_shared_penalty(
            x, present, val, val_labels, val, classes=CLASSES, score=score, penalties=[1.0, 0.5, 2.0]
        ).penalty

    assert choose(labels) == 0.5
    labels[:, 1] = True
    with pytest.raises(UserError, match="nothing to tell apart") as caught:
        choose(labels)
    assert "green in 30" in caught.value.found
    labels[:, 1] = torch.arange(30) < 9
    with pytest.raises(UserError, match="not a number"):
        choose(labels, lambda _: float("nan"))


# Fine-tuning


def several(images: int = 13, **options: object) -> LabelledImages:
    """Noise with a tint for every class that is present; some difficult, which are not tinted."""
    rng = np.random.default_rng(1)
    labels = rng.choice([PRESENT, DIFFICULT, ABSENT], (images, 3), p=[0.4, 0.2, 0.4]).astype(np.int8)
    return LabelledImages("several", Coloured(labels == PRESENT, **options), labels, CLASSES)  # type: ignore[arg-type]


def tune(folder: Path, data: LabelledImages | None = None, unreadable: int = 0) -> FineTuned:
    recipe = replace(FINE_TUNING, epochs=0, steps=5, per_epoch=False, processes=1, batch=4)
    machine = SgdMachine(save_every=2, log_every=1, unreadable=unreadable)
    return fine_tune(SMALL, data or several(), recipe, seed=5, folder=folder, machine=machine)  # type: ignore[arg-type]


def test_the_loss_is_the_mean_over_images_and_classes_and_difficult_is_absent() -> None:
    labels = torch.from_numpy(several(7).labels.astype(np.int64))
    logits = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    wanted = nn.BCEWithLogitsLoss()(logits, (labels == 1).float())
    torch.testing.assert_close(summed_loss(logits, labels) / 7, wanted)


def test_fine_tuning_is_a_plain_loop_in_torch(tmp_path: Path) -> None:
    data, recipe = several(), replace(FINE_TUNING, crop=40)
    fit = tune(tmp_path)
    model = SMALL.network().train()
    model.fc = nn.Linear(512, 3)
    with torch.no_grad():
        model.fc.weight.copy_(torch.randn(3, 512, generator=torch.Generator().manual_seed(5)) * 0.01)
        model.fc.bias.zero_()
    rest = [parameter for name, parameter in model.named_parameters() if not name.startswith("fc.")]
    optimizer = torch.optim.SGD(
        [{"params": model.fc.parameters(), "lr": recipe.lr}, {"params": rest, "lr": recipe.lr_backbone}],
        momentum=0.9, weight_decay=recipe.weight_decay, nesterov=True,
    )  # fmt: skip
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5)
    crops, losses = Crops(data.images, recipe.training_view(), 5), []
    batches = [
        (epoch, epoch_order(13, 5, epoch)[start : start + 4].tolist()) for epoch in (0, 1) for start in (0, 4, 8, 12)
    ]
    for epoch, places in batches[:5]:
        seen = torch.stack([crops[(index, epoch, 0)].view for index in places])  # type: ignore[misc]
        wanted = torch.from_numpy(data.labels[places] == PRESENT).float()
        optimizer.zero_grad()
        loss = nn.BCEWithLogitsLoss()(model(to_network(seen, SMALL.input, CPU)), wanted)
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    assert [row["loss"] for row in rows(tmp_path)] == pytest.approx(losses, abs=1e-5)
    mine = fit.network.state_dict()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(
            mine[name], tensor, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert fit.proof is not None


@pytest.mark.parametrize("reads", [4, 15])
def test_an_interrupted_fine_tuning_goes_on_bit_for_bit(reads: int, tmp_path: Path) -> None:
    whole = tune(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="power"):
        tune(tmp_path / "cut", several(fails_after=reads))
    assert (tmp_path / "cut" / "fit.pth").exists() == (reads > 8)
    assert same(weights(tune(tmp_path / "cut")), weights(whole))


def test_unreadable_images_are_left_out_up_to_the_budget(tmp_path: Path) -> None:
    broken = several(broken=frozenset({2}))
    assert tune(tmp_path / "one", broken, unreadable=1).left_out == ("002.png",)
    with pytest.raises(DataError, match="--unreadable allows 0"):
        tune(tmp_path / "none", broken)


def test_something_is_learned_of_every_class(tmp_path: Path) -> None:
    recipe = replace(FINE_TUNING, epochs=8, processes=1)
    fit = fine_tune(SMALL, several(40), recipe, seed=0, folder=tmp_path)  # type: ignore[arg-type]
    test = several(70).subset(range(40, 70), "others")
    logits = evaluate(fit, test, recipe.evaluation_view()).numpy()
    assert logits.shape == (30, 3)
    assert mean_precision(logits, test.labels.astype(np.int8), "mAP_11point", "absent") > 85


def test_linear_classifiers_by_sgd_take_one_label_an_image(tmp_path: Path) -> None:
    recipe = replace(FINE_TUNING, lr_backbone=0.0, nesterov=False)
    with pytest.raises(UserError, match="several labels"):
        fit_linear(SMALL, several(), recipe, (), seed=0, folder=tmp_path)  # type: ignore[arg-type]


# Whole runs


def write_voc07(root: Path) -> dict[str, NDArray[np.int8]]:
    """VOC2007/ with its 20 classes and lists by class of all splits; each class lightens its part of an image."""
    rng, base, found, start = np.random.default_rng(0), root / "VOC2007", {}, 0
    (base / "JPEGImages").mkdir(parents=True)
    names = {}
    for split, count in SIZES.items():
        labels = rng.choice([PRESENT, DIFFICULT, ABSENT], (count, 20), p=[0.3, 0.1, 0.6]).astype(np.int8)
        names[split] = [f"{start + number:06d}" for number in range(1, count + 1)]
        for name, row in zip(names[split], labels, strict=True):
            cells = np.full((5, 4, 3), 60) + 120 * (row == PRESENT).reshape(5, 4, 1)
            pixels = cells.repeat(8, 0).repeat(8, 1) + rng.integers(0, 60, (40, 32, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(base / "JPEGImages" / f"{name}.jpg", quality=95)
        found[split], start = labels, start + count
    names["trainval"] = names["train"] + names["val"]
    flags = found | {"trainval": np.concatenate([found["train"], found["val"]])}
    for split, listed in names.items():
        write_text(base / "ImageSets/Main" / f"{split}.txt", listed)
        for c, label in enumerate(VOC_CLASSES):
            lines = [f"{name} {row[c]:2d}" for name, row in zip(listed, flags[split], strict=True)]
            write_text(base / "ImageSets/Main" / f"{label}_{split}.txt", lines)
    return found


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, NDArray[np.int8]]]:
    root = tmp_path_factory.mktemp("official")
    return root, write_voc07(root)


@pytest.fixture(scope="module")
def toy_voc(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("toy") / "toy"
    make_toy(folder, sizes=ToySizes(40, 24, 24, 1, 1, 1, 1, (64, 72)))
    return ["--image-folder", str(folder / "voc")]


def test_the_official_lists_give_train_val_and_test(official: tuple[Path, dict[str, NDArray[np.int8]]]) -> None:
    root, labels = official
    splits = load("voc07_val", ClassificationData(data_root=root))
    assert splits.val is not None
    for name, split in {"train": splits.train, "val": splits.val, "test": splits.test}.items():
        assert split.classes == VOC_CLASSES
        np.testing.assert_array_equal(split.labels, labels[name])
        assert split.name == f"voc2007_{name}"
    assert "40 images here, the official split has 2,501" in splits.train.notes
    assert "24 images here, the official split has 2,510" in splits.val.notes
    both = load("voc07", ClassificationData(data_root=root))
    assert both.val is None
    np.testing.assert_array_equal(both.train.labels, splits.train.joined(splits.val, "both").labels)


@pytest.mark.slow
def test_logistic_regressions_end_to_end_are_the_source_s_by_scikit_learn(
    official: tuple[Path, dict[str, NDArray[np.int8]]], tmp_path: Path
) -> None:
    root, labels = official
    grid = (100.0, 10000.0)
    options = ["--data-root", str(root), *SMALL_VIEW, "--penalties", *map(str, grid)]
    (record,) = run("transfer.voc07_logistic", RANDOM, *options, runs=tmp_path)
    splits, view = load("voc07_val", ClassificationData(data_root=root)), WholeView(32, 32, interpolation="bicubic")
    trunk = Trunk(random_backbone("resnet18", 0), ("avg",), CPU)
    x = {}
    for split in (splits.train, *splits.others()):
        seen = torch.stack([view(split.images.read(index)) for index in range(len(split))])
        x[split.name.removeprefix("voc2007_")] = trunk(seen)["avg"].double().numpy()

    def odds(
        fitted: NDArray[np.float64], known: NDArray[np.int8], other: NDArray[np.float64], penalty: float
    ) -> NDArray[np.float64]:
        fits = [binary(fitted, known[:, c] == PRESENT, penalty, tol=1e-5) for c in range(20)]
        return np.stack([fit.decision_function(other) for fit in fits], axis=1)

    values = [mean_eleven_points(odds(x["train"], labels["train"], x["val"], p), labels["val"]) for p in grid]
    assert [line["validation"] for line in record.details["sweep"]] == pytest.approx(values, abs=0.3)
    best = grid[int(np.argmax(values))]
    assert record.details["penalty"] == best
    whole = np.concatenate([x["train"], x["val"]]), np.concatenate([labels["train"], labels["val"]])
    wanted = mean_eleven_points(odds(*whole, x["test"], best), labels["test"])
    assert record.metrics["mAP_11point"] == pytest.approx(wanted, abs=0.3)
    assert record.primary_metric == "mAP_11point"
    assert set(record.metrics) == {"mAP", "mAP_11point"}
    assert record.details["validation_images"] == 24
    assert len(record.details["AP_11point"]) == 20
    assert record.verification["tensors"] == record.verification["expected"] == 100
    assert {d["what"] for d in record.differences} >= {"end of the fit", "precision at recall 0 of the 11-point mAP"}
    assert not any("not converged" in note for note in record.notes)


@pytest.mark.parametrize(
    ("more", "images"), [(["--val", "val"], 24), pytest.param(["--holdout", "0.25"], 10, marks=pytest.mark.slow)]
)
def test_an_own_set_has_the_validation_split_that_is_named_or_a_part_held_out(
    more: list[str], images: int, toy_voc: list[str], tmp_path: Path
) -> None:
    options = [*toy_voc, *SMALL_VIEW, "--penalties", "1", "--train", "train", *more]
    (record,) = run("transfer.voc07_logistic", RANDOM, *options, runs=tmp_path)
    assert record.details["validation_images"] == images
    assert ("val" in record.data) == ("--val" in more)


def test_difficult_images_can_be_ignored_in_the_test_and_the_record_says_so(toy_voc: list[str], tmp_path: Path) -> None:
    options = [*toy_voc, *SMALL_VIEW, "--penalties", "1", "--difficult", "ignored"]
    (record,) = run("transfer.voc07_logistic", RANDOM, *options, runs=tmp_path)
    assert ("difficult", "absent", "ignored") in {(d["what"], d["protocol"], d["run"]) for d in record.differences}


@pytest.mark.slow
def test_fine_tuning_and_its_search_end_to_end(toy_voc: list[str], tmp_path: Path) -> None:
    splits = ["--train", "train", "--val", "val"]
    options = [*toy_voc, *splits, *TINY_TUNE, "--lrs", "0.01", "1e12", "--decays", "0"]
    (record,) = run("transfer.voc07_finetune", RANDOM, *options, runs=tmp_path)
    first, second = (line["validation"] for line in record.details["sweep"])
    assert first is not None
    assert second is None  # diverged, and out of the search
    assert record.details["chosen"]["lr"] == 0.01
    assert record.details["validation_images"] == 24
    assert record.primary_metric == "mAP_11point"
    assert set(record.metrics) == {"mAP", "mAP_11point"}
    assert record.verification["tensors"] == record.verification["expected"] == 100
    assert "before its first step" in record.verification["proved"]
    workdir = tmp_path / "work" / record.task / record.run_id
    assert not list(workdir.glob("search_*/fit.pth"))
    content = torch.load(workdir / "final" / "fit.pth", weights_only=True)
    assert content["config"]["data"]["images"] == 64  # train and val
    read = load("voc07_val", ClassificationData(image_folder=Path(toy_voc[1]), train="train", val="val"))
    assert read.val is not None
    both, recipe = read.train.joined(read.val, "voc_train+val"), SgdRecipe(**content["config"]["recipe"])
    model = fine_tune(random_backbone("resnet18", 0), both, recipe, seed=record.seed, folder=workdir / "final")
    test, found = read.test, record.details["AP_11point"]
    logits = evaluate(model, test, recipe.evaluation_view()).double().numpy()
    for c, name in enumerate(test.classes):
        assert found[name] == pytest.approx(eleven_points(logits[:, c], test.labels[:, c] == PRESENT), abs=1e-6)


@pytest.mark.parametrize("task", ["transfer.voc07_logistic", "transfer.voc07_finetune"])
def test_a_set_of_one_label_an_image_is_refused(task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_images(tmp_path / "images", train=2, test=1)
    assert main(["run", task, RANDOM, "--image-folder", str(folder), "--runs", str(tmp_path / "runs")]) == 2
    said = capsys.readouterr().err
    assert "one label an image: the transfer.voc07 tasks want several" in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("word", ["svm", "lowshot", "logistic", "finetune"])
def test_the_script_takes_a_word_for_the_task(word: str) -> None:
    script = str(ROOT / "transfer" / "run_voc07.sh")
    environment = {**os.environ, "PYTHON": "echo", "TORCHRUN": ""}
    said = subprocess.run(["bash", script, word, "CKPT"], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["-m", "transfer", "run", f"transfer.voc07_{word}", "CKPT"]
    assert _script(f"transfer.voc07_{word}") == f"transfer/run_voc07.sh {word} CKPT"
