"""The losses against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from pretrain.forces import Forces
from pretrain.losses import brownian_loss, dispersion, multiview_centroid_loss, singular_value_loss
from pretrain.nuclear import smoothed_nuclear_norm

WAYS = ("eigh", "newton-schulz")
quick = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**31)


def units(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def with_singular_values(seed: int, n: int, d: int, sigma: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    left = torch.linalg.qr(torch.randn(n, len(sigma), generator=generator, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(d, len(sigma), generator=generator, dtype=torch.float64)).Q
    return (left * sigma) @ right.T


def value_and_gradient(z: Tensor, **options: object) -> tuple[Tensor, Tensor]:
    z = z.detach().clone().requires_grad_()
    value = smoothed_nuclear_norm(z, **options)  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad(value.sum(), z)
    return value.detach(), gradient


# -- singular value loss


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("n", "d"), [(24, 6), (6, 24), (8, 8)])
def test_isotropic_embeddings_reach_the_minimum(n: int, d: int, way: str) -> None:
    m = min(n, d)
    z = with_singular_values(0, n, d, torch.full((m,), math.sqrt(n / m), dtype=torch.float64))[None]
    # Unit singular directions do not make unit rows in general; build rows that are: repeated orthonormal axes.
    rows = torch.eye(d, dtype=torch.float64).repeat(max(1, n // d), 1)[None, :n]
    for isotropic in (z, rows):
        loss = singular_value_loss(isotropic, method=way)  # type: ignore[arg-type]
        assert loss.item() == pytest.approx(-math.sqrt(n * m), rel=1e-8)


@quick
@given(seeds, st.integers(2, 30), st.integers(2, 30))
def test_nuclear_norm_of_unit_rows_has_its_bounds(seed: int, n: int, d: int) -> None:
    norm = -singular_value_loss(units(seed, 1, n, d)).item()
    assert math.sqrt(n) - 1e-9 <= norm <= math.sqrt(n * min(n, d)) * (1 + 1e-9)


@quick
@given(seeds, st.integers(3, 40), st.integers(3, 40), st.floats(1, 100), st.floats(0.1, 10))
def test_every_way_equals_the_svd(seed: int, n: int, d: int, condition: float, least: float) -> None:
    m = min(n, d)
    sigma = torch.from_numpy(np.geomspace(1, condition, m)) * least
    z = with_singular_values(seed, n, d, sigma)
    left, found, right = torch.linalg.svd(z, full_matrices=False)
    for way in WAYS:
        value, gradient = value_and_gradient(z, way=way)
        assert value.item() == pytest.approx(found.sum().item(), rel=1e-6)
        torch.testing.assert_close(gradient, left @ right, atol=1e-6, rtol=0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("epsilon", [1e-5, 1e-3, 0.3])
@pytest.mark.parametrize(("n", "d"), [(12, 5), (5, 12)])
def test_smoothing_is_the_same_in_every_way(way: str, epsilon: float, n: int, d: int) -> None:
    sigma = torch.tensor([2.0, 1.0, 0.5, 0.1, 0.01], dtype=torch.float64)
    z = with_singular_values(3, n, d, sigma)
    left, found, right = torch.linalg.svd(z, full_matrices=False)
    root = (found**2 + epsilon**2).sqrt()
    value, gradient = value_and_gradient(z, way=way, epsilon=epsilon)
    assert value.item() == pytest.approx(root.sum().item(), abs=1e-9)
    torch.testing.assert_close(gradient, (left * (found / root)) @ right, atol=1e-7, rtol=0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("n", "d"), [(64, 16), (16, 64), (256, 128)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_bounded_at_rank_one(way: str, n: int, d: int, dtype: torch.dtype) -> None:
    z = units(1, 1, d).to(dtype).expand(n, d)
    value, gradient = value_and_gradient(z, way=way)
    # One singular value ‖Z‖_F (bfloat16 rows are not quite of unit length), and ε = 1e-5 for each of the others.
    assert value.item() == pytest.approx(z.double().norm().item() + (min(n, d) - 1) * 1e-5, rel=2e-7)
    assert gradient.isfinite().all()
    assert torch.linalg.matrix_norm(gradient.double(), 2) <= 1 + 1e-2


@pytest.mark.parametrize("way", WAYS)
def test_bounded_at_zero_and_with_a_breath_of_noise(way: str) -> None:
    for z in (torch.zeros(20, 8), units(0, 1, 8).expand(20, 8) + 1e-7 * units(1, 20, 8)):
        value, gradient = value_and_gradient(z, way=way)
        assert value.isfinite()
        assert torch.linalg.matrix_norm(gradient.double(), 2) <= 1 + 1e-3


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_what_is_not_finite_stays_so(way: str, poison: float) -> None:
    z = units(0, 3, 6, 4)
    z[1, 2, 3] = poison
    finite = smoothed_nuclear_norm(z, way=way).isfinite()  # type: ignore[arg-type]
    assert finite.tolist() == [True, False, True]


@quick
@given(seeds)
def test_nuclear_loss_does_not_see_rotations_and_order(seed: int) -> None:
    z = units(seed, 2, 12, 7)
    rotation = torch.linalg.qr(units(seed + 1, 7, 7)).Q
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    for form in ("nuclear", "covariance"):
        loss = singular_value_loss(z, form)  # type: ignore[arg-type]
        torch.testing.assert_close(singular_value_loss(z @ rotation, form), loss)  # type: ignore[arg-type]
        torch.testing.assert_close(singular_value_loss(z[:, order].flip(0), form), loss)  # type: ignore[arg-type]


def test_views_are_averaged_not_mixed() -> None:
    z = units(5, 3, 10, 4)
    each = torch.stack([singular_value_loss(view[None]) for view in z])
    torch.testing.assert_close(singular_value_loss(z), each.mean())
    torch.testing.assert_close(singular_value_loss(z, method="newton-schulz"), each.mean())


def test_covariance_form_by_hand() -> None:
    # n = 2 equal rows e1 in d = 2: C = (2/2)·diag(2, 0), ‖C − I‖² / d = (1 + 1) / 2
    z = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    assert singular_value_loss(z, "covariance").item() == pytest.approx(1.0)
    assert singular_value_loss(torch.eye(2)[None], "covariance").item() == pytest.approx(0.0, abs=1e-12)


def test_gradient_of_the_loss_is_that_of_finite_differences() -> None:
    z = units(2, 2, 7, 4).requires_grad_()
    for way in WAYS:
        assert torch.autograd.gradcheck(lambda x, way=way: singular_value_loss(x, method=way), (z,))
    assert torch.autograd.gradcheck(lambda x: singular_value_loss(x, "covariance"), (z,))


# -- multiview centroid loss


@quick
@given(seeds)
def test_two_views_are_half_of_byol(seed: int) -> None:
    z, t = units(seed, 2, 9, 5), units(seed + 1, 2, 9, 5)
    # Grill et al. eq. 2 for (q1, z2) and (q2, z1), as squared distances of unit vectors, summed
    byol = (z[0] - t[1]).square().sum(-1).mean() + (z[1] - t[0]).square().sum(-1).mean()
    torch.testing.assert_close(multiview_centroid_loss(z, t), byol / 2)
    assert dispersion(Forces(), z)[1] == {}  # what is off is not computed


@quick
@given(seeds, st.integers(2, 6), st.sampled_from(["others", "all", "pair"]))
def test_centroid_loss_ignores_the_order_of_views_and_rotation(seed: int, k: int, centroid: str) -> None:
    z, t = units(seed, k, 5, 6), units(seed + 1, k, 5, 6)
    order = torch.randperm(k, generator=torch.Generator().manual_seed(seed))
    rotation = torch.linalg.qr(units(seed + 2, 6, 6)).Q
    loss = multiview_centroid_loss(z, t, centroid)  # type: ignore[arg-type]
    assert 0 <= loss.item() <= 4
    torch.testing.assert_close(multiview_centroid_loss(z[order], t[order], centroid), loss)  # type: ignore[arg-type]
    torch.testing.assert_close(multiview_centroid_loss(z @ rotation, t @ rotation, centroid), loss)  # type: ignore[arg-type]


def test_centroids_by_hand() -> None:
    east, north = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    z, t = torch.stack([east, east, east]), torch.stack([east, north, north])
    half = math.sqrt(0.5)
    # others: centroids (0,1), (1,1)/√2, (1,1)/√2; cosines 0, √½, √½
    assert multiview_centroid_loss(z, t).item() == pytest.approx(2 - 2 * (2 * half) / 3)
    # all: (1, 2)/√5 for each; pair: the same here, as the online centroid is `east`
    for centroid in ("all", "pair"):
        loss = multiview_centroid_loss(z, t, centroid)  # type: ignore[arg-type]
        assert loss.item() == pytest.approx(2 - 2 / math.sqrt(5))


def test_opposite_targets_leave_a_finite_gradient() -> None:
    z = units(0, 3, 4, 3).requires_grad_()
    a = units(1, 4, 3)
    multiview_centroid_loss(z, torch.stack([a, -a, a])).backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(1, 4, 3), (4, 3)])
def test_a_centroid_needs_two_views(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="K ≥ 2"):
        multiview_centroid_loss(units(0, *shape), units(0, *shape))


# -- Brownian diffusive loss


@pytest.mark.parametrize("per", ["view", "image"])
def test_brownian_gradient_averages_to_zero_and_is_isotropic(per: str) -> None:
    k, n, d = 2, 20_000, 4
    z = units(0, k, n, d).requires_grad_()
    (gradient,) = torch.autograd.grad(brownian_loss(z, per, torch.Generator().manual_seed(0)), z)  # type: ignore[arg-type]
    gradient = gradient * (k * n)
    # Rescaled, each is a unit vector: mean 0 with standard error 1/√(n·d), second moment I/d.
    torch.testing.assert_close(gradient.norm(dim=-1), torch.ones(k, n, dtype=torch.float64))
    for view in gradient:
        assert view.mean(0).abs().max() < 5 / math.sqrt(n * d)
        torch.testing.assert_close(view.T @ view / n, torch.eye(d, dtype=torch.float64) / d, atol=0.01, rtol=0)
    across_views = (gradient[0] * gradient[1]).sum(-1).mean().item()
    assert across_views == pytest.approx(1.0 if per == "image" else 0.0, abs=0.02)


def test_brownian_value_averages_to_zero_and_follows_its_generator() -> None:
    z = units(0, 2, 50, 8)
    values = [brownian_loss(z, generator=torch.Generator().manual_seed(seed)).item() for seed in range(100)]
    assert abs(np.mean(values)) < 5 / math.sqrt(100 * 100 * 8)
    assert len(set(values)) == 100
    assert brownian_loss(z, generator=torch.Generator().manual_seed(7)).item() == values[7]


# -- the whole


def test_the_whole_is_the_weighted_sum() -> None:
    z = units(0, 4, 6, 5)
    loss, terms = dispersion(Forces(0.004, 0.5), z, torch.Generator().manual_seed(3))
    brownian = brownian_loss(z, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(loss, 0.004 * singular_value_loss(z) + 0.5 * brownian)
    torch.testing.assert_close(terms, {"singular": singular_value_loss(z), "brownian": brownian})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_widened(dtype: torch.dtype) -> None:
    z, t = units(0, 2, 6, 5), units(1, 2, 6, 5)
    exact = multiview_centroid_loss(z, t) + singular_value_loss(z)
    half = z.to(dtype).requires_grad_()
    added, _ = dispersion(Forces(1.0, 0.5), half, torch.Generator().manual_seed(0))
    loss = multiview_centroid_loss(half, t.to(dtype)) + added
    loss.backward()
    assert loss.dtype == torch.float32
    assert half.grad is not None
    assert half.grad.dtype == dtype
    rounded = multiview_centroid_loss(half, t.to(dtype)) + singular_value_loss(half)
    assert rounded.item() == pytest.approx(exact.item(), abs=0.02)


def test_autocast_does_not_reach_the_losses() -> None:
    z, t = units(0, 2, 40, 16).float(), units(1, 2, 40, 16).float()
    for form in ("nuclear", "covariance"):
        forces = Forces(singular=1.0, singular_form=form)
        outside = multiview_centroid_loss(z, t) + dispersion(forces, z)[0]
        with torch.autocast("cpu", torch.bfloat16):
            inside = multiview_centroid_loss(z, t) + dispersion(forces, z)[0]
        assert inside.item() == outside.item()
