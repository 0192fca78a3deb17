"""Five tasks on frozen features of one checkpoint and one folder of images: apart, or out of one pass over the images.

    PYTHONPATH=. python tests/benchmarks/bench_beside.py [--views published] [--arch resnet50] [--images 600]

The tasks are kNN, logistic regression, and three linear classifiers by SGD on cached features. "apart": each with a
cache of its own, empty at the beginning. "shared": one after the other with one cache, in which equal views find each
other. "beside": so too, and each is told what the others will want, as a suite does. All are calls in this process, so
no start-up is counted; what is fitted on the features is small. Images are JPEG files of the size of a photograph of
ImageNet.

The views are those of the protocols (`published`: three different ones among five tasks), or `equal` ones, or five that
all differ (`differing`). Where views differ the network sees each of them: only reading and decoding is shared, and how
much that is depends on the network, the crop and the device; the seconds that reading and decoding take are printed.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from turns import measured, spread, take_turns

from transfer.cli import run_command, understood
from transfer.datasets.images import read_image
from transfer.runtime.errors import UserError

Views = tuple[tuple[int, int, str], ...]  # resize, crop, interpolation
SGD = ("--form", "cached", "--poolings", "avg", "--holdout", "0.2", "--sgd.epochs", "2", "--sgd.batch", "64")
TASKS = {
    "transfer.knn": ("view", "--ks", "20"),
    "finegrained.own_linear": ("view", "--penalties", "1", "--holdout", "0.2"),
    "transfer.imagenet_linear": ("sgd", *SGD),
    "transfer.places205_linear": ("sgd", *SGD),
    "finegrained.inat18_linear": ("sgd", *SGD),
}


def views(kind: str, crop: int) -> Views:
    """One for each task, scaled from 224 pixels to `crop`."""
    larger = crop * 8 // 7
    published = ((larger, crop, "bicubic"), (crop, crop, "bicubic"), *((larger, crop, "bilinear"),) * 3)
    differing = (*published[:3], (crop, crop, "bilinear"), (crop * 9 // 7, crop, "bilinear"))
    return {"published": published, "equal": published[:1] * 5, "differing": differing}[kind]


def write_images(root: Path, images: int, size: tuple[int, int]) -> None:
    """Four fifths to train on, a fifth to test on, in four classes; blurred noise, its files as large as photos'."""
    random = np.random.default_rng(0)
    for number in range(images):
        folder = root / ("test" if number % 5 == 4 else "train") / f"class{number // 5 % 4}"
        folder.mkdir(parents=True, exist_ok=True)
        small = random.integers(0, 256, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
        Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=90)


def lines(options: argparse.Namespace, images: Path) -> list[list[str]]:
    """What is typed for each task, but for the runs folder."""
    found = []
    for (name, (prefix, *words)), (resize, crop, how) in zip(
        TASKS.items(), views(options.views, options.crop), strict=True
    ):
        view = [f"--{prefix}.resize", str(resize), f"--{prefix}.crop", str(crop), f"--{prefix}.interpolation", how]
        common = [f"random:{options.arch}", "--image-folder", str(images), "--device", options.device]
        machine = ["--threads", str(options.threads), "--workers", str(options.workers), "--allow-slow"]
        found.append([name, *common, *machine, *view, *words])
    return found


def do(line: list[str], runs: Path, beside: tuple[object, ...] = ()) -> None:
    if run_command([*line, "--runs", str(runs)], beside):
        raise UserError(f"a run has failed: {line[0]}")


def decoding(images: Path) -> float:
    """Seconds to read and decode all images once."""
    began = time.perf_counter()
    for path in images.rglob("*.jpg"):
        read_image(path, str(path))
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--views", choices=("published", "equal", "differing"), default="published")
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--crop", type=int, default=224)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--size", type=int, nargs=2, default=(500, 375))
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        root, numbers = Path(folder), count()
        write_images(root / "images", options.images, tuple(options.size))
        typed = lines(options, root / "images")
        wanted = tuple(each for line in map(understood, typed) for each in line.task.frozen(line.recipe))

        def apart() -> None:
            for line in typed:
                do(line, root / str(next(numbers)))

        def together(beside: tuple[object, ...]) -> Callable[[], None]:
            def run() -> None:
                runs = root / str(next(numbers))
                for line in typed:
                    do(line, runs, beside)

            return run

        ways = {"apart": apart, "shared": together(()), "beside": together(wanted)}
        do(typed[0], root / "warm")  # not counted
        times = take_turns(
            {name: (lambda way=way: measured(way, 1, options.device)) for name, way in ways.items()}, options.pairs
        )
        seconds = [decoding(root / "images") for _ in range(3)]
    size = "{} × {}".format(*options.size)
    print(
        f"{options.arch}, {options.images} images of {size}, crops of {options.crop}, {options.views} views "
        f"({len(set(wanted))} different wishes), {options.device}, {options.threads} threads, "
        f"{options.workers} workers, torch {torch.__version__}; medians of {options.pairs}"
    )
    for name, its in times.items():
        print(f"  {name:<8}{its.median():>8.1f} s, {statistics.median(its.processor):>8.1f} s of the processor")
    print(f"  apart to beside {spread(times['apart'].wall, times['beside'].wall)}; apart to shared "
          f"{spread(times['apart'].wall, times['shared'].wall)}; shared to beside "
          f"{spread(times['shared'].wall, times['beside'].wall)}")  # fmt: skip
    print(f"  processor time, apart to beside {spread(times['apart'].processor, times['beside'].processor)}")
    print(f"  to read and decode every image once: {statistics.median(seconds):.1f} s")


if __name__ == "__main__":
    main()
