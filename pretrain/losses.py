"""The three forces of MSBReg on embeddings: multiview centroid, singular value and Brownian diffusive loss.

"An Embedding-Dynamic Approach to Self-supervised Learning", Moon, Buracas, Park, Kim, Canny (arXiv 2207.03552,
WACV 2023, pp. 2750–2758). Its equations were not available to us. Known are the abstract, the caption of Fig. 1 and
one ablation caption: what each force does, the target network that follows the online one, and the weights
λ_s = 0.004 and λ_b = 0.5 up to which a frozen ResNet-18 improves for K = 4 and 8 views. The formulas below are our
reading of that; each docstring says which part is which.

"The file" below is a public file of two loss classes whose terms and names fit the predecessor's abstract ("BMWReg":
multi-view centroid, Brownian, whitening). Neither author, repository nor date could be established: it is evidence,
no authority. Its vectors are normalised projections, without a predictor; its weights are 0.1; no class of it has a
singular value term. "Measured" is two ablations on CIFAR-10, no more: results/records/pretrain (ResNet-18, 195 steps)
and results/ablation (a quarter of its channels, 1,953 steps; where no number of seeds is said it is one, and one seed
moves by up to 3 points of kNN with the processor alone).

Throughout, z are online predictions and t target projections, [K, n, d]: K views of n images, as unit vectors of d
dimensions. Every term is a mean over images and over views. Half types are widened to float32 first.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pretrain.forces import Centroid, Direction, Forces, SingularForm
from pretrain.nuclear import EPSILON, Way, smoothed_nuclear_norm


def multiview_centroid_loss(z: Tensor, t: Tensor, centroid: Centroid = "others") -> Tensor:
    """Squared distance of the embeddings of an image's views to their centroid, 2 − 2⟨z_ik, c_ik⟩ on average.

    From the paper: views are attracted to their centroid; the distance is one between online and target network
    embeddings of different views of the same image (Fig. 1). The file: its first class is "all", the target centroid
    of all views, each online view drawn to it; its second is half of "pair", 1 − cos of the two centroids. Our
    reading: "others" by default, because with K = 2 it is half of BYOL's symmetric loss (Grill et al. 2020, eq. 2,
    which sums its two directions), the case that the paper's ablation names. "all" equals 2 − 2·‖z̄‖·cos(z̄, c) with
    the mean z̄ of the online views: unlike "pair" it also rewards views that agree. Measured (kNN %, K = 2, λ_s 0.004,
    λ_b 0.5): "others" 38.0 and 40.2, "all" 35.9, "pair" 29.4, which is less than BYOL's 31 to 33.

    Args:
        z, t: [K, n, d] unit vectors; gradients reach `t` too, so pass a detached target.
        centroid: "others": c_ik is the re-normalised mean of the image's other K − 1 target embeddings;
            "all": of all K; "pair": the online centroid is drawn to the centroid of all K targets.

    Returns:
        A scalar in [0, 4].

    Raises:
        ValueError: the shapes differ, or there are fewer than two views.
    """
    if z.shape != t.shape or z.ndim != 3 or len(z) < 2:
        raise ValueError(f"z and t must both be [K ≥ 2, n, d], not {list(z.shape)} and {list(t.shape)}")
    z, t = widened(z), widened(t)
    if centroid == "others":
        towards = normalize(t.sum(0) - t, dim=-1)
    elif centroid == "all":
        towards = normalize(t.mean(0), dim=-1).expand_as(z)
    else:
        z, towards = normalize(z.mean(0), dim=-1), normalize(t.mean(0), dim=-1)
    return 2 - 2 * (z * towards).sum(-1).mean()


def singular_value_loss(
    z: Tensor, form: SingularForm = "nuclear", method: Way = "auto", epsilon: float = EPSILON
) -> Tensor:
    """Global dispersion: drives the embeddings of a batch to a homogeneous density with decorrelated dimensions.

    From the paper: that purpose, and the name. The file: nothing. Our reading: "nuclear", −Σ_j √(σ_j² + ε²) for
    one view's n×d matrix of unit rows. As Σσ_j² = n is fixed, the sum is largest, √(n·min(n, d)), exactly when all
    σ_j are equal. The alternative "covariance", ‖C − I‖²_F / d with C = (d/n)·ZᵀZ, has the same optimum where n ≥ d.
    Divided by −min(n, d) the nuclear form is SVMax's (mean singular value, maximised); nothing links the two papers.
    Measured: +5.4 ± 0.6 points of kNN at K = 2 with λ_s = 0.016 after 195 steps. After 1,953, with the Brownian force
    too: +8.3 [+3.9, +12.7] over BYOL (three seeds, 95 %), and +7.3 [+5.4, +9.2] with λ_s = 0.004. The best weight lies
    where λ_s·√(n·d) is about 2 (0.016 there; 0.032 is less); the covariance form helps at 0.04 and not at 0.004. The
    effective rank rises with λ_s throughout, the accuracy does not.

    Args:
        z: [K, n, d] unit vectors.
        form: see above.
        method: how the nuclear norm is computed; changes the value by rounding only
            (errors by input type: see `pretrain.nuclear.smoothed_nuclear_norm`).
        epsilon: ε, which bounds the gradient where the batch has collapsed to a lower rank.

    Returns:
        A scalar, the mean over views.
    """
    if form == "nuclear":
        return -smoothed_nuclear_norm(widened(z), epsilon, method).mean()
    _, n, d = z.shape
    # float64 is out of reach of autocast, which would round this product to half precision.
    correlation = z.double().mT @ z.double() * (d / n)
    identity = torch.eye(d, dtype=correlation.dtype, device=z.device)
    return ((correlation - identity).square().sum((-2, -1)) / d).mean().to(widened(z).dtype)


def brownian_loss(z: Tensor, per: Direction = "view", generator: torch.Generator | None = None) -> Tensor:
    """Local dispersion: ⟨z_ik, g_ik⟩ on average, g_ik a new random direction at each call.

    From the paper: a random motion of each embedding that needs no knowledge of the others and stretches weak links
    more than strong ones. The file: a direction per image, shared by its views (its second class adds 1, with the same
    gradient). Our reading: g_ik uniform on the sphere, drawn for every embedding ("a random motion of each"), so value
    and gradient are zero on average and what is left is diffusion, equal in all directions. One step of 0.5 in 128
    dimensions, simulated: a shared direction multiplies the length of every link by 0.895, independent ones multiply
    0.32 by 2.16 and 1.34 by 1.01: neither stretches long links more than short ones. Measured after 195 steps: nothing
    alone, about +1 ± 0.2 points on top of the singular force at K = 2, nothing at K = 4. After 1,953 steps, on top of
    λ_s 0.004: 38.0 % kNN with it, 37.7 without, 39.6 with shared directions: no difference that one seed could show.

    Args:
        z: [K, n, d] unit vectors.
        per: "view" draws for every embedding; "image" one direction that an image's views share.
        generator: on the device of `z`; None is the global one.

    Returns:
        A scalar in [-1, 1].
    """
    z = widened(z)
    shape = z.shape if per == "view" else z.shape[1:]
    directions = torch.randn(shape, generator=generator, device=z.device, dtype=z.dtype)
    return (z * normalize(directions, dim=-1)).sum(-1).mean()


def widened(z: Tensor) -> Tensor:
    """float32 of half precision, anything wider as it is."""
    return z.to(torch.promote_types(z.dtype, torch.float32))


def dispersion(forces: Forces, z: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted sum of the two dispersing forces, and each before weighting; a force of weight 0 is not computed."""
    total, terms = z.new_zeros((), dtype=widened(z).dtype), {}
    if forces.singular:
        terms["singular"] = singular_value_loss(z, forces.singular_form)
        total = total + forces.singular * terms["singular"]
    if forces.brownian:
        terms["brownian"] = brownian_loss(z, forces.brownian_per, generator)
        total = total + forces.brownian * terms["brownian"]
    return total, terms
