"""The smoothed nuclear norm Σ√(σ_j² + ε²) of a matrix, and its gradient, without a singular value decomposition."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

Way = Literal["auto", "eigh", "newton-schulz"]
EPSILON = 1e-5  # ε, in units of a singular value; see `smoothed_nuclear_norm`
NEWTON_SCHULZ_LIMIT = 60  # the smallest eigenvalue grows ×2.25 an iteration: 40 reach 1 from ε²/n = 1e-10/4096


def smoothed_nuclear_norm(z: Tensor, epsilon: float = EPSILON, way: Way = "auto") -> Tensor:
    """Σ_j √(σ_j² + ε²) over the min(n, d) singular values σ_j of each matrix.

    With G the smaller Gram matrix (ZᵀZ or ZZᵀ) and A = G + ε²I, the value is tr A^½ and the gradient Z·A^-½
    (or A^-½·Z). For full rank and ε → 0 that is the polar factor UVᵀ; in general every singular value of the
    gradient is σ/√(σ² + ε²) < 1, so it stays bounded at rank 1, where the polar factor is undefined.

    The arithmetic is float64 whatever the input, because a Gram matrix squares the condition number. What remains
    is the rounding of the input, amplified by its condition. Measured on 512×256 inputs, relative error of the
    gradient (Frobenius), the same in both ways: stored as float32 5e-8, 2e-7, 1e-6 at condition 10, 100, 1000;
    as bfloat16 3e-3, 1e-2, 9e-2. The value is off by 3e-8 and at most 6e-5.

    What float64 costs on a GPU is reckoned, not measured: at d = 256 and 44 iterations "newton-schulz" is 4.4 GFLOP a
    view. A GPU for games does some 1.3 TFLOP/s in float64 (NVIDIA's data sheet of the RTX 4090: 1/64 of float32), which
    makes 3 ms a view, beside some 0.1 s that it needs for a view of 256 images in a ResNet-50; one for computing does
    34 TFLOP/s and more (H100), which makes 0.1 ms. `make gpu` measures the share of the forces (tests/gpu,
    test_7_throughput.py).

    Args:
        z: [..., n, d], any floating type.
        epsilon: ε. 1e-5 changes the gradient by less than 1e-6 where σ ≥ 0.01, that is for unit rows (whose
            largest σ is at least 1) up to condition 100; in float64 it still lies far above rounding (1e-8·σ_max).
        way: "eigh" diagonalises A; "newton-schulz" needs matrix products only. "auto" takes products on a GPU,
            where eigenproblems of this size are latency-bound (a choice we have not measured), and "eigh" on a
            CPU, where it took 1.3 to 8 times less time at d = 256 and n from 64 to 4096.

    Returns:
        [...], in the type of `z` (float32 for half types).
    """
    if way == "auto":
        way = "newton-schulz" if z.is_cuda else "eigh"
    norm: Tensor = _SmoothedNuclearNorm.apply(z, epsilon, way)  # type: ignore[no-untyped-call]
    return norm


class _SmoothedNuclearNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, epsilon: float, way: Way) -> Tensor:
        wide = z.double()
        tall = wide.shape[-2] >= wide.shape[-1]
        gram = wide.mT @ wide if tall else wide @ wide.mT
        # NaN in, NaN out: eigensolvers fail on it, and the training loop wants to say at which step it came.
        trouble = 0 * gram.diagonal(dim1=-2, dim2=-1).sum(-1)
        smoothed = gram.nan_to_num(0.0, 0.0, 0.0) + epsilon**2 * torch.eye(
            gram.shape[-1], dtype=gram.dtype, device=gram.device
        )
        root, inverse_root = _roots_by_eigh(smoothed, epsilon) if way == "eigh" else _roots_by_newton_schulz(smoothed)
        ctx.save_for_backward((wide @ inverse_root if tall else inverse_root @ wide).to(_result_type(z)))
        ctx.input_type = z.dtype
        return (root.diagonal(dim1=-2, dim2=-1).sum(-1) + trouble).to(_result_type(z))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (upstream[..., None, None] * gradient).to(ctx.input_type), None, None


def _result_type(z: Tensor) -> torch.dtype:
    return torch.promote_types(z.dtype, torch.float32)


def _roots_by_eigh(a: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """A^½ and A^-½ of symmetric A ≥ ε²I by diagonalisation."""
    values, vectors = torch.linalg.eigh(a)
    roots = values.clamp_min(epsilon**2).sqrt()  # rounding may put an eigenvalue a little below its bound
    return (vectors * roots[..., None, :]) @ vectors.mT, (vectors / roots[..., None, :]) @ vectors.mT


def _roots_by_newton_schulz(a: Tensor) -> tuple[Tensor, Tensor]:
    """A^½ and A^-½ of symmetric positive definite A by the coupled Newton–Schulz iteration.

    Y ← Y·T, X ← T·X with T = (3I − X·Y)/2, from Y = A/‖A‖_F and X = I: Y → (A/‖A‖_F)^½, X → its inverse
    (Higham, Functions of Matrices, 2008, eq. 6.35). It stops once every matrix of the batch has converged.
    """
    scale = torch.linalg.matrix_norm(a)[..., None, None]
    identity = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device).expand_as(a)
    y, x = a / scale, identity
    for iteration in range(NEWTON_SCHULZ_LIMIT):
        step = 1.5 * identity - 0.5 * (x @ y)
        y, x = y @ step, step @ x
        # Convergence is quadratic: after a step this close to the identity only rounding is left. Asking is a
        # synchronisation on a GPU, hence not every time.
        if iteration % 4 == 3 and bool((step - identity).abs().max() < 1e-8):
            break
    return y * scale.sqrt(), x / scale.sqrt()
