"""W-MSE: views agree after the batch's embeddings were whitened, so that they cannot collapse.

Sources, options, published schedules and what differs from them: `pretrain.presets.wmse`.
"""

from __future__ import annotations

from itertools import combinations
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from pretrain.methods import Method, Outputs
from pretrain.networks import build_encoder
from pretrain.presets.wmse import PRESETS as PRESETS
from pretrain.presets.wmse import PROTOCOLS as PROTOCOLS
from pretrain.presets.wmse import Settings as Settings
from pretrain.recipe import EncoderSpec, at_least
from transfer.runtime.errors import TrainingError, UserError

ROUNDINGS = 8  # a dimension must have more of its own than so many rounding errors of its values


class Float32Head(nn.Sequential):
    """Linear, BatchNorm, ReLU, Linear, in float32 also under autocast: whitening enlarges rounding errors."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__(
            nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, outputs)
        )

    def forward(self, input: Tensor) -> Tensor:
        """Features [n, f] → embeddings [n, d]."""
        with torch.autocast(input.device.type, enabled=False):
            embeddings: Tensor = super().forward(input.float())  # type: ignore[no-untyped-call]
            return embeddings


class OneHead(nn.Module):
    """Views → encoder, each alone → head, all together, as the authors' BatchNorm layers see them."""

    def __init__(self, encoder: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.encoder, self.projector = encoder, projector

    def forward(self, views: list[Tensor]) -> Tensor:
        """K views, each [n, 3, H, W] → embeddings [K, n, d], not normalised."""
        features = torch.cat([self.encoder(view) for view in views])
        embeddings: Tensor = self.projector(features).unflatten(0, (len(views), -1))
        return embeddings


def whiten(z: Tensor, eps: float = 0.0) -> Tensor:
    """L⁻¹(z − mean) with L·Lᵀ the covariance: rows of mean 0 whose covariance is the identity.

    Source: sections 3.1 and 3.2; methods/whitening.py (divisor m − 1, shrinkage by ε).

    Args:
        z: [..., m, d] groups of m > d embeddings, each whitened alone.
        eps: ε in (1 − ε)·covariance + ε·I.

    Returns:
        float64 of the same shape.

    Raises:
        TrainingError: a dimension has next to nothing of its own: it follows from the others up to rounding.
    """
    wide = z.double()
    centred = wide - wide.mean(-2, keepdim=True)
    covariance = centred.mT @ centred / (z.shape[-2] - 1)
    shrunk = (1 - eps) * covariance + eps * torch.eye(z.shape[-1], dtype=wide.dtype, device=z.device)
    factor, failed = torch.linalg.cholesky_ex(shrunk)
    # A squared pivot is the variance of a dimension that those before it do not explain.
    own = factor.detach().diagonal(dim1=-2, dim2=-1).square()
    least = (ROUNDINGS * torch.finfo(z.dtype).eps) ** 2 * wide.detach().square().mean(-2)
    if bool((failed > 0).any() | ~(own > least).all()):
        _refuse(z, eps)
    whitened: Tensor = torch.linalg.solve_triangular(factor, centred.mT, upper=False).mT
    return whitened


def _refuse(z: Tensor, eps: float) -> NoReturn:
    finite = bool(z.isfinite().all())
    raise TrainingError(
        f"the embeddings cannot be whitened, {z.shape[-2]} at a time in {z.shape[-1]} dimensions",
        found="dimensions that follow from the others" if finite else "values that are not finite",
        todo="lower the learning rate (--lr), raise --whitening-size, lower --dimensions"
        + (", or try --whitening-eps 1e-4" if not eps else ""),
    )


def w_mse_loss(z: Tensor, size: int, rounds: int = 1, eps: float = 0.0) -> Tensor:
    """2 − 2⟨v_i, v_j⟩ of whitened, normalised embeddings, mean over images, pairs of views and rounds (equation 2).

    Args:
        z: [K ≥ 2, n, d] embeddings, not normalised.
        size: images whitened together; each view of them is whitened alone. n must be a multiple.
        rounds: the first takes consecutive images, the others fixed permutations of the n images.
        eps: see `whiten`.

    Returns:
        A scalar in [0, 4] of the type of z, at least float32: 0 if views agree, about 2 if they are unrelated.
    """
    total = z.new_zeros((), dtype=torch.float64)
    for number in range(rounds):
        order = torch.randperm(z.shape[1], generator=torch.Generator().manual_seed(number)).to(z.device)
        groups = (z if number == 0 else z[:, order]).reshape(len(z), -1, size, z.shape[-1])
        whitened = normalize(whiten(groups, eps), dim=-1)
        distances = [2 - 2 * (one * other).sum(-1).mean() for one, other in combinations(whitened, 2)]
        total = total + torch.stack(distances).mean()
    return (total / rounds).to(torch.promote_types(z.dtype, torch.float32))


class WMSE(Method):
    """One network for all views; the whole batch's embeddings are whitened in parts."""

    def __init__(self, network: EncoderSpec, settings: Settings) -> None:
        super().__init__()
        self.settings, self.forces = settings, settings.forces
        encoder, features = build_encoder(network, zero_init_residual=False)
        self.online = OneHead(encoder, Float32Head(features, settings.hidden, settings.dimensions))
        self.branches = {"online": self.online}

    def forward(self, views: list[Tensor]) -> Outputs:
        """Embeddings [K, n, d] before whitening, float32."""
        return (self.online(views),)

    def loss(self, outputs: Outputs, labels: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The W-MSE loss.

        Raises:
            UserError: the batch is not a multiple of --whitening-size.
            TrainingError: the embeddings have collapsed.
        """
        (z,) = outputs
        size = self.settings.whitening_size
        if z.shape[1] % size:
            raise UserError(
                f"a batch of {z.shape[1]} images does not divide into parts of {size} to be whitened",
                todo=f"make --batch a multiple of {size}, or change --whitening-size",
            )
        found = w_mse_loss(z, size, self.settings.whitening_rounds, self.settings.whitening_eps)
        return found, {"w_mse": found}


def build(network: EncoderSpec, settings: Settings) -> WMSE:
    """The method for one encoder.

    Raises:
        UserError: settings that make no sense.
    """
    if settings.views < 2:
        raise UserError(f"--views is {settings.views}", todo="give --views 2 or 4: views are compared in pairs")
    at_least(settings, {"hidden": 1, "dimensions": 1, "whitening_rounds": 1})
    if settings.whitening_size <= settings.dimensions:
        raise UserError(
            f"--whitening-size {settings.whitening_size} is too small to whiten {settings.dimensions} dimensions",
            todo=f"give --whitening-size {2 * settings.dimensions} (twice --dimensions, as published)",
        )
    if not 0 <= settings.whitening_eps < 1:
        raise UserError(f"--whitening-eps is {settings.whitening_eps}", todo="give 0 (published) or more, below 1")
    return WMSE(network, settings)
