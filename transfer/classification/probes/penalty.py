"""Which penalty of logistic regressions: the one that does best on validation rows, refitted on all."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from transfer.classification.probes.grids import PENALTIES
from transfer.classification.probes.logistic import Fit, binary_paths, logistic_path
from transfer.classification.probes.rows import checked_rows, first_largest
from transfer.runtime.errors import UserError


@dataclass(frozen=True)
class Choice:
    """The penalty that did best on validation rows, and the fit on train and validation rows with it.

    Attributes:
        penalty: the chosen one, of the sum objective.
        table: validation score for every penalty, ascending. Selected on, so not to be reported.
        gradients: largest entry of the gradient, see `Fit`, for every penalty of the fits on the train rows.
        unconverged: the fits that did not reach the tolerance, in words; empty is what to expect.
        fit: on train and validation rows.
        scores: decision values [m, classes] of the test rows, float64.
        predicted: class ids [m] of the test rows, int64; of equal scores the smaller id.
        note: says so when the chosen penalty is the first or the last of the grid; empty otherwise.
    """

    penalty: float
    table: dict[float, float]
    gradients: dict[float, float]
    unconverged: tuple[str, ...]
    fit: Fit
    scores: Tensor
    predicted: Tensor
    note: str


def choose_penalty(
    train_features: Tensor,
    train_labels: Tensor,
    val_features: Tensor,
    val_labels: Tensor,
    test_features: Tensor,
    *,
    classes: int,
    score: Callable[[Tensor, Tensor], float],
    penalties: Sequence[float] = PENALTIES,
    tolerance: float = 1e-3,
) -> Choice:
    """Fits every penalty on train rows, scores it on validation rows, refits the best on both and predicts test rows.

    The best is the first in ascending order that no other exceeds. The labels of the test rows are not asked for.

    Source: Ericsson et al., CVPR 2021 (arXiv 2011.13377), and linusericsson/ssl-transfer, linear.py at 416913f:
    L-BFGS on raw pooled features, L2 on the weights and not on the intercept, 45 penalties, scikit-learn's C being
    1 / penalty. A difference: there scikit-learn stops after at most 100 iterations, here every fit converges.

    Args:
        train_features, val_features, test_features: [n, d], [v, d] and [m, d], any floating type.
        train_labels, val_labels: integers in 0 … `classes` − 1.
        score: of predictions [v] and labels [v], the higher the better: accuracy or mean accuracy per class.
        penalties: as for `logistic_path`.
        tolerance: as for `logistic_path`; 1e-3 puts the weights within 0.1 % of the optimum, in a third of the time.

    Raises:
        UserError: as `logistic_path`; all train rows are of one class; no validation rows; `score` gives a NaN.
    """
    known = checked_rows(train_features, train_labels, val_features, classes, ("train", "validation"))
    held = checked_rows(val_features, val_labels, test_features, classes, ("validation", "test")).to(known.device)
    if not bool((known != known[0]).any()):
        raise UserError(
            "all train rows are of one class: nothing can be told apart",
            found=f"class {int(known[0])} in {len(known)} rows",
            todo="look at how the split was read: its list of files, its labels",
        )
    table: dict[float, float] = {}
    gradients: dict[float, float] = {}
    unconverged = []
    start: Fit | None = None
    for fit in logistic_path(train_features, known, classes=classes, penalties=penalties, tolerance=tolerance):
        value = float(score(first_largest(fit.scores(val_features)), held))
        if math.isnan(value):
            raise UserError("a validation score is not a number", found=f"penalty {fit.penalty:g}", todo="see `score`")
        if start is None or value >= max(table.values()):  # from the largest down: of equals the smallest is taken
            start = fit
        table[fit.penalty], gradients[fit.penalty] = value, fit.gradient
        if not fit.converged:
            unconverged.append(fit.penalty)
    assert start is not None  # the penalties are not empty
    both, labels, best = (
        torch.cat([train_features, val_features.to(train_features)]),
        torch.cat([known, held]),
        start.penalty,
    )
    (refit,) = logistic_path(both, labels, classes=classes, penalties=[best], tolerance=tolerance, start=start)
    scores = refit.scores(test_features)
    said = [] if refit.converged else [f"the final fit, penalty {best:g}"]
    if unconverged:
        said.append("penalties " + ", ".join(f"{penalty:g}" for penalty in sorted(unconverged)))
    return Choice(
        penalty=best,
        table=dict(sorted(table.items())),
        gradients=dict(sorted(gradients.items())),
        unconverged=tuple(said),
        fit=refit,
        scores=scores,
        predicted=first_largest(scores),
        note=_edge(best, sorted(table)),
    )


@dataclass(frozen=True)
class SharedChoice:
    """The one penalty with which the classes of a multi-label set do best on validation rows, and the fits with it.

    Attributes:
        penalty, table, note: as of `Choice`.
        unconverged: the fits that did not reach the tolerance, as "class at penalty".
        fits: of each class on train and validation rows; of two rows of weights, absent and present.
        scores: log-odds [m, classes] of the test rows, float64.
    """

    penalty: float
    table: dict[float, float]
    unconverged: tuple[str, ...]
    fits: tuple[Fit, ...]
    scores: Tensor
    note: str


def choose_shared_penalty(
    train_features: Tensor,
    train_labels: Tensor,
    val_features: Tensor,
    val_labels: Tensor,
    test_features: Tensor,
    *,
    classes: Sequence[str],
    score: Callable[[Tensor], float],
    penalties: Sequence[float] = PENALTIES,
    tolerance: float = 1e-3,
) -> SharedChoice:
    """Fits a logistic regression for each class at every penalty, and takes for all classes the penalty that does best.

    Source: linusericsson/ssl-transfer, linear.py at 416913f, metric mAP; else as `choose_penalty`, for the form of the
    penalty see `binary_paths`.

    Args:
        train_features, val_features, test_features: [n, d], [v, d] and [m, d], any floating type.
        train_labels, val_labels: bool [n, classes] and [v, classes], whether the class is present.
        classes: their names.
        score: of log-odds [v, classes] of the validation rows, the higher the better: a mean average precision.
        penalties, tolerance: as for `choose_penalty`.

    Raises:
        UserError: as `logistic_path`; a class that is in none or in all of the train rows; `score` gives a NaN.
    """
    _refuse_one_sided(train_labels, classes)
    checked_rows(val_features, val_labels[:, 0].long(), test_features, 2, ("validation", "test"))
    paths = binary_paths(train_features, train_labels, penalties=penalties, tolerance=tolerance)
    found = [tuple(path) for path in paths]
    table: dict[float, float] = {}
    for at_penalty in zip(*found, strict=True):  # from the largest down: of equals the smallest is taken
        penalty = at_penalty[0].penalty
        table[penalty] = float(score(_log_odds(at_penalty, val_features)))
        if math.isnan(table[penalty]):
            raise UserError("a validation score is not a number", found=f"penalty {penalty:g}", todo="see `score`")
    best = min(penalty for penalty, value in table.items() if value == max(table.values()))
    refits = binary_paths(
        torch.cat([train_features, val_features.to(train_features)]),
        torch.cat([train_labels, val_labels.to(train_labels)]),
        penalties=[best],
        tolerance=tolerance,
        starts=[next(fit for fit in path if fit.penalty == best) for path in found],
    )
    fits = tuple(fit for path in refits for fit in path)
    said = [*((name, fit) for name, path in zip(classes, found, strict=True) for fit in path)]
    final = [*((f"{name}, the final fit", fit) for name, fit in zip(classes, fits, strict=True))]
    return SharedChoice(
        penalty=best,
        table=dict(sorted(table.items())),
        unconverged=tuple(f"{name} at {fit.penalty:g}" for name, fit in (*said, *final) if not fit.converged),
        fits=fits,
        scores=_log_odds(fits, test_features),
        note=_edge(best, sorted(table)),
    )


def _log_odds(fits: Sequence[Fit], features: Tensor) -> Tensor:
    """Of each class's fit, [n, classes]."""
    both = (fit.scores(features) for fit in fits)
    return torch.stack([scores[:, 1] - scores[:, 0] for scores in both], dim=1)


def _refuse_one_sided(present: Tensor, classes: Sequence[str]) -> None:
    images, counts = len(present), present.sum(0).tolist()
    wrong = [f"{name} in {count}" for name, count in zip(classes, counts, strict=True) if count in (0, images)]
    if wrong:
        raise UserError(
            "a class must be in some training images and not in others, or there is nothing to tell apart",
            found=f"of {images} images: {', '.join(wrong)}",
            todo="look at how the split was read: its lists, its annotations",
        )


def _edge(best: float, order: list[float]) -> str:
    if best not in (order[0], order[-1]):
        return ""
    place = "smallest" if best == order[0] else "largest"
    return f"the chosen penalty {best:g} is the {place} of the grid of {len(order)}: a better one may lie beyond it"
