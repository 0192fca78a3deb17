"""One support vector machine per class on frozen features, each class's cost chosen by cross validation on train rows.

Labels of test rows are not looked at: `svm_one_vs_all` gives decision values, which a metric compares with them.

Source: VISSL, vissl/utils/svm_utils/svm_trainer.py at commit 09270ed, and its VOC07 configuration.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import joblib
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC
from torch import Tensor

from transfer.classification.probes.grids import COSTS
from transfer.classification.probes.svm import (
    TOLERANCE,
    Rotated,
    SvmFit,
    fit_svms,
    minimise,
    pulls,
    refuse_costs,
    refuse_features,
    refuse_targets,
    rotated,
)
from transfer.runtime.errors import DataError, UserError

LIBLINEAR_ITERATIONS = 2000  # max_iter there
LIBLINEAR_TOLERANCE = 1e-4

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CostChoice:
    """What cross validation found.

    Attributes:
        costs: chosen cost of each class [classes], float64, on the CPU.
        table: mean average precision over the folds [classes, costs], 0 … 1, float64, on the CPU. Selected on, so not
            to be reported.
        fits: machines trained.
        unconverged: how many of them did not meet the solver's own test of convergence.
    """

    costs: Tensor
    table: Tensor
    fits: int
    unconverged: int


@dataclass(frozen=True)
class SvmProbe:
    """Machines of all classes at their chosen costs.

    Attributes:
        decisions: decision values of the test rows [n_test, classes], float64, on the device of the test features.
        choice: costs, cross-validation table and convergence of its machines.
        fit: the final machines, for features as `svm_one_vs_all` normalises them. `gradient` is ‖∇P‖ for either solver;
            `converged` is the solver's own test, for liblinear that it ended before its limit of iterations.
        solver: "batched" or "liblinear".
    """

    decisions: Tensor
    choice: CostChoice
    fit: SvmFit
    solver: str


@torch.no_grad()
def svm_one_vs_all(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    *,
    costs: Sequence[float] = COSTS,
    folds: int = 3,
    positive_weight: float = 2.0,
    negative_weight: float = 1.0,
    normalise: bool = True,
    solver: str = "batched",
    classes: Sequence[str] | None = None,
    seed: int = 0,
) -> SvmProbe:
    """Choose each class's cost by cross validation, refit it on all train rows, and apply it to the test rows.

    "batched" solves every problem to `svm.TOLERANCE`, on the device of the train features. "liblinear" is the
    published solver with its published settings (scikit-learn's LinearSVC, dual, at most 2000 iterations, tolerance
    1e-4), on all cores: with large costs it stops before the optimum, and depends on `seed`.

    Args:
        train_features: [n, d], floating point.
        train_labels: integers [n, classes]: 1 present, −1 absent, 0 difficult, which counts as absent.
        test_features: [n_test, d].
        costs: candidates, each above 0. Of those that do equally well the first is taken.
        folds: of the cross validation, at least 2.
        positive_weight, negative_weight: of the rows' losses.
        normalise: divide each row by (its length + 1e-5).
        solver: "batched" or "liblinear".
        classes: names, for messages.
        seed: of liblinear's shuffling; the batched solver draws nothing.

    Raises:
        DataError: a class with fewer positive or negative rows than folds.
        UserError: features not finite, labels other than −1, 0 and 1, costs not above 0, shapes that do not fit.
    """
    refuse_features("train", train_features)
    refuse_features("test", test_features)
    if test_features.shape[1] != train_features.shape[1]:
        raise UserError(
            "train and test features differ in width",
            found=f"train {list(train_features.shape)}, test {list(test_features.shape)}",
            todo="take both from the same layer of the same network",
        )
    if solver not in ("batched", "liblinear"):
        raise UserError("no such solver of support vector machines", found=solver, todo="batched or liblinear")
    targets = _targets(train_labels).to(train_features.device)
    train, test = (_rows(each, normalise) for each in (train_features, test_features))
    weights = (positive_weight, negative_weight)
    if solver == "batched":
        choice = choose_costs(train, targets, costs, folds=folds, weights=weights, classes=classes)
        fit = fit_svms(train, targets, choice.costs, weights=weights)
    else:
        choice = choose_costs_liblinear(train, targets, costs, folds=folds, weights=weights, classes=classes, seed=seed)
        fit = _fit_liblinear(train, targets, choice.costs, weights, seed)
    return SvmProbe(fit.decisions(test).to(test_features.device), choice, fit, solver)


@torch.no_grad()
def choose_costs(
    features: Tensor,
    targets: Tensor,
    costs: Sequence[float],
    *,
    folds: int = 3,
    weights: tuple[float, float] = (2.0, 1.0),
    classes: Sequence[str] | None = None,
    tolerance: float = TOLERANCE,
) -> CostChoice:
    """Cross validation of all classes at once, from the least cost to the largest, each from where the last ended.

    The folds are scikit-learn's StratifiedKFold without shuffling on the labels of each class, so they differ between
    classes; the score is its `average_precision_score` of a held-out fold, averaged over folds.

    Args:
        features: [n, d], used as they are.
        targets: [n, classes] of −1 and +1.
        costs: candidates; the first of the best is taken.
        folds, weights, classes: as for `svm_one_vs_all`.
        tolerance: as for `fit_svms`.

    Raises:
        DataError, UserError: as `svm_one_vs_all`.
    """
    _refuse(features, targets, costs, folds, classes)
    held_out = _held_out(targets, folds).to(features.device)
    space, spread = rotated(features), targets.repeat_interleave(folds, 1)
    start, unconverged = None, 0
    table = np.zeros((targets.shape[1], len(costs)))
    for column in np.argsort(costs, kind="stable"):
        cost = refuse_costs(costs[column], spread.shape[1]).to(features.device)
        pull = pulls(spread, cost, weights, ~held_out)
        start, gradient, _ = minimise(space, spread, pull, start=start, tolerance=tolerance)
        unconverged += int((~(gradient <= tolerance)).sum())
        table[:, column] = _mean_precision(space, start, spread, held_out, folds)
    return _choice(table, costs, folds, unconverged)


def choose_costs_liblinear(
    features: Tensor,
    targets: Tensor,
    costs: Sequence[float],
    *,
    folds: int = 3,
    weights: tuple[float, float] = (2.0, 1.0),
    classes: Sequence[str] | None = None,
    seed: int = 0,
) -> CostChoice:
    """The same by the published solver, one fit after the other on each core. Arguments and errors: `choose_costs`."""
    _refuse(features, targets, costs, folds, classes)
    x, y = features.double().cpu().numpy(), targets.cpu().numpy()
    held_out = _held_out(targets, folds).numpy()
    problems = [(c, cost, fold) for c in range(y.shape[1]) for cost in costs for fold in range(folds)]
    scores = joblib.Parallel(n_jobs=-1)(
        joblib.delayed(_liblinear_fold)(x, y[:, c], held_out[:, c * folds + fold], cost, weights, seed)
        for c, cost, fold in problems
    )
    table = np.array([score for score, _ in scores]).reshape(y.shape[1], len(costs), folds).mean(2)
    unconverged = sum(not converged for _, converged in scores)
    if unconverged:
        _warn(unconverged, len(problems))
    return _choice(table, costs, folds, unconverged)


def _targets(labels: Tensor) -> Tensor:
    """Labels with difficult ones absent, ±1."""
    if labels.ndim != 2 or labels.is_floating_point() or not ((labels == 0) | (labels.abs() == 1)).all():
        raise UserError(
            "train labels are not those of one-against-all classification",
            found=f"shape {list(labels.shape)}, {labels.dtype}, values {_range(labels)}",
            todo="give integers [n, classes]: 1 present, 0 difficult, -1 absent",
        )
    return torch.where(labels == 1, 1, -1)


def _range(labels: Tensor) -> str:
    return f"{labels.min().item()} … {labels.max().item()}" if labels.numel() else "none"


def _rows(features: Tensor, normalise: bool) -> Tensor:
    rows = features.double()
    return rows / (torch.linalg.vector_norm(rows, dim=1, keepdim=True) + 1e-5) if normalise else rows


def _refuse(
    features: Tensor, targets: Tensor, costs: Sequence[float], folds: int, classes: Sequence[str] | None
) -> None:
    refuse_features("train", features)
    refuse_targets(features, targets, None)
    if not len(costs):
        raise UserError("no cost to choose from", found="an empty list", todo="for example 0.1 1 10")
    refuse_costs(costs, len(costs))
    if folds < 2:
        raise UserError("cross validation needs at least 2 folds", found=str(folds), todo="3 is published")
    names = list(classes) if classes is not None else [f"class {c}" for c in range(targets.shape[1])]
    if len(names) != targets.shape[1]:
        raise UserError(
            "names and labels differ in the number of classes",
            found=f"{len(names)} names, labels {list(targets.shape)}",
            todo="give one name per column of the labels",
        )
    positives = (targets == 1).sum(0).tolist()
    few = [
        f"{name}: {positive} positive, {len(targets) - positive} negative"
        for name, positive in zip(names, positives, strict=True)
        if min(positive, len(targets) - positive) < folds
    ]
    if few:
        raise DataError(
            f"{len(few)} of {len(names)} classes have too few train rows for {folds} folds",
            found="\n".join(few),
            todo=f"give at least {folds} positive and {folds} negative rows of each class, or leave the class out",
        )


def _held_out(targets: Tensor, folds: int) -> Tensor:
    """Bool [n, classes · folds]: the rows of each fold, the folds of a class side by side; on the CPU."""
    y, splitter = targets.cpu().numpy(), StratifiedKFold(folds)
    masks = torch.zeros(len(y), y.shape[1] * folds, dtype=torch.bool)
    for c in range(y.shape[1]):
        for fold, (_, rows) in enumerate(splitter.split(y, y[:, c])):
            masks[torch.from_numpy(rows), c * folds + fold] = True
    return masks


def _mean_precision(space: Rotated, u: Tensor, targets: Tensor, held_out: Tensor, folds: int) -> NDArray[np.float64]:
    """Average precision of each class on held-out rows, mean over its folds [classes]."""
    decisions, positive, masks = (each.cpu().numpy() for each in (space.z @ u, targets == 1, held_out))
    scores = [average_precision_score(positive[rows, j], decisions[rows, j]) for j, rows in enumerate(masks.T)]
    means: NDArray[np.float64] = np.array(scores).reshape(-1, folds).mean(1)
    return means


def _choice(table: NDArray[np.float64], costs: Sequence[float], folds: int, unconverged: int) -> CostChoice:
    chosen = torch.tensor([float(costs[column]) for column in table.argmax(1)], dtype=torch.float64)
    return CostChoice(chosen, torch.from_numpy(table), table.size * folds, unconverged)


def _liblinear(
    x: NDArray[np.float64], y: NDArray[np.int64], cost: float, weights: tuple[float, float], seed: int
) -> tuple[LinearSVC, bool]:
    """The published machine, and whether it stopped before its limit of iterations."""
    machine = LinearSVC(
        C=cost,
        loss="squared_hinge",
        penalty="l2",
        dual=True,
        tol=LIBLINEAR_TOLERANCE,
        max_iter=LIBLINEAR_ITERATIONS,
        class_weight={1: weights[0], -1: weights[1]},
        intercept_scaling=1.0,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # counted by the callers
        machine.fit(x, y)
    return machine, bool(machine.n_iter_ < LIBLINEAR_ITERATIONS)


def _liblinear_fold(
    x: NDArray[np.float64],
    y: NDArray[np.int64],
    held_out: NDArray[np.bool_],
    cost: float,
    weights: tuple[float, float],
    seed: int,
) -> tuple[float, bool]:
    machine, converged = _liblinear(x[~held_out], y[~held_out], cost, weights, seed)
    return float(average_precision_score(y[held_out], machine.decision_function(x[held_out]))), converged


def _fit_liblinear(features: Tensor, targets: Tensor, costs: Tensor, weights: tuple[float, float], seed: int) -> SvmFit:
    """The published machines of all classes, with ‖∇P‖ at their weights."""
    x, y = features.double().cpu().numpy(), targets.cpu().numpy()
    fits = joblib.Parallel(n_jobs=-1)(
        joblib.delayed(_liblinear)(x, y[:, c], cost, weights, seed) for c, cost in enumerate(costs.tolist())
    )
    w = torch.from_numpy(np.stack([np.append(machine.coef_[0], machine.intercept_) for machine, _ in fits]))
    rows, sign = torch.nn.functional.pad(torch.from_numpy(x), (0, 1), value=1.0), torch.from_numpy(y)
    slack = (1 - sign * (rows @ w.T)).clamp_min(0)
    gradient = w.T - rows.T @ (pulls(sign, costs, weights, None) * sign * slack)
    norms = torch.linalg.vector_norm(gradient, dim=0)
    steps = torch.tensor([int(machine.n_iter_) for machine, _ in fits])
    converged = torch.tensor([each for _, each in fits])
    if not converged.all():
        _warn(int((~converged).sum()), len(fits))
    w, norms, steps, converged = (each.to(features.device) for each in (w, norms, steps, converged))
    return SvmFit(w[:, :-1], w[:, -1], norms, steps, converged)


def _warn(unconverged: int, fits: int) -> None:
    logger.warning(
        "liblinear stopped %d of %d support vector machines at %d iterations, as the published setting does",
        *(unconverged, fits, LIBLINEAR_ITERATIONS),
    )
