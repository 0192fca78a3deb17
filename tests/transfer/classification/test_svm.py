"""Support vector machines against LIBLINEAR and scikit-learn's cross validation, and the laws of the objective."""

from __future__ import annotations

import logging
import warnings

import joblib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import cross_val_score
from sklearn.svm import LinearSVC
from torch import Tensor

from transfer.classification.probes import svm
from transfer.classification.probes import svm_costs as svm_selection
from transfer.classification.probes.grids import COSTS
from transfer.classification.probes.svm import SvmFit, fit_svms
from transfer.classification.probes.svm_costs import choose_costs, choose_costs_liblinear, svm_one_vs_all
from transfer.runtime.errors import DataError, UserError

SEEDS = st.integers(0, 10_000)
quick = settings(max_examples=15, deadline=None)


def sample(seed: int, n: int, d: int, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Non-negative rows of unit length [n, d], float64, and ±1 labels [n, classes] of overlapping classes."""
    g = torch.Generator().manual_seed(seed)
    latent = torch.randn(n, 8, generator=g)
    x = torch.relu(0.5 + latent @ torch.randn(8, d, generator=g) / 3 + 0.3 * torch.randn(n, d, generator=g)).double()
    score = latent @ torch.randn(8, classes, generator=g) + torch.randn(n, classes, generator=g)
    above = torch.stack([score[:, c] > score[:, c].quantile(0.6 + 0.1 * (c % 4)) for c in range(classes)], 1)
    return x / x.norm(dim=1, keepdim=True), torch.where(above, 1, -1)


def exact(x: Tensor, y: Tensor, cost: float, weights: tuple[float, float] = (2.0, 1.0)) -> LinearSVC:
    """LIBLINEAR's primal solver, run to the end."""
    machine = LinearSVC(C=cost, dual=False, tol=1e-10, max_iter=100_000, class_weight={1: weights[0], -1: weights[1]})
    return machine.fit(x.numpy(), y.numpy())


def objective(x: Tensor, y: Tensor, cost: float, weight: Tensor, bias: Tensor) -> Tensor:
    """As the protocol writes it, for one problem."""
    losses = torch.where(y > 0, 2.0, 1.0) * (1 - y * (x @ weight + bias)).clamp_min(0) ** 2
    return (weight.square().sum() + bias.square()) / 2 + cost * losses.sum()


def gradient_by_autograd(x: Tensor, y: Tensor, cost: float, fit: SvmFit, problem: int) -> float:
    weight, bias = fit.weight[problem].clone().requires_grad_(), fit.bias[problem].clone().requires_grad_()
    objective(x, y, cost, weight, bias).backward()
    assert weight.grad is not None
    assert bias.grad is not None
    return float(torch.cat([weight.grad, bias.grad[None]]).norm())


@pytest.mark.parametrize(("n", "d"), [(300, 40), (120, 300), (20, 64)], ids=["tall", "wide", "low-shot"])
@pytest.mark.parametrize("direct", [True, False], ids=["direct", "conjugate"])
def test_decisions_are_those_of_liblinear_at_its_optimum(
    n: int, d: int, direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(svm, "STIFF", 2)  # of problems this small few are stiff
    monkeypatch.setattr(svm, "DIRECT", 8192 if direct else 0)
    (x, y), (test, _) = sample(0, n, d), sample(1, 200, d)
    problems = [(c, cost) for c in range(3) for cost in COSTS]
    fit = fit_svms(x, y[:, [c for c, _ in problems]], [cost for _, cost in problems])
    assert fit.unconverged == 0
    found = fit.decisions(test)
    for place, (c, cost) in enumerate(problems):
        expected = exact(x, y[:, c], cost).decision_function(test.numpy())
        assert np.abs(found[:, place].numpy() - expected).max() < 1e-3, (c, cost)


def test_weights_of_the_losses_and_rows_left_out() -> None:
    x, y = sample(2, 150, 20)
    rows = torch.rand(y.shape, generator=torch.Generator().manual_seed(0)) < 0.7
    fit = fit_svms(x, y, [0.5, 5.0, 50.0], weights=(5.0, 0.5), rows=rows)
    for c, cost in enumerate((0.5, 5.0, 50.0)):
        machine = exact(x[rows[:, c]], y[rows[:, c], c], cost, (5.0, 0.5))
        assert np.abs(fit.decisions(x)[:, c].numpy() - machine.decision_function(x.numpy())).max() < 1e-3


def test_a_closed_form() -> None:
    """One positive row x of weight 2: w = 4 C ξ (x, 1), ξ = 1 / (1 + 4 C (‖x‖² + 1))."""
    x = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    fit = fit_svms(x, torch.tensor([[1]]), 10.0, tolerance=1e-9)
    pull = 40 / (1 + 40 * 26)
    torch.testing.assert_close(fit.weight[0], pull * x[0])
    torch.testing.assert_close(fit.bias[0], torch.tensor(pull, dtype=torch.float64))


@quick
@given(SEEDS, st.sampled_from([0.01, 1.0, 30.0, 1000.0]), st.sampled_from([(60, 10), (30, 50)]))
def test_the_certificate_is_the_gradient_and_bounds_the_error(seed: int, cost: float, shape: tuple[int, int]) -> None:
    x, y = sample(seed, *shape)
    rough, fine = (fit_svms(x, y, cost, tolerance=tolerance) for tolerance in (1.0, 1e-7))
    assert (fine.gradient <= 1e-7).all()
    for c in range(3):
        assert gradient_by_autograd(x, y[:, c], cost, rough, c) == pytest.approx(float(rough.gradient[c]), abs=1e-7)
    apart = (rough.decisions(x) - fine.decisions(x)).abs().amax(0)
    assert (apart <= 2**0.5 * (rough.gradient + fine.gradient) + 1e-9).all()


@quick
@given(SEEDS)
def test_problems_do_not_know_each_other(seed: int) -> None:
    x, y = sample(seed, 80, 12)
    costs = [0.1, 10.0, 1000.0]
    together = fit_svms(x, y, costs, tolerance=1e-7)
    for c, cost in enumerate(costs):
        alone = fit_svms(x, y[:, [c]], cost, tolerance=1e-7)
        torch.testing.assert_close(alone.weight[0], together.weight[c], atol=1e-6, rtol=0)


@quick
@given(SEEDS)
def test_turned_features_and_swapped_rows_change_nothing(seed: int) -> None:
    x, y = sample(seed, 60, 12)
    g = torch.Generator().manual_seed(seed)
    turn, _ = torch.linalg.qr(torch.randn(12, 12, generator=g, dtype=torch.float64))
    order = torch.randperm(60, generator=g)
    plain = fit_svms(x, y, 5.0, tolerance=1e-7).decisions(x)
    turned = fit_svms(x[order] @ turn, y[order], 5.0, tolerance=1e-7).decisions(x @ turn)
    torch.testing.assert_close(turned, plain, atol=1e-6, rtol=0)


def test_rows_of_zeros_equal_rows_and_constant_columns_are_no_trouble() -> None:
    x, y = sample(3, 90, 10)
    x[:5], x[5:10], x[:, 3] = 0, x[10], 0
    fit = fit_svms(x, y, 100.0)
    assert fit.unconverged == 0
    for c in range(3):
        expected = exact(x, y[:, c], 100.0).decision_function(x.numpy())
        assert np.abs(fit.decisions(x)[:, c].numpy() - expected).max() < 1e-3


def test_steps_that_do_not_suffice_are_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(svm, "STEPS", 1)
    x, y = sample(4, 100, 10)
    with caplog.at_level(logging.WARNING):
        fit = fit_svms(x, y, [1e-9, 100.0, 1000.0])
    assert fit.converged.tolist() == [True, False, False]
    assert "2 of 3 support vector machines have not converged" in caplog.text


def test_numbers_out_of_range_are_refused() -> None:
    x, y = sample(3, 90, 40)
    with pytest.raises(UserError, match="range of float64"):
        fit_svms(1e6 * x, y, 1e9)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_table_is_that_of_scikit_learn(seed: int) -> None:
    x, y = sample(seed, 160, 15)
    costs = [10.0, 0.1, 1000.0, 1.0]  # in no order
    choice = choose_costs(x, y, costs)
    assert (choice.fits, choice.unconverged) == (3 * 4 * 3, 0)
    for c in range(3):
        for place, cost in enumerate(costs):
            machine = LinearSVC(C=cost, dual=False, tol=1e-10, max_iter=100_000, class_weight={1: 2, -1: 1})
            scores = cross_val_score(machine, x.numpy(), y[:, c].numpy(), cv=3, scoring="average_precision")
            assert float(choice.table[c, place]) == pytest.approx(scores.mean(), abs=2e-3)
    assert choice.costs.tolist() == [costs[int(np.argmax(row))] for row in choice.table.numpy()]


def test_the_first_of_equal_costs_is_taken() -> None:
    x = torch.cat([torch.eye(2).repeat(10, 1) + 0.01 * torch.rand(20, 2, generator=torch.Generator().manual_seed(0))])
    y = torch.tensor([1, -1]).repeat(10)[:, None]  # every cost separates these
    choice = choose_costs(x, y, [5.0, 100.0, 1.0])
    assert choice.table.tolist() == [[1.0, 1.0, 1.0]]
    assert choice.costs.tolist() == [5.0]


def test_the_published_solver_is_scikit_learn_as_published(caplog: pytest.LogCaptureFixture) -> None:
    x, y = sample(5, 150, 60, classes=1)
    costs = [0.1, 1000.0]
    with caplog.at_level(logging.WARNING), joblib.parallel_config(backend="sequential"):
        choice = choose_costs_liblinear(x, y, costs, seed=7)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        for place, cost in enumerate(costs):
            machine = LinearSVC(C=cost, dual=True, max_iter=2000, tol=1e-4, class_weight={1: 2, -1: 1}, random_state=7)
            scores = cross_val_score(machine, x.numpy(), y[:, 0].numpy(), cv=3, scoring="average_precision")
            assert float(choice.table[0, place]) == pytest.approx(scores.mean(), abs=1e-12)
    stopped = sum(issubclass(each.category, ConvergenceWarning) for each in caught)
    assert stopped > 0  # or the count below is of nothing
    assert (choice.fits, choice.unconverged) == (6, stopped)
    assert f"stopped {stopped} of 6" in caplog.text


def test_both_solvers_give_one_protocol() -> None:
    (x, y), (test, _) = sample(6, 240, 30), sample(7, 100, 30)
    labels = y.to(torch.int8)
    with joblib.parallel_config(backend="sequential"):  # starting processes takes seconds
        ours, published = (
            svm_one_vs_all(17 * x, labels, 5 * test, costs=[0.1, 1.0, 10.0], solver=solver)
            for solver in ("batched", "liblinear")
        )
    assert ours.choice.costs.tolist() == published.choice.costs.tolist()
    torch.testing.assert_close(ours.choice.table, published.choice.table, atol=2e-3, rtol=0)
    torch.testing.assert_close(ours.decisions, published.decisions, atol=5e-3, rtol=0)
    assert float(ours.fit.gradient.max()) <= svm.TOLERANCE
    assert float(published.fit.gradient.max()) < 1  # measured, not assumed
    assert ours.decisions.shape == (100, 3)


def test_difficult_rows_are_negatives_and_rows_have_unit_length() -> None:
    (x, y), (test, _) = sample(8, 120, 10), sample(9, 40, 10)
    difficult = torch.where((y < 0) & (torch.arange(120)[:, None] % 5 == 0), 0, y)
    assert (difficult == 0).any()
    first = svm_one_vs_all(x, y, test, costs=[1.0, 10.0]).decisions
    second = svm_one_vs_all(x, difficult, test, costs=[1.0, 10.0]).decisions
    assert torch.equal(first, second)
    fit = fit_svms(x / (1 + 1e-5), y, svm_one_vs_all(x, y, test, costs=[1.0, 10.0]).choice.costs)
    torch.testing.assert_close(first, fit.decisions(test / (1 + 1e-5)), atol=1e-6, rtol=0)
    longer = svm_one_vs_all(3 * x, y, 3 * test, costs=[1.0, 10.0], normalise=False).decisions
    assert float((longer - first).abs().max()) > 1e-2


def test_the_same_inputs_give_the_same_numbers() -> None:
    (x, y), (test, _) = sample(10, 90, 12), sample(11, 30, 12)
    once, again = (svm_one_vs_all(x.float(), y, test.float(), costs=[1.0, 100.0]) for _ in range(2))
    assert torch.equal(once.decisions, again.decisions)
    assert torch.equal(once.choice.table, again.choice.table)


def refused(match: str, **changes: object) -> None:
    x, y = sample(12, 30, 5)
    arguments = {"train_features": x, "train_labels": y, "test_features": x, "costs": [1.0, 2.0]} | changes
    with pytest.raises(UserError, match=match):
        svm_one_vs_all(**arguments)  # type: ignore[arg-type]


def test_bad_input_is_refused() -> None:
    x, y = sample(12, 30, 5)
    broken = x.clone()
    broken[3, 1] = torch.nan
    refused("train features are not finite", train_features=broken)
    refused("test features are not finite", test_features=broken / 0)
    refused("no rows of numbers", train_features=y)
    refused("differ in width", test_features=x[:, :3])
    refused("one-against-all", train_labels=y.float())
    refused("one-against-all", train_labels=2 * y)
    refused("one-against-all", train_labels=y[:, 0])
    refused("do not fit together", train_labels=y[:20])
    refused("above 0", costs=[1.0, 0.0])
    refused("above 0", costs=[float("nan")])
    refused("no cost", costs=[])
    refused("2 folds", folds=1)
    refused("weights of positives", positive_weight=0.0)
    refused("names and labels", classes=["cat"])
    refused("no such solver", solver="libsvm")


def test_too_few_rows_of_a_class_are_named() -> None:
    x, y = sample(13, 30, 5)
    y[:, 1] = -1
    y[:2, 1] = 1
    y[:, 2] = 1
    with pytest.raises(DataError) as caught:
        svm_one_vs_all(x, y, x, classes=["cat", "dog", "sofa"])
    assert "dog: 2 positive, 28 negative" in str(caught.value)
    assert "sofa: 30 positive, 0 negative" in str(caught.value)
    assert "cat" not in str(caught.value)


def test_targets_and_costs_of_fit_svms_are_refused() -> None:
    x, y = sample(14, 30, 5)
    for match, arguments in (
        ("-1 or \\+1", (x, 0 * y, 1.0)),
        ("above 0", (x, y, [1.0, 2.0])),
        ("above 0", (x, y, -1.0)),
        ("do not fit", (x, y[:-1], 1.0)),
    ):
        with pytest.raises(UserError, match=match):
            fit_svms(*arguments)
    with pytest.raises(UserError, match="mask"):
        fit_svms(x, y, 1.0, rows=y)


def test_published_constants() -> None:
    assert COSTS == (0.01, 0.1, 1, 2, 5, 10, 15, 20, 50, 100, 1000)
    assert (svm_selection.LIBLINEAR_ITERATIONS, svm_selection.LIBLINEAR_TOLERANCE) == (2000, 1e-4)
