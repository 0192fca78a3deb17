"""What a suite costs beside its runs: planning many of them, and starting each.

    PYTHONPATH=. python tests/benchmarks/bench_suite.py [--plan 1000] [--runs 8] [--pairs 3]

Planning: kNN for so many checkpoint × seed pairs on one small set (20 checkpoints on disk), how they stand included:
once with nothing known, then with fingerprints remembered; seconds of this process, imports apart.

Starting: a task that does nothing, so often, as a suite with one slot, beside the same runs typed one after another in
one process; in turns. The difference, divided by the runs, is what a suite adds to each: a process, its log, its end.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from noise_images import write_noise

from transfer.checkpoints.backbone import random_backbone
from transfer.suites.facts import Facts
from transfer.suites.plan import CommonOptions, make_plan, standing
from transfer.suites.suite import typed_suite

ROOT = Path(__file__).resolve().parents[2]
FAULTS = ROOT / "tests" / "faults" / "suite_of_faults.py"
CHECKPOINTS = 20


def planning(folder: Path, runs: int) -> list[float]:
    """Seconds with nothing known, then three times with fingerprints remembered."""
    write_noise(folder / "images", 10, 10)
    names = []
    for number in range(CHECKPOINTS):
        names.append(str(folder / f"{number}.pth"))
        torch.save(dict(random_backbone("resnet18", number).state), names[-1])
    words = ("--device", "cpu", "--image-folder", str(folder / "images"), "--runs", str(folder / "runs"))
    common = CommonOptions(tuple(names), words=words, seeds=tuple(range(runs // CHECKPOINTS)))
    suite = typed_suite(["transfer.knn --ks 20"])
    found = []
    for _ in range(4):
        began = time.perf_counter()
        facts = Facts(folder / "runs" / "suites" / "known.json")
        planned = make_plan(suite, common, facts)
        standings = [standing(run, folder / "runs") for run in planned]
        facts.save()
        found.append(time.perf_counter() - began)
        assert len(planned) == len(standings) == runs // CHECKPOINTS * CHECKPOINTS
    return found


SERIAL = """
import sys
sys.path.insert(0, {folder!r})
import suite_of_faults
from transfer.__main__ import main
seeds = ["--seeds", *map(str, range({count}))]
main(["run", "faults.task", "random:resnet18", "--device", "cpu", *seeds, "--runs", {runs!r}])
"""


def seconds(words: list[str]) -> float:
    """Of a process; what it prints is left out."""
    began = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, *words], check=True, capture_output=True, env=environment)
    return time.perf_counter() - began


def starting(folder: Path, count: int) -> tuple[float, float]:
    """Seconds of `count` runs as a suite, and typed in one command; less those of one run each way."""

    def as_suite(number: int) -> float:
        runs = tempfile.mkdtemp(dir=folder)
        seeds = [str(seed) for seed in range(number)]
        words = ["random:resnet18", "--tasks", "faults.task", "--device", "cpu", "--seeds", *seeds, "--runs", runs]
        return seconds([str(FAULTS), *words])

    def typed(number: int) -> float:
        runs = tempfile.mkdtemp(dir=folder)
        return seconds(["-c", SERIAL.format(folder=str(FAULTS.parent), count=number, runs=runs)])

    return as_suite(count + 1) - as_suite(1), typed(count + 1) - typed(1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=3)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        first, *again = planning(Path(folder), options.plan)
        known = statistics.median(again)
        print(f"planning {options.plan} runs: {first:.2f} s with nothing known, {known:.2f} s with all remembered")
        pairs = [starting(Path(folder), options.runs) for _ in range(options.pairs)]
    suite, typed = (statistics.median(each) / options.runs for each in zip(*pairs, strict=True))
    print(
        f"a run more: {suite:.2f} s in a suite, {typed:.2f} s in one command: {suite - typed:.2f} s for its own process"
    )


if __name__ == "__main__":
    main()
