"""VISSL's BatchNorm in front of the classifier and SimSiam's LARS, against loops in plain torch.

References: facebookresearch/vissl: vissl/models/heads/linear_eval_mlp.py; NVIDIA/apex: apex/parallel/LARC.py with
clip=False, as facebookresearch/simsiam: main_lincls.py calls it.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from transfer.classification.sgd.bank import Bank, Head, Norm, Rule
from transfer.runtime.world import World

CPU = torch.device("cpu")
CHANNELS, SIDE, CLASSES, STEPS = 6, 2, 3, 25
HEADS = [Head(0.1, 5e-4, "grid"), Head(0.5, 1e-2, "grid"), Head(0.2, 0.0, "avg")]
WIDTHS = {"grid": CHANNELS * SIDE * SIDE, "avg": CHANNELS}


def batches(steps: int = STEPS, rows: int = 10) -> list[tuple[Tensor, Tensor]]:
    """Maps [rows, C, side, side] whose channels have other means and sizes, and labels."""
    random = torch.Generator().manual_seed(0)
    size = torch.rand(CHANNELS, 1, 1, generator=random) * 4 + 0.1
    made = []
    for _ in range(steps):
        labels = torch.randint(0, CLASSES, (rows,), generator=random)
        maps = torch.randn(rows, CHANNELS, SIDE, SIDE, generator=random) * size + 3 * size + labels.view(-1, 1, 1, 1)
        made.append((maps, labels))
    return made


def features(maps: Tensor) -> dict[str, Tensor]:
    return {"grid": maps.flatten(1), "avg": maps.mean((2, 3))}


def bank_of(norm: Norm | None, rule: Rule) -> Bank:
    return Bank(HEADS, WIDTHS, CLASSES, rule=rule, norm=norm, seed=0, device=CPU)


def by_torch(place: int, affine: bool, nesterov: bool, first: tuple[Tensor, Tensor]) -> nn.Sequential:
    """BatchNorm2d, flatten, Linear; SGD in float64 that leaves the norm out of the decay."""
    head = HEADS[place]
    norm = nn.BatchNorm2d(CHANNELS, eps=1e-5, momentum=0.1, affine=affine)
    linear = nn.Linear(WIDTHS[head.pooling], CLASSES)
    with torch.no_grad():
        linear.weight.copy_(first[0])
        linear.bias.copy_(first[1])
    network = nn.Sequential(norm, nn.Flatten(), linear).double()
    groups = [{"params": [*linear.parameters()], "weight_decay": head.weight_decay}]
    groups += [{"params": [*norm.parameters()], "weight_decay": 0.0}] if affine else []
    optimizer = torch.optim.SGD(groups, head.lr, momentum=0.9, nesterov=nesterov)
    for number, (maps, labels) in enumerate(batches()):
        for group in optimizer.param_groups:
            group["lr"] = head.lr * (0.1 if number >= STEPS // 2 else 1.0)
        optimizer.zero_grad()
        seen = maps if head.pooling == "grid" else maps.mean((2, 3), keepdim=True)
        nn.functional.cross_entropy(network(seen.double()), labels).backward()
        optimizer.step()
    return network.eval()


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("nesterov", [True, False])
def test_the_head_of_vissl(affine: bool, nesterov: bool) -> None:
    bank = bank_of(Norm(CHANNELS, affine, 1e-5, 0.1), Rule(0.9, nesterov))
    first = [tuple(each.clone() for each in bank.classifier(place)) for place in range(len(HEADS))]
    for number, (maps, labels) in enumerate(batches()):
        bank.step(features(maps), labels, 0.1 if number >= STEPS // 2 else 1.0, len(labels))
    maps, _ = batches(1, rows=40)[0]
    logits = bank.logits(features(maps))
    for place, head in enumerate(HEADS):
        reference = by_torch(place, affine, nesterov, first[place])
        seen = maps if head.pooling == "grid" else maps.mean((2, 3), keepdim=True)
        with torch.no_grad():
            wanted = reference(seen.double()).float()
        torch.testing.assert_close(logits[:, place], wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))
        statistics = bank.groups[head.pooling].statistics
        torch.testing.assert_close(statistics.mean, reference[0].running_mean.float(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(statistics.var, reference[0].running_var.float(), rtol=1e-5, atol=1e-5)


def test_the_norm_changes_what_is_learnt() -> None:
    plain, normed = bank_of(None, Rule(0.9, True)), bank_of(Norm(CHANNELS, True, 1e-5, 0.1), Rule(0.9, True))
    for maps, labels in batches():
        for bank in (plain, normed):
            bank.step(features(maps), labels, 1.0, len(labels))
    assert (plain.classifier(0)[0] - normed.classifier(0)[0]).abs().max() > 0.01


def larc(place: int, first: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """apex's LARC without clipping around SGD with momentum, tensor by tensor, in float64."""
    head, trust = HEADS[place], 0.02
    weight, bias = (each.double().clone().requires_grad_() for each in first)
    speeds = [torch.zeros_like(weight), torch.zeros_like(bias)]
    for maps, labels in batches():
        x = features(maps)[head.pooling].double()
        loss = nn.functional.cross_entropy(x @ weight.T + bias, labels)
        for parameter, speed, gradient in zip(
            (weight, bias), speeds, torch.autograd.grad(loss, (weight, bias)), strict=True
        ):
            with torch.no_grad():
                length, steepness = parameter.norm(), gradient.norm()
                if length != 0 and steepness != 0:
                    rate = trust * length / (steepness + length * head.weight_decay + 1e-8)
                    gradient = (gradient + head.weight_decay * parameter) * rate
                speed.mul_(0.9).add_(gradient)
                parameter -= head.lr * speed
    return weight.detach(), bias.detach()


@pytest.mark.parametrize("place", range(len(HEADS)))
def test_lars_is_simsiams(place: int) -> None:
    bank = bank_of(None, Rule(0.9, False, trust=0.02))
    first = tuple(each.clone() for each in bank.classifier(place))
    for maps, labels in batches():
        bank.step(features(maps), labels, 1.0, len(labels))
    for ours, theirs in zip(bank.classifier(place), larc(place, first), strict=True):
        torch.testing.assert_close(ours, theirs.float(), rtol=1e-5, atol=1e-6)


class Together(World):
    """Two threads that add up what they have, in place of two processes."""

    def __init__(self, rank: int, meeting: threading.Barrier, table: dict[int, Any]) -> None:
        super().__init__(rank, 2)
        object.__setattr__(self, "meeting", meeting)
        object.__setattr__(self, "table", table)

    def add_up(self, tensors: list[Tensor]) -> None:
        self.table[self.rank] = [tensor.clone() for tensor in tensors]
        self.meeting.wait()
        for number, tensor in enumerate(tensors):
            tensor.copy_(self.table[0][number] + self.table[1][number])
        self.meeting.wait()


CALM = 0.05  # of the rates: at full height rounding is amplified from step to step


@pytest.mark.parametrize("rows", [(5, 5), (7, 3), (10, 0)])
def test_two_processes_are_as_one(rows: tuple[int, int]) -> None:
    norm, rule = Norm(CHANNELS, True, 1e-5, 0.1), Rule(0.9, True)
    alone = bank_of(norm, rule)
    for maps, labels in batches():
        alone.step(features(maps), labels, CALM, len(labels))
    banks, meeting, table = [bank_of(norm, rule) for _ in range(2)], threading.Barrier(2, timeout=30), {}

    def train(rank: int) -> None:
        for maps, labels in batches():
            mine = slice(0, rows[0]) if rank == 0 else slice(rows[0], None)
            world = Together(rank, meeting, table)
            banks[rank].step(features(maps[mine]), labels[mine], CALM, len(labels), world)

    threads = [threading.Thread(target=train, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, tensor in alone.state().items():
        torch.testing.assert_close(banks[0].state()[name], tensor, rtol=1e-5, atol=1e-6)
        assert torch.equal(banks[0].state()[name], banks[1].state()[name])
