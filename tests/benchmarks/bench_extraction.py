"""Images a second of `extract` beside the bare forward pass of torchvision's model on the same batches.

    PYTHONPATH=. python tests/benchmarks/bench_extraction.py [--arch resnet50] [--images 64] [--batch 32] [--pairs 7]

Both start from images in memory that are decoded and of the right size, so that neither decodes nor resizes. `extract`
does all the rest of its work: hashing, views, batches, normalisation, pooling, checks, and the files of its cache,
which is a new folder each time; built once before are torchvision's model and its batches, normalised and
channels-last, as fast as the library goes (the contiguous form is shown too). `extract` builds its network within its
time. What opening a finished cache of that size takes is measured last.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from turns import measured, spread, take_turns

from transfer.checkpoints.backbone import random_backbone
from transfer.classification.feature_cache import Store
from transfer.classification.features import extract
from transfer.classification.views import WholeView, to_network
from transfer.datasets.images import as_tensor
from transfer.datasets.labels.labelled import LabelledImages


class InMemory:
    """Decoded noise; an `Images`."""

    def __init__(self, number: int, side: int) -> None:
        random = np.random.default_rng(0)
        self.images = [Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(number)]

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return str(index)

    def size(self, index: int) -> int:
        return 100_000

    def content(self, index: int) -> bytes:
        return self.name(index).encode() * 30_000  # as many bytes to hash as a photograph has

    def read(self, index: int) -> Image.Image:
        return self.images[index]


def bare(model: torch.nn.Module, batches: list[Tensor]) -> Callable[[], None]:
    @torch.no_grad()
    def run() -> None:
        for batch in batches:
            model(batch).cpu()

    return run


def verification(rows: int, wide: int) -> None:
    """Seconds to check a finished cache, which the page cache holds."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder), rows, wide)
        store.open({}, {})
        random = np.random.default_rng(0)
        for start, stop in store.chunks():
            features = random.standard_normal((stop - start, wide), dtype=np.float32)
            store.keep((start, stop), features, np.zeros((stop - start, 16), np.uint8), {})
        seconds = []
        for _ in range(5):
            began = time.perf_counter()
            store.open({}, {})
            seconds.append(time.perf_counter() - began)
        size = store.features.stat().st_size / 1e9
        median = statistics.median(seconds)
        print(f"opening {rows} × {wide} ({size:.2f} GB), all checked: {median:.2f} s, {size / median:.2f} GB/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options = parser.parse_args()
    device = torch.device(options.device)
    backbone, memory = random_backbone(options.arch, 0), InMemory(options.images, options.side)
    images = LabelledImages("noise", memory, np.zeros(options.images, np.int64), ("a", "b"))
    view = WholeView(options.side, options.side)
    pixels = torch.stack([as_tensor(image) for image in memory.images])
    batches = list(to_network(pixels, backbone.input, device).split(options.batch))
    model = backbone.network().to(device)
    fast = backbone.network().to(device).to(memory_format=torch.channels_last)
    with tempfile.TemporaryDirectory() as folder:
        number = count()

        def ours() -> None:
            cache = Path(folder, str(next(number)))
            extract(backbone, images, view, ("avg",), cache=cache, device=device, batch=options.batch)

        ways: dict[str, Callable[[], object]] = {
            "extract": ours,
            "bare, channels-last": bare(fast, batches),
            "bare, contiguous": bare(model, [batch.contiguous() for batch in batches]),
        }
        contestants = {
            name: (lambda way=way: measured(way, options.images, options.device)) for name, way in ways.items()
        }
        take_turns(contestants, 1)  # not counted
        times = take_turns(contestants, options.pairs)
    print(
        f"{options.arch}, {options.images} images of {options.side} px, batches of {options.batch}, {options.device}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}; medians of {options.pairs}"
    )
    for name, its in times.items():
        print(f"  {name:<22}{1 / its.median():>8.2f} images/s")
        if name != "extract":
            print(f"    throughput of extract to it: {spread(its.wall, times['extract'].wall)}; processor time: "
                  f"{spread(its.processor, times['extract'].processor)}")  # fmt: skip
    verification(32 * 1024, 2048)


if __name__ == "__main__":
    main()
