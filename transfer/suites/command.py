"""`python -m transfer suite CKPT …`: plan, show the plan, carry it out, end with the papers' tables and the report."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional, arg

from transfer.cli import CPU, GPU, GPU_GIGABYTES
from transfer.record import content_hash
from transfer.runtime.command import Debug
from transfer.runtime.conditions import THREADS
from transfer.runtime.errors import UserError, printable
from transfer.runtime.files import ROOT
from transfer.suites.carry_out import Undertaking
from transfer.suites.facts import Facts
from transfer.suites.plan import CommonOptions, Planned, Standing, make_plan, plan_file, read_plan, standing, write_plan
from transfer.suites.pool import Limits, Pool, Slot
from transfer.suites.processes import ProcessPool
from transfer.suites.slots import cpu_slots, gpu_slots
from transfer.suites.slurm import NoAnswer, QueuedJob, Slurm, SlurmOptions, in_words
from transfer.suites.slurm_pool import SlurmPool, queued
from transfer.suites.suite import Suite, names, read_suite, refuse_kept, typed_suite
from transfer.suites.view import make_view, standing_text
from transfer.suites.work import with_root


@dataclass(frozen=True)
class SuiteOptions(Debug):
    """Do every task for every checkpoint and seed, and end with the papers' tables and the report.

    What is finished is found and never done again: stop it whenever you like, type the same line, and it goes on.
    `python -m transfer suite status` says from any other terminal how it stands. Behind a lone -- stand further options
    of every run: python -m transfer suite CKPT --tasks transfer.knn -- --image-folder DIR

    Attributes:
        checkpoints: files, or random:ARCH[:SEED].
        suite: paper, quick, open_sets (transfer/suites/*.toml), or a TOML file of your own.
        tasks: these tasks instead, each with options of its own in one word: "detection.voc --preset smoke".
        seeds: instead of the suite's. Tasks in which nothing is random, such as kNN, take the first.
        preset: a recipe for smaller hardware, of every task.
        labels: names of the checkpoints in tables; by default the file names.
        device: cuda or cpu; by default cuda where there is one, and on a cluster.
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
        on: here, or slurm: this machine's cluster. What is queued there goes on when this command is stopped.
        slurm: how the jobs of --on slurm are submitted.
        retry: do failed runs again.
        plan: show the plan and stop.
    """

    checkpoints: Positional[Annotated[tuple[str, ...], arg(metavar="CKPT [CKPT …]")]]
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
    on: Literal["here", "slurm"] = "here"
    slurm: OmitArgPrefixes[SlurmOptions] = field(default_factory=SlurmOptions)
    retry: bool = False
    plan: bool = False

    def words(self, device: str, further: Sequence[str]) -> tuple[str, ...]:
        """The options of every run, as typed."""
        named = {
            "preset": self.preset,
            "device": device,
            "workers": self.workers,
            "threads": self.threads,
            "data-root": self.data_root,
        }
        words = [word for name, value in named.items() if value is not None for word in (f"--{name}", str(value))]
        return (*words, *further, "--runs", str(self.runs))

    def slots(self, device: str) -> list[Slot]:
        """Where runs may be at one time.

        Raises:
            UserError: the device is not there, or an option is for another one.
        """
        if device == "cpu":
            return cpu_slots(self.jobs, self.gpus, self.per_gpu, self.workers or 0)
        return gpu_slots(self.jobs, self.gpus, self.per_gpu, self.processes, self.workers or 0)


@dataclass(frozen=True)
class StatusOptions(Debug):
    """Say how a suite stands: what is done, running, failed and why.

    Attributes:
        name: of the suite, or its beginning: "paper"; by default the one that was begun last.
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
    options = _parsed(own)
    refuse_kept("what stands behind the lone --", [word for word in further if word.startswith("--")])
    suite = _suite(options)
    where = _cluster(options) if options.on == "slurm" else _here(options)
    if where.gigabytes:  # recipes are fitted to what a run will have
        os.environ[GPU_GIGABYTES] = where.gigabytes
    facts = Facts(options.runs / "suites" / "known.json")
    words = options.words(where.device, further)
    common = CommonOptions(options.checkpoints, options.labels, words, options.seeds, where.processes)
    planned = make_plan(suite, common, facts)
    facts.save()
    name = f"{suite.name}-{content_hash([run.words for run in planned])[:6]}"
    standings = _standings(planned, options.runs, queued(options.runs))
    _say(standing_text(f"{name}: {suite.title}", planned, standings, options.runs))
    logs, threads = plan_file(options.runs, name).parent / "logs", options.threads or THREADS
    pool, known = where.pool(planned, logs), where.device if options.on == "here" else None
    undertaking = Undertaking(planned, standings, pool, facts, options.runs, logs, known, threads)
    wanted = {"waiting", "running", *(["failed"] if options.retry else [])}
    if options.on == "slurm":
        wanted.add("queued")
    elif left_there := sum(each.state == "queued" for each in standings.values()):
        _say(f"{left_there} in a cluster's queue, and left to it: --on slurm watches them, scancel ends them")
    todo = [run for run in planned if standings[run].state in wanted]
    if todo:
        left = undertaking.left(todo, []).line()
        _say(f"{len(todo)} to do now, {pool.width} at a time: {left}")
    if not options.retry and any(each.state == "failed" for each in standings.values()):
        _say("the same line with --retry does what failed again")
    if options.plan:
        return 0
    write_plan(plan_file(options.runs, name), suite.title, planned)
    if todo:
        done = sum(each.state == "done" for each in standings.values())
        undertaking.carry_out(todo, make_view(options.runs, len(planned), done))
        _say("\n" + standing_text(name, planned, standings))
    return _conclude(name, options.runs, planned, standings)


def _parsed(own: Sequence[str]) -> SuiteOptions:
    try:
        return tyro.cli(SuiteOptions, args=own, prog="python -m transfer suite")
    except SystemExit as end:
        if end.code:
            sys.stderr.write(
                "options of tasks stand behind a lone --, for all of them, or within --tasks, for one:\n"
                "  python -m transfer suite CKPT --tasks transfer.knn -- --image-folder DIR\n"
                '  python -m transfer suite CKPT --tasks transfer.knn "detection.voc --preset smoke"\n'
            )
        raise


@dataclass(frozen=True)
class _Where:
    """Where the runs of a suite are done.

    Attributes:
        processes: that train together in each.
        gigabytes: of the GPU's memory for each; "": no GPU.
        pool: does them; called with all runs, and the folder of their logs.
    """

    device: str
    processes: int
    gigabytes: str
    pool: Callable[[Sequence[Planned], Path], Pool]


def _here(options: SuiteOptions) -> _Where:
    typed = [each.name for each in fields(SlurmOptions) if getattr(options.slurm, each.name) != each.default]
    if typed:
        raise UserError(f"--{typed[0].replace('_', '-')} is of --on slurm", todo="add --on slurm, or leave it out")
    device = options.device or ("cuda" if _gpu() else "cpu")
    slots, limits = options.slots(device), Limits(options.hours, options.gigabytes)
    gigabytes = slots[0].environment.get(GPU_GIGABYTES, "")
    return _Where(device, options.processes, gigabytes, lambda *_: ProcessPool(slots, limits, options.processes))


def _cluster(options: SuiteOptions) -> _Where:
    """On the cluster's machines: nothing is asked of this one.

    Raises:
        UserError: an option that is for runs here, or one that is missing.
    """
    wanted, device = options.slurm, options.device or GPU
    if device not in (CPU, GPU):
        raise UserError(f"--device {device} is not known", todo="cpu or cuda")
    instead = {"jobs": "--array", "gpus": "--gpus-per-run", "per_gpu": "--gpus-per-run", "hours": "--time"}
    usual = {each.name: each.default for each in fields(SuiteOptions)}
    for name, other in instead.items():
        if getattr(options, name) != usual[name]:
            raise UserError(f"--{name.replace('_', '-')} is for runs here", todo=f"with --on slurm: {other}")
    for name in ("array", "queued", "nodes", "grace", "gpus_per_run", "cpus_per_run", "gpu_gigabytes", "poll"):
        if (value := getattr(wanted, name)) is not None and value <= 0:
            raise UserError(f"--{name.replace('_', '-')} {value}", todo="give more than 0")
    if (options.workers or 0) < 0:
        raise UserError(f"--workers {options.workers}", todo="give 0 or more")
    processes, gigabytes = options.processes, ""
    if device == GPU:
        processes = max(wanted.gpus_per_run or 1, options.processes)
        if options.processes not in (1, processes) or wanted.gpus_per_run not in (None, processes):
            raise UserError("--processes and --gpus-per-run differ", todo="a process has a GPU: give one of them")
        if wanted.gpu_gigabytes is None:
            raise UserError(
                "how much memory have the cluster's GPUs? Recipes are fitted to it",
                todo="--gpu-gigabytes 80; or --device cpu",
            )
        gigabytes = f"{wanted.gpu_gigabytes:.2f}"
    elif wanted.gpus_per_run or wanted.gpu_gigabytes:
        raise UserError("--gpus-per-run and --gpu-gigabytes on a CPU", todo="leave them out, or --device cpu")
    cores = max(options.threads or 1, 1 + (options.workers or 0))
    gpus = processes if device == GPU else 0
    scheduler = Slurm(wanted, options.gigabytes, processes, cores, gpus)
    environment = {GPU_GIGABYTES: gigabytes} if gigabytes else {}

    def pool(planned: Sequence[Planned], logs: Path) -> Pool:
        return SlurmPool(scheduler, planned, options.runs, logs, wanted, processes, environment)

    return _Where(device, processes, gigabytes, pool)


def _gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _standings(planned: Sequence[Planned], runs: Path, jobs: Mapping[str, QueuedJob]) -> dict[Planned, Standing]:
    """How all of them stand: by what lies on disk, and by the queue of a cluster."""
    found = {run: standing(run, runs) for run in planned}
    for run, each in found.items():
        job = jobs.get(run.id)
        if job is not None and not job.over and each.state in ("waiting", "failed"):
            found[run] = Standing("queued", in_words(job))
    return found


def _suite(options: SuiteOptions) -> Suite:
    if not options.checkpoints:
        raise UserError(
            "which checkpoint?",
            todo="name files or random:resnet50 before the options: python -m transfer suite CKPT … --suite quick",
        )
    if bool(options.suite) == bool(options.tasks):
        raise UserError(
            "which tasks?" if not options.suite else "--suite and --tasks are two answers to one question",
            todo=f"--suite {' or --suite '.join(names())}; or --tasks and their names (`python -m transfer tasks`)",
        )
    for name in ("jobs", "per_gpu", "processes"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)}", todo="give 1 or more")
    for name in ("hours", "gigabytes"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise UserError(f"--{name} {value}", todo="give more than 0")
    return read_suite(options.suite) if options.suite else typed_suite(options.tasks)


def _conclude(name: str, runs: Path, planned: Sequence[Planned], standings: Mapping[Planned, Standing]) -> int:
    """Tables and report of what there is; exit status 1 if something is not done, or they could not be made."""
    done = sum(standings[run].state == "done" for run in planned)
    if not done:
        return 1
    folder = plan_file(runs, name).parent
    common = ["--records", str(runs / "records"), "--task", *dict.fromkeys(run.task for run in planned)]
    table = ["--csv", str(folder / "table.csv"), "--markdown", str(folder / "table.md")]
    report = ["--work", str(runs / "work"), "--out", str(folder / "report.html")]
    made = [_results(["table", *common, *table]), _results(["report", *common, *report])]
    return int(done != len(planned) or not all(made))


def _results(words: Sequence[str]) -> bool:
    """The room of tables lies above this one: it is called as people call it, and says itself what is wrong."""
    return not subprocess.run([sys.executable, "-m", "results", *words], env=with_root(), check=False).returncode


def _say(text: str) -> None:
    sys.stdout.write(f"{printable(text)}\n")
    sys.stdout.flush()


def _status(options: StatusOptions) -> int:
    """`suite status`; exit status 0 if all of it is done."""
    files = sorted((options.runs / "suites").glob("*/plan.json"), key=lambda file: file.stat().st_mtime)
    there = [file.parent.name for file in files]
    if not files:
        raise UserError(f"no suite was begun in {options.runs}", todo="python -m transfer suite --help")
    meant = [file for file in files if f"{file.parent.name}-".startswith(f"{options.name}-")] if options.name else files
    if not meant:
        raise UserError(f"no suite {options.name!r} was begun in {options.runs}", todo=f"one of {', '.join(there)}")
    file = meant[-1]
    title, planned = read_plan(file)
    try:
        jobs = queued(options.runs)
    except NoAnswer as error:
        _say(f"what is in the queue is not known: {error}")
        jobs = {}
    standings = _standings(planned, options.runs, jobs)
    _say(standing_text(f"{file.parent.name}: {title}", planned, standings, options.runs))
    return int(any(each.state != "done" for each in standings.values()))
