"""Run by `torchrun` in `test_step.py`: a few steps of one method, cut as told; process 0 writes what came of it."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

from pretrain.forces import Forces
from pretrain.methods import Method, find_method
from pretrain.optimizers import build_optimizer
from pretrain.recipe import EncoderSpec, Recipe
from pretrain.step import Step
from transfer.runtime.batch_norm import sync_batchnorm
from transfer.runtime.world import world


class SmallEncoder(nn.Module):
    """A convolution, BatchNorm and pooling: enough for statistics that cross processes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, stride=2, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.fc: nn.Module = nn.Linear(6, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.bn1(self.conv1(images)).relu().mean((-2, -1))
        return self.fc(features)


def small_method(name: str, forces: Forces) -> Method:
    """A method of `pretrain.methods` around `SmallEncoder`, with small heads."""
    from dataclasses import fields, replace

    import torchvision

    torchvision.models.get_model = lambda *_, **__: SmallEncoder()
    torch.manual_seed(1)
    module = find_method(name)
    _, settings = module.PRESETS["demo"]
    small = {"hidden": 10, "dimensions": 8, "forces": forces, "prototypes": 12, "queue": 32, "groups": 2, "width": 12}
    small |= {"whitening_size": 16}
    known = {f.name for f in fields(settings)}
    settings = replace(settings, **{key: value for key, value in small.items() if key in known})
    method: Method = module.build(EncoderSpec("resnet18", classes=3), settings)
    return method.train()


def run(name: str, batch: int, accumulate: int, steps: int, forces: Forces, normal: bool, out: Path) -> None:
    """Train on fixed random views and save gradients, weights and losses."""
    with world(torch.device("cpu")) as (processes, device):
        method = small_method(name, forces)
        if not normal:
            # BatchNorm would see the parts; to compare accumulation alone it must not look at the batch.
            for module in method.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        if processes.size > 1:
            sync_batchnorm(method, device)
        recipe = Recipe(batch=batch, accumulate=accumulate, optimizer="sgd", lr=5.0)
        step = Step(method, build_optimizer(recipe, method), recipe, device, processes)
        losses, gradients = [], {}
        for number in range(steps):
            generator = torch.Generator().manual_seed(number)
            count = method.settings.views + getattr(method.settings, "small_views", 0)
            views = torch.randn(count, batch, 3, 9, 9, generator=generator)
            labels = torch.randint(0, 3, (batch,), generator=generator)
            share = batch // processes.size
            mine = slice(processes.rank * share, (processes.rank + 1) * share)
            size = share // accumulate
            parts = [[view[mine][i * size : (i + 1) * size] for view in views] for i in range(accumulate)]
            outcome = step(parts, labels[mine], number, (number + 1) / 10, torch.Generator().manual_seed(number))
            losses.append(outcome.loss.item())
            gradients |= {f"{number}.{k}": p.grad.clone() for k, p in method.named_parameters() if p.grad is not None}
        if processes.leads:
            torch.save({"loss": losses, "gradients": gradients, "state": method.state_dict()}, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("method")
    parser.add_argument("out", type=Path)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--fixed-statistics", action="store_true")
    given = parser.parse_args()
    weights = Forces(singular=0.1, brownian=0.5)
    run(given.method, given.batch, given.accumulate, given.steps, weights, not given.fixed_statistics, given.out)
