"""Nine small images, and an encoder that stands in for a ResNet where its size does not matter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn


class TinyEncoder(nn.Module):
    """Stands in for a ResNet where its size does not matter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=4)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.bn(self.conv(images)).relu().mean((-2, -1)))


def write_nine(root: Path) -> Path:
    root.mkdir()
    for index in range(9):
        pixels = np.random.default_rng(index).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{index}.png")
    return root
