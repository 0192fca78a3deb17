"""Many linear support vector machines on the same rows, solved together: all classes, costs and folds of one data set.

Problem j minimises over (w, b) the objective of LIBLINEAR with `intercept_scaling=1`, whose intercept is penalised:

    P(w, b) = ½ ‖(w, b)‖² + C_j Σ_i c_ij max(0, 1 − y_ij (w · x_i + b))²

P − ½ ‖(w, b)‖² is convex, so at every point ‖(w, b) − optimum‖ ≤ ‖∇P‖, and no decision value is further from the
optimum's than ‖∇P‖ · √(‖x‖² + 1). This bound, not the progress of the last step, is what "converged" means here.

Source: the objective is LIBLINEAR's L2-regularised L2-loss (Fan et al. 2008, JMLR 9). Newton steps on the primal:
Keerthi and DeCoste 2005 (JMLR 6). Solving all problems at once in a common eigenbasis is this project's.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from transfer.runtime.errors import UserError

TOLERANCE = 5e-4  # largest ‖∇P‖: decision values of rows of unit length are then within 7.1e-4 of the optimum's
STEPS = 100  # Newton steps; some 30 are seen at C = 1000 without a warm start
CONJUGATE_STEPS = 200  # within one Newton step
STIFF = 10  # conjugate steps after which a problem is solved directly, now and from now on, where that is cheap
DIRECT = 8192  # rows up to which it is: their kernel takes 512 MiB
FORCING = 0.1  # to which part of itself conjugate gradients reduce the residual, in the norm of the preconditioner
SEARCH_STEPS = 50
SLOPE = 1e-2  # a line search ends where this part of the slope at its start is left

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SvmFit:
    """Solved problems.

    Attributes:
        weight: [m, d], float64.
        bias: [m].
        gradient: [m], ‖∇P‖ at `weight` and `bias`.
        iterations: [m], Newton steps taken.
        converged: bool [m], whether the solver's own test was met: here, `gradient` not above the tolerance.
    """

    weight: Tensor
    bias: Tensor
    gradient: Tensor
    iterations: Tensor
    converged: Tensor

    @property
    def unconverged(self) -> int:
        """How many problems have not converged."""
        return int((~self.converged).sum())

    def decisions(self, features: Tensor) -> Tensor:
        """Decision values [k, m] of rows [k, d], float64: positive speaks for the class."""
        return features.to(self.weight) @ self.weight.T + self.bias


@dataclass(frozen=True)
class Rotated:
    """Rows with a 1 behind them, in the eigenbasis of XᵀX: there every problem's Hessian is nearly diagonal.

    Attributes:
        z: [n, r], r = min(n, d + 1), float64.
        single: z in float32, for conjugate gradients, whose rounding the next Newton step mends.
        squares: single², for the diagonals of Hessians.
        basis: [d + 1, r], orthonormal columns: (w, b) = basis · u.
        kernel: [n, n], z zᵀ, for problems solved directly; none where rows are many or outnumber r so far that the
            active ones look like all of them, which is when conjugate gradients need few steps.
    """

    z: Tensor
    single: Tensor
    squares: Tensor
    basis: Tensor
    kernel: Tensor | None


@dataclass
class _Batch:
    """The problems still being solved, one per column.

    Attributes:
        place: [k], which of all problems they are.
        y: [n, k], ±1.
        pull: [n, k], 2 C c; 0 for rows that a problem does not use.
        u: [r, k], the current point.
        f: [n, k], its decision values z · u.
        stiff: bool [k], whether conjugate gradients were too slow for it.
    """

    place: Tensor
    y: Tensor
    pull: Tensor
    u: Tensor
    f: Tensor
    stiff: Tensor

    def only(self, going: Tensor) -> _Batch:
        if going.all():
            return self
        y, pull, u, f = (part[:, going] for part in (self.y, self.pull, self.u, self.f))
        return _Batch(self.place[going], y, pull, u, f, self.stiff[going])


@torch.no_grad()
def fit_svms(
    features: Tensor,
    targets: Tensor,
    costs: float | Sequence[float] | Tensor,
    *,
    weights: tuple[float, float] = (2.0, 1.0),
    rows: Tensor | None = None,
    tolerance: float = TOLERANCE,
) -> SvmFit:
    """Solve m problems over the rows of `features`, in float64 on their device.

    Args:
        features: [n, d], used as they are: dividing by their length is the caller's.
        targets: [n, m] of −1 and +1.
        costs: C, one for all problems or one for each.
        weights: c of positives and of negatives.
        rows: bool [n, m], which rows a problem uses; all by default.
        tolerance: on ‖∇P‖. A problem that is not below it after `STEPS` Newton steps is counted in a logged warning.

    Raises:
        UserError: features not finite, targets other than ±1, costs not above 0, shapes that do not fit; features so
            long and costs so large that float64 does not suffice.
    """
    refuse_features("the", features)
    refuse_targets(features, targets, rows)
    cost = refuse_costs(costs, targets.shape[1]).to(features.device)
    space = rotated(features)
    pull = pulls(targets, cost, weights, rows)
    u, gradient, iterations = minimise(space, targets, pull, tolerance=tolerance)
    solved = space.basis @ u
    return SvmFit(solved[:-1].T, solved[-1], gradient, iterations, gradient <= tolerance)


def refuse_features(name: str, features: Tensor) -> None:
    """Raise a `UserError` unless `features` are rows [n, d] of finite floating-point numbers, at least one."""
    if features.ndim != 2 or not features.numel() or not features.is_floating_point():
        raise UserError(
            f"{name} features are no rows of numbers",
            found=f"shape {list(features.shape)}, {features.dtype}",
            todo="give floating-point numbers [n, d]",
        )
    bad = int((~features.isfinite()).any(1).sum())
    if bad:
        raise UserError(
            f"{name} features are not finite",
            found=f"NaN or infinity in {bad} of {len(features)} rows",
            todo="look at the network they come from: its weights, its normalisation statistics, its precision",
        )


def refuse_targets(features: Tensor, targets: Tensor, rows: Tensor | None) -> None:
    """Raise a `UserError` unless `targets` are ±1, [n, m], and `rows` a mask of that shape."""
    if targets.ndim != 2 or len(targets) != len(features) or (rows is not None and rows.shape != targets.shape):
        raise UserError(
            "features and targets do not fit together",
            found=f"features {list(features.shape)}, targets {list(targets.shape)}"
            + ("" if rows is None else f", rows {list(rows.shape)}"),
            todo="give [n, d], [n, m] and, where rows are left out, [n, m]",
        )
    if rows is not None and rows.dtype != torch.bool:
        raise UserError("rows used must be a mask", found=str(rows.dtype), todo="give bool [n, m]")
    if not ((targets == 1) | (targets == -1)).all():
        others = targets[(targets != 1) & (targets != -1)]
        raise UserError(
            "targets must be -1 or +1",
            found=f"{len(others)} others, such as {others[0].item()}",
            todo="map other labels to -1 or +1 first",
        )


def refuse_costs(costs: float | Sequence[float] | Tensor, m: int) -> Tensor:
    """Costs [m], float64; one that is not above 0 and finite, or a wrong number of them, raises a `UserError`."""
    cost = torch.as_tensor(costs, dtype=torch.float64)
    if cost.ndim > 1 or (cost.ndim == 1 and len(cost) != m) or not ((cost > 0) & cost.isfinite()).all():
        raise UserError(
            "costs of support vector machines must be above 0, one for all problems or one for each",
            found=f"{cost.tolist()} for {m} problems",
            todo="for example 1.0",
        )
    return cost.expand(m)


def rotated(features: Tensor) -> Rotated:
    """Rows [n, d] with a 1 appended, as coordinates in the eigenbasis of their second moments."""
    x = torch.nn.functional.pad(features.double(), (0, 1), value=1.0)
    span = None
    if x.shape[0] < x.shape[1]:  # every optimum lies in the span of the rows: work there
        span, triangle = torch.linalg.qr(x.T)
        x = triangle.T
    _, vectors = torch.linalg.eigh(x.T @ x)
    z = x @ vectors
    single = z.float()
    kernel = z @ z.T if len(z) <= min(DIRECT, 4 * z.shape[1]) else None
    return Rotated(z, single, single.square(), vectors if span is None else span @ vectors, kernel)


def pulls(targets: Tensor, cost: Tensor, weights: tuple[float, float], rows: Tensor | None) -> Tensor:
    """2 C c for each row and problem [n, m]: how hard a row pulls per unit of slack."""
    if not min(weights) > 0:
        raise UserError("weights of positives and negatives must be above 0", found=str(weights), todo="(2.0, 1.0)")
    positive, negative = (torch.as_tensor(each, dtype=cost.dtype, device=cost.device) for each in weights)
    pull = 2 * cost * torch.where(targets > 0, positive, negative)
    return pull if rows is None else pull * rows


@torch.no_grad()
def minimise(
    space: Rotated, targets: Tensor, pull: Tensor, *, start: Tensor | None = None, tolerance: float = TOLERANCE
) -> tuple[Tensor, Tensor, Tensor]:
    """Truncated Newton steps for all problems at once; a solved problem leaves the batch.

    Args:
        space: the rows.
        targets: [n, m], ±1.
        pull: [n, m], from `pulls`.
        start: [r, m], where to begin; zeros by default.
        tolerance: on ‖∇P‖.

    Returns:
        u [r, m], ‖∇P‖ [m], steps taken [m].
    """
    z, m = space.z, targets.shape[1]
    u = z.new_zeros(z.shape[1], m) if start is None else start.clone()
    norms, steps = z.new_zeros(m), torch.zeros(m, dtype=torch.int64, device=z.device)
    places = torch.arange(m, device=z.device)
    batch = _Batch(places, targets.to(z), pull, u.clone(), z @ u, torch.zeros_like(places, dtype=torch.bool))
    for step in range(STEPS + 1):
        slack = (1 - batch.y * batch.f).clamp_min(0)
        gradient = batch.u - z.T @ (batch.pull * batch.y * slack)
        norm = torch.linalg.vector_norm(gradient, dim=0)
        u[:, batch.place], norms[batch.place], steps[batch.place] = batch.u, norm, step
        going = norm > tolerance
        if step == STEPS or not going.any():
            break
        batch, gradient = batch.only(going), gradient[:, going]
        direction = _newton_direction(space, batch, gradient, batch.pull * (slack[:, going] > 0))
        ahead = z @ direction
        length = _step_length(batch, gradient, direction, ahead)
        batch.u, batch.f = batch.u + length * direction, batch.f + length * ahead
    left = int((~(norms <= tolerance)).sum())
    if left:
        logger.warning(
            "%d of %d support vector machines have not converged after %d steps: ‖∇P‖ up to %.1e, above %.0e",
            *(left, m, STEPS, float(norms.max()), tolerance),
        )
    return u, norms, steps


def _newton_direction(space: Rotated, batch: _Batch, gradient: Tensor, active: Tensor) -> Tensor:
    """Roughly −H⁻¹ gradient [r, k], for H = 1 + zᵀ diag(active) z."""
    if space.kernel is None:
        return _conjugate_direction(space, gradient, active, CONJUGATE_STEPS)[0]
    direction, easy = torch.zeros_like(gradient), ~batch.stiff
    if easy.any():
        direction[:, easy], reached = _conjugate_direction(space, gradient[:, easy], active[:, easy], STIFF)
        batch.stiff[easy] = ~reached
    if batch.stiff.any():
        stiff = batch.stiff
        least = _least_of_active(space.kernel, batch.y[:, stiff], active[:, stiff])
        direction[:, stiff] = space.z.T @ least - batch.u[:, stiff]
    return direction


def _least_of_active(kernel: Tensor, y: Tensor, active: Tensor) -> Tensor:
    """Coefficients β [n, k] of the point zᵀβ at which the objective would be least if the active rows remained so.

    Its gradient vanishes where β = active · (y − kernel β): one Cholesky factorisation among the active rows.
    """
    coefficients = torch.zeros_like(active)
    for column in range(active.shape[1]):
        rows = active[:, column].nonzero()[:, 0]
        among = kernel[rows[:, None], rows]
        among.diagonal().add_(1 / active[rows, column])
        factor, failed = torch.linalg.cholesky_ex(among)
        if failed:
            length = float(kernel.diagonal().max()) ** 0.5
            raise UserError(
                "support vector machines out of the range of float64",
                found=f"rows up to {length:.1e} long, 2 C c up to {float(active.max()):.1e}",
                todo="divide the features by their length, or give smaller costs",
            )
        coefficients[rows, column] = torch.cholesky_solve(y[rows, column, None], factor)[:, 0]
    return coefficients


def _conjugate_direction(space: Rotated, gradient: Tensor, curvature: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Conjugate gradients in float32 → direction [r, k], and bool [k], where `FORCING` was reached within the limit.

    Preconditioned by the diagonal of H, exact in this basis. H ⪰ 1, so no curvature is ever zero.
    """
    active = curvature.float()
    size = torch.linalg.vector_norm(gradient, dim=0)
    residual = (-gradient / size).float()
    direction, place = torch.zeros_like(residual), torch.arange(len(size), device=size.device)
    reached = torch.ones_like(place, dtype=torch.bool)
    x, z = torch.zeros_like(residual), space.single
    with torch.autocast(z.device.type, enabled=False):
        diagonal = 1 + space.squares.T @ active
        p = residual / diagonal
        first = rho = (residual * p).sum(0)
        for _ in range(limit):
            hp = p + z.T @ (active * (z @ p))
            alpha = rho / (p * hp).sum(0)
            x, residual = x + alpha * p, residual - alpha * hp
            s = residual / diagonal
            before, rho = rho, (residual * s).sum(0)
            p = s + rho / before * p
            going = rho > FORCING**2 * first
            direction[:, place], reached[place] = x, ~going
            if not going.any():
                break
            if not going.all():
                place, first, rho = place[going], first[going], rho[going]
                x, residual, p, diagonal, active = (part[:, going] for part in (x, residual, p, diagonal, active))
    return direction.double() * size, reached


def _step_length(batch: _Batch, gradient: Tensor, direction: Tensor, ahead: Tensor) -> Tensor:
    """Lengths [k] of nearly least objective along the directions: Newton on the slope, kept within a bracket.

    Along a line the objective is a convex, piecewise quadratic function: its slope is piecewise linear and rises.
    """
    slack, rate = 1 - batch.y * batch.f, batch.y * ahead
    along, square = (batch.u * direction).sum(0), direction.square().sum(0)
    enough = SLOPE * (gradient * direction).sum(0).abs()
    low, high = torch.zeros_like(square), torch.full_like(square, torch.inf)
    length = torch.ones_like(square)
    for _ in range(SEARCH_STEPS):
        left = (slack - length * rate).clamp_min(0)
        slope = along + length * square - (batch.pull * left * rate).sum(0)
        going = slope.abs() > enough
        if not going.any():
            break
        curvature = square + (batch.pull * (left > 0) * rate.square()).sum(0)
        low, high = torch.where(slope < 0, length, low), torch.where(slope > 0, length, high)
        guess = length - slope / curvature
        inside = (guess > low) & (guess < high)
        length = torch.where(going, torch.where(inside, guess, (low + high) / 2), length)
    return length
