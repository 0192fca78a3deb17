"""Blocks that are computed again in the backward pass: the same numbers, statistics moved once, less kept."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from detection.engines.recompute import recompute_blocks

SLOW = pytest.mark.slow
PLACES = {"resnet18": 8, "resnet50": 16}


def network(arch: str) -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = torchvision.models.get_model(arch, num_classes=3)
    return made.train()


def steps(model: nn.Module, autocast: bool = False) -> list[Tensor]:
    """Two steps of SGD; returns all that the network then holds."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for seed in range(2):
        images = torch.randn(4, 3, 48, 48, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(images).float().square().mean()
        loss.backward()
        optimizer.step()
    return [tensor.clone() for tensor in model.state_dict().values()]


@pytest.mark.parametrize(
    ("arch", "autocast"),
    [("resnet18", False), pytest.param("resnet18", True, marks=SLOW), pytest.param("resnet50", False, marks=SLOW)],
)
def test_weights_and_statistics_are_bit_for_bit_those_of_kept_activations(arch: str, autocast: bool) -> None:
    plain, again = network(arch), network(arch)
    assert recompute_blocks(again, (BasicBlock, Bottleneck)) == PLACES[arch]
    assert list(again.state_dict()) == list(plain.state_dict())
    for ours, theirs in zip(steps(again, autocast), steps(plain, autocast), strict=True):
        assert torch.equal(ours, theirs)
    assert int(again.get_buffer("layer1.0.bn1.num_batches_tracked")) == 2


def kept_bytes(model: nn.Module) -> int:
    """Bytes of distinct tensors that the graph of a forward pass holds, parameters aside."""
    own, held = {parameter.data_ptr() for parameter in model.parameters()}, {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            held[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(torch.ones(2, 3, 64, 64)).sum()
    assert loss.requires_grad
    return sum(held.values())


def test_less_is_kept() -> None:
    plain, again = network("resnet50"), network("resnet50")
    recompute_blocks(again, (Bottleneck,))
    assert kept_bytes(again) < kept_bytes(plain) / 2


def test_evaluation_and_frozen_norms_go_on_as_before() -> None:
    plain, again = network("resnet18"), network("resnet18")
    recompute_blocks(again, (BasicBlock,))
    for model in (plain, again):
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    for ours, theirs in zip(steps(again), steps(plain), strict=True):
        assert torch.equal(ours, theirs)
    images = torch.ones(1, 3, 48, 48)
    assert torch.equal(again.eval()(images), plain.eval()(images))
