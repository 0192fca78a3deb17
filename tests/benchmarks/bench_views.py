"""Views a second on one processor, done in several ways, and how far those of this project are apart.

    PYTHONPATH=. python tests/benchmarks/bench_views.py [--sides 32 224] [--peers PEERS/bin/python] [--device cuda]

PEERS is an environment of its own with the same PyTorch and kornia (`pip install kornia`); without it kornia is left
out. All do VICReg's views: crop 0.08–1, bicubic where the library has it, flip .5, jitter (.4, .4, .2, .1) .8, grey .2,
blur .5, solarize .1, in one thread, in turns. Source images are in memory: of 32 pixels for a side of 32, otherwise
500 × 375; what decoding such a JPEG takes is shown too. `--device cuda` does the batches there.

Whole views, one by one as a worker does them: `pretrain.views` with Pillow, its crop alone (what is left to a worker
with --views-on device), torchvision's v2 transforms on Pillow images and on uint8 tensors. Colours alone, of crops that
are done: `colour_view` (Pillow), `pretrain.device_views.colour_batch`, torchvision's on each uint8 tensor, kornia's on
a batch of floats. Each library draws for itself, with equal chances; ours have the same draws in both places, and the
difference of their pixels (0 to 255) is printed, for whole views and for one operation at a time.
"""

from __future__ import annotations

import argparse
import io
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from turns import Process, Turn, measured, take_turns
from view_setup import JITTER, ViewSetup

from pretrain.device_views import colour_batch
from pretrain.views import Draw, Views, colour_view
from transfer.datasets.images import as_tensor

WORKER = Path(__file__).with_name("kornia_views.py")
KINDS = {0: "brightness", 1: "contrast", 2: "saturation", 3: "hue"}
PLAIN = Draw((0, 0, 1, 1), False, (), False, 0.0, False)


def make_images(count: int, size: tuple[int, int]) -> list[Image.Image]:
    """Colourful images with large and small structures; no two alike."""
    random = np.random.default_rng(0)
    images = []
    for _ in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(
            size, Image.Resampling.BICUBIC
        )
        noise = random.normal(0, 12, (size[1], size[0], 3))
        images.append(Image.fromarray(np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8)))
    return images


def torchvision_colours(setup: ViewSetup) -> list[v2.Transform]:
    return [
        v2.RandomApply([v2.ColorJitter(*JITTER)], p=0.8),
        v2.RandomGrayscale(p=0.2),
        v2.RandomApply([v2.GaussianBlur(setup.kernel, setup.sigma)], p=0.5),
        v2.RandomSolarize(threshold=128, p=0.1),
    ]


def torchvision_whole(setup: ViewSetup, finish: list[v2.Transform]) -> v2.Compose:
    crop = v2.RandomResizedCrop(setup.side, interpolation=InterpolationMode.BICUBIC, antialias=True)
    return v2.Compose([crop, v2.RandomHorizontalFlip(), *torchvision_colours(setup), *finish])


def whole_views(setup: ViewSetup, images: list[Image.Image]) -> dict[str, Turn]:
    """One view of every image."""
    random = np.random.default_rng(0)
    here, cropped = Views(1, setup.side), Views(1, setup.side, colours=False)
    of_images, of_tensors = torchvision_whole(setup, [v2.PILToTensor()]), torchvision_whole(setup, [])
    tensors = [as_tensor(image) for image in images]
    ways: dict[str, Callable[[], object]] = {
        "Pillow (ours)": lambda: [here(image, random) for image in images],
        "its crop alone": lambda: [cropped(image, random) for image in images],
        "torchvision, Pillow": lambda: [of_images(image) for image in images],
        "torchvision, tensor": lambda: [of_tensors(tensor) for tensor in tensors],
    }
    return {name: _turn(way, len(images), "cpu") for name, way in ways.items()}


def colours_alone(setup: ViewSetup, crops: list[Tensor], draws: list[Draw]) -> dict[str, Turn]:
    """The colours of a batch of crops."""
    pictures = [_picture(crop) for crop in crops]
    batch = torch.stack(crops).to(setup.device)
    each = v2.Compose(torchvision_colours(setup))
    ways: dict[str, tuple[Callable[[], object], str]] = {
        "Pillow (ours)": (
            lambda: [as_tensor(colour_view(view, draw)) for view, draw in zip(pictures, draws, strict=True)],
            "cpu",
        ),
        "colour_batch (ours)": (lambda: colour_batch(batch, draws), setup.device),
        "torchvision, tensor": (lambda: [each(view) for view in batch], setup.device),
    }
    return {name: _turn(way, len(crops), device) for name, (way, device) in ways.items()}


def _turn(way: Callable[[], object], units: int, device: str) -> Turn:
    return lambda: measured(way, units, device)


def _picture(view: Tensor) -> Image.Image:
    return Image.fromarray(view.permute(1, 2, 0).numpy())


def show(title: str, contestants: dict[str, Turn], rounds: int, device: str) -> dict[str, float]:
    """Print views a second and return the median seconds of a view; on a CPU those of the processor.

    With one thread other programs do not count in processor time.
    """
    take_turns(contestants, 1)  # not counted
    times = take_turns(contestants, rounds)
    busy = {name: its.processor if device == "cpu" else its.wall for name, its in times.items()}
    print(f"  {title:<24}{'views/s':>9}{'a processor second' if device == 'cpu' else '':>20}{'to the first':>14}")
    first = next(iter(busy.values()))
    for name, its in times.items():
        processor = f"{1 / statistics.median(its.processor):.0f}" if device == "cpu" else ""
        faster = statistics.median(a / b for a, b in zip(first, busy[name], strict=True))
        print(f"    {name:<22}{1 / its.median():>9.0f}{processor:>20}{faster:>13.2f}×", flush=True)
    return {name: statistics.median(seconds) for name, seconds in busy.items()}


def decoding(images: list[Image.Image]) -> float:
    """Median processor seconds to decode one as JPEG."""
    seconds = []
    for image in images:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=90)
        data = stream.getvalue()
        seconds.append(measured(partial(_decoded, data), 1)[1])
    return statistics.median(seconds)


def _decoded(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def differences(crops: list[Tensor], draws: list[Draw], device: str) -> str:
    """Of `colour_batch` to Pillow with the same draws: mean, and the greatest of all pixels.

    A draw of one or two jitter operations is filled up for `colour_batch`, which does four in turn, with operations
    that change nothing there (in Pillow they would: hue goes through 8-bit HSV).
    """
    theirs = torch.stack([as_tensor(colour_view(_picture(c), d)) for c, d in zip(crops, draws, strict=True)])
    error = (colour_batch(torch.stack(crops).to(device), [_filled(d) for d in draws]).cpu() - theirs.float()).abs()
    return f"mean {error.mean():.3f}, greatest {error.max():.1f}"


def _filled(draw: Draw) -> Draw:
    there = {operation for operation, _ in draw.jitter}
    rest = tuple((operation, 0.0 if operation == 3 else 1.0) for operation in KINDS if operation not in there)
    return replace(draw, jitter=(*draw.jitter, *rest)) if there else draw


def fidelity(crops: list[Tensor], draws: list[Draw], device: str) -> None:
    random = np.random.default_rng(1)
    cases = {"whole views": draws, "all but blur": [replace(draw, sigma=0.0) for draw in draws]}
    for operation, name in KINDS.items():
        low, high = (-JITTER[3], JITTER[3]) if operation == 3 else (1 - JITTER[operation], 1 + JITTER[operation])
        cases[name] = [replace(PLAIN, jitter=((operation, random.uniform(low, high)),)) for _ in crops]
    cases["grey"] = [replace(PLAIN, grey=True)] * len(crops)
    cases["solarize"] = [replace(PLAIN, solarize=True)] * len(crops)
    cases["blur"] = [replace(PLAIN, sigma=draw.sigma) for draw in draws if draw.sigma]
    print("  colour_batch against Pillow, the same draws, of 255")
    for name, its in cases.items():
        print(f"    {name:<22}{differences(crops[: len(its)], its, device)}", flush=True)


def measure(setup: ViewSetup, options: argparse.Namespace) -> None:
    size = (32, 32) if setup.side == 32 else (500, 375)
    images = make_images(setup.batch, size)
    print(f"\n{setup.side} px, batches of {setup.batch}, images of {size[0]} × {size[1]}")
    print(f"  decoding a JPEG: {1 / decoding(images):.0f} images/s")
    seconds = show("whole views, one by one", whole_views(setup, images), options.rounds, "cpu")
    random = np.random.default_rng(2)
    found = [Views(1, setup.side, colours=False)(image, random) for image in images]
    crops, draws = [views[0] for views, _ in found], [its[0] for _, its in found]
    with ExitStack() as stack:
        contestants: dict[str, Turn] = colours_alone(setup, crops, draws)
        if options.peers:
            kornia: Any = stack.enter_context(Process(options.peers, WORKER, setup))
            contestants[kornia.about["package"]] = lambda: tuple(kornia.ask("run"))
        batch = show("colours alone", contestants, options.rounds, setup.device)
    together = 1 / (seconds["its crop alone"] + batch["colour_batch (ours)"])
    print(f"  crop by Pillow and colour_batch, one after the other: {together:.0f} views/s")
    fidelity(crops, draws, setup.device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 224])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="of the batches")
    parser.add_argument("--peers", help="Python of the environment with kornia")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}, Pillow {PIL.__version__}"
    print(f"one thread, batches on {options.device}, {versions}, medians of {options.rounds} rounds")
    for side in options.sides:
        measure(ViewSetup(side, options.batch, options.device), options)


if __name__ == "__main__":
    main()
