"""What Barlow Twins, VICReg, W-MSE, SwAV and supervised training have in common."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from small_methods import LABELS, NAMES, make, numbers, some_views

from pretrain.forces import Forces
from pretrain.methods import find_method
from pretrain.views import AUGMENTATIONS
from transfer.runtime.errors import UserError


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
def test_protocols_and_presets_are_complete(name: str) -> None:
    module = find_method(name)
    assert list(module.PRESETS) == ["demo"]
    assert all(int(key.split("-")[0]) == recipe.epochs for key, (recipe, _) in module.PROTOCOLS.items())
    for recipe, options in (*module.PROTOCOLS.values(), *module.PRESETS.values()):
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
        ("wmse", "240", 2e-3, 0, 1e-6, True, 0),  # 500 steps: test_schedules.py
        ("wmse", "1000-views4", 3e-3, 0, 1e-6, True, 0),
        ("supervised", "90", 0.1, 0, 1e-4, True, 0),
    ],
)
def test_presets_are_the_published_ones(
    name: str, preset: str, peak: float, final: float, decay: float, everything: bool, warmup: float
) -> None:
    recipe, _ = find_method(name).PROTOCOLS[preset]
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
