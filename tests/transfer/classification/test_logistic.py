"""Logistic regression against scikit-learn and numpy, and the laws that its optimum keeps."""

from __future__ import annotations

import logging
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from transfer.classification.probes import logistic
from transfer.classification.probes.grids import PENALTIES
from transfer.classification.probes.knn import accuracy
from transfer.classification.probes.logistic import Fit, logistic_path
from transfer.classification.probes.penalty import choose_penalty
from transfer.runtime.errors import UserError

SEEDS = st.integers(0, 10_000)
quick = settings(max_examples=10, deadline=None)


def clouds(seed: int, n: int = 60, d: int = 5, classes: int = 3, apart: float = 1.0) -> tuple[Tensor, Tensor]:
    """Overlapping clouds unless far `apart`; every class occurs, the features are neither centred nor of one scale."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.arange(classes), torch.randint(classes, (n - classes,), generator=g)])
    x = apart * torch.randn(classes, d, generator=g)[labels] + torch.randn(n, d, generator=g)
    return (x * torch.linspace(0.3, 2, d) + 1).double(), labels


def separable(seed: int = 0) -> tuple[Tensor, Tensor]:
    return clouds(seed, apart=20.0)


def with_duplicates_and_constants() -> tuple[Tensor, Tensor]:
    x, labels = clouds(5)
    return torch.cat([x, x[:, 1:2], x[:, 1:2], torch.full((len(x), 1), 0.1), torch.zeros(len(x), 1)], 1), labels


def one(x: Tensor, labels: Tensor, penalty: float, classes: int = 3, tolerance: float = 1e-7) -> Fit:
    (fit,) = logistic_path(x, labels, classes=classes, penalties=[penalty], tolerance=tolerance)
    return fit


def objective(weight: np.ndarray, bias: np.ndarray, x: Tensor, labels: Tensor, penalty: float) -> float:
    logs = log_softmax(x.numpy() @ weight.T + bias, axis=1)
    return float(-logs[np.arange(len(x)), labels.numpy()].sum() + penalty / 2 * (weight**2).sum())


def by_sklearn(x: Tensor, labels: Tensor, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    model = LogisticRegression(C=1 / penalty, solver="newton-cg", tol=1e-13, max_iter=100_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where its line search ends by rounding, near the optimum
        model.fit(x.numpy(), labels.numpy())
    return model.coef_, model.intercept_


SETS = {
    "fewer columns than rows": clouds(0),
    "more columns than rows": clouds(1, n=30, d=80),
    "as many columns as rows": clouds(2, n=30, d=30),
    "separable": separable(),
    "many classes": clouds(3, n=80, d=6, classes=10),
    "duplicates and constants": with_duplicates_and_constants(),
}


@pytest.mark.parametrize("penalty", [1e3, 1.0, 1e-3])
@pytest.mark.parametrize("name", SETS)
def test_scikit_learn_finds_the_same(name: str, penalty: float) -> None:
    x, labels = SETS[name]
    ours, (weight, bias) = one(x, labels, penalty, int(labels.max()) + 1), by_sklearn(x, labels, penalty)
    assert ours.converged
    ours_value = objective(ours.weight.numpy(), ours.bias.numpy(), x, labels, penalty)
    assert ours_value <= objective(weight, bias, x, labels, penalty) * (1 + 1e-9)
    wanted = softmax(x.numpy() @ weight.T + bias, axis=1)
    np.testing.assert_allclose(ours.scores(x).softmax(1).numpy(), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("penalty", [10.0, 1e-2])
def test_two_classes_are_the_sigmoid_of_the_difference(penalty: float) -> None:
    """With w = ±v / 2, penalty / 2 · ‖w‖² over both classes is penalty / 4 · ‖v‖²: half the penalty on v."""
    x, labels = clouds(4, classes=2)
    model = LogisticRegression(C=2 / penalty, solver="newton-cg", tol=1e-12, max_iter=10_000).fit(x, labels)
    fit = one(x, labels, penalty, 2)
    np.testing.assert_allclose(fit.scores(x).softmax(1).numpy(), model.predict_proba(x), atol=1e-6)
    torch.testing.assert_close(fit.weight[0], -fit.weight[1])


@pytest.mark.slow
@quick
@given(SEEDS, st.sampled_from(["wide", "narrow"]))
def test_the_path_converges_and_equals_separate_fits(seed: int, shape: str) -> None:
    """At every one of the 45 penalties the gradient, written out in numpy, is as small as stated and as reported."""
    x, labels = clouds(seed, n=24, d=40) if shape == "wide" else clouds(seed)
    path = list(logistic_path(x, labels, classes=3))
    assert [fit.penalty for fit in path] == sorted(PENALTIES, reverse=True)
    for fit in path:
        assert fit.converged
        errors = fit.scores(x).softmax(1) - torch.nn.functional.one_hot(labels, 3)
        pull = fit.penalty * fit.weight
        gradient = errors.T @ x + pull
        assert fit.gradient == pytest.approx(
            float(torch.cat([gradient, errors.sum(0)[:, None]], 1).abs().max()) / len(x), rel=1e-2, abs=1e-13
        )
        # rows are centred where lengths are compared, which leaves the intercept's part aside
        centred = errors.T @ (x - x.mean(0)) + pull
        assert centred.norm() <= 1.01e-5 * pull.norm() + 1e-12
    for fit in path[::11]:
        alone = one(x, labels, fit.penalty)
        torch.testing.assert_close(fit.weight, alone.weight, rtol=0, atol=3e-5 * float(alone.weight.norm()))


def test_the_strongest_penalty_leaves_the_shares_of_the_classes() -> None:
    x, labels = clouds(6)
    found = one(x, labels, 1e12).scores(x).softmax(1)
    shares = torch.bincount(labels) / len(labels)
    torch.testing.assert_close(found, shares.double().expand(len(x), 3), atol=1e-7, rtol=0)


@quick
@given(SEEDS, st.permutations(range(4)), st.sampled_from([1e2, 1e-1, 1e-4]))
def test_names_of_classes_do_not_matter(seed: int, names: list[int], penalty: float) -> None:
    x, labels = clouds(seed, classes=4)
    other = torch.tensor(names)
    before, after = one(x, labels, penalty, 4), one(x, other[labels], penalty, 4)
    # Under the smallest penalty the optimum is so flat that the fit's own tolerance leaves 2e-5 of a score (seed 9086).
    torch.testing.assert_close(after.scores(x)[:, other], before.scores(x), atol=1e-4, rtol=1e-5)


@quick
@given(SEEDS, st.sampled_from([1e-4, 0.3, 7.0, 1e5]), st.sampled_from([1e1, 1e-2]))
def test_scaled_features_with_the_penalty_scaled_twice(seed: int, scale: float, penalty: float) -> None:
    x, labels = clouds(seed)
    before, after = one(x, labels, penalty), one(scale * x, labels, scale**2 * penalty)
    torch.testing.assert_close(after.scores(scale * x), before.scores(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scale * after.weight, before.weight, atol=1e-5, rtol=1e-5)


@quick
@given(SEEDS, st.floats(-50, 50))
def test_an_offset_of_the_features_goes_into_the_intercept(seed: int, offset: float) -> None:
    x, labels = clouds(seed)
    torch.testing.assert_close(one(x + offset, labels, 0.1).weight, one(x, labels, 0.1).weight, atol=1e-5, rtol=1e-5)


def test_classes_without_rows_constants_and_a_single_class() -> None:
    x, labels = clouds(7)
    plain, wider = one(x, labels, 0.1), one(x, 2 * labels, 0.1, classes=6)
    assert wider.bias[1::2].tolist() == [-math.inf] * 3
    assert not wider.weight[1::2].any()
    torch.testing.assert_close(wider.weight[::2], plain.weight)
    padded = one(*with_duplicates_and_constants(), 0.1)
    assert not padded.weight[:, -2:].any()
    torch.testing.assert_close(padded.weight[:, 1], padded.weight[:, 5], atol=1e-6, rtol=1e-6)  # shared among equals
    same = one(torch.ones(6, 4), torch.tensor([0, 0, 0, 1, 1, 2]), 1.0)
    torch.testing.assert_close(same.scores(torch.ones(1, 4)).softmax(1), torch.tensor([[3.0, 2, 1]]).double() / 6)
    alone = one(x, torch.full_like(labels, 1), 1.0)
    assert alone.converged
    assert alone.scores(x).argmax(1).unique().tolist() == [1]


def test_a_start_changes_the_way_but_not_the_answer() -> None:
    x, labels = clouds(8)
    cold, near = one(x, labels, 1e-2), one(x[5:], labels[5:], 1e-2)
    (warm,) = logistic_path(x, labels, classes=3, penalties=[1e-2], tolerance=1e-7, start=near)
    torch.testing.assert_close(warm.weight, cold.weight, atol=1e-5, rtol=1e-5)
    (still,) = logistic_path(x, labels, classes=3, penalties=[1e-2], tolerance=1e-6, steps=0, start=cold)
    assert still.converged


def test_autocast_changes_nothing_and_halves_are_read() -> None:
    x, labels = clouds(9)
    plain = one(x, labels, 0.1)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(one(x, labels, 0.1).weight, plain.weight)
    half = x.half()
    assert torch.equal(one(half, labels, 0.1).weight, one(half.double(), labels, 0.1).weight)


def test_weak_penalties_on_features_of_few_directions_take_few_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where weights that all classes share came into the directions, this took 1,877 products, and 290 without."""
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(600) % 6
    hidden = 0.3 * torch.randn(6, 60, generator=g)[labels] + torch.randn(600, 60, generator=g)
    x = (hidden * torch.arange(1, 61) ** -1.0) @ torch.linalg.qr(torch.randn(60, 60, generator=g))[0]
    products = 0

    def counted(rows: logistic._Rows, *arguments: Any) -> Any:
        def precondition(residual: Tensor) -> Tensor:
            nonlocal products
            products += 1
            return arguments[3](residual)

        return conjugate(rows, *arguments[:3], precondition, *arguments[4:])

    conjugate = logistic._conjugate
    monkeypatch.setattr(logistic, "_conjugate", counted)
    fits = list(logistic_path(x, labels, classes=6, penalties=[1.0, 1e-2, 1e-4]))
    assert all(fit.converged for fit in fits)
    assert products < 600, products


def test_a_fit_cut_short_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    x, labels = separable()
    with caplog.at_level(logging.WARNING, logger="transfer.classification.probes.logistic"):
        (fit,) = logistic_path(x, labels, classes=3, penalties=[1e-6], steps=2)
        assert not fit.converged
        assert "penalty 1e-06: not converged" in caplog.text
        caplog.clear()
        assert one(x, labels, 1e-6).converged
        assert not caplog.text


def thirds(seed: int) -> list[Tensor]:
    x, labels = clouds(seed, n=120)
    return [part for start in (0, 40) for part in (x[start : start + 40], labels[start : start + 40])] + [x[80:]]


def test_the_penalty_is_chosen_on_validation_rows_and_refitted_on_both() -> None:
    data = thirds(10)
    grid = (1e3, 1e-3, 1e0, 1e-1, 1e1, 1e2)
    choice = choose_penalty(*data, classes=3, score=accuracy, penalties=grid, tolerance=1e-5)
    assert list(choice.table) == list(choice.gradients) == sorted(grid)
    for penalty, value in choice.table.items():
        assert value == accuracy(one(data[0], data[1], penalty).scores(data[2]).argmax(1), data[3])
    best = max(choice.table.values())
    assert choice.penalty == next(penalty for penalty in sorted(grid) if choice.table[penalty] == best)
    both = one(torch.cat([data[0], data[2]]), torch.cat([data[1], data[3]]), choice.penalty)
    torch.testing.assert_close(choice.scores, both.scores(data[4]), atol=1e-4, rtol=1e-4)
    assert torch.equal(choice.predicted, choice.scores.argmax(1))
    assert choice.fit.converged
    assert choice.unconverged == ()


@pytest.mark.parametrize(("favourite", "words"), [(0.1, "smallest"), (10.0, "largest"), (1.0, "")])
def test_a_choice_at_an_end_of_the_grid_says_so(favourite: float, words: str) -> None:
    """A score that rises with each call up to the favourite's, from the largest penalty down."""
    values = iter([5.0 if penalty == favourite else 1.0 for penalty in (10.0, 1.0, 0.1)])
    choice = choose_penalty(*thirds(11), classes=3, score=lambda *_: next(values), penalties=(0.1, 1.0, 10.0))
    assert choice.penalty == favourite
    assert words in choice.note
    assert bool(choice.note) == bool(words)


def test_of_equally_good_penalties_the_smallest_is_taken() -> None:
    assert choose_penalty(*thirds(12), classes=3, score=lambda *_: 1.0, penalties=(1.0, 0.5, 2.0)).penalty == 0.5


NAMES = ("train_features", "train_labels", "val_features", "val_labels", "test_features")
BAD = {
    "train NaN": ({"train_features": torch.full((40, 5), math.nan)}, r"train features are not finite(.|\n)*40 of 40"),
    "val NaN": ({"val_features": torch.full((40, 5), math.nan)}, "validation features are not finite"),
    "test inf": ({"test_features": torch.full((1, 5), math.inf)}, "test features are not finite"),
    "class id": ({"train_labels": torch.arange(40)}, r"train labels are no class ids(.|\n)*0 … 39(.|\n)*0 … 2"),
    "val class id": ({"val_labels": torch.full((40,), -1)}, "validation labels are no class ids"),
    "one class": ({"train_labels": torch.full((40,), 2)}, r"one class(.|\n)*class 2 in 40 rows"),
    "no val": ({"val_features": torch.zeros(0, 5), "val_labels": torch.zeros(0).long()}, r"no validation rows"),
    "no train": ({"train_features": torch.zeros(0, 5), "train_labels": torch.zeros(0).long()}, r"no train rows"),
    "widths": ({"test_features": torch.zeros(3, 4)}, r"do not fit(.|\n)*\[3, 4\]"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name: str) -> None:
    change, message = BAD[name]
    data = dict(zip(NAMES, thirds(0), strict=True)) | change
    with pytest.raises(UserError) as raised:
        choose_penalty(**data, classes=3, score=accuracy, penalties=[1.0])
    assert raised.match(message)


@pytest.mark.parametrize("penalties", [[], [0.0], [1.0, -1.0], [math.inf], [math.nan]])
def test_bad_penalties_are_named_at_once(penalties: list[float]) -> None:
    with pytest.raises(UserError, match="penalties and a tolerance above 0"):
        logistic_path(*clouds(0), classes=3, penalties=penalties)


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(UserError, match="not a number"):
        choose_penalty(*thirds(0), classes=3, score=lambda *_: math.nan, penalties=[1.0])
