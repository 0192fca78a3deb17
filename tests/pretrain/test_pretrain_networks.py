"""Networks, schedules, presets and signs of health, against numbers worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from pretrain import networks
from pretrain.forces import Forces
from pretrain.methods import find_method
from pretrain.methods.msbreg import PROTOCOLS, Settings, build
from pretrain.networks import Branch, decay_at, follow, mlp, slow_copy
from pretrain.optimizers import build_optimizer, set_rate
from pretrain.presets import method_names
from pretrain.recipe import EncoderSpec, Recipe
from transfer.runtime.errors import UserError


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_encoder_has_torchvision_names(arch: networks.Arch) -> None:
    with torch.device("meta"):
        encoder, features = networks.build_encoder(EncoderSpec(arch))
        expected = torchvision.models.get_model(arch).state_dict()
    assert features == expected["fc.weight"].shape[1]
    assert encoder.state_dict().keys() == {name for name in expected if not name.startswith("fc.")}


def test_the_cifar_stem_keeps_the_resolution_and_the_other_names() -> None:
    encoder, features = networks.build_encoder(EncoderSpec("resnet18", "cifar"))
    usual, _ = networks.build_encoder(EncoderSpec("resnet18"))
    assert encoder.state_dict().keys() == usual.state_dict().keys()
    assert encoder.conv1.weight.shape == (64, 3, 3, 3)
    sizes = []
    encoder.layer1.register_forward_hook(lambda _, __, output: sizes.append(tuple(output.shape)))
    assert encoder(torch.zeros(1, 3, 32, 32)).shape == (1, features)
    assert sizes == [(1, 64, 32, 32)]


def test_the_quarter_network_has_a_quarter_of_the_channels() -> None:
    encoder, features = networks.build_encoder(EncoderSpec("resnet18_quarter"))
    usual = dict(networks.build_encoder(EncoderSpec("resnet18"))[0].named_parameters())
    assert encoder(torch.zeros(2, 3, 32, 32)).shape == (2, features) == (2, 128)
    for name, weight in encoder.named_parameters():
        if name.startswith("layer") and "layer1.0.downsample" not in name:
            assert usual[name].shape[0] == 4 * len(weight)
        if "bn2.weight" in name:
            assert weight.eq(1).all()


def test_heads_have_the_published_sizes() -> None:
    with torch.device("meta"):
        online = build(EncoderSpec("resnet50"), Settings()).online
    shapes = {name: tuple(p.shape) for name, p in online.named_parameters() if not name.startswith("encoder")}
    assert shapes["projector.0.weight"] == (4096, 2048)
    assert shapes["projector.3.weight"] == (256, 4096)
    assert shapes["predictor.0.weight"] == (4096, 256)
    assert shapes["predictor.3.weight"] == (256, 4096)


def test_slow_copy_follows(tiny: None) -> None:
    encoder, features = networks.build_encoder(EncoderSpec("resnet18"))
    online = Branch(encoder, mlp(features, 16, 8), mlp(8, 16, 8))
    target = slow_copy(online)
    assert target.predictor is None
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
    rates = [recipe.peak(recipe.lr) * recipe.rate_at(step, 2048) for step in range(80)]
    assert rates[40] == pytest.approx(0.6)
    assert rates[60] == pytest.approx(0.3)
    assert np.allclose(np.diff(rates[:41]), 0.6 / 41)
    assert rates[79] < 0.001
    low = replace(recipe, final_lr=0.1)
    assert low.rate_at(40, 2048) == 1
    assert low.rate_at(60, 2048) == pytest.approx(0.55)
    assert low.rate_at(80, 2048) == pytest.approx(0.1)


def test_presets_are_the_published_ones() -> None:
    table = {name: (r.epochs, r.lr, r.weight_decay, s.ema) for name, (r, s) in PROTOCOLS.items() if name.isdigit()}
    assert table == {
        "100": (100, 0.45, 1e-6, 0.99),
        "300": (300, 0.3, 1e-6, 0.99),
        "1000": (1000, 0.2, 1.5e-6, 0.996),
    }
    for name in table:
        recipe, settings = PROTOCOLS[name]
        assert (recipe.batch, recipe.optimizer, recipe.momentum, recipe.trust) == (4096, "lars", 0.9, 1e-3)
        assert (recipe.crop, recipe.warmup_epochs, settings.hidden, settings.dimensions) == (224, 10, 4096, 256)
        assert (settings.views, settings.centroid) == (4, "others")
        assert settings.forces == Forces(0.004, 0.5, "nuclear", "view")


class Layers(nn.Module):
    """Stands in for a method with a module whose rate is constant."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.predictor = nn.Linear(3, 2), nn.Linear(2, 2, bias=False)
        self.constant_rate = (self.predictor,)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lars_adapts_weights_and_leaves_biases_alone(weight_decay: float) -> None:
    method = Layers()
    layer = method.layer
    recipe = Recipe(batch=256, lr=4.0, bias_lr=2.0, weight_decay=weight_decay)
    optimizer = build_optimizer(recipe, method)  # type: ignore[arg-type]
    w, b = layer.weight.detach().clone(), layer.bias.detach().clone()
    layer.weight.grad, layer.bias.grad = torch.ones(2, 3), torch.ones(2)
    assert set_rate(optimizer, 0.5, warm=False) == 2.0
    optimizer.step()
    trust = 1e-3 * w.norm() / (math.sqrt(6) + weight_decay * w.norm())
    torch.testing.assert_close(layer.weight.detach(), w - 2 * trust * (1 + weight_decay * w))
    torch.testing.assert_close(layer.bias.detach(), b - 1)


@pytest.mark.parametrize("optimizer", ["sgd", "lars", "adam", "adamw"])
def test_groups_of_the_optimizers(optimizer: Any) -> None:
    method = Layers()
    for decay_all in (False, True):
        recipe = Recipe(optimizer=optimizer, batch=512, lr=0.1, weight_decay=0.3, decay_all=decay_all)
        made = build_optimizer(recipe, method)  # type: ignore[arg-type]
        decay = {id(p): group["weight_decay"] for group in made.param_groups for p in group["params"]}
        assert decay[id(method.layer.weight)] == decay[id(method.predictor.weight)] == 0.3
        assert decay[id(method.layer.bias)] == (0.3 if decay_all else 0.0)
        for warm in (True, False):
            set_rate(made, 0.25, warm)
            rates = {id(p): group["lr"] for group in made.param_groups for p in group["params"]}
            assert rates[id(method.layer.weight)] == pytest.approx(0.05)
            assert rates[id(method.predictor.weight)] == pytest.approx(0.05 if warm else 0.2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"clip": -1.0}, "--clip is -1.0"),
        ({"momentum": 1.0}, "--momentum is 1.0"),
        ({"lr": math.nan}, "--lr is nan"),
        ({"accumulate": 0}, "--accumulate is 0"),
        ({"weight_decay": math.inf}, "--weight-decay is inf"),
        ({"epochs": 5}, "the warm-up of 20 steps is no shorter than the training of 10"),
        ({"warmup_steps": 5}, "--warmup-steps 5 and --warmup-epochs 10"),
        ({"start_lr": 1.5}, "--start-lr is 1.5"),
        ({"milestones": (30,)}, "--factor 1 and --milestones 30 do not go together"),
        ({"factor": 0.1}, "--factor 0.1 and no milestones do not go together"),
        ({"factor": 0.0}, "--factor is 0.0"),
        ({"factor": 0.1, "milestones": (60, 30)}, "--milestones 60 30"),
        ({"factor": 0.1, "milestones": (30, 100)}, "the training of 100 epochs does not reach them all"),
        ({"factor": 0.1, "milestones": (30,), "steps": 60}, "the training of 30 epochs does not reach them all"),
        ({"factor": 0.1, "milestones": (30,), "per_epoch": True}, "--milestones 30 and an option of the cosine"),
    ],
)
def test_values_out_of_range_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        replace(Recipe(), **change).check(images=10_000)
    assert words in str(caught.value)


def test_a_batch_must_divide_evenly() -> None:
    Recipe(batch=24, accumulate=3).check_processes(4)
    for batch, accumulate, processes in ((24, 5, 1), (24, 1, 7), (24, 6, 4)):
        with pytest.raises(UserError, match="does not divide") as caught:
            Recipe(batch=batch, accumulate=accumulate).check_processes(processes)
        assert f"multiple of {processes * accumulate}" in caught.value.todo


def test_methods_are_found_by_their_files() -> None:
    assert "msbreg" in method_names()
    for name in method_names():
        module = find_method(name)
        assert {"PROTOCOLS", "PRESETS", "Settings", "build"} <= vars(module).keys()
        assert all(isinstance(settings, module.Settings) for _, settings in module.PRESETS.values())
