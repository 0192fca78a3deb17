"""Small trainings by SGD for `test_sgd.py`, and the same as a program: to be killed, or started by `torchrun`.

python sgd_processes.py linear|fine-tuning|layerwise FOLDER [--delay SECONDS]
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from transfer.checkpoints.backbone import InputSpec, Source, random_backbone
from transfer.classification.sgd.bank import Head
from transfer.classification.sgd.fit import (
    FineTuned,
    LinearFit,
    SgdMachine,
    fine_tune,
    fine_tune_layerwise,
    fit_linear,
)
from transfer.classification.sgd.recipe import SgdRecipe
from transfer.datasets.labels.labelled import LabelledImages
from transfer.runtime.errors import DataError
from transfer.runtime.world import World, world
from transfer.task import load_task

CLASSES = ("red", "green", "blue")
GRID = [Head(0.3, 1e-4, "avg"), Head(0.03, 0.0, "avg"), Head(0.1, 1e-3, "max")]
LINEAR = SgdRecipe(
    epochs=3,
    batch=8,
    lr=0.3,
    weight_decay=1e-6,
    momentum=0.9,
    schedule="cosine",
    per_epoch=True,
    smallest=0.2,
    crop=32,
    resize=36,
)
FINE_TUNING = replace(LINEAR, epochs=2, lr=0.05, lr_backbone=0.01, nesterov=True, processes=2, crop=40, resize=44)
# As MAE's, without what every process draws for itself: pairs to be mixed, noise, blocks that are left out.
LAYERWISE = replace(
    load_task("transfer.imagenet_finetune").protocols["mae_base"].tuning,
    epochs=2,
    batch=8,
    lr=1e-3,
    warmup_epochs=1,
    crop=32,
    resize=36,
    mixup=0.0,
    cutmix=0.0,
    erasing=0.0,
    drop_path=0.0,
)


@dataclass
class Coloured:
    """An `Images` in memory: noise tinted by the label, so that there is something to learn."""

    labels: np.ndarray
    side: int = 48
    delay: float = 0.0
    broken: frozenset[int] = frozenset()
    fails_after: int = 10**9
    reads: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        return f"{index:03d}.png"

    def size(self, index: int) -> int:
        return self.side**2

    def content(self, index: int) -> bytes:
        return self.read(index).tobytes()

    def read(self, index: int) -> Image.Image:
        self.reads.append(index)
        time.sleep(self.delay)
        if index in self.broken:
            raise DataError(f"cannot read the image {self.name(index)}", found="a broken header")
        if len(self.reads) > self.fails_after:
            raise RuntimeError("the power fails")
        pixels = np.random.default_rng(index).integers(0, 160, (self.side, self.side, 3), dtype=np.uint8)
        pixels[..., self.labels[index]] += 95
        return Image.fromarray(pixels)


def coloured(images: int = 13, **options: object) -> LabelledImages:
    labels = np.arange(images, dtype=np.int64) % len(CLASSES)
    return LabelledImages("colours", Coloured(labels, **options), labels, CLASSES)


class SmallNetwork(nn.Module):
    """Two convolutions with BatchNorm where a ResNet has its parts; as wide at the end as a ResNet-18."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(3, 8, 5, stride=4, bias=False), nn.BatchNorm2d(8), nn.ReLU()
        self.maxpool = self.layer1 = self.layer2 = self.layer3 = nn.Identity()
        self.layer4 = nn.Sequential(nn.Conv2d(8, 512, 3, stride=2, bias=False), nn.BatchNorm2d(512), nn.ReLU())
        self.fc: nn.Module = nn.Identity()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(images)))))
        maps = self.layer4(self.layer3(self.layer2(maps)))
        return self.fc(maps.mean((2, 3)))


class SmallBackbone:
    """Stands in for a `Backbone` where its size does not matter."""

    arch, input = "resnet18", InputSpec()
    source, weights = Source("random:small", "0" * 64, "random"), "1" * 64

    def network(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            return SmallNetwork().eval()

    @property
    def state(self) -> dict[str, torch.Tensor]:
        return dict(self.network().state_dict())


SMALL = SmallBackbone()
STEPS = {"linear": 6, "fine-tuning": 4, "layerwise": 4}  # of `train`
KINDS = ["linear", "fine-tuning"]
IMAGES = {"layerwise": 14}  # even: of an odd number two processes see one image twice, as torch deals them out


def train(kind: str, folder: Path, data: LabelledImages | None = None, **machine: object) -> LinearFit | FineTuned:
    data = data or coloured(IMAGES.get(kind, 13))
    here = SgdMachine(**({"save_every": 2, "log_every": 1} | machine))
    if kind == "linear":
        return fit_linear(SMALL, data, LINEAR, GRID, seed=5, folder=folder, machine=here)
    if kind == "layerwise":
        vit = random_backbone("vit_64x3_patch8_32", 0)
        return fine_tune_layerwise(vit, data, LAYERWISE, seed=5, folder=folder, machine=here)
    return fine_tune(SMALL, data, FINE_TUNING, seed=5, folder=folder, machine=here)


def weights(fit: LinearFit | FineTuned) -> dict[str, torch.Tensor]:
    """Everything that was trained, by name."""
    state = fit.bank.state() if isinstance(fit, LinearFit) else fit.network.state_dict()
    return {name: tensor.clone() for name, tensor in state.items()}


def rows(folder: Path) -> list[dict[str, Any]]:
    """Of the curve."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=list(STEPS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--delay", type=float, default=0.0)
    given = parser.parse_args()
    with world(torch.device("cpu")) as (processes, device):
        data = coloured(IMAGES.get(given.kind, 13), delay=given.delay)
        fit = train(given.kind, given.folder, data, world=processes, device=device)
        assert isinstance(processes, World)
        torch.save(weights(fit), given.folder / f"weights{processes.rank}.pth")


if __name__ == "__main__":
    main()
