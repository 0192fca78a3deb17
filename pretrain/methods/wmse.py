"""W-MSE: views agree after the batch's embeddings were whitened, so that they cannot collapse.

Ermolov, Siarohin, Sangineto, Sebe, "Whitening for Self-Supervised Representation Learning" (ICML 2021). Published
settings: htdt/self-supervised, cfg.py (defaults), train.py and the commands in README.md.

What the recipe does differently, because it cannot say it: the authors multiply the learning rate by 0.2 at 50 and
again at 25 epochs before the end, here it falls along a cosine; their warm-up is 500 steps, here the same in epochs.
Their colour jitter comes before the crop, here after it. Settings for the whole of ImageNet are not in their code.

Sub-batches: the authors draw them at random; the images of a batch come in random order here, so its consecutive parts
are such a draw, equal on every process and in a resumed run. More than one round regroups them by fixed permutations.

Numbers: the head runs in float32 also under autocast, and whitening in float64 (d is small, so this costs little): the
covariance has the square of the embeddings' condition number, too much for float32. Where embeddings have collapsed so
far that whitening would blow up rounding errors, training stops with an error; nothing is added in silence.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from tyro.conf import OmitArgPrefixes

from pretrain.losses import Forces
from pretrain.methods import Method, Outputs
from pretrain.networks import Network, build_encoder
from pretrain.recipe import Recipe, at_least, demo
from transfer.errors import TrainingError, UserError

ROUNDINGS = 8  # a dimension must have more of its own than so many rounding errors of its values


@dataclass(frozen=True)
class Settings:
    """Options of W-MSE.

    Attributes:
        views: K, the number of views of an image; 2 and 4 in the paper.
        forces: the two dispersing forces, on the embeddings before whitening.
        hidden: units of the head's hidden layer.
        dimensions: d, length of an embedding.
        whitening_size: images that are whitened together, about 2 d; the batch must be a multiple of it.
        whitening_rounds: how often a batch is cut into such parts, each time otherwise, for a steadier loss.
        whitening_eps: ε in (1 − ε)·covariance + ε·I, 0 as published.
    """

    views: int = 2
    forces: OmitArgPrefixes[Forces] = field(default_factory=Forces)
    hidden: int = 1024
    dimensions: int = 64
    whitening_size: int = 128
    whitening_rounds: int = 1
    whitening_eps: float = 0.0


def _imagenet100(batch: int) -> Recipe:
    # Adam at 2e-3 whatever the batch: Recipe.lr is for 256 images. Its weight decay is an L2 penalty on everything.
    # The colours of README.md's command (crop from 0.08, jitter .8 .8 .8 .2, grey .2; blur in datasets/imagenet.py)
    # are SimCLR's. Warm-up: 500 steps of 126,689 // batch steps an epoch.
    return Recipe(
        arch="resnet18",
        augmentation="simclr",
        epochs=240,
        warmup_epochs=500 / (126_689 // batch),
        batch=batch,
        optimizer="adam",
        lr=2e-3 * 256 / batch,
        weight_decay=1e-6,
        decay_all=True,
    )


def _cifar(batch: int) -> Recipe:
    # Adam at 3e-3 whatever the batch, as above. Warm-up: 500 steps of 50,000 // batch steps an epoch.
    return Recipe(
        arch="resnet18",
        stem="cifar",
        crop=32,
        augmentation="wmse",
        epochs=1000,
        warmup_epochs=500 / (50_000 // batch),
        batch=batch,
        optimizer="adam",
        lr=3e-3 * 256 / batch,
        weight_decay=1e-6,
        decay_all=True,
    )


PRESETS: dict[str, tuple[Recipe, Settings]] = {
    # README.md: ImageNet-100 and CIFAR-10/100, W-MSE 2 with batches of 512, W-MSE 4 with batches of 256.
    "240": (_imagenet100(512), Settings(dimensions=128, whitening_size=256)),
    "240-views4": (_imagenet100(256), Settings(views=4, dimensions=128, whitening_size=256)),
    "1000": (_cifar(512), Settings()),
    "1000-views4": (_cifar(256), Settings(views=4)),
    # Not a protocol: a minute or two on two CPU cores.
    "demo": (
        demo(augmentation="wmse", optimizer="adam", lr=4e-3, weight_decay=1e-6),
        Settings(hidden=256, dimensions=12, whitening_size=32),
    ),
}


class Head(nn.Sequential):
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

    def __init__(self, network: Network, settings: Settings) -> None:
        super().__init__()
        self.settings, self.forces = settings, settings.forces
        encoder, features = build_encoder(network, zero_init_residual=False)
        self.online = OneHead(encoder, Head(features, settings.hidden, settings.dimensions))
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


def build(network: Network, settings: Settings) -> WMSE:
    """The method for one ResNet.

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
