"""Networks, schedules, presets and signs of health, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from pretrain import networks
from pretrain.health import collapse_warning, health
from pretrain.losses import MSBReg
from pretrain.methods import find_method, method_names
from pretrain.methods.msbreg import PRESETS, Settings
from pretrain.networks import Branch, decay_at, follow, slow_copy
from pretrain.optimizers import build_optimizer
from pretrain.recipe import Recipe


def test_health_by_hand() -> None:
    spread = health(torch.eye(8))
    assert spread["effective_rank"] == pytest.approx(8)
    # one dimension of a unit vector e_i over 8 images: variance 1/8 − 1/64
    assert spread["std"] == pytest.approx(math.sqrt((1 / 8 - 1 / 64) * 8))
    assert not collapse_warning(spread)
    collapsed = health(torch.eye(8)[:1].expand(8, 8))
    assert collapsed == pytest.approx({"std": 0.0, "effective_rank": 1.0}, abs=1e-4)
    assert "collapsing" in collapse_warning(collapsed)


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_encoder_has_torchvision_names(arch: networks.Arch) -> None:
    with torch.device("meta"):
        encoder, features = networks.build_encoder(arch)
        expected = torchvision.models.get_model(arch).state_dict()
    assert features == expected["fc.weight"].shape[1]
    assert encoder.state_dict().keys() == {name for name in expected if not name.startswith("fc.")}


def test_heads_have_the_published_sizes() -> None:
    with torch.device("meta"):
        online = Branch("resnet50", Settings().hidden, Settings().dimensions, predictor=True)
    shapes = {name: tuple(p.shape) for name, p in online.named_parameters() if not name.startswith("encoder")}
    assert shapes["projector.0.weight"] == (4096, 2048)
    assert shapes["projector.3.weight"] == (256, 4096)
    assert shapes["predictor.0.weight"] == (4096, 256)
    assert shapes["predictor.3.weight"] == (256, 4096)


def test_slow_copy_follows(tiny: None) -> None:
    online = Branch("resnet18", 16, 8, predictor=True)
    target = slow_copy(online)
    before = target.projector[0].weight.clone()
    with torch.no_grad():
        for parameter in online.parameters():
            parameter.add_(1)
    follow(target, online, 0.75)
    torch.testing.assert_close(target.projector[0].weight, before + 0.25)
    assert not any(parameter.requires_grad for parameter in target.parameters())


def test_schedules_by_hand() -> None:
    assert decay_at(0, 0.99) == pytest.approx(0.99)
    assert decay_at(0.5, 0.99) == pytest.approx(0.995)
    assert decay_at(1, 0.99) == 1
    recipe = Recipe(epochs=20, warmup_epochs=10, batch=512, lr=0.3)  # 4 steps an epoch of 2,048 images
    assert recipe.total_steps(2048) == 80
    rates = [recipe.lr_at(step, 2048) for step in range(80)]
    assert rates[40] == pytest.approx(0.6)
    assert rates[60] == pytest.approx(0.3)
    assert np.allclose(np.diff(rates[:41]), 0.6 / 41)
    assert rates[79] < 0.001


def test_presets_are_the_published_ones() -> None:
    table = {name: (r.epochs, r.lr, r.weight_decay, s.ema) for name, (r, s) in PRESETS.items() if name.isdigit()}
    assert table == {
        "100": (100, 0.45, 1e-6, 0.99),
        "300": (300, 0.3, 1e-6, 0.99),
        "1000": (1000, 0.2, 1.5e-6, 0.996),
    }
    for name in table:
        recipe, settings = PRESETS[name]
        assert (recipe.batch, recipe.optimizer, recipe.momentum, recipe.trust) == (4096, "lars", 0.9, 1e-3)
        assert (recipe.crop, recipe.warmup_epochs, settings.hidden, settings.dimensions) == (224, 10, 4096, 256)
        assert (settings.views, settings.loss) == (4, MSBReg(0.004, 0.5, "nuclear", "view", "others"))


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lars_adapts_weights_and_leaves_biases_alone(weight_decay: float) -> None:
    layer = nn.Linear(3, 2)
    optimizer = build_optimizer(Recipe(weight_decay=weight_decay), layer)
    w, b = layer.weight.detach().clone(), layer.bias.detach().clone()
    layer.weight.grad, layer.bias.grad = torch.ones(2, 3), torch.ones(2)
    for group in optimizer.param_groups:
        group["lr"] = 2.0
    optimizer.step()
    trust = 1e-3 * w.norm() / (math.sqrt(6) + weight_decay * w.norm())
    torch.testing.assert_close(layer.weight.detach(), w - 2 * trust * (1 + weight_decay * w))
    torch.testing.assert_close(layer.bias.detach(), b - 2)


def test_methods_are_found_by_their_files() -> None:
    assert "msbreg" in method_names()
    for name in method_names():
        module = find_method(name)
        assert {"PRESETS", "Settings", "build"} <= vars(module).keys()
        assert all(isinstance(settings, module.Settings) for _, settings in module.PRESETS.values())
