"""Signs of life of the particles, the forces on them, and what they mean in words."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pretrain.losses import dispersion
from pretrain.methods import Method, Outputs

STD_FLOOR = 0.1  # of a uniform spread; every embedding in one place gives 0
RANK_FLOOR = 2.0  # effective dimensions
POINTS = 32
PAIRS = 1024  # images whose pairwise distances give the uniformity


@torch.no_grad()
def health(embeddings: Tensor) -> dict[str, Any]:
    """How the embeddings of a batch lie on the sphere.

    Args:
        embeddings: [K, n, d] unit vectors.

    Returns:
        std: standard deviation over images, averaged over dimensions, in units of 1/√d: 1 is uniform on the sphere, 0
            is collapse (Chen and He, SimSiam, 2021, section 4.1); std_min and std_max: of single dimensions.
        effective_rank: exp of the entropy of σ_j / Σσ, 1 to min(n, d) (RankMe, Garrido et al. 2023, eq. 1).
        alignment: mean squared distance of two views of an image, 0 to 4; with K = 1 absent
            (Wang and Isola 2020, eq. 1, α = 2).
        uniformity: log of the mean of exp(−2·distance²) over pairs of images, −4 … 0 (same, eq. 2, t = 2).
        centroid_distance: mean squared distance of a view to the centroid of its image's views; with K = 1 absent.
        spectrum: up to `POINTS` singular values, evenly spread, largest first, as shares of the largest. A flat line is
            a homogeneous density; a drop to 0 is a collapse to fewer dimensions.
        All of the first view where they concern one.
    """
    z = embeddings.double()
    views, _, d = z.shape
    deviation = z[0].std(dim=0, correction=0) * d**0.5
    sigma = singular_values(z[0])
    share = sigma / sigma.sum()
    some = z[0, :PAIRS]
    squared = torch.pdist(some).square() if len(some) > 1 else z.new_zeros(1)
    signs = {
        "std": deviation.mean(),
        "std_min": deviation.min(),
        "std_max": deviation.max(),
        "effective_rank": torch.special.entr(share).sum().exp(),
        "uniformity": squared.mul(-2).exp().mean().log(),
    }
    if views > 1:
        signs["alignment"] = (z[0] - z[1]).square().sum(-1).mean()
        signs["centroid_distance"] = (z - z.mean(0)).square().sum(-1).mean()
    return {**{name: value.item() for name, value in signs.items()}, "spectrum": _spectrum(sigma)}


def singular_values(z: Tensor) -> Tensor:
    """The min(n, d) singular values of [n, d], ascending, in float64."""
    z = z.double()
    gram = z.mT @ z if len(z) >= z.shape[1] else z @ z.mT
    sigma: Tensor = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    return sigma


def _spectrum(sigma: Tensor) -> list[float]:
    falling = sigma.flip(0)
    places = torch.linspace(0, len(falling) - 1, min(POINTS, len(falling)), device=sigma.device).round().long()
    return [round(value, 5) for value in (falling[places] / falling[0].clamp_min(1e-12)).tolist()]


def force_report(
    method: Method, outputs: Outputs, labels: Tensor | None, generator: torch.Generator
) -> dict[str, float]:
    """How strongly each term pulls at the embeddings, and how much of that moves them.

    Returns, for the method's own loss (`own`), `singular` and `brownian`, where present:
        force_<term>: norm of its weighted gradient at an embedding, on average over embeddings, relative to that of the
            method's own loss (which is therefore 1); absent for a loss that does not look at the embeddings (SwAV's,
            DINO's and supervised are of the scores).
        tangential_<term>: the share of that gradient's norm that is tangential to the sphere: only this moves a unit
            vector. The singular force's vanishes at the uniform spread.
        singular_scale: λ_s·√(n·min(n, d)), the size of the singular term at its optimum.
    """
    leaves = tuple(output.detach().requires_grad_(output.is_floating_point()) for output in outputs)
    with torch.enable_grad():
        own, _ = method.loss(leaves, labels)
        (gradient,) = torch.autograd.grad(own, leaves[0], allow_unused=True)
        z = method.embeddings(outputs).detach().requires_grad_()
        # Per unit of length: outputs that are not normalised yet turn by gradient · length.
        at = leaves[0].detach()
        pulls = {} if gradient is None else {"own": _pull(gradient * at.norm(dim=-1, keepdim=True), at)}
        forces = method.forces
        _, terms = dispersion(forces, z, generator)
        for name, term in terms.items():
            (gradient,) = torch.autograd.grad(getattr(forces, name) * term, z)
            pulls[name] = _pull(gradient, z.detach())
    _, n, d = z.shape
    report = {"singular_scale": forces.singular * math.sqrt(n * min(n, d))} if forces.singular else {}
    for name, (size, tangential) in pulls.items():
        report[f"tangential_{name}"] = tangential
        if name != "own" and pulls.get("own", (0.0, 0.0))[0] > 0:
            report[f"force_{name}"] = size / pulls["own"][0]
    return report


def _pull(gradient: Tensor, at: Tensor) -> tuple[float, float]:
    """Mean norm of the gradient over particles [K, n, d], and the share of it that is tangential to the sphere."""
    gradient, direction = gradient.double(), normalize(at.double(), dim=-1)
    size = gradient.norm(dim=-1).mean().item()
    radial = (gradient * direction).sum(-1, keepdim=True) * direction
    return size, (gradient - radial).norm(dim=-1).mean().item() / size if size else 0.0


def collapse_warning(signs: dict[str, float]) -> str:
    """What to tell the person at the keyboard, or nothing while all is well."""
    if signs["std"] >= STD_FLOOR and signs["effective_rank"] >= RANK_FLOOR:
        return ""
    return (
        f"the embeddings are collapsing: spread {signs['std']:.3f} of a uniform one, effective rank "
        f"{signs['effective_rank']:.1f}. If this stays so the encoder learns nothing; stop, and try a lower --lr, "
        "a larger --singular or a longer warm-up"
    )
