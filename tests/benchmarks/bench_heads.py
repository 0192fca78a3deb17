"""What a search over 50 linear classifiers costs beside one, and beside 50 one after another.

    PYTHONPATH=. python tests/benchmarks/bench_heads.py [--part published] [--pairs 5] [--threads 2] [--heads 50]

Published: a step is a batch of decoded, cropped images through the frozen network and into the classifiers, as
`fit_linear` does it; reading and cropping images, which both would share, is left out (that favours one classifier).
Cached: `train_on_features` on features in memory, one epoch; there is nothing to share but the reading of rows. The
classifiers one after another are that many banks of one (published: each with its own pass through the network), from
the time of one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from turns import measured, spread, take_turns

from transfer.checkpoints.backbone import random_backbone
from transfer.classification.sgd.bank import Bank, Head, Rule, train_on_features
from transfer.classification.sgd.recipe import SgdSchedule
from transfer.classification.trunk import Trunk

CLASSES = 64
CPU = torch.device("cpu")


def grid(heads: int) -> list[Head]:
    """Learning rates and weight decays of a search, all on one pooling."""
    return [Head(0.003 * 1.1 ** (place // 2), (0.0, 1e-5)[place % 2], "avg") for place in range(heads)]


def published(arch: str, side: int, batch: int, heads: int, pairs: int) -> None:
    """Steps with the network's forward pass in them."""
    trunk = Trunk(random_backbone(arch, 0), ["avg"], CPU)
    pixels = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (batch,))

    def steps(count: int) -> Callable[[], tuple[float, float]]:
        bank = Bank(grid(count), trunk.widths, CLASSES, rule=Rule(0.9, False), seed=0, device=CPU)
        return lambda: measured(lambda: bank.step(trunk(pixels), labels, 1.0, batch), 1)

    report(f"published: {arch}, {side} px, batch {batch}, {CLASSES} classes", steps, heads, pairs)


def cached(rows: int, width: int, batch: int, heads: int, pairs: int) -> None:
    """An epoch on features in memory."""
    x, labels = torch.randn(rows, width), torch.randint(0, CLASSES, (rows,))
    schedule = SgdSchedule(epochs=1, batch=batch, momentum=0.9, schedule="cosine")

    def epochs(count: int) -> Callable[[], tuple[float, float]]:
        heads = grid(count)
        return lambda: measured(lambda: train_on_features({"avg": x}, labels, heads, schedule, classes=CLASSES), 1)

    report(f"cached: {rows} × {width}, batch {batch}, {CLASSES} classes", epochs, heads, pairs)


def report(title: str, make: Callable[[int], Callable[[], tuple[float, float]]], heads: int, pairs: int) -> None:
    """Time in turns with one and with all classifiers; ratios of the rounds."""
    turns = {"one": make(1), "all": make(heads)}
    for turn in turns.values():
        turn()
    times = take_turns(turns, pairs)
    one, together = times["one"].wall, times["all"].wall
    print(title)
    print(f"  one {statistics.median(one):.4f} s, {heads} together {statistics.median(together):.4f} s")
    print(f"  {heads} together / one: {spread(together, one)}")
    print(
        f"  {heads} together / {heads} one after another: {spread(together, [heads * each for each in one])}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["published", "cached", "both"], default="both")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--heads", type=int, default=50)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    began = time.perf_counter()
    if given.part != "cached":
        published("resnet18", 64, 64, given.heads, 3 * given.pairs)
        published("resnet50", 96, 64, given.heads, given.pairs)
    if given.part != "published":
        for width in (512, 2048):
            cached(20_000, width, 256, given.heads, given.pairs)
    print(f"{time.perf_counter() - began:.0f} s, torch {torch.__version__}, {given.threads} threads")


if __name__ == "__main__":
    main()
