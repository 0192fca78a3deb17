"""DINO against its equations written anew, and against the numbers of its authors' code."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small_methods import numbers, some_views
from torch import Tensor
from torch.nn.functional import normalize

from pretrain.methods import dino
from pretrain.recipe import EncoderSpec
from transfer.runtime.errors import UserError

SMALL = dino.Settings(small_views=2, small_crop=16, hidden=8, dimensions=6, prototypes=5, freeze=2)


def make(**changes: Any) -> dino.DINO:
    torch.manual_seed(0)
    return dino.build(EncoderSpec("resnet18"), replace(SMALL, **changes))


def step(method: dino.DINO, optimizer: torch.optim.Optimizer, number: int, of: int = 10) -> tuple[Tensor, ...]:
    optimizer.zero_grad(set_to_none=True)
    method.before_step(number / of)
    outputs = method(some_views(method, seed=10 * number))
    method.total(outputs, None, None)[0].backward()
    method.after_backward(number)
    optimizer.step()
    detached = tuple(output.detach() for output in outputs)
    method.after_step(number / of, detached)
    return detached


def test_loss_and_centre_are_the_formulas(tiny: None) -> None:
    method = make(teacher_temperature=0.07, temperature=0.2, center_momentum=0.8).double()
    student, teacher, center = numbers(4, 7, 5), numbers(2, 7, 5, seed=1), numbers(5, seed=2)
    method.center.copy_(center)
    found, _ = method.loss((numbers(4, 7, 6), student, teacher), None)

    def distribution(scores: Any) -> Any:
        return np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)

    q = distribution((teacher.numpy() - center.numpy()) / 0.07)
    log_p = np.log(distribution(student.numpy() / 0.2))
    terms = [-(q[i] * log_p[v]).sum(-1).mean() for i in range(2) for v in range(4) if v != i]
    assert len(terms) == 6
    assert found.item() == pytest.approx(np.mean(terms), rel=1e-10)
    method.after_step(0.5, (numbers(4, 7, 6), student, teacher))
    expected = 0.8 * center.numpy() + 0.2 * teacher.numpy().reshape(14, 5).mean(0)
    np.testing.assert_allclose(method.center.numpy(), expected, rtol=1e-10)


def test_no_gradient_reaches_the_teacher(tiny: None) -> None:
    method = make()
    outputs = method(some_views(method))
    assert not outputs[2].requires_grad
    loss, _ = method.loss(outputs, None)
    loss.backward()
    assert all(p.grad is None for p in method.target.parameters())
    assert all(p.grad is not None for p in method.online.parameters() if p.requires_grad)


def test_collapse_is_the_logarithm_of_the_outputs(tiny: None) -> None:
    method = make()
    same = numbers(1, 1, 5).float()
    method.center.copy_(same[0, 0])
    loss, _ = method.loss((torch.zeros(4, 8, 6), torch.zeros(4, 8, 5), same.expand(2, 8, 5)), None)
    assert loss.item() == pytest.approx(math.log(5))


def test_the_teacher_sees_the_large_views_alone_and_sizes_go_together(tiny: None) -> None:
    method = make()
    z, scores, wanted = method(some_views(method))
    assert (z.shape, scores.shape, wanted.shape) == ((4, 8, 6), (4, 8, 5), (2, 8, 5))
    assert method.online.encoder.bn.num_batches_tracked.item() == 2  # large, small
    assert method.target.encoder.bn.num_batches_tracked.item() == 1
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(4, 8))
    rows = normalize(method.online.projector.last.direction, dim=1)
    torch.testing.assert_close(scores, z @ rows.T)  # lengths of 1: cosines
    assert scores.abs().max() <= 1 + 1e-5


@pytest.mark.parametrize("fixed", [True, False])
def test_lengths_of_the_last_layer_stay_or_are_learnt(tiny: None, fixed: bool) -> None:
    method = make(fixed_norm=fixed, freeze=0)
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=5.0)
    before = method.online.projector.last.direction.detach().clone()
    for number in range(2):
        step(method, optimizer, number)
    assert not torch.equal(method.online.projector.last.direction, before)
    assert torch.equal(method.online.projector.last.length, torch.ones(5, 1)) == fixed


def test_the_last_layer_rests_at_the_start(tiny: None) -> None:
    method = make(freeze=2, fixed_norm=False)
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    start = method.online.projector.last.direction.detach().clone()
    moved = []
    for number in range(3):
        encoder = method.online.encoder.conv.weight.detach().clone()
        step(method, optimizer, number)
        assert not torch.equal(encoder, method.online.encoder.conv.weight)
        moved.append(not torch.equal(method.online.projector.last.direction, start))
    assert moved == [False, False, True]


def test_the_gradient_of_each_tensor_is_shortened_by_itself(tiny: None) -> None:
    method = make(clip_each=0.5, freeze=0)
    outputs = method(some_views(method))
    (100 * method.total(outputs, None, None)[0]).backward()
    before = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
    method.after_backward(0)
    assert any(gradient.norm() > 0.5 for gradient in before.values())
    for name, parameter in method.named_parameters():
        if name in before:
            expected = before[name] * min(1.0, 0.5 / (float(before[name].norm()) + 1e-6))
            torch.testing.assert_close(parameter.grad, expected)


def test_schedules_by_hand(tiny: None) -> None:
    method = make(first_temperature=0.04, teacher_temperature=0.07, temperature_warmup=0.1)
    found = []
    for progress in (0.0, 0.05, 0.1, 0.9):
        method.before_step(progress)
        found.append(method.teacher_temperature())
    assert found == pytest.approx([0.04, 0.055, 0.07, 0.07])
    # main_dino.py: --weight_decay 0.04, --weight_decay_end 0.4, along a cosine
    assert [method.weight_decay(p, 0.04) for p in (0, 0.5, 1)] == pytest.approx([0.04, 0.22, 0.4])
    outputs = tuple(output.detach() for output in method(some_views(method)))
    assert method.after_step(0.5, outputs)["ema"] == pytest.approx(0.998)
    assert method.after_step(1.0, outputs)["ema"] == 1


def test_the_teacher_follows_with_its_head(tiny: None) -> None:
    method = make(ema=0.75, freeze=0)
    assert all(torch.equal(p, dict(method.online.named_parameters())[n]) for n, p in method.target.named_parameters())
    outputs = tuple(output.detach() for output in method(some_views(method)))
    before = method.target.projector.last.direction.clone()
    with torch.no_grad():
        for parameter in method.online.parameters():
            parameter.add_(1)
    method.after_step(0.0, outputs)
    torch.testing.assert_close(method.target.projector.last.direction, before + 0.25)


def test_the_centre_is_remembered_outside_the_branches(tiny: None) -> None:
    method = make()
    step(method, torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.01), 0)
    state = method.state_dict()
    assert {name for name in state if name.split(".")[0] not in method.branches} == {"center"}
    assert state["center"].abs().max() > 0
    assert {key.split(".")[0] for key in method.online.state_dict()} == {"encoder", "projector"}


def test_a_batch_may_be_cut_and_the_order_of_images_does_not_matter(tiny: None) -> None:
    method = make().eval()
    views = some_views(method)
    whole = method(views)
    parts = [method([view[start : start + 4] for view in views]) for start in (0, 4)]
    joined = tuple(torch.cat(pair, dim=1) for pair in zip(*parts, strict=True))
    for one, other in zip(whole, joined, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    turned = tuple(output[:, order] for output in whole)
    torch.testing.assert_close(method.loss(turned, None)[0], method.loss(whole, None)[0])


def test_scores_stay_float32_under_autocast(tiny: None) -> None:
    method = make()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = method(some_views(method))
    assert {output.dtype for output in outputs} == {torch.float32}


def test_images_of_plain_colours_are_told_apart(tiny: None) -> None:
    method = make(small_views=0, freeze=0, ema=0.9, dimensions=16, hidden=32, prototypes=16)
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=2e-2)
    colours = torch.eye(4)[:, :3].repeat(2, 1)[:, :, None, None]  # red, green, blue, black, and again
    losses = []
    for number in range(200):
        method.before_step(number / 200)
        noise = numbers(2, 8, 3, 9, 9, seed=number).float()
        outputs = method([colours + 0.1 * one for one in noise])
        loss, _ = method.total(outputs, None, None)
        optimizer.zero_grad()
        loss.backward()
        method.after_backward(number)
        optimizer.step()
        method.after_step(number / 200, tuple(output.detach() for output in outputs))
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.7 * math.log(16)
    found = outputs[2].mean(0).argmax(-1)
    assert len(set(found.tolist())) >= 2
    assert torch.equal(found[:4], found[4:])


def test_protocols_are_the_published_ones() -> None:
    """facebookresearch/dino: main_dino.py's defaults, README.md's commands."""
    for name, batch, steps in (("100", 512, 2502), ("300", 1024, 1251)):
        recipe, settings = dino.PROTOCOLS[name]
        assert (recipe.arch, recipe.crop, recipe.epochs, recipe.batch) == ("vit_small", 224, int(name), batch)
        assert (recipe.optimizer, recipe.lr, recipe.weight_decay, recipe.clip) == ("adamw", 5e-4, 0.04, 0.0)
        assert recipe.peak(recipe.lr) * recipe.final_lr == pytest.approx(1e-6)
        assert (recipe.warmup_epochs, recipe.augmentation, recipe.decay_all) == (10, "dino", False)
        assert (settings.views, settings.small_views, settings.small_crop) == (2, 8, 96)
        assert (settings.hidden, settings.dimensions, settings.prototypes) == (2048, 256, 65536)
        assert (settings.temperature, settings.center_momentum, settings.ema) == (0.1, 0.9, 0.996)
        assert (settings.final_decay, settings.clip_each, settings.freeze) == (0.4, 3.0, steps)
        assert steps == 1_281_167 // batch
    _, vanilla = dino.PROTOCOLS["100"]
    assert (vanilla.fixed_norm, vanilla.first_temperature, vanilla.teacher_temperature) == (True, 0.04, 0.04)
    _, boosted = dino.PROTOCOLS["300"]
    assert (boosted.fixed_norm, boosted.first_temperature, boosted.teacher_temperature) == (False, 0.04, 0.07)
    assert boosted.temperature_warmup * 300 == pytest.approx(30)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"views": 0}, "--views is 0"),
        ({"views": 1, "small_views": 0}, "--small-views 1 or more"),
        ({"small_crop": 8}, "--small-crop is 8"),
        ({"temperature": 0.0}, "--temperature is 0.0"),
        ({"teacher_temperature": math.nan}, "--teacher-temperature is nan"),
        ({"first_temperature": -1.0}, "--first-temperature is -1.0"),
        ({"temperature_warmup": 1.5}, "--temperature-warmup is 1.5"),
        ({"center_momentum": 2.0}, "--center-momentum is 2.0"),
        ({"ema": -0.1}, "--ema is -0.1"),
        ({"final_decay": -0.1}, "--final-decay is -0.1"),
        ({"clip_each": math.inf}, "--clip-each is inf"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tiny: None, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        make(**changes)
    assert words in str(caught.value)
    assert caught.value.todo
