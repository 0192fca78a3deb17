"""Multinomial logistic regression on frozen features: every penalty of a grid.

Newton's method from the strongest penalty to the weakest. What the penalties share is done once: centred rows are
turned to the eigenvectors of their Gram matrix, where a diagonal preconditioner serves most penalties; each fit starts
where the ones before it point to. Newton's equations are solved by conjugate gradients in float32, which is enough
for a direction; scores, gradients and the test for convergence are in float64, so the answers are those of float64.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from transfer.classification.probes.grids import PENALTIES
from transfer.classification.probes.rows import checked_rows
from transfer.runtime.errors import UserError

TOLERANCE = 1e-5  # of the gradient's length, relative to that of the penalty's part of it
STEPS = 100  # Newton steps for one penalty; warm starts take 1 to 4
CONJUGATE = 500  # conjugate gradients for one Newton step
LIGHT = 200  # of them with the simplest preconditioner
BLOCKS = 2**28  # numbers that the preconditioner by blocks may take: 2 GiB
HISTORY = 4  # fits that the next start is extrapolated from

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fit:
    """A multinomial logistic regression, for raw features.

    Attributes:
        penalty: that of the sum objective, see `logistic_path`.
        weight: [classes, d], float64; zeros for a class without rows.
        bias: [classes], float64, of mean 0 over the classes that have rows; −∞ for a class without rows.
        gradient: largest absolute entry of the gradient of the mean objective (the sum's over n), at raw features.
        converged: whether the tolerance was reached; a fit that did not reach it has been logged as a warning.
    """

    penalty: float
    weight: Tensor
    bias: Tensor
    gradient: float
    converged: bool

    def scores(self, features: Tensor) -> Tensor:
        """Decision values [m, classes], float64, of `features` [m, d], on the device of the fit."""
        with torch.no_grad():
            return features.to(self.weight) @ self.weight.T + self.bias


def logistic_path(
    features: Tensor,
    labels: Tensor,
    *,
    classes: int,
    penalties: Sequence[float] = PENALTIES,
    tolerance: float = TOLERANCE,
    steps: int = STEPS,
    start: Fit | None = None,
) -> Iterator[Fit]:
    """Fits of every penalty, from the largest to the smallest, each given as soon as it is found.

    Objective over rows x: Σ cross-entropy of softmax(weight · x + bias) + penalty / 2 · ‖weight‖², the bias free;
    scikit-learn's with C = 1 / penalty. A fit has converged when the gradient is shorter than `tolerance` times the
    penalty's own part of it, penalty · ‖weight‖ (the data's part cancels that at the optimum), in units where the mean
    square length of the centred rows is 1 and the intercept is the weight of a constant 1. By strong convexity the
    objective is then within about tolerance² · penalty / 2 · ‖weight‖² of its minimum, however weak the penalty.
    A fit that is not there after `steps` Newton steps, or where rounding ends it, is logged as a warning.

    Args:
        features, labels: [n, d] of any floating type, integers [n] in 0 … `classes` − 1. Work is in memory on their
            device: about 16 n d bytes, and as much again for a moment.
        penalties: each above 0; repeated ones count once.
        tolerance: above 0. Below 1e-8 rounding decides.
        start: a fit of similar rows to start the first penalty from.

    Raises:
        UserError: features not finite, labels that are no classes, shapes that do not fit, options out of range.
    """
    ordered = _ordered(penalties, tolerance)
    known = checked_rows(features, labels, features[:0], classes)
    return _path(features, known, classes, ordered, tolerance, steps, start)


def binary_paths(
    features: Tensor,
    labels: Tensor,
    *,
    penalties: Sequence[float] = PENALTIES,
    tolerance: float = TOLERANCE,
    starts: Sequence[Fit] | None = None,
) -> Iterator[Iterator[Fit]]:
    """`logistic_path` of every column of `labels` as a problem of two classes, absent and present, column by column.

    The rows are turned once for all columns. Both rows of weights are penalised, as by scikit-learn's multinomial form:
    at the optimum they are −w and w, so log-odds v · x + c have the penalty ‖v‖² / 4 and not the ‖v‖² / 2 of a single
    sigmoid: scikit-learn's plain binary form finds the same at C = 2 / penalty.

    Args:
        features: as for `logistic_path`, as are `penalties` and `tolerance`.
        labels: [n, columns], 1 or true where present; each column needs both.
        starts: of each column, see `logistic_path`.

    Raises:
        UserError: as `logistic_path`.
    """
    rows: _Rows | None = None
    for place, column in enumerate(labels.T):
        known = checked_rows(features, column.long(), features[:0], 2)
        with torch.no_grad():
            rows = _turned(features, known, 2) if rows is None else replace(rows, y=known)
        ordered = _ordered(penalties, tolerance)
        both = torch.arange(2, device=known.device)
        yield _along(rows, both, 2, ordered, tolerance, STEPS, None if starts is None else starts[place])


def _ordered(penalties: Sequence[float], tolerance: float) -> list[float]:
    """The penalties from the largest to the smallest, each once; refuses those that make no sense."""
    ordered = sorted(set(penalties), reverse=True)
    if not ordered or not all(0 < each < math.inf for each in ordered) or not tolerance > 0:
        raise UserError(
            "a logistic regression needs penalties and a tolerance above 0",
            found=f"penalties {list(penalties)}, tolerance {tolerance}",
            todo="`PENALTIES` is the published grid",
        )
    return ordered


@torch.no_grad()
def _path(
    features: Tensor,
    labels: Tensor,
    classes: int,
    penalties: list[float],
    tolerance: float,
    steps: int,
    start: Fit | None,
) -> Iterator[Fit]:
    present, y = torch.unique(labels, return_inverse=True)  # without rows a class has no finite bias
    yield from _along(_turned(features, y, len(present)), present, classes, penalties, tolerance, steps, start)


@torch.no_grad()
def _along(
    rows: _Rows,
    present: Tensor,
    classes: int,
    penalties: list[float],
    tolerance: float,
    steps: int,
    start: Fit | None,
) -> Iterator[Fit]:
    weights = rows.zero()
    if start is not None:  # a class that the start had no rows of begins anew
        known = start.bias[present].isfinite().to(weights.device)
        weights = rows.inward(start.weight[present], start.bias[present]).where(known, weights)
        weights -= weights.mean(1, keepdim=True)  # what all classes share costs penalty and changes no probability
    found: list[tuple[float, Tensor, Tensor]] = []  # penalty, weights and scores of the last fits
    for penalty in penalties:
        weights, scores = _start(rows, penalty, found) if found else (weights, rows.scores(weights))
        weights, scores, gradient, converged = _minimum(rows, penalty, weights, scores, tolerance, steps)
        found = [*found, (penalty, weights, scores)][-HISTORY:]
        weight = rows.z.new_zeros(classes, len(rows.mean))
        bias = weight.new_full((classes,), -math.inf)
        weight[present], bias[present] = rows.outward(weights)
        fit = Fit(penalty, weight, bias, rows.largest(gradient), converged)
        if not converged:
            logger.warning("logistic regression, penalty %g: not converged, gradient %.1e", penalty, fit.gradient)
        yield fit


@dataclass(frozen=True)
class _Rows:
    """Rows in the basis of their Gram matrix's eigenvectors, and the way there and back.

    z = ((x − mean) / scale) · basis, with a 1 behind it that carries the intercept: [n, r + 1], r at most n and d.
    """

    z: Tensor
    light: Tensor  # z in float32
    squares: Tensor  # its squares, transposed
    y: Tensor  # [n], 0 … k − 1, each of which occurs
    k: int
    mean: Tensor
    scale: float
    basis: Tensor  # [d, r]

    @property
    def blocks_fit(self) -> bool:
        """Whether a matrix for each class fits in memory."""
        return self.k * self.z.shape[1] ** 2 <= BLOCKS

    def zero(self) -> Tensor:
        """Weights [r + 1, k] of the strongest penalty: only the classes' shares count."""
        weights = self.z.new_zeros(self.z.shape[1], self.k)
        logs = torch.bincount(self.y, minlength=self.k).to(weights).log()
        weights[-1] = logs - logs.mean()
        return weights

    def scores(self, weights: Tensor) -> Tensor:
        return self.z @ weights

    def inward(self, weight: Tensor, bias: Tensor) -> Tensor:
        weight, bias = weight.to(self.z), bias.to(self.z)
        return torch.cat([self.scale * (self.basis.T @ weight.T), (bias + weight @ self.mean)[None]])

    def outward(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """(weight [k, d], bias [k]) for raw features."""
        weight = (self.basis @ weights[:-1]).T / self.scale
        bias = weights[-1] - weight @ self.mean
        return weight, bias - bias.mean()

    def largest(self, gradient: Tensor) -> float:
        """Largest entry of the mean objective's gradient at raw features, of that of the sum's here."""
        raw = self.scale * (self.basis @ gradient[:-1]) + self.mean[:, None] * gradient[-1]
        return float(torch.cat([raw, gradient[-1:]]).abs().max()) / len(self.z)


def _turned(features: Tensor, y: Tensor, k: int) -> _Rows:
    x = features.double()
    mean, constant = x.mean(0), x.amax(0) == x.amin(0)
    x = (x - mean).where(~constant, 0)  # rounding leaves a trace of a constant, and a weight that follows it
    scale = float(torch.linalg.vector_norm(x)) / math.sqrt(len(x)) or 1.0
    x /= scale
    if x.shape[1] > len(x):  # the optimum lies in the span of the rows
        span = torch.linalg.qr(x.T).Q
        within = x @ span
        basis = span @ torch.linalg.eigh(within.T @ within).eigenvectors
    else:
        basis = torch.linalg.eigh(x.T @ x).eigenvectors
    z = torch.nn.functional.pad(x @ basis, (0, 1), value=1.0)
    basis[constant] = 0
    return _Rows(z, z.float(), z.float().square().T.contiguous(), y, k, mean, scale, basis)


def _losses(scores: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's cross-entropy [n, 1], and scores relative to its label's.

    Precise relative to the loss however small that is, for a penalty of 1e-6 leaves losses of its order.
    """
    margins = scores - scores.gather(1, y[:, None])
    others = margins.scatter(1, y[:, None], -math.inf).logsumexp(1, keepdim=True)
    return torch.logaddexp(others, torch.zeros_like(others)), margins


def _objective(weights: Tensor, scores: Tensor, y: Tensor, penalty: float) -> float:
    return float(_losses(scores, y)[0].sum() + penalty / 2 * weights[:-1].square().sum())


def _start(rows: _Rows, penalty: float, found: list[tuple[float, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The best extrapolation of the fits so far, in the logarithm of the penalty; of order 0 to `HISTORY` − 1."""
    best, start = math.inf, found[-1][1]
    for order in range(1, len(found) + 1):
        places = [math.log(each) for each, _, _ in found[-order:]]
        weights, scores = torch.zeros_like(found[0][1]), torch.zeros_like(found[0][2])
        for place, (_, its_weights, its_scores) in zip(places, found[-order:], strict=True):
            share = math.prod((math.log(penalty) - other) / (place - other) for other in places if other != place)
            weights += share * its_weights
            scores += share * its_scores
        value = _objective(weights, scores, rows.y, penalty / rows.scale**2)
        if value < best:
            best, start = value, weights
    return start, rows.scores(start)  # anew: rounding must not pile up along the path


def _minimum(
    rows: _Rows, penalty: float, weights: Tensor, scores: Tensor, tolerance: float, steps: int
) -> tuple[Tensor, Tensor, Tensor, bool]:
    """(weights [r + 1, k] of least objective, their scores [n, k], its gradient there, whether it has converged)."""
    penalty = penalty / rows.scale**2
    ridge = torch.full_like(rows.z[0, :, None], penalty)
    ridge[-1] = 0  # the intercept is free
    lengths = torch.linalg.vector_norm(rows.z, dim=1)
    for step in range(steps + 1):
        losses, margins = _losses(scores, rows.y)
        shares = (margins - losses).exp()
        errors = shares.scatter(1, rows.y[:, None], torch.expm1(-losses))
        gradient = rows.z.T @ errors + ridge * weights
        length = float(gradient.norm())
        rounding = 1e-15 * float(lengths @ errors.norm(dim=1))  # of the sum that the gradient is
        enough = max(tolerance * penalty * float(weights[:-1].norm()), rounding)
        if length <= enough:
            return weights, scores, gradient, True
        if step == steps:
            break
        direction = _direction(rows, shares, ridge, gradient, max(0.03, 0.5 * enough / length))
        change = rows.scores(direction)
        taken = _line_search(rows, penalty, (weights, scores), (direction, change), float((gradient * direction).sum()))
        if not taken:
            break
        weights, scores = weights + taken * direction, scores + taken * change
    return weights, scores, gradient, False


def _line_search(
    rows: _Rows, penalty: float, at: tuple[Tensor, Tensor], along: tuple[Tensor, Tensor], slope: float
) -> float:
    """How much of a Newton step to take: 1, or halves of it until the objective falls enough; 0 if it never does."""
    before = _objective(*at, rows.y, penalty)
    for halvings in range(40):
        taken = 0.5**halvings
        after = _objective(at[0] + taken * along[0], at[1] + taken * along[1], rows.y, penalty)
        if after <= before + 1e-4 * taken * slope + 1e-13 * before:
            return taken
    return 0.0


def _direction(rows: _Rows, shares: Tensor, ridge: Tensor, gradient: Tensor, accuracy: float) -> Tensor:
    """Newton's direction by conjugate gradients, until the residual is `accuracy` times the gradient's length.

    The first `LIGHT` of them are preconditioned by the Hessian's diagonal. Where that is not enough (weak penalties on
    classes that can almost be told apart) the diagonal blocks, one for each class, take its place.
    """
    penalty = float(ridge[0])
    # shares far below the penalty do not count, and as subnormal numbers they would be slow
    shares = shares.where(shares > 1e-9 * penalty, 0)
    spread = shares * (1 - shares)
    p, ridge = shares.float(), ridge.float()
    residual = (gradient / -gradient.norm()).float()
    with torch.autocast(residual.device.type, enabled=False):
        diagonal = rows.squares @ spread.float() + penalty
        solution, residual, done = _conjugate(
            rows, p, ridge, residual, lambda each: each / diagonal, accuracy, LIGHT if rows.blocks_fit else CONJUGATE
        )
        if not done and rows.blocks_fit:
            more, _, _ = _conjugate(rows, p, ridge, residual, _by_blocks(rows, spread, penalty), accuracy, CONJUGATE)
            solution = solution + more
    newton: Tensor = solution.double() * gradient.norm()
    newton -= newton.mean(1, keepdim=True)  # what rounding to float32 left of it
    return newton


def _conjugate(
    rows: _Rows,
    p: Tensor,
    ridge: Tensor,
    residual: Tensor,
    precondition: Callable[[Tensor], Tensor],
    accuracy: float,
    limit: int,
) -> tuple[Tensor, Tensor, bool]:
    """(solution of Hessian · solution = `residual`, what is left of the residual, whether that is little enough)."""
    label = rows.y[:, None]
    solution, ahead, before = torch.zeros_like(residual), torch.zeros_like(residual), math.inf
    for _ in range(limit):
        if float(residual.norm()) <= accuracy:
            return solution, residual, True
        scaled = precondition(residual)
        # Weights that all classes share change no probability. Gradients have none of them; where a preconditioner
        # puts some, the penalty alone answers: thousands of times more weakly than the data answer elsewhere.
        scaled -= scaled.mean(1, keepdim=True)
        now = float((residual * scaled).sum())
        ahead = scaled + now / before * ahead
        changes = (ahead.T @ rows.light.T).T  # turned, a product with few columns is up to ten times as fast
        changes -= changes.gather(1, label)  # the label's share is near 1: this keeps what the others leave of it
        changes -= (p * changes).sum(1, keepdim=True)
        image = ((p * changes).T @ rows.light).T + ridge * ahead
        curvature = float((ahead * image).sum())
        if not curvature > 0:
            break
        solution = solution + now / curvature * ahead
        residual = residual - now / curvature * image
        before = now
    return solution, residual, float(residual.norm()) <= accuracy


def _by_blocks(rows: _Rows, spread: Tensor, penalty: float) -> Callable[[Tensor], Tensor]:
    """The inverse of the Hessian without what couples the classes, as a function of [r + 1, k]."""
    blocks = torch.stack([(rows.z * spread[:, c, None]).T @ rows.z for c in range(rows.k)])
    diagonal = blocks.diagonal(dim1=1, dim2=2)
    diagonal[:, :-1] += penalty
    diagonal += 1e-12 * diagonal.amax(1, keepdim=True)  # the intercept has no penalty
    factors = torch.linalg.cholesky(blocks).float()

    def solve(residual: Tensor) -> Tensor:
        solved: Tensor = torch.cholesky_solve(residual.T[:, :, None], factors)
        return solved[:, :, 0].T

    return solve
