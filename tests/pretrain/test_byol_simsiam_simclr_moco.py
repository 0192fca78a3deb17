"""BYOL, SimSiam, SimCLR and MoCo v2 against their papers' formulas, in loops over float64, and the laws they obey."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from pretrain.methods import Method, Outputs, byol, find_method, mocov2, msbreg, simclr, simsiam
from pretrain.optimizers import build_optimizer, set_rate
from pretrain.recipe import EncoderSpec, Recipe
from pretrain.step import Step
from transfer.runtime.errors import UserError

NAMES = ("byol", "simsiam", "simclr", "mocov2")
SMALL: dict[str, Any] = {
    "byol": byol.Settings(hidden=12, dimensions=6, ema=0.9),
    "simsiam": simsiam.Settings(dimensions=6, bottleneck=4),
    "simclr": simclr.Settings(dimensions=6, temperature=0.3),
    "mocov2": mocov2.Settings(dimensions=6, ema=0.9, queue=20, groups=2),
}


def small(name: str, **changes: Any) -> Method:
    torch.manual_seed(0)
    method: Method = find_method(name).build(EncoderSpec("resnet18"), replace(SMALL[name], **changes))
    return method.train()


def units(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def outputs_of(name: str, n: int, seed: int = 0) -> Outputs:
    """What `forward` would give for n images, of 6 dimensions."""
    if name == "simclr":
        return (units(2, n, 6, seed=seed),)
    views = 1 if name == "mocov2" else 2
    return units(views, n, 6, seed=seed), units(views, n, 6, seed=seed + 1000)


def views(n: int = 8, seed: int = 0) -> list[Tensor]:
    return list(torch.randn(2, n, 3, 9, 9, generator=torch.Generator().manual_seed(seed)))


def by_loops(name: str, method: Method, outputs: Outputs) -> float:
    """The loss as the paper writes it, one image at a time."""
    if name == "simclr":
        z, total = outputs[0].numpy().reshape(-1, 6), 0.0
        n = len(z) // 2
        for i in range(2 * n):
            exps = [math.exp(np.dot(z[i], z[j]) / 0.3) for j in range(2 * n)]
            total -= math.log(exps[(i + n) % (2 * n)] / (sum(exps) - exps[i]))
        return total / (2 * n)
    first, second = (output.numpy() for output in outputs)
    n = first.shape[1]
    if name == "byol":
        return sum(
            float(((first[0, i] - second[1, i]) ** 2).sum() + ((first[1, i] - second[0, i]) ** 2).sum()) / n
            for i in range(n)
        )
    if name == "simsiam":
        return sum(
            -0.5 * float(first[0, i] @ second[1, i]) / n - 0.5 * float(first[1, i] @ second[0, i]) / n for i in range(n)
        )
    total = 0.0
    for q, k in zip(first[0], second[0], strict=True):
        positive = math.exp(q @ k / 0.2)
        total -= math.log(positive / (positive + sum(math.exp(q @ key / 0.2) for key in method.queue.numpy())))
    return total / n


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("n", [1, 7])
@pytest.mark.parametrize("name", NAMES)
def test_loss_is_the_papers(name: str, n: int) -> None:
    method, outputs = small(name).double(), outputs_of(name, n)
    loss, terms = method.loss(outputs, None)
    assert loss.item() == pytest.approx(by_loops(name, method, outputs), rel=1e-9)
    assert [term.item() for term in terms.values()] == [loss.item()]


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("name", NAMES)
def test_order_of_images_and_rotation_of_the_sphere_do_not_matter(name: str) -> None:
    method, outputs = small(name).double(), outputs_of(name, 9)
    loss, _ = method.loss(outputs, None)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(method.loss(tuple(o[:, order] for o in outputs), None)[0], loss)
    turn, _ = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64))
    if name == "mocov2":
        method.queue.copy_(method.queue @ turn)
    torch.testing.assert_close(method.loss(tuple(o @ turn for o in outputs), None)[0], loss)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("name", ["byol", "simsiam", "simclr"])
def test_the_two_views_have_equal_parts(name: str) -> None:
    method, outputs = small(name), outputs_of(name, 5)
    swapped, _ = method.loss(tuple(o.flip(0) for o in outputs), None)
    torch.testing.assert_close(swapped, method.loss(outputs, None)[0])


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("name", NAMES)
def test_known_values(name: str) -> None:
    """Views that agree, views that are opposite, and all images in one place."""
    method, z = small(name).double(), units(1, 5, 6)
    same, opposite, one = torch.cat([z, z]), torch.cat([z, -z]), units(1, 1, 6).expand(2, 5, 6)
    if name == "byol":
        assert method.loss((same, same), None)[0].item() == pytest.approx(0, abs=1e-12)
        assert method.loss((same, -same), None)[0].item() == pytest.approx(8)
    elif name == "simsiam":
        assert method.loss((same, same), None)[0].item() == pytest.approx(-1)
        assert method.loss((same, opposite), None)[0].item() == pytest.approx(0, abs=1e-12)
    elif name == "simclr":
        assert method.loss((one,), None)[0].item() == pytest.approx(math.log(9))
        apart = torch.eye(6, dtype=torch.float64)[:5].expand(2, 5, 6)
        assert method.loss((apart,), None)[0].item() == pytest.approx(math.log(1 + 8 * math.exp(-1 / 0.3)))
    else:
        method.queue.copy_(one[0, :1].expand(20, 6))
        assert method.loss((one[:1], one[:1]), None)[0].item() == pytest.approx(math.log(21))
        assert method.loss((one[:1], -one[:1]), None)[0].item() == pytest.approx(math.log(1 + 20 * math.exp(10)))


@pytest.mark.usefixtures("tiny")
def test_byol_is_twice_the_centroid_loss_of_two_views() -> None:
    outputs = outputs_of("byol", 6)
    half = msbreg.build(EncoderSpec("resnet18"), msbreg.Settings(views=2, hidden=12, dimensions=6)).loss(outputs, None)[
        0
    ]
    torch.testing.assert_close(small("byol").loss(outputs, None)[0], 2 * half)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("name", NAMES)
def test_forward_gives_unit_vectors_with_the_images_in_dimension_1(name: str) -> None:
    method = small(name)
    outputs = method(views(8))
    assert {tuple(o.shape) for o in outputs} == {(1 if name == "mocov2" else 2, 8, 6)}
    for output in outputs:
        torch.testing.assert_close(output.norm(dim=-1), torch.ones(output.shape[:2]))
    assert outputs[0].requires_grad
    assert not any(output.requires_grad for output in outputs[1:])


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_the_trained_network_alone(name: str) -> None:
    method = small(name)
    method.loss(method(views()), None)[0].backward()
    reached = {key for key, p in method.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    trained = {key for key, p in method.named_parameters() if p.requires_grad}
    silent = {"online.projector.4.bias"} if name == "simclr" else set()
    assert {key for key, _ in method.named_parameters() if key.startswith("online.")} == trained | silent
    # a shift before BatchNorm has no effect: these gradients are rounding
    assert {key for key in trained - reached if not key.endswith("bias")} == set()
    assert reached <= trained


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("name", ["simsiam", "mocov2"])
def test_loss_stops_the_gradient_of_what_is_not_trained(name: str) -> None:
    leaves = tuple(o.requires_grad_() for o in outputs_of(name, 4))
    loss, _ = small(name).double().loss(leaves, None)
    trained, stopped = torch.autograd.grad(loss, leaves, allow_unused=True)
    assert trained.abs().sum() > 0
    assert stopped is None


@pytest.mark.usefixtures("tiny")
def test_simsiams_gradient_is_that_with_the_projections_held_fixed() -> None:
    """By finite differences at a weight of the encoder, through which z would move too."""
    method = small("simsiam").double()
    given = [view.double() for view in views(6)]
    weight = method.online.encoder.conv.weight
    method.loss(method(given), None)[0].backward()
    with torch.no_grad():
        start = [normalize(method.online(view)[1], dim=-1) for view in given]

        def attraction(shift: float, fixed: bool) -> float:
            weight[1, 2, 0, 1] += shift
            p, z = zip(*([normalize(o, dim=-1) for o in method.online(view)] for view in given), strict=True)
            weight[1, 2, 0, 1] -= shift
            towards = start if fixed else z
            return -float((p[0] * towards[1]).sum(-1).mean() + (p[1] * towards[0]).sum(-1).mean()) / 2

        held, free = ((attraction(1e-5, fixed) - attraction(-1e-5, fixed)) / 2e-5 for fixed in (True, False))
    assert weight.grad[1, 2, 0, 1].item() == pytest.approx(held, rel=1e-3)
    assert free != pytest.approx(held, rel=0.1)


def train_step(method: Method, seed: int = 0, parts: int = 1, lr: float = 5.0) -> Outputs:
    recipe = Recipe(batch=8, accumulate=parts, optimizer="sgd", lr=lr)
    step = Step(method, build_optimizer(recipe, method), recipe, torch.device("cpu"))
    given = views(8, seed)
    size = 8 // parts
    cut = [[view[i * size : (i + 1) * size] for view in given] for i in range(parts)]
    return step(cut, None, 0, 0.5, None).outputs


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("name", NAMES)
def test_a_batch_in_parts_has_the_loss_and_gradient_of_the_whole(name: str) -> None:
    """BatchNorm apart, which sees a part: it is held at its running statistics."""
    gradients = []
    for parts in (1, 2):
        method = small(name)
        for module in method.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        train_step(method, parts=parts)
        gradients.append({key: p.grad for key, p in method.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient, rtol=1e-4, atol=1e-6, msg=key)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(("name", "decay"), [("byol", 0.95), ("mocov2", 0.9)])
def test_the_slow_copy_follows(name: str, decay: float) -> None:
    """BYOL's decay is half-way from 0.9 to 1 at half of the training; MoCo's is constant."""
    method = small(name)
    before = {key: p.clone() for key, p in method.named_parameters() if key.startswith("target.")}
    train_step(method)
    after = dict(method.named_parameters())
    moved = 0.0
    for key, start in before.items():
        online = after[key.replace("target.", "online.", 1)]
        torch.testing.assert_close(after[key].data, decay * start + (1 - decay) * online.data)
        moved += float((after[key] - start).abs().sum())
    assert moved > 0


@pytest.mark.usefixtures("tiny")
def test_simsiams_predictor_keeps_its_rate() -> None:
    method, recipe = small("simsiam"), simsiam.PROTOCOLS["100"][0]
    optimizer = build_optimizer(recipe, method)
    set_rate(optimizer, 0.25, warm=False)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert {rates[id(p)] for p in method.online.predictor.parameters()} == {0.1}
    rest = [p for part in (method.online.encoder, method.online.projector) for p in part.parameters()]
    assert {rates[id(p)] for p in rest} == {0.025}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {1e-4}


@pytest.mark.usefixtures("tiny")
def test_simclrs_embeddings_have_no_shift() -> None:
    method = small("simclr")
    optimizer = build_optimizer(Recipe(optimizer="sgd", lr=1.0, batch=256), method)
    assert all(method.online.projector[-1].bias is not p for group in optimizer.param_groups for p in group["params"])
    raw = []
    method.online.register_forward_hook(lambda _, __, output: raw.append(output.detach()))
    for seed in range(3):
        train_step(method, seed)
    assert len(raw[0]) == 16, "both views in one BatchNorm"
    torch.testing.assert_close(raw[-1].mean(0), torch.zeros(6), rtol=0, atol=1e-4)


# Settings and presets

BAD = [
    *((name, {"views": count}, "--views") for name in NAMES for count in (1, 3)),
    ("byol", {"ema": 1.5}, "--ema"),
    ("byol", {"hidden": 0}, "--hidden"),
    ("simsiam", {"bottleneck": 0}, "--bottleneck"),
    ("simclr", {"temperature": 0.0}, "--temperature"),
    ("simclr", {"dimensions": 0}, "--dimensions"),
    ("mocov2", {"temperature": -1.0}, "--temperature"),
    ("mocov2", {"ema": -0.1}, "--ema"),
    ("mocov2", {"queue": 0}, "--queue"),
    ("mocov2", {"groups": 0}, "--groups"),
]


@pytest.mark.parametrize(
    ("name", "changes", "option"), BAD, ids=[f"{name}-{next(iter(changes.items()))}" for name, changes, _ in BAD]
)
def test_bad_settings_are_refused_by_name(name: str, changes: dict[str, Any], option: str) -> None:
    module = find_method(name)
    with pytest.raises(UserError, match=option) as error:
        module.build(EncoderSpec("resnet18"), replace(module.Settings(), **changes))
    assert "give" in error.value.todo


COLUMNS = ("epochs", "batch", "optimizer", "lr", "weight_decay", "decay_all", "warmup_epochs", "augmentation")
PUBLISHED = {
    "byol": {
        "100": (100, 4096, "lars", 0.45, 1e-6, False, 10, "byol"),
        "300": (300, 4096, "lars", 0.3, 1e-6, False, 10, "byol"),
        "1000": (1000, 4096, "lars", 0.2, 1.5e-6, False, 10, "byol"),
    },
    "simsiam": {
        "100": (100, 512, "sgd", 0.05, 1e-4, True, 0, "moco"),
        "200": (200, 256, "sgd", 0.05, 1e-4, True, 0, "moco"),
        "400": (400, 256, "sgd", 0.05, 1e-4, True, 0, "moco"),
        "800": (800, 256, "sgd", 0.05, 1e-4, True, 0, "moco"),
    },
    "simclr": {
        "100": (100, 4096, "lars", 0.3, 1e-6, False, 10, "simclr"),
        "1000": (1000, 4096, "lars", 0.3, 1e-6, False, 10, "simclr"),
    },
    "mocov2": {
        "200": (200, 256, "sgd", 0.03, 1e-4, True, 0, "moco"),
        "800": (800, 256, "sgd", 0.03, 1e-4, True, 0, "moco"),
    },
}


@pytest.mark.parametrize("name", NAMES)
def test_protocols_are_the_published_ones(name: str) -> None:
    module = find_method(name)
    assert list(module.PROTOCOLS) == [*PUBLISHED[name]]
    for key, row in PUBLISHED[name].items():
        recipe = module.PROTOCOLS[key][0]
        assert tuple(getattr(recipe, column) for column in COLUMNS) == row
        assert (recipe.arch, recipe.crop, recipe.momentum, recipe.final_lr) == ("resnet50", 224, 0.9, 0)
    assert module.PRESETS["demo"][0].steps > 0
    for recipe, chosen in (*module.PROTOCOLS.values(), *module.PRESETS.values()):
        assert chosen.views == 2
        assert (chosen.forces.singular, chosen.forces.brownian) == (0, 0)
        recipe.check(10**6)


def test_heads_have_the_published_sizes() -> None:
    with torch.device("meta"):
        methods = {
            name: find_method(name).build(EncoderSpec("resnet50"), find_method(name).Settings()) for name in NAMES
        }
    found = {}
    for name, method in methods.items():
        assert method.online.encoder.layer1[0].bn3.weight.shape == (256,)
        heads = [(key, p) for key, p in method.online.named_parameters() if not key.startswith("encoder")]
        found[name] = [(*p.shape[::-1],) for key, p in heads if p.ndim == 2]
    assert found == {
        "byol": [(2048, 4096), (4096, 256), (256, 4096), (4096, 256)],
        "simsiam": [(2048, 2048), (2048, 2048), (2048, 2048), (2048, 512), (512, 2048)],
        "simclr": [(2048, 2048), (2048, 128)],
        "mocov2": [(2048, 2048), (2048, 128)],
    }
    assert methods["mocov2"].queue.shape == (65536, 128)
    assert methods["simsiam"].online.projector[-1].affine is False


@pytest.mark.parametrize(("name", "zero"), [("simsiam", True), ("simclr", True), ("mocov2", False), ("byol", False)])
def test_residual_branches_start_as_published(name: str, zero: bool) -> None:
    """In ResNet-18, which has no bottlenecks: BYOL's Haiku blocks start at zero only where there is one."""
    method = find_method(name).build(EncoderSpec("resnet18"), SMALL[name])
    last = method.online.encoder.layer1[0].bn2.weight
    assert bool((last == 0).all()) is zero
