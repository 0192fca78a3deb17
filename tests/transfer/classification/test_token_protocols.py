"""What the linear protocols of vision transformers have beside those of ResNets: warm-up, LARS, norms of tokens."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from transfer.checkpoints.families import family_of
from transfer.classification.sgd.bank import Bank, Head, Norm, rule_of
from transfer.classification.sgd.recipe import TokenSgdRecipe
from transfer.runtime.errors import UserError
from transfer.task import load_task

TASK = load_task("transfer.imagenet_linear")
MAE: TokenSgdRecipe = TASK.protocols["mae"].sgd
S16 = "vit_small_patch16_224"


def test_the_rate_of_mae_rises_for_ten_epochs_and_falls_as_a_cosine() -> None:
    images, steps = 16_384 * 5, 5
    assert MAE.share(0, images) == 0
    assert MAE.share(10 * steps, images) == 1
    assert MAE.share(3, images) == pytest.approx(3 / 5 / 10)  # util/lr_sched.py: epoch / warmup_epochs
    half = MAE.share(50 * steps, images)
    assert half == pytest.approx((1 + math.cos(math.pi * 40 / 80)) / 2)


def test_without_warm_up_the_rate_is_that_of_other_recipes() -> None:
    dinov2 = TASK.protocols["dinov2"].sgd
    assert [dinov2.share(step, 1_281_167) for step in (0, 6_250)] == [1, pytest.approx(0.5)]
    moco = TASK.protocols["moco_v3"].sgd
    assert moco.share(5, 10 * 1024) == 1  # by epoch
    assert moco.share(45 * 10, 10 * 1024) == pytest.approx(0.5)


def test_a_warm_up_as_long_as_the_training_is_refused() -> None:
    with pytest.raises(UserError, match="cannot be trained"):
        replace(MAE, warmup_epochs=90).check()


def test_dinov2_trains_52_classifiers() -> None:
    grid = TASK.protocols["dinov2"].grid()
    assert len(grid) == 13 * 4
    assert (min(head.lr for head in grid), max(head.lr for head in grid)) == (4e-5, 0.4)
    assert len(TASK.protocols["ibot_vit_small"].grid()) == 45


def mae_step(layer: nn.Linear, momenta: list[torch.Tensor], lr: float) -> None:
    """LARS as MAE has it, written from its description: tensors of one dimension descend by plain momentum."""
    for parameter, momentum in zip(layer.parameters(), momenta, strict=True):
        assert parameter.grad is not None
        slope = parameter.grad
        if parameter.ndim > 1:
            length, steepness = parameter.norm(), slope.norm()
            slope = slope * (0.001 * length / steepness if length > 0 and steepness > 0 else 1.0)
        momentum.mul_(0.9).add_(slope)
        parameter.data.sub_(lr * momentum)


def test_a_bank_descends_as_maes_lars_behind_maes_norm() -> None:
    torch.manual_seed(0)
    norm = Norm(0, affine=False, eps=1e-6, momentum=0.1)
    bank = Bank(
        [Head(0.5, 0.0, "cls")], {"cls": 12}, 3, rule=rule_of(MAE), norm=norm, seed=0, device=torch.device("cpu")
    )
    before, layer = nn.BatchNorm1d(12, affine=False, eps=1e-6), nn.Linear(12, 3)
    weight, bias = bank.classifier(0)
    layer.weight.data.copy_(weight)
    layer.bias.data.copy_(bias)
    momenta = [torch.zeros_like(parameter) for parameter in layer.parameters()]
    for _ in range(4):
        x, labels = torch.randn(16, 12) * 3 + 1, torch.randint(0, 3, (16,))
        bank.step({"cls": x}, labels, 1.0, 16)
        layer.zero_grad()
        nn.functional.cross_entropy(layer(before(x)), labels).backward()
        mae_step(layer, momenta, 0.5)
    torch.testing.assert_close(bank.classifier(0)[0], layer.weight.data, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(bank.classifier(0)[1], layer.bias.data, rtol=1e-5, atol=1e-6)
    seen = torch.randn(5, 12)
    torch.testing.assert_close(bank.logits({"cls": seen})[:, 0], layer(before.eval()(seen)), rtol=1e-5, atol=1e-5)


def test_poolings_of_resnets_stand_for_the_usual_token_and_that_is_a_departure_where_it_is_one() -> None:
    svm, knn = load_task("transfer.voc07_svm"), load_task("transfer.knn")
    assert svm.suited(svm.protocols["vissl"], S16).pooling == "cls"
    assert svm.suited(svm.protocols["vissl"], "resnet50") == svm.protocols["vissl"]
    assert svm.suited(svm.protocols["vissl"], f"{S16}.nocls").pooling == "patches"
    assert not svm.covers("vissl", S16)
    assert knn.covers("dino", S16)
    assert TASK.covers("mae", S16)
    assert not TASK.covers("mae", "resnet50")
    assert TASK.suited(TASK.protocols["dinov2"], S16) == TASK.protocols["dinov2"]


def test_a_resnet_has_no_tokens() -> None:
    for pooling in ("cls", "cls4+patches"):
        with pytest.raises(UserError, match="avg, max, grid"):
            family_of("resnet50").demand_pooling("resnet50", pooling)


def test_features_of_several_maps_are_normalised_number_by_number() -> None:
    recipe = replace(TASK.protocols["mae"], head="batchnorm")
    for arch in ("swin_tiny_window7_224", S16):
        norm = recipe.norm(arch)
        assert norm is not None
        assert norm.channels == 0
    norm = recipe.norm("resnet50")
    assert norm is not None
    assert norm.channels == 2048
