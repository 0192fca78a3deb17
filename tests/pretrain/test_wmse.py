"""W-MSE: whitening and its loss, against numpy."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_methods import make, numbers, some_views

from pretrain.methods import wmse
from transfer.runtime.errors import TrainingError, UserError


@given(st.integers(1, 6), st.integers(0, 1000), st.floats(1e-3, 1e3))
@settings(max_examples=25, deadline=None)
def test_whitened_embeddings_have_covariance_identity(d: int, seed: int, scale: float) -> None:
    z = scale * (numbers(2, 3 * d + 2, d, seed=seed) @ numbers(d, d, seed=seed + 1) + 3)
    white = wmse.whiten(z)
    for group in white.numpy():
        np.testing.assert_allclose(group.mean(0), 0, atol=1e-6)
        np.testing.assert_allclose(np.cov(group, rowvar=False).reshape(d, d), np.eye(d), atol=1e-5)


def test_whitening_is_the_inverse_cholesky_factor() -> None:
    z = numbers(9, 3)
    x = z.numpy() - z.numpy().mean(0)
    for eps in (0.0, 0.2):
        factor = np.linalg.cholesky((1 - eps) * x.T @ x / 8 + eps * np.eye(3))
        np.testing.assert_allclose(wmse.whiten(z, eps).numpy(), (np.linalg.inv(factor) @ x.T).T, atol=1e-12)


def test_whitening_holds_in_float32_where_a_float32_covariance_would_not() -> None:
    # condition number of the embeddings 1e4, of their covariance 1e8
    z = (numbers(64, 4) @ torch.diag(torch.tensor([1.0, 1e-1, 1e-3, 1e-4], dtype=torch.float64))) @ numbers(
        4, 4, seed=1
    )
    white = wmse.whiten(z.float())
    np.testing.assert_allclose(np.cov(white.numpy(), rowvar=False), np.eye(4), atol=1e-6)


def test_w_mse_is_equation_2() -> None:
    z = numbers(3, 12, 2)
    whitened = np.stack([np.concatenate([reference_whitening(v[i : i + 4]) for i in (0, 4, 8)]) for v in z.numpy()])
    unit = whitened / np.linalg.norm(whitened, axis=-1, keepdims=True)
    pairs = [np.mean(np.sum((unit[a] - unit[b]) ** 2, -1)) for a, b in combinations(range(3), 2)]
    assert wmse.w_mse_loss(z, 4).item() == pytest.approx(np.mean(pairs), rel=1e-10)


def reference_whitening(v: np.ndarray) -> np.ndarray:
    factor = np.linalg.cholesky(np.cov(v, rowvar=False))
    return np.stack([np.linalg.inv(factor) @ row for row in v - v.mean(0)])


def test_w_mse_is_0_for_views_that_agree_up_to_scale_and_shift_and_about_2_for_strangers() -> None:
    z = numbers(64, 4)
    assert wmse.w_mse_loss(torch.stack([z, 3 * z + 1]), 32, rounds=3).item() == pytest.approx(0, abs=1e-12)
    assert wmse.w_mse_loss(numbers(2, 512, 4), 64).item() == pytest.approx(2, abs=0.2)


def test_w_mse_rounds_regroup_the_images() -> None:
    z = numbers(2, 32, 4)
    rounds = [wmse.w_mse_loss(z, 8, rounds=count).item() for count in (1, 2, 3)]
    assert len({round(value, 9) for value in rounds}) == 3
    assert rounds == [wmse.w_mse_loss(z, 8, rounds=count).item() for count in (1, 2, 3)]
    whole = [wmse.w_mse_loss(z, 32, rounds=count).item() for count in (1, 2)]
    assert whole[0] == pytest.approx(whole[1])


def test_w_mse_images_of_one_part_may_change_places() -> None:
    z = numbers(2, 16, 3)
    order = torch.cat([torch.randperm(8, generator=torch.Generator().manual_seed(0)) + start for start in (0, 8)])
    assert wmse.w_mse_loss(z[:, order], 8).item() == pytest.approx(wmse.w_mse_loss(z, 8).item())


def test_w_mse_gradient() -> None:
    z = numbers(2, 8, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: wmse.w_mse_loss(z, 4, rounds=2), (z,))


@pytest.mark.parametrize("kind", ["point", "line", "copy", "nan"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_collapsed_embeddings_are_one_clear_error(kind: str, dtype: torch.dtype) -> None:
    z = numbers(16, 4).to(dtype)
    if kind == "point":
        z = z[:1].expand(16, 4)
    elif kind == "line":
        z = z[:, :1] * z[:1] + 1
    elif kind == "copy":
        z = torch.cat([z, z[:, :1]], 1)
    else:
        z[3, 1] = math.nan
    with pytest.raises(TrainingError, match="cannot be whitened") as caught:
        wmse.whiten(z)
    assert ("not finite" in caught.value.found) == (kind == "nan")
    assert "--whitening-eps" in caught.value.todo
    if kind != "nan":
        assert wmse.whiten(z, eps=1e-4).isfinite().all()


def test_w_mse_refuses_a_batch_that_does_not_divide(tiny: None) -> None:
    with pytest.raises(UserError, match="12 images does not divide into parts of 8"):
        make("wmse").loss((numbers(2, 12, 3).float(),), None)


def test_w_mse_head_sees_all_views_at_once_in_float32(tiny: None) -> None:
    method = make("wmse")
    views = some_views(method)
    with torch.autocast("cpu", torch.bfloat16):
        (z,) = method(views)
    assert z.dtype == torch.float32
    norm = method.online.projector[1]
    assert norm.num_batches_tracked.item() == 1
    assert method.online.encoder.bn.num_batches_tracked.item() == 2
