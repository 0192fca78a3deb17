"""Probes of frozen features, kept in memory: weighted nearest neighbours and multinomial logistic regression.

Neither looks at the labels of the test rows: both give predictions, which `accuracy` compares with the labels.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from transfer.classification.probes.logistic import Fit, logistic_path
from transfer.classification.probes.rows import checked_rows, first_largest
from transfer.runtime.errors import UserError

SIMILARITIES = 2**25  # similarities held at once by `knn`: 128 MiB, and as much again for the rare rows with ties
GRADIENT = 1e-5  # largest entry of the objective's gradient at which a linear probe counts as converged
TOLERANCE = 1e-6  # of `logistic_path`, which is relative: of the usual strengths it keeps well below `GRADIENT`
ITERATIONS = 100  # Newton steps for one strength

logger = logging.getLogger(__name__)


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Share of the class ids `predicted` [m] that equal `labels` [m], in percent.

    Raises:
        UserError: the two differ in shape, or are empty.
    """
    if predicted.shape != labels.shape or not len(labels):
        raise UserError(
            "an accuracy needs one prediction per label",
            found=f"predictions {list(predicted.shape)}, labels {list(labels.shape)}",
            todo="give the labels of the rows that were predicted, at least one",
        )
    return 100 * int((predicted == labels.to(predicted.device)).sum()) / len(labels)


def standard_error(percent: float, rows: int) -> float:
    """Binomial standard error of an accuracy over `rows` test rows, both in percent: √(p (100 − p) / rows)."""
    return math.sqrt(percent * (100 - percent) / rows)


@torch.no_grad()
def knn(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    *,
    classes: int,
    k: int | Sequence[int] = 20,
    temperature: float = 0.07,
    chunk: int | None = None,
) -> dict[int, Tensor]:
    """Class ids [m] voted for by the k nearest train rows in cosine similarity s, with weights exp(s / temperature).

    Every pair of rows is compared, in float32, on the device of the train features. Rows of zeros have similarity 0
    to every row. Of equally similar train rows the earlier is nearer; of classes with equal votes the smaller id wins.

    Source: InstDisc (Wu et al. 2018, arXiv 1805.01978), §3.4; default k and temperature: facebookresearch/dino,
    eval_knn.py ("20 is usually working the best").

    Args:
        train_features, train_labels: [n, d] of any floating type and scale, and integers [n] in 0 … `classes` − 1.
        test_features: [m, d]; may lie on another device, and the predictions lie where it does.
        k: neighbours, 1 … n; several share one search.
        temperature: above 0.
        chunk: test rows compared at once; by default as many as keep `SIMILARITIES` numbers in memory.

    Returns:
        For each k the predictions [m], int64.

    Raises:
        UserError: features not finite, labels that are no classes, shapes that do not fit, options out of range.
    """
    ks = sorted({k} if isinstance(k, int) else set(k))
    labels = checked_rows(train_features, train_labels, test_features, classes)
    _refuse_options(ks, len(labels), temperature)
    chunk = chunk or max(1, SIMILARITIES // len(labels))
    known = _directions(train_features)
    found: dict[int, list[Tensor]] = {each: [] for each in ks}
    for start in range(0, max(1, len(test_features)), chunk):
        rows = test_features[start : start + chunk].to(known.device)
        with torch.autocast(known.device.type, enabled=False):
            similar, places = _nearest(_directions(rows) @ known.T, ks[-1])
        # a factor common to a row's votes changes nothing; this one keeps exp from overflowing at low temperatures
        weights, voters = ((similar - similar[:, :1]) / temperature).exp(), labels[places]
        votes = torch.zeros(len(rows), classes, device=known.device)
        for rank in range(ks[-1]):  # one neighbour at a time: a GPU adds in no fixed order where places collide
            votes.scatter_add_(1, voters[:, rank, None], weights[:, rank, None])
            if rank + 1 in found:
                found[rank + 1].append(first_largest(votes))
    return {each: torch.cat(parts).to(test_features.device) for each, parts in found.items()}


def _refuse_options(ks: list[int], n: int, temperature: float) -> None:
    if not ks or ks[0] < 1 or ks[-1] > n:
        raise UserError(
            "the neighbours asked for are not to be had",
            found=f"k = {', '.join(map(str, ks)) or 'none'}, with {n} train rows",
            todo=f"give k in 1 … {n}",
        )
    if not temperature > 0:
        raise UserError("a temperature must be above 0", found=str(temperature), todo="0.07 is the published value")


def _nearest(similar: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row and their places; equal ones in order of place, which `topk` does not promise."""
    values, places = similar.topk(min(k + 1, similar.shape[1]), dim=1)
    tied = (values[:, 1:] == values[:, :-1]).any(1)
    if tied.any():
        places[tied] = similar[tied].sort(dim=1, descending=True, stable=True).indices[:, : places.shape[1]]
    return values[:, :k], places[:, :k]


def _directions(features: Tensor) -> Tensor:
    """Rows of unit length, float32; the largest entry is divided out first, so that no square over- or underflows."""
    rows = features.float()
    rows = rows / rows.abs().amax(1, keepdim=True).where(rows.any(1, keepdim=True), 1)
    lengths: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / lengths.clamp_min(1)  # the largest entry is 1: only rows of zeros are shorter


@dataclass(frozen=True)
class LinearProbe:
    """A fitted multinomial logistic regression.

    Attributes:
        predicted: class ids [m] of the test rows, int64.
        strength: the regulariser that did best on the held-out train rows.
        held_out: accuracy on those rows, in percent, for every strength. Selected on, so not to be reported.
        weight: [classes, d] for standardised features, float64; zeros for a class without train rows.
        bias: [classes]; −∞ for a class without train rows.
        gradient: largest absolute entry of the objective's gradient at `weight` and `bias`.
    """

    predicted: Tensor
    strength: float
    held_out: dict[float, float]
    weight: Tensor
    bias: Tensor
    gradient: float


@torch.no_grad()
def linear_probe(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    *,
    classes: int,
    strengths: Sequence[float],
    holdout: float = 0.1,
    seed: int = 0,
) -> LinearProbe:
    """Logistic regression on standardised features, its regulariser chosen on held-out train rows, refitted on all.

    Objective over standardised rows x: mean cross-entropy of softmax(weight · x + bias) + strength / 2 · ‖weight‖².
    Mean and standard deviation (over n, not n − 1) are those of the rows fitted on; a feature that is constant there
    gets weight 0. The optimum is found by `logistic_path`, whose penalty is n times the strength; a fit with an entry
    of the gradient above `GRADIENT` is logged as a warning. Of strengths that do equally well the largest is taken.
    The same inputs give the same answer.

    Source: L-BFGS on frozen features, L2, the strength chosen on validation rows: SimCLR (Chen et al. 2020, arXiv
    2002.05709), appendix B.8. The standardisation and the split are this project's: no published protocol.

    Args:
        train_features, train_labels, test_features, classes: as for `knn`.
        strengths: L2 regularisers, each above 0.
        holdout: share of each class's train rows, between 0 and 1, drawn with `seed` to choose on: rounded, at least
            one row held out and one kept. The only row of a class is kept.

    Raises:
        UserError: as `knn`; no class has two train rows.
    """
    labels = checked_rows(train_features, train_labels, test_features, classes)
    path = _path(strengths, holdout)
    x, out = train_features.double(), _held_out(labels, holdout, seed)
    mean, std = _moments(x[~out])
    rows, chosen_on = _standardised(x[~out], mean, std), _standardised(x[out], mean, std)
    held_out: dict[float, float] = {}
    fits: dict[float, Fit] = {}
    for strength, fit in zip(path, _fits(rows, labels[~out], classes, path), strict=True):
        fits[strength] = fit
        held_out[strength] = accuracy(first_largest(fit.scores(chosen_on)), labels[out])
    best = max(path, key=held_out.__getitem__)
    mean, std = _moments(x)
    (fit,) = _fits(_standardised(x, mean, std), labels, classes, [best], fits[best])
    predicted = first_largest(fit.scores(_standardised(test_features.to(x), mean, std)))
    return LinearProbe(predicted.to(test_features.device), best, held_out, fit.weight, fit.bias, fit.gradient)


def _path(strengths: Sequence[float], holdout: float) -> list[float]:
    path = sorted(set(strengths), reverse=True)
    if not path or not all(0 < each < math.inf for each in strengths) or not 0 < holdout < 1:
        raise UserError(
            "a linear probe needs strengths above 0 and a holdout between 0 and 1",
            found=f"strengths {list(strengths)}, holdout {holdout}",
            todo="for example strengths (1e-4, 1e-3, 1e-2) and holdout 0.1",
        )
    return path


def _held_out(y: Tensor, share: float, seed: int) -> Tensor:
    """Which rows to choose on, bool [n]. One order of all rows serves every class: names of classes do not matter."""
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed)).to(y.device)
    out = torch.zeros_like(y, dtype=torch.bool)
    for each in torch.unique(y):
        rows = order[y[order] == each]
        out[rows[: min(max(1, round(share * len(rows))), len(rows) - 1)]] = True
    if not out.any():
        raise UserError(
            "no train row can be held out to choose the regulariser on",
            found=f"{len(y)} train rows, each the only one of its class",
            todo="give at least two train rows of a class",
        )
    return out


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.mean(0), x.std(0, correction=0).where(x.amax(0) > x.amin(0), 1)


def _standardised(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return (x - mean) / std


def _fits(x: Tensor, labels: Tensor, classes: int, path: list[float], start: Fit | None = None) -> Iterator[Fit]:
    """Fits of the mean objective, for strengths in descending order."""
    penalties = [len(x) * strength for strength in path]
    fits = logistic_path(
        x, labels, classes=classes, penalties=penalties, tolerance=TOLERANCE, steps=ITERATIONS, start=start
    )
    for strength, fit in zip(path, fits, strict=True):
        if fit.gradient > GRADIENT:
            message = "linear probe, strength %g: not converged, gradient %.1e above %.0e"
            logger.warning(message, strength, fit.gradient, GRADIENT)
        yield fit
