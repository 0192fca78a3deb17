"""Barlow Twins and VICReg, against their papers' formulas written out in loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from small_methods import make, numbers
from torch import nn

from pretrain.methods import barlow_twins, vicreg
from pretrain.optimizers import build_optimizer
from pretrain.recipe import EncoderSpec


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
    recipe, _ = barlow_twins.PROTOCOLS["1000"]
    groups = build_optimizer(recipe, make("barlow_twins")).param_groups
    peaks = {parameter.ndim <= 1: group["peak"] for group in groups for parameter in group["params"]}
    assert peaks == pytest.approx({True: 0.0048 * 8, False: 0.2 * 8})


def test_published_heads() -> None:
    with torch.device("meta"):
        twins = barlow_twins.build(EncoderSpec("resnet50"), barlow_twins.Settings()).online.projector
        expander = vicreg.build(EncoderSpec("resnet50"), vicreg.Settings()).online.projector
    shapes = [(2048, 8192), (8192, 8192), (8192, 8192)]
    for head, biased in ((twins, [False] * 3), (expander, [True, True, False])):
        layers = [layer for layer in head if isinstance(layer, nn.Linear)]
        assert [(layer.in_features, layer.out_features) for layer in layers] == shapes
        assert [layer.bias is not None for layer in layers] == biased
        assert sum(isinstance(layer, nn.BatchNorm1d) for layer in head) == 2


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
