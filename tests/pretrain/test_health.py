"""Signs of health and the report on the forces, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from pretrain.forces import Forces
from pretrain.health import collapse_warning, force_report, health
from pretrain.methods import Method, Outputs


def test_spread_embeddings_by_hand() -> None:
    z = torch.eye(8)[None]
    signs = health(z)
    assert signs["effective_rank"] == pytest.approx(8)
    # one dimension of a unit vector e_i over 8 images: variance 1/8 − 1/64
    assert signs["std"] == signs["std_min"] == signs["std_max"] == pytest.approx(math.sqrt((1 / 8 - 1 / 64) * 8))
    assert signs["uniformity"] == pytest.approx(-4)  # all squared distances are 2
    assert "alignment" not in signs
    assert not collapse_warning(signs)
    assert signs["spectrum"] == pytest.approx([1.0] * 8)


def test_collapsed_embeddings_by_hand() -> None:
    z = torch.eye(8)[:1].expand(2, 8, 8)
    signs = health(z)
    assert signs["std"] == pytest.approx(0, abs=1e-6)
    assert signs["effective_rank"] == pytest.approx(1, abs=1e-4)
    assert signs["uniformity"] == pytest.approx(0)
    assert signs["alignment"] == signs["centroid_distance"] == 0
    assert "collapsing" in collapse_warning(signs)
    assert signs["spectrum"] == pytest.approx([1.0] + [0.0] * 7, abs=1e-6)


def test_views_apart_by_hand() -> None:
    z = torch.stack([torch.eye(4), torch.eye(4).roll(1, 0)])  # every view orthogonal to its partner
    signs = health(z)
    assert signs["alignment"] == pytest.approx(2)
    assert signs["centroid_distance"] == pytest.approx(0.5)


class Pulled(Method):
    """Every embedding is pulled along one fixed direction."""

    def __init__(self, direction: Tensor, forces: Forces) -> None:
        super().__init__()
        self.direction, self.forces, self.branches = direction, forces, {"online": nn.Identity()}

    def forward(self, views: list[Tensor]) -> Outputs:
        return (torch.stack(views),)

    def loss(self, outputs: Outputs, labels: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        return -(outputs[0] @ self.direction).mean(), {}


def test_tangential_shares_by_hand() -> None:
    # 4 orthogonal embeddings e_i: the polar factor of the identity is the identity, all of it radial.
    z = torch.eye(4)[None]
    method = Pulled(torch.tensor([1.0, 0, 0, 0]), Forces(singular=0.5))
    report = force_report(method, (z,), None, torch.Generator())
    assert report["singular_scale"] == pytest.approx(0.5 * 4)
    assert report["tangential_singular"] == pytest.approx(0, abs=1e-6)
    # own force: e_1 at every particle, radial at the first and tangential at the other three
    assert report["tangential_own"] == pytest.approx(3 / 4)
    # gradients: own 1/4 · e_1 each, singular 0.5 · e_i each
    assert report["force_singular"] == pytest.approx(0.5 / 0.25)


def test_the_brownian_force_is_mostly_tangential() -> None:
    z = normalize(torch.randn(2, 50, 64, generator=torch.Generator().manual_seed(0)), dim=-1)
    method = Pulled(torch.ones(64), Forces(brownian=1.0))
    report = force_report(method, (z,), None, torch.Generator().manual_seed(1))
    # of a random unit vector in d dimensions a share of √(1 − 1/d) is tangential
    assert report["tangential_brownian"] == pytest.approx(math.sqrt(1 - 1 / 64), abs=0.005)
    assert report["force_brownian"] == pytest.approx(1 / 8, rel=1e-3)  # against the norm of eight of own's direction
    assert "singular_scale" not in report
