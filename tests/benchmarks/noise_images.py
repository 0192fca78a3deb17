"""A small folder of pictures by class, of noise: for tests and benchmarks that look at no number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_noise(folder: Path, train: int, test: int, side: int = 40) -> Path:
    """`folder`/train/<class>/ and `folder`/test/<class>/, so many pictures of each of two classes; returns `folder`."""
    draw = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for name in ("one", "two"):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 255, (side, side, 3), np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    return folder
