"""Ten thousand runs on a cluster that does nothing: what the suite itself costs, and what it asks of the scheduler.

    PYTHONPATH=. python tests/benchmarks/bench_cluster.py [--runs 10000] [--at-once 500]

Planned are linear classifiers of 20 checkpoints on one small set, under as many seeds as it takes. One of them is
really run; the stub of a scheduler (`stub_scheduler.py`) answers in squeue's lines, ends `--at-once` jobs at each look,
and leaves for each a record like the first. Seconds are those of this process, imports apart; a real suite looks at
the queue every 10 seconds, so what a look costs matters, and not how many there are here. At the end all records are
read into tables.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import math
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from noise_images import write_noise
from stub_scheduler import StubScheduler

from results import load
from transfer.checkpoints.backbone import random_backbone
from transfer.cli import run_command
from transfer.record import SCHEMA, read_record
from transfer.suites.carry_out import Undertaking
from transfer.suites.facts import Facts
from transfer.suites.plan import CommonOptions, Planned, Standing, make_plan, standing
from transfer.suites.pool import Ended, Started
from transfer.suites.slurm import SlurmOptions
from transfer.suites.slurm_job import ClusterJob
from transfer.suites.slurm_pool import SlurmPool
from transfer.suites.suite import typed_suite
from transfer.suites.view import Estimate, queue_lines

T = TypeVar("T")
CHECKPOINTS = 20
LINE = "finegrained.own_linear --preset cpu --view.crop 32 --view.resize 32"


class Watch:
    """A view that writes nothing, and lets the cluster go on at every look."""

    def __init__(self, scheduler: StubScheduler) -> None:
        self.scheduler = scheduler
        self.ticks = 0

    def started(self, run: Planned, how: str) -> None:
        """See `View`."""

    def ended(self, ended: Ended, standing: Standing) -> None:
        """See `View`."""
        assert standing.state == "done", standing.reason

    def found(self, run: Planned, standing: Standing) -> None:
        """See `View`."""

    def tick(self, running: Sequence[Started], waiting: int, others: int, left: Estimate) -> None:
        """See `View`."""
        self.ticks += 1
        queue_lines(running)
        self.scheduler.advance()

    def close(self) -> None:
        """See `View`."""


def timed(what: str, do: Callable[[], T]) -> T:
    """Do it, and print how long it took."""
    began, worked = time.perf_counter(), time.process_time()
    found = do()
    print(f"{what:<34}{time.perf_counter() - began:8.2f} s  (processor {time.process_time() - worked:.2f} s)")
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--at-once", type=int, default=500)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        simulate(Path(name), options.runs, options.at_once)
    print(f"peak memory of all: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


def simulate(folder: Path, count: int, at_once: int) -> None:
    """Plan, queue, watch, judge, and read all records."""
    write_noise(folder / "images", 10, 10)
    names = []
    for number in range(CHECKPOINTS):
        names.append(str(folder / f"{number}.pth"))
        torch.save(dict(random_backbone("resnet18", number).state), names[-1])
    runs = folder / "runs"
    words = ("--device", "cpu", "--image-folder", str(folder / "images"), "--runs", str(runs))
    common = CommonOptions(tuple(names), words=words, seeds=tuple(range(math.ceil(count / CHECKPOINTS))))
    facts = Facts(runs / "suites" / "known.json")
    suite = typed_suite([LINE])
    make_plan(suite, dataclasses.replace(common, seeds=(0,)), facts)  # fingerprints, once for all
    planned = timed(f"planning {count} runs", lambda: make_plan(suite, common, facts))[:count]
    standings = timed("how they stand", lambda: {run: standing(run, runs) for run in planned})

    assert run_command(planned[0].words) == 0
    (file,) = (runs / "records").glob("*/*.json")
    model = json.loads(file.read_bytes())
    shas = {Path(each).stem: facts.checkpoint(each, read_options(words)).sha256 for each in names}

    def done(job: ClusterJob) -> None:
        checkpoint = {**model["checkpoint"], "sha256": shas[job.run.label], "label": job.run.label}
        content = {**model, "schema": SCHEMA, "run_id": job.run.id, "seed": job.run.seed, "checkpoint": checkpoint}
        file.with_name(f"{job.run.id}.json").write_text(json.dumps(content, indent=1, sort_keys=True), "utf-8")

    scheduler = StubScheduler(at_once, done)
    pool = SlurmPool(scheduler, planned, runs, runs / "logs", SlurmOptions(poll=0, array=at_once, queued=count))
    undertaking = Undertaking(planned, standings, pool, facts, runs, runs / "logs", None, 1)
    watch = Watch(scheduler)
    timed("queueing, watching, judging", lambda: undertaking.carry_out(planned[1:], watch))
    assert len(list(file.parent.glob("*.json"))) == count
    read_record(file.with_name(f"{planned[-1].id}.json"))  # is one
    looks, size = scheduler.requests, scheduler.characters / scheduler.requests / 1e3
    print(f"submissions (sbatch): {len(scheduler.arrays)}, of at most {max(scheduler.arrays)} runs")
    print(f"looks (squeue): {looks}, {size:.0f} kB each; one every 10 s is 6 requests a minute, however many runs")
    timed("one look at a full queue", lambda: full_look(folder / "full", planned, scheduler))
    frame = timed(f"reading {count} records", lambda: load(runs / "records"))
    assert len(frame) == count
    files = sum(each.is_file() for each in (runs / "records").rglob("*"))
    print(f"files in the folder of one task's records: {files}; each record {file.stat().st_size / 1e3:.1f} kB")


def read_options(words: Sequence[str]) -> object:
    """How checkpoints are read: as usual."""
    from transfer.cli import understood

    return understood(["finegrained.own_linear", "random:resnet18", *words]).options


def full_look(runs: Path, planned: Sequence[Planned], scheduler: StubScheduler) -> None:
    """All runs queued, and one look."""
    pool = SlurmPool(StubScheduler(), planned, runs, runs / "logs", SlurmOptions(poll=0, queued=len(planned)))
    for run in planned:
        pool.start(run, runs / f"{run.stem}.log")
    pool._submit()
    began = time.perf_counter()
    pool.ended(0)
    print(f"{'  (of which the look itself)':<34}{time.perf_counter() - began:8.2f} s")


if __name__ == "__main__":
    main()
