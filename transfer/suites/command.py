"""`python -m transfer suite CKPT …`: plan, show the plan, carry it out, end with the papers' tables and the report."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional, arg

from transfer.checkpoints.speed import speed
from transfer.cli import check_machine
from transfer.runtime.command import REFUSED, Debug
from transfer.runtime.conditions import THREADS
from transfer.runtime.errors import UserError, printable
from transfer.runtime.files import ROOT
from transfer.suites.facts import Facts
from transfer.suites.plan import (
    CommonOptions,
    Planned,
    Standing,
    forget_ended,
    make_plan,
    note_ended,
    plan_file,
    read_plan,
    standing,
    write_plan,
)
from transfer.suites.pool import Ended, Limits, Pool, Slot, Started, last_words
from transfer.suites.suite import Suite, names, read_suite, typed_suite
from transfer.suites.view import Estimate, make_view, standing_text

LOOK = 0.5  # seconds between two looks at everything
ELSEWHERE = 5.0  # seconds between two looks at runs that another process is doing


@dataclass(frozen=True)
class SuiteOptions(Debug):
    """Do every task for every checkpoint and seed, and end with the papers' tables and the report.

    What is finished is found and never done again: stop it whenever you like, type the same line, and it goes on.
    `python -m transfer suite status` says from any other terminal how it stands. Behind a lone -- stand further options
    of every run: python -m transfer suite CKPT --tasks transfer.knn -- --image-folder DIR

    Attributes:
        checkpoints: files, or random:ARCH[:SEED].
        suite: one that comes with the project (transfer/suites/*.toml), or a TOML file of your own.
        tasks: these tasks instead, each with options of its own in one word: "detection.voc --preset smoke".
        seeds: instead of the suite's; tasks in which nothing is random have their own.
        preset: a recipe for smaller hardware, of every task.
        labels: names of the checkpoints in tables; by default the file names.
        device: cuda or cpu; by default cuda where there is one.
        workers: data-loading processes of a run.
        threads: of PyTorch on the CPU, of a run.
        data_root: folder that holds the official sets (default: $DETECTRON2_DATASETS, else datasets/ here).
        runs: where records and everything else are written.
        jobs: runs at a time on the CPU.
        gpus: their numbers; by default all that PyTorch sees.
        per_gpu: runs at a time on each GPU.
        processes: that train together in a run, one a GPU.
        hours: end a run that takes longer.
        gigabytes: end a run that takes more memory, with all its processes.
        retry: do failed runs again.
        plan: show the plan and stop.
    """

    checkpoints: Positional[tuple[str, ...]]
    suite: str | None = None
    tasks: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    preset: str | None = None
    labels: tuple[str, ...] = ()
    device: str | None = None
    workers: int | None = None
    threads: int | None = None
    data_root: Path | None = None
    runs: Path = ROOT / "runs"
    jobs: int = 1
    gpus: tuple[int, ...] = ()
    per_gpu: int = 1
    processes: int = 1
    hours: float | None = None
    gigabytes: float | None = None
    retry: bool = False
    plan: bool = False

    def words(self, further: Sequence[str]) -> tuple[str, ...]:
        """The options of every run, as typed."""
        named = {
            "preset": self.preset,
            "device": self.device,
            "workers": self.workers,
            "threads": self.threads,
            "data-root": self.data_root,
        }
        words = [word for name, value in named.items() if value is not None for word in (f"--{name}", str(value))]
        return (*words, *further, "--runs", str(self.runs))


@dataclass(frozen=True)
class StatusOptions(Debug):
    """Say how a suite stands: what is done, running, failed and why.

    Attributes:
        name: of the suite; by default the one that was begun last.
        runs: where its records are.
    """

    name: Positional[str | None] = None
    runs: Annotated[Path, arg(name="runs")] = ROOT / "runs"


def suite_command(arguments: Sequence[str]) -> int:
    """Do what was typed; exit status 1 if a run is not done in the end."""
    if arguments[:1] == ["status"]:
        return _status(tyro.cli(StatusOptions, args=arguments[1:], prog="python -m transfer suite status"))
    place = arguments.index("--") if "--" in arguments else len(arguments)
    own, further = arguments[:place], arguments[place + 1 :]
    options = tyro.cli(SuiteOptions, args=own, prog="python -m transfer suite")
    suite = _suite(options)
    facts = Facts(options.runs / "suites" / "known.json")
    common = CommonOptions(
        options.checkpoints, options.labels, options.words(further), options.seeds, options.processes
    )
    planned = make_plan(suite, common, facts)
    facts.save()
    write_plan(plan_file(options.runs, suite.name), suite.title, planned)
    standings = {run: standing(run, options.runs) for run in planned}
    _say(standing_text(f"{suite.name}: {suite.title}", planned, standings, options.runs))
    todo = _todo(planned, standings, options.retry)
    work = Work(options, suite, facts, slots(options), planned, standings)
    if todo:
        _say(f"{len(todo)} to do now, {len(work.slots)} at a time: {work.left(todo, []).line()}")
    failed = sum(standings[run].state == "failed" for run in planned)
    if failed and not options.retry:
        _say(f"{failed} failed: the same line with --retry does them again")
    if options.plan:
        return 0
    if todo:
        work.carry_out(todo)
    return work.conclude()


def _suite(options: SuiteOptions) -> Suite:
    if not options.checkpoints:
        raise UserError("which checkpoint?", todo="name one or more files, or random:resnet50")
    if bool(options.suite) == bool(options.tasks):
        raise UserError(
            "which tasks?" if not options.suite else "--suite and --tasks are two answers to one question",
            todo=f"--suite {' or --suite '.join(names())}; or --tasks and their names (`python -m transfer tasks`)",
        )
    for name, least in (("jobs", 1), ("per_gpu", 1), ("processes", 1)):
        if getattr(options, name) < least:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)}", todo=f"give {least} or more")
    for name in ("hours", "gigabytes"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise UserError(f"--{name} {value}", todo="give more than 0")
    return read_suite(options.suite) if options.suite else typed_suite(options.tasks)


def slots(options: SuiteOptions) -> list[Slot]:
    """Where runs may be at one time.

    Raises:
        UserError: the device is not there, or fewer GPUs than a run's processes.
    """
    import torch

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_machine(device, options.workers or 0)
    if device == "cpu":
        if options.gpus:
            raise UserError("--gpus with --device cpu", todo="leave one of them out")
        return [Slot("") for _ in range(options.jobs)]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    seen = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    unknown = [number for number in options.gpus if number not in range(len(seen))]
    if unknown:
        raise UserError(f"there is no GPU {unknown[0]}", found=f"PyTorch sees {len(seen)}", todo="they count from 0")
    chosen = [seen[number] for number in options.gpus] if options.gpus else seen
    groups = [chosen[at : at + options.processes] for at in range(0, len(chosen), options.processes)]
    whole = [group for group in groups if len(group) == options.processes]
    if not whole:
        raise UserError(
            f"--processes {options.processes}, one a GPU", found=f"{len(chosen)} GPUs", todo="give --processes fewer"
        )
    return [
        Slot(f"GPU {','.join(group)}", {"CUDA_VISIBLE_DEVICES": ",".join(group)})
        for _ in range(options.per_gpu)
        for group in whole
    ]


def _todo(planned: Sequence[Planned], standings: Mapping[Planned, Standing], retry: bool) -> list[Planned]:
    """Those to do or to wait for: a run that another process does may yet be left to this one."""
    wanted = {"waiting", "running", *(["failed"] if retry else [])}
    return [run for run in planned if standings[run].state in wanted]


class Work:
    """A suite in the doing.

    Args:
        standings: of all runs; kept true.
    """

    def __init__(
        self,
        options: SuiteOptions,
        suite: Suite,
        facts: Facts,
        slots: list[Slot],
        planned: Sequence[Planned],
        standings: dict[Planned, Standing],
    ) -> None:
        self.options, self.suite, self.facts, self.slots = options, suite, facts, slots
        self.planned, self.standings = planned, standings
        self.runs = options.runs
        self.folder = plan_file(options.runs, suite.name).parent
        self._extracted: set[str] = set()

    def carry_out(self, todo: Sequence[Planned]) -> None:
        """Do these runs, whichever of them can be done; however it is left, no process of it stays."""
        done = sum(each.state == "done" for each in self.standings.values())
        view = make_view(self.runs, len(self.planned), done)
        pool = Pool(self.slots, Limits(self.options.hours, self.options.gigabytes), self.options.processes)
        waiting = list(todo)
        try:
            while waiting or pool.running:
                while pool.free and (run := self._next(waiting, pool)) is not None:
                    waiting.remove(run)
                    forget_ended(self.runs, run)
                    started = pool.start(run, self.folder / "logs" / f"{run.stem}.log", self._beside(run))
                    view.started(run, started.slot.name)
                for ended in pool.ended(LOOK):
                    found = self._judge(ended)
                    if found.state == "running":  # another suite was a moment earlier
                        waiting.append(ended.run)
                        continue
                    self.standings[ended.run] = found
                    view.ended(ended, found)
                view.tick(pool.running, len(waiting), self.left(waiting, pool.running))
        finally:
            view.close()
            pool.stop()

    def _next(self, waiting: list[Planned], pool: Pool) -> Planned | None:
        """The first that can begin; what others have done meanwhile is taken off the list."""
        extracting = {each.run.images for each in pool.running} - self._extracted
        for run in list(waiting):
            found = standing(run, self.runs)
            if found.state == "done" or (found.state == "failed" and self.standings[run].state != "failed"):
                self.standings[run] = found
                waiting.remove(run)
            elif found.state != "running" and (not run.images or run.images not in extracting):
                return run
        return None

    def _beside(self, run: Planned) -> tuple[Any, ...]:
        """The features that other runs want of the same images and weights: an image is decoded once for all."""
        if not run.images or run.images in self._extracted:
            return ()
        others = [other for other in self.planned if other.images == run.images and other != run]
        return tuple(dict.fromkeys(view for other in others for view in other.frozen))

    def _judge(self, ended: Ended) -> Standing:
        """How a run stands whose process has ended."""
        found = standing(ended.run, self.runs)
        if found.state == "done":
            self._extracted.add(ended.run.images)
            self.facts.took(ended.run.kind, ended.seconds)
            self.facts.save()
            return found
        if ended.over_limit:
            note_ended(self.runs, ended.run, ended.reason)
        if ended.reason:
            return Standing("failed", ended.reason)
        if found.state != "waiting":
            return found
        if ended.status == 0:
            return Standing("failed", "its images have changed since they were planned: type the same line again")
        said = last_words(ended.log)
        refused = ended.status == REFUSED and said
        return Standing("failed", said if refused else f"it ended with status {ended.status}; its last words:\n{said}")

    def left(self, waiting: Sequence[Planned], running: Sequence[Started]) -> Estimate:
        """Until all is done: by how long such runs took here, else by their work and this machine's speed."""
        expected = [(self._expected(run), 0.0) for run in waiting]
        expected += [(self._expected(each.run), each.seconds) for each in running]
        known = [max(0.0, seconds - gone) for seconds, gone in expected if seconds is not None]
        return Estimate(sum(known) / len(self.slots), len(known) == len(expected))

    def _expected(self, run: Planned) -> float | None:
        took = self.facts.seconds(run.kind)
        if took is not None or run.work is None:
            return took
        return run.work / self._speed

    @cached_property
    def _speed(self) -> float:
        device = "cuda" if self.slots[0].environment else "cpu"
        return speed(device, self.options.threads or THREADS)

    def conclude(self) -> int:
        """Tables and report of what there is; the exit status."""
        _say("\n" + standing_text(self.suite.name, self.planned, self.standings))
        states = Counter(self.standings[run].state for run in self.planned)
        if states["done"]:
            self._tables()
        return int(states["done"] != len(self.planned))

    def _tables(self) -> None:
        tasks = list(dict.fromkeys(run.task for run in self.planned))
        common = ["--records", str(self.runs / "records"), "--task", *tasks]
        files = {name: str(self.folder / name) for name in ("table.csv", "table.md", "report.html")}
        for words in (
            ["table", *common, "--csv", files["table.csv"], "--markdown", files["table.md"]],
            ["report", *common, "--work", str(self.runs / "work"), "--out", files["report.html"]],
        ):
            path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
            # `results` lies above this room: it is called as people call it
            subprocess.run(
                [sys.executable, "-m", "results", *words], env={**os.environ, "PYTHONPATH": path}, check=False
            )


def _say(text: str) -> None:
    sys.stdout.write(f"{printable(text)}\n")
    sys.stdout.flush()


def _status(options: StatusOptions) -> int:
    """`suite status`; exit status 0 if all of it is done."""
    folder = options.runs / "suites"
    if options.name is None:
        files = sorted(folder.glob("*/plan.json"), key=lambda file: file.stat().st_mtime)
        if not files:
            raise UserError(f"no suite was begun in {options.runs}", todo="python -m transfer suite --help")
        file = files[-1]
    else:
        file = plan_file(options.runs, options.name)
        if not file.exists():
            there = ", ".join(sorted(each.parent.name for each in folder.glob("*/plan.json"))) or "none"
            raise UserError(f"no suite {options.name!r} was begun in {options.runs}", found=f"there are: {there}")
    title, planned = read_plan(file)
    standings = {run: standing(run, options.runs) for run in planned}
    _say(standing_text(f"{file.parent.name}: {title}", planned, standings, options.runs))
    return int(any(each.state != "done" for each in standings.values()))
