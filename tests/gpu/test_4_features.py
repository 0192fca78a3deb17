"""Features of a frozen network: throughput, pinned memory, workers, equality with the CPU's."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from PIL import Image

from transfer.checkpoints.backbone import random_backbone
from transfer.classification.features import extract
from transfer.classification.views import WholeView, to_network
from transfer.datasets.images import as_tensor
from transfer.datasets.labels.labelled import LabelledImages
from transfer.doctor import machine

pytestmark = [pytest.mark.gpu, pytest.mark.slow]


class Noise:
    """Decoded pictures in memory; an `Images`."""

    def __init__(self, count: int, side: int) -> None:
        random = np.random.default_rng(0)
        self.pictures = [
            Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(count)
        ]

    def __len__(self) -> int:
        return len(self.pictures)

    def name(self, index: int) -> str:
        return f"{index}.png"

    def size(self, index: int) -> int:
        return 1

    def content(self, index: int) -> bytes:
        return self.name(index).encode()

    def read(self, index: int) -> Image.Image:
        return self.pictures[index]


def noise(count: int, side: int) -> LabelledImages:
    return LabelledImages("noise", Noise(count, side), np.arange(count) % 2, ("a", "b"))


def test_extraction_beside_the_bare_forward_pass(device, pick, tmp_path, measured, peak):
    """R50 features of 224-pixel crops, all work included, beside torchvision's forward pass on ready batches."""
    backbone = random_backbone(pick("resnet50", "resnet18"), 0)
    side, batch = pick(224, 64), pick(256, 8)
    images = noise(pick(4096, 32), side)
    model = backbone.network().to(device).to(memory_format=torch.channels_last).eval()
    pixels = torch.stack([as_tensor(images.images.read(index)) for index in range(batch)])
    ready = to_network(pixels, backbone.input, device)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    with torch.no_grad():
        model(ready)
        wait()
        began = time.perf_counter()
        for _ in range(len(images) // batch):
            model(ready)
        wait()
        bare = time.perf_counter() - began
    began = time.perf_counter()
    workers = pick(14, 0)
    found = extract(
        backbone, images, WholeView(side, side), ("avg",), cache=tmp_path, device=device, workers=workers, batch=batch
    )
    ours = time.perf_counter() - began
    assert found.arrays["avg"].shape == (len(images), pick(2048, 512))
    measured("images a second, all work included", len(images) / ours)
    measured("images a second, bare", len(images) / bare)
    measured("share of the bare speed", bare / ours)
    peak()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_features_are_those_of_the_cpu(precision, workers, device, pick, tmp_path, measured):
    """Features on the device, with and without workers and pinned memory, equal the CPU's in float32 to rounding."""
    backbone, side = random_backbone(pick("resnet50", "resnet18"), 0), pick(224, 64)
    images, view = noise(24, side), WholeView(side, side)
    cpu = extract(backbone, images, view, ("avg",), cache=tmp_path / "cpu", device=torch.device("cpu"))
    here = extract(
        *(backbone, images, view, ("avg",)),
        cache=tmp_path / "here",
        device=device,
        workers=workers,
        precision=precision,
        batch=16,
    )
    ours, theirs = np.asarray(here.arrays["avg"]), np.asarray(cpu.arrays["avg"])
    furthest = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    measured("largest difference, relative to the largest feature", furthest)
    assert furthest < (2e-2 if precision == "bf16" else 5e-3)  # TF32 keeps 10 bits


def test_the_doctor_names_the_gpu(device):
    """What `python -m transfer doctor` says of the machine."""
    said = [finding.line() for finding in machine()]
    assert any("no GPU that PyTorch sees" in line for line in said) == (not torch.cuda.is_available())
    if device.type == "cuda":
        assert any(torch.cuda.get_device_name() in line and "GB each" in line for line in said)
