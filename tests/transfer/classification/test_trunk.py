"""Frozen trunks against torchvision's whole model and poolings written out."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from transfer.checkpoints.backbone import Backbone, InputSpec, random_backbone
from transfer.checkpoints.families.resnet import FAMILY, POOLINGS
from transfer.classification.trunk import Trunk
from transfer.runtime.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return random_backbone("resnet18", 3)


def pixels(side: int, count: int = 2) -> Tensor:
    return torch.randint(
        0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(side)
    )


def last_map(backbone: Backbone, images: Tensor) -> np.ndarray:
    """layer4's output in torchvision's own model, seen through a hook; pixels normalised with numpy."""
    spec, found = backbone.input, []
    planes = images.numpy().astype(np.float64) / 255 * spec.value_range
    planes = planes[:, ::-1] if spec.channels == "BGR" else planes
    normal = (planes - np.reshape(spec.mean, (3, 1, 1))) / np.reshape(spec.std, (3, 1, 1))
    model = backbone.network()
    model.get_submodule("layer4").register_forward_hook(lambda *given: found.append(given[2]))
    with torch.no_grad():
        model(torch.from_numpy(normal.astype(np.float32)))
    array: np.ndarray = found[0].numpy()
    return array


@pytest.mark.parametrize("spec", [InputSpec(), InputSpec("BGR", 255.0, (103.5, 116.3, 123.7), (1.0, 57.0, 58.0))])
def test_poolings_are_those_of_torchvisions_last_map(backbone: Backbone, spec: InputSpec) -> None:
    fed = replace(backbone, input=spec)
    found = Trunk(fed, tuple(POOLINGS), CPU)(pixels(224))
    maps = last_map(fed, pixels(224))
    assert maps.shape[2:] == (7, 7)
    windows = [
        [image[channel, i : i + 6, j : j + 6].mean() for channel in range(512) for i in (0, 1) for j in (0, 1)]
        for image in maps
    ]
    for pooling, wanted in {"avg": maps.mean((2, 3)), "max": maps.max((2, 3)), "grid": np.array(windows)}.items():
        assert found[pooling].dtype == torch.float32
        np.testing.assert_allclose(found[pooling].numpy(), wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())


def test_avg_is_what_torchvisions_classifier_gets(backbone: Backbone) -> None:
    from transfer.classification.views import to_network

    model = backbone.network().to(memory_format=torch.channels_last)
    with torch.no_grad():
        wanted = model(to_network(pixels(64), backbone.input, CPU))  # its `fc` is the identity
    assert torch.equal(Trunk(backbone, ("avg",), CPU)(pixels(64))["avg"], wanted)


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_width(arch: str) -> None:
    found = Trunk(random_backbone(arch, 0), ("avg", "max"), CPU)(pixels(32, 1))
    assert {pooling: features.shape[1] for pooling, features in found.items()} == {
        pooling: FAMILY.width(arch, pooling) for pooling in ("avg", "max")
    }
    assert FAMILY.width("resnet50w2", "max") == 4096
    assert FAMILY.width("resnet50", "grid") == 8192  # VISSL: eval_mlp dims [8192, 1000] behind res5


@pytest.mark.parametrize("side", [160, 256])
def test_grid_needs_a_map_of_seven(backbone: Backbone, side: int) -> None:
    with pytest.raises(UserError, match="7 × 7") as caught:
        Trunk(backbone, ("avg", "grid"), CPU)(pixels(side, 1))
    assert f"{side} × {side}" in caught.value.found


def test_stays_frozen_inside_a_model_that_trains(backbone: Backbone) -> None:
    trunk = Trunk(backbone, ("avg",), CPU)
    before = copy.deepcopy(trunk.state_dict())
    model = torch.nn.ModuleDict({"trunk": trunk, "head": torch.nn.Linear(512, 2)}).train()
    loss = model["head"](trunk(pixels(32))["avg"]).sum()
    loss.backward()
    assert model["head"].training
    assert not any(module.training for module in trunk.modules())
    assert not any(parameter.requires_grad for parameter in trunk.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in trunk.state_dict().items())


def test_bf16_is_near_and_gives_float32(backbone: Backbone) -> None:
    exact = Trunk(backbone, ("avg", "max"), CPU)(pixels(64))
    near = Trunk(backbone, ("avg", "max"), CPU, "bf16")(pixels(64))
    for pooling, features in near.items():
        assert features.dtype == torch.float32
        difference = (features - exact[pooling]).norm() / exact[pooling].norm()
        assert 0 < difference < 0.03  # 8 bits of mantissa, 18 layers


@pytest.mark.parametrize(("poolings", "precision"), [((), "fp32"), (("avg", "mean"), "fp32"), (("avg",), "fp16")])
def test_unknown_names_are_refused(backbone: Backbone, poolings: tuple[str, ...], precision: str) -> None:
    with pytest.raises(UserError, match=r"pooling|precision"):
        Trunk(backbone, poolings, CPU, precision)  # type: ignore[arg-type]
