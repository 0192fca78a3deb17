"""Barlow Twins, VICReg, W-MSE, SwAV and supervised training, against their papers' formulas written out in loops."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import normalize

from pretrain.losses import Forces
from pretrain.methods import Method, barlow_twins, find_method, supervised, swav, vicreg, wmse
from pretrain.networks import Network
from pretrain.optimizers import build_optimizer
from pretrain.views import AUGMENTATIONS
from transfer.errors import TrainingError, UserError

NAMES = ("barlow_twins", "supervised", "swav", "vicreg", "wmse")
SMALL: dict[str, Any] = {
    "barlow_twins": barlow_twins.Settings(width=6),
    "supervised": supervised.Settings(),
    "swav": swav.Settings(
        small_views=2, small_crop=16, hidden=8, dimensions=6, prototypes=5, freeze=2, queue=8, queue_from=0.0
    ),
    "vicreg": vicreg.Settings(width=6),
    "wmse": wmse.Settings(hidden=16, dimensions=3, whitening_size=8),
}


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(name: str, **changes: Any) -> Method:
    torch.manual_seed(0)
    method: Method = find_method(name).build(Network("resnet18", classes=3), replace(SMALL[name], **changes))
    return method


def some_views(method: Method, images: int = 8, seed: int = 0) -> list[Tensor]:
    options = method.settings
    small = getattr(options, "small_views", 0)
    sides = [32] * options.views + [16] * small
    return [numbers(images, 3, side, side, seed=seed + k).float() for k, side in enumerate(sides)]


LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])


# What all methods have in common.


@pytest.mark.parametrize("name", NAMES)
def test_outputs_have_the_images_in_dimension_1_and_a_batch_may_be_cut(tiny: None, name: str) -> None:
    method = make(name).eval()  # in training BatchNorm sees a part
    views = some_views(method)
    whole = method(views)
    assert all(output.dtype == torch.float32 and output.shape[:2] == (len(views), 8) for output in whole)
    parts = [method([view[start : start + 4] for view in views]) for start in (0, 4)]
    joined = tuple(torch.cat(pair, dim=1) for pair in zip(*parts, strict=True))
    for one, other in zip(whole, joined, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    ours, terms = method.total(joined, LABELS, None)
    expected, _ = method.total(whole, LABELS, None)
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4)
    assert all(term.ndim == 0 for term in terms.values())


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_is_trained_and_forces_can_be_added(tiny: None, name: str) -> None:
    method = make(name, forces=Forces(singular=0.1, brownian=0.5))
    outputs = method(some_views(method))
    loss, terms = method.total(outputs, LABELS, torch.Generator().manual_seed(0))
    assert {"singular", "brownian"} < terms.keys()
    loss.backward()
    for key, parameter in method.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    weights = [p for p in method.parameters() if p.ndim > 1]
    assert all(p.grad.abs().max() > 0 for p in weights)
    lengths = method.embeddings(outputs).norm(dim=-1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_a_function_of_the_outputs_alone(tiny: None, name: str) -> None:
    method = make(name)
    outputs = tuple(output.detach().requires_grad_() for output in method(some_views(method)))
    for parameter in method.parameters():
        parameter.grad = None
    loss, _ = method.loss(outputs, LABELS)
    loss.backward()
    assert all(parameter.grad is None for parameter in method.parameters())
    assert any(output.grad is not None for output in outputs)
    again, _ = method.loss(outputs, LABELS)
    assert torch.equal(loss, again)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_images_does_not_matter(tiny: None, name: str) -> None:
    method = make(name)
    outputs = tuple(output.detach() for output in method(some_views(method)))
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    expected, _ = method.loss(outputs, LABELS)
    found, _ = method.loss(tuple(output[:, order] for output in outputs), LABELS[order])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_checkpoint_format_takes_the_branch(tiny: None, name: str) -> None:
    method = make(name)
    assert set(method.branches) == {"online"}
    assert method.branches["online"] is method.online
    assert {key.split(".")[0] for key in method.online.state_dict()} <= {"encoder", "projector"}


@pytest.mark.parametrize("name", NAMES)
def test_presets_are_complete_and_marked(name: str) -> None:
    module = find_method(name)
    *published, last = module.PRESETS
    assert last == "demo"
    assert all(int(key.split("-")[0]) == module.PRESETS[key][0].epochs for key in published)
    for recipe, options in module.PRESETS.values():
        assert isinstance(options, module.Settings)
        assert options.forces == Forces()
        assert recipe.augmentation in AUGMENTATIONS
    recipe, _ = module.PRESETS["demo"]
    assert (recipe.arch, recipe.crop, recipe.batch) == ("resnet18", 64, 32)
    assert recipe.steps <= 30


@pytest.mark.parametrize(
    ("name", "preset", "peak", "final", "decay", "everything", "warmup"),
    [
        # peak learning rate in the authors' units: their base rate after scaling
        ("barlow_twins", "1000", 1.6, 0.001, 1e-6, False, 10),
        ("vicreg", "100", 0.6, 0.001, 1e-6, False, 10),
        ("vicreg", "1000", 1.6, 0.001, 1e-6, False, 10),
        ("swav", "800", 4.8, 0.001, 1e-6, True, 10),
        ("swav", "200-batch256", 0.6, 0.001, 1e-6, True, 0),
        ("wmse", "240", 2e-3, 0, 1e-6, True, 500 / 247),
        ("wmse", "1000-views4", 3e-3, 0, 1e-6, True, 500 / 195),
        ("supervised", "90", 0.1, 0, 1e-4, True, 0),
    ],
)
def test_presets_are_the_published_ones(
    name: str, preset: str, peak: float, final: float, decay: float, everything: bool, warmup: float
) -> None:
    recipe, _ = find_method(name).PRESETS[preset]
    assert recipe.peak(recipe.lr) == pytest.approx(peak)
    assert (recipe.final_lr, recipe.weight_decay, recipe.decay_all) == (final, decay, everything)
    assert recipe.warmup_epochs == pytest.approx(warmup)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("barlow_twins", {"views": 1}, "--views is 1"),
        ("barlow_twins", {"width": 0}, "--width is 0"),
        ("barlow_twins", {"redundancy": -1.0}, "--redundancy is -1"),
        ("vicreg", {"views": 1}, "--views is 1"),
        ("vicreg", {"covariance": -1.0}, "--covariance is -1"),
        ("wmse", {"views": 1}, "--views is 1"),
        ("wmse", {"dimensions": 8}, "--whitening-size 16"),
        ("wmse", {"whitening_rounds": 0}, "--whitening-rounds is 0"),
        ("wmse", {"whitening_eps": 1.0}, "--whitening-eps is 1.0"),
        ("swav", {"views": 1, "small_views": 0}, "--small-views 1 or more"),
        ("swav", {"views": 0}, "--views is 0"),
        ("swav", {"prototypes": 1}, "--prototypes is 1"),
        ("swav", {"small_crop": 8}, "--small-crop is 8"),
        ("swav", {"epsilon": 0.0}, "--epsilon is 0.0"),
        ("swav", {"temperature": math.nan}, "--temperature is nan"),
        ("swav", {"queue_from": 1.0}, "--queue-from is 1.0"),
        ("supervised", {"views": 0}, "--views is 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tiny: None, name: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        make(name, **changes)
    assert words in str(caught.value)
    assert caught.value.todo


# Barlow Twins


def test_barlow_twins_is_equation_1() -> None:
    z = numbers(3, 7, 4)
    on = off = 0.0
    for a, b in ((0, 1), (0, 2), (1, 2)):
        x, y = (
            (v - v.mean(0)) / np.sqrt(v.var(0) + 1e-5) for v in (z[a].numpy(), z[b].numpy())
        )  # numpy's variance has the divisor n
        for i in range(4):
            for j in range(4):
                c = sum(x[m, i] * y[m, j] for m in range(7)) / 7
                on += (1 - c) ** 2 / 3 if i == j else 0
                off += c**2 / 3 if i != j else 0
    found = barlow_twins.barlow_twins_loss(z)
    assert [term.item() for term in found] == pytest.approx([on, off], rel=1e-12)


def test_barlow_twins_knows_its_minimum_and_collapse() -> None:
    hadamard = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
    on, off = barlow_twins.barlow_twins_loss(torch.stack([hadamard, 5 * hadamard + 2]))
    assert on.item() == pytest.approx(0, abs=1e-9)
    assert off.item() == pytest.approx(0, abs=1e-20)
    constant = torch.ones(2, 8, 3, dtype=torch.float64)
    assert [term.item() for term in barlow_twins.barlow_twins_loss(constant)] == [3.0, 0.0]
    same = numbers(8, 1).expand(8, 3)  # one dimension three times
    on, off = barlow_twins.barlow_twins_loss(torch.stack([same, same]))
    assert (on.item(), off.item()) == pytest.approx((0, 6), abs=1e-3)


def test_barlow_twins_weighs_its_terms_and_its_biases() -> None:
    method = barlow_twins.BarlowTwins.loss
    holder = type("Holder", (), {"settings": barlow_twins.Settings(redundancy=0.5)})()
    z = numbers(2, 6, 3)
    total, terms = method(holder, (z,), None)  # type: ignore[arg-type]
    assert total.item() == pytest.approx((terms["invariance"] + 0.5 * terms["redundancy"]).item())


def test_barlow_twins_gives_vectors_their_own_rate(tiny: None) -> None:
    recipe, _ = barlow_twins.PRESETS["1000"]
    groups = build_optimizer(recipe, make("barlow_twins")).param_groups
    peaks = {parameter.ndim <= 1: group["peak"] for group in groups for parameter in group["params"]}
    assert peaks == pytest.approx({True: 0.0048 * 8, False: 0.2 * 8})


def test_published_heads() -> None:
    with torch.device("meta"):
        twins = barlow_twins.build(Network("resnet50"), barlow_twins.Settings()).online.projector
        expander = vicreg.build(Network("resnet50"), vicreg.Settings()).online.projector
    shapes = [(2048, 8192), (8192, 8192), (8192, 8192)]
    for head, biased in ((twins, [False] * 3), (expander, [True, True, False])):
        layers = [layer for layer in head if isinstance(layer, nn.Linear)]
        assert [(layer.in_features, layer.out_features) for layer in layers] == shapes
        assert [layer.bias is not None for layer in layers] == biased
        assert sum(isinstance(layer, nn.BatchNorm1d) for layer in head) == 2


# VICReg


def test_vicreg_is_the_authors_code() -> None:
    z = numbers(2, 7, 4) * 0.7
    x, y = z.numpy()
    invariance = np.mean([(x[m, j] - y[m, j]) ** 2 for m in range(7) for j in range(4)])
    variance = covariance = 0.0
    for v in (x, y):
        variance += sum(max(0.0, 1 - math.sqrt(np.var(v[:, j], ddof=1) + 1e-4)) for j in range(4)) / 4 / 2
        c = np.cov(v, rowvar=False)
        covariance += sum(c[i, j] ** 2 for i in range(4) for j in range(4) if i != j) / 4
    found = [term.item() for term in vicreg.vicreg_loss(z)]
    assert found == pytest.approx([invariance, variance, covariance], rel=1e-10)


def test_vicreg_terms_keep_their_size_with_more_views() -> None:
    z = numbers(1, 9, 4).expand(4, 9, 4)
    assert [t.item() for t in vicreg.vicreg_loss(z)] == pytest.approx([t.item() for t in vicreg.vicreg_loss(z[:2])])


def test_vicreg_knows_its_minimum_and_collapse() -> None:
    hadamard = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
    assert [t.item() for t in vicreg.vicreg_loss(torch.stack([hadamard, hadamard]))] == pytest.approx([0, 0, 0])
    constant = torch.full((2, 8, 3), 4.0, dtype=torch.float64, requires_grad=True)
    terms = vicreg.vicreg_loss(constant)
    assert [t.item() for t in terms] == pytest.approx([0, 0.99, 0])  # 1 − √1e-4
    sum(terms).backward()
    assert constant.grad is not None
    assert constant.grad.isfinite().all()


def test_vicreg_weighs_its_terms(tiny: None) -> None:
    method = make("vicreg", invariance=2.0, variance=3.0, covariance=5.0)
    total, terms = method.loss((numbers(2, 6, 4).float() * 0.5,), None)
    expected = 2 * terms["invariance"] + 3 * terms["variance"] + 5 * terms["covariance"]
    torch.testing.assert_close(total, expected)


# W-MSE


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


# SwAV


def test_sinkhorn_is_the_authors_loop() -> None:
    scores = numbers(2, 6, 4) / 3
    for iterations in (1, 3):
        found = swav.sinkhorn(scores, 0.05, iterations)
        for view, codes in zip(scores.numpy(), found.numpy(), strict=True):
            q = np.exp(view / 0.05).T  # [P, n]
            q /= q.sum()
            for _ in range(iterations):
                for p in range(4):
                    q[p] /= q[p].sum() * 4
                for m in range(6):
                    q[:, m] /= q[:, m].sum() * 6
            np.testing.assert_allclose(codes, (q * 6).T, rtol=1e-9, atol=1e-14)


@given(st.integers(2, 9), st.integers(2, 9), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_sinkhorn_marginals(n: int, prototypes: int, seed: int) -> None:
    scores = torch.tanh(numbers(n, prototypes, seed=seed))
    codes = swav.sinkhorn(scores, 0.5, 300)
    torch.testing.assert_close(codes.sum(-1), torch.ones(n, dtype=torch.float64))
    share = torch.full((prototypes,), n / prototypes, dtype=torch.float64)
    torch.testing.assert_close(codes.sum(0), share, rtol=1e-5, atol=1e-6)


def test_sinkhorn_survives_a_tiny_epsilon_in_float32() -> None:
    scores = normalize(numbers(32, 8).float(), dim=-1) @ normalize(numbers(8, 16, seed=1).float(), dim=0)
    codes = swav.sinkhorn(scores, 1e-3)
    assert codes.isfinite().all()
    torch.testing.assert_close(codes.sum(-1), torch.ones(32))


def test_swapped_loss_is_equation_2_over_all_views() -> None:
    scores, codes = numbers(4, 5, 3), numbers(2, 5, 3, seed=1).softmax(-1)
    s, q = scores.numpy(), codes.numpy()
    expected = 0.0
    for i in range(2):
        for v in range(4):
            if v == i:
                continue
            for m in range(5):
                logits = s[v, m] / 0.1
                log_p = logits - logits.max() - math.log(np.exp(logits - logits.max()).sum())
                expected -= float(np.dot(q[i, m], log_p)) / 5 / 3 / 2
    assert swav.swapped_loss(scores, codes, 0.1).item() == pytest.approx(expected, rel=1e-10)


def test_no_gradient_flows_through_the_codes(tiny: None) -> None:
    method = make("swav", queue=0)
    z, scores = (output.detach() for output in method(some_views(method)))
    leaf = scores.double().requires_grad_()
    loss, _ = method.loss((z, leaf), None)
    (gradient,) = torch.autograd.grad(loss, leaf)
    codes = swav.sinkhorn(scores.double()[:2])
    predicted = (scores.double() / 0.1).softmax(-1)
    expected = torch.zeros_like(gradient)
    for v in range(4):
        for i in range(2):
            if i != v:  # cross-entropy's gradient, (p − q) / τ, for each of the 2 codes, 3 other views and 8 images
                expected[v] += (predicted[v] - codes[i]) / 0.1 / (2 * 3 * 8)
    torch.testing.assert_close(gradient, expected)


def test_swav_collapse_is_log_of_the_prototypes(tiny: None) -> None:
    method = make("swav", queue=0)
    loss, _ = method.loss((torch.zeros(4, 8, 6), torch.zeros(4, 8, 5)), None)
    assert loss.item() == pytest.approx(math.log(5))
    same = method.prototypes(normalize(numbers(1, 1, 6).float(), dim=-1)).expand(4, 8, 5).detach()
    torch.testing.assert_close(swav.sinkhorn(same), torch.full((4, 8, 5), 1 / 5))
    assert method.loss((torch.zeros(4, 8, 6), same), None)[0].item() > math.log(5)


def test_views_of_one_size_go_through_the_encoder_together(tiny: None) -> None:
    method = make("swav")
    method(some_views(method))
    assert method.online.encoder.bn.num_batches_tracked.item() == 2  # large, small
    assert method.online.projector[1].num_batches_tracked.item() == 1


def test_swav_scores_stay_float32_under_autocast(tiny: None) -> None:
    method = make("swav")
    with torch.autocast("cpu", torch.bfloat16):
        z, scores = method(some_views(method))
    assert z.dtype == scores.dtype == torch.float32
    torch.testing.assert_close(scores, z @ method.prototypes.weight.T)


def step(method: Method, optimizer: torch.optim.Optimizer, number: int, of: int = 10) -> tuple[Tensor, ...]:
    optimizer.zero_grad(set_to_none=True)
    outputs = method(some_views(method, seed=10 * number))
    method.total(outputs, None, None)[0].backward()
    method.after_backward(number)
    optimizer.step()
    detached = tuple(output.detach() for output in outputs)
    method.after_step(number / of, detached)
    return detached


def test_prototypes_rest_at_the_start_and_stay_on_the_sphere(tiny: None) -> None:
    method = make("swav", freeze=2)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.5, momentum=0.9, weight_decay=0.1)
    start = method.prototypes.weight.detach().clone()
    torch.testing.assert_close(start.norm(dim=1), torch.ones(5))
    moved = []
    for number in range(3):
        encoder = method.online.encoder.conv.weight.detach().clone()
        step(method, optimizer, number)
        assert not torch.equal(encoder, method.online.encoder.conv.weight)
        moved.append((method.prototypes.weight - start).abs().max().item() > 1e-5)
        torch.testing.assert_close(method.prototypes.weight.norm(dim=1), torch.ones(5))
    assert moved == [False, False, True]


def test_the_queue_starts_late_fills_newest_first_and_is_used_when_full(tiny: None) -> None:
    # 10 steps, the queue of two batches of 8 fills from step 2 on, before which 0.2 is done.
    method = make("swav", queue=16, queue_from=0.2)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.01)
    seen = []
    for number in range(5):
        outputs = step(method, optimizer, number)
        seen.append(outputs[0][:2])
        assert method.queued.item() == [0, 0, 8, 16, 16][number]
    torch.testing.assert_close(method.queue, torch.cat([seen[4], seen[3]], dim=1))
    scores = numbers(4, 8, 5).float() / 3
    found, _ = method.loss((outputs[0], scores), None)
    earlier = method.queue @ method.prototypes.weight.detach().T
    codes = swav.sinkhorn(torch.cat([earlier, scores[:2]], dim=1))[:, 16:]
    torch.testing.assert_close(found, swav.swapped_loss(scores, codes))
    method.queued.fill_(15)
    assert method.loss((outputs[0], scores), None)[0] != found
    torch.testing.assert_close(
        method.loss((outputs[0], scores), None)[0], swav.swapped_loss(scores, swav.sinkhorn(scores[:2]))
    )


def test_the_queue_and_prototypes_are_remembered_outside_the_branch(tiny: None) -> None:
    method = make("swav")
    optimizer = torch.optim.SGD(method.parameters(), lr=0.01)
    step(method, optimizer, 0)
    state = method.state_dict()
    outside = {name for name in state if not name.startswith("online.")}
    assert outside == {"prototypes.weight", "queue", "queued"}
    other = make("swav")
    other.load_state_dict(state)
    assert torch.equal(other.queue, method.queue)
    assert other.queued.item() == 8
    outputs = tuple(output.detach() for output in method.eval()(some_views(method)))
    assert torch.equal(other.loss(outputs, None)[0], method.loss(outputs, None)[0])


def test_a_batch_larger_than_the_queue_fills_it(tiny: None) -> None:
    method = make("swav", queue=5)
    z = normalize(numbers(4, 8, 6).float(), dim=-1)
    assert method.after_step(0.5, (z, z)) == {"queued": 5.0}
    assert torch.equal(method.queue, z[:2, :5])


def test_without_a_queue_nothing_is_kept(tiny: None) -> None:
    method = make("swav", queue=0)
    z = numbers(4, 8, 6).float()
    assert method.after_step(0.9, (z, z)) == {}
    assert method.queue.shape == (2, 0, 6)


@pytest.mark.parametrize("epochs", [200, 400])
def test_the_published_queue_starts_with_epoch_15(tiny: None, epochs: int) -> None:
    recipe, options = swav.PRESETS[f"{epochs}-batch256"]
    assert (recipe.batch, options.queue, options.freeze) == (256, 15 * 256, 5005)
    method = make("swav", queue=8, queue_from=options.queue_from)
    per_epoch = 1_281_167 // 256
    z = numbers(4, 8, 6).float()
    method.after_step((15 * per_epoch - 1) / (epochs * per_epoch), (z, z))  # the last step of epoch 14, from 0
    assert method.queued.item() == 0
    method.after_step(15 * per_epoch / (epochs * per_epoch), (z, z))
    assert method.queued.item() == 8


# Supervised training


def test_supervised_is_cross_entropy(tiny: None) -> None:
    method = make("supervised", views=2)
    logits = numbers(2, 4, 3)
    labels = [2, 0, 1, 1]
    expected = 0.0
    for view in logits.numpy():
        for row, label in zip(view, labels, strict=True):
            expected += (math.log(np.exp(row).sum()) - row[label]) / 8
    found, _ = method.loss((torch.zeros(2, 4, 8), logits), torch.tensor(labels))
    assert found.item() == pytest.approx(expected, rel=1e-10)


def test_supervised_chance_is_log_of_the_classes(tiny: None) -> None:
    loss, _ = make("supervised").loss((torch.zeros(1, 8, 8), torch.zeros(1, 8, 3)), LABELS)
    assert loss.item() == pytest.approx(math.log(3))


def test_the_classifier_is_remembered_outside_the_branch(tiny: None) -> None:
    method = make("supervised")
    outside = {name: tuple(value.shape) for name, value in method.state_dict().items() if name[:7] != "online."}
    assert outside == {"classifier.weight": (3, 8), "classifier.bias": (3,)}
    assert all(name.startswith("encoder.") for name in method.online.state_dict())
    features, logits = method(some_views(method))
    torch.testing.assert_close(logits, method.classifier(features))


@pytest.mark.parametrize("classes", [0, 1])
def test_supervised_refuses_images_without_classes(tiny: None, classes: int) -> None:
    with pytest.raises(UserError, match="two classes or more") as caught:
        supervised.build(Network("resnet18", classes=classes), supervised.Settings())
    assert caught.value.found == f"{classes} classes"
    assert supervised.NEEDS_LABELS


def test_supervised_without_labels_is_a_mistake_of_the_program(tiny: None) -> None:
    with pytest.raises(ValueError, match="needs labels"):
        make("supervised").loss((torch.zeros(1, 8, 8), torch.zeros(1, 8, 3)), None)


@pytest.mark.parametrize("name", NAMES)
def test_images_of_plain_colours_are_learnt(tiny: None, name: str) -> None:
    changes = {"small_views": 0, "queue": 0, "freeze": 0, "prototypes": 4} if name == "swav" else {}
    method = make(name, **changes)
    optimizer = torch.optim.Adam(method.parameters(), lr=0.01)
    colours = torch.eye(4)[:, :3].repeat(2, 1)[:, :, None, None]  # red, green, blue, black, and again
    losses = []
    for number in range(60):
        noise = numbers(method.settings.views, 8, 3, 9, 9, seed=number).float()
        outputs = method([colours + 0.1 * one for one in noise])
        loss, _ = method.total(outputs, torch.tensor([0, 1, 2, 2] * 2), None)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step(number / 60, tuple(output.detach() for output in outputs))
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.7 * losses[0]
    if name == "swav":
        assert np.mean(losses[-5:]) < 0.7 * math.log(4)
