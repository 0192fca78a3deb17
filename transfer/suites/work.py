"""What happens in the process of one run of a suite: started from a server that has imported what takes long."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any

import psutil

from transfer.cli import run_command
from transfer.runtime.command import answer
from transfer.runtime.files import ROOT
from transfer.runtime.interrupts import GOES_ON
from transfer.runtime.logs import say_from

# Imported once by the server that runs are forked from. Nothing here computes or starts a thread, so forking is safe.
PRELOADED = ("transfer.suites.work", "torch", "torchvision", "transfer.classification.splits", "transfer.runner")

PORTS = range(20_000, 30_000)  # where the nodes of a job meet: below those that a system gives away by itself


@dataclass(frozen=True)
class Job:
    """One run, as its process is told.

    Attributes:
        words: what would be typed after `python -m transfer run`.
        log: file that takes all it prints; what an earlier attempt printed is replaced, unless `again`.
        environment: variables of its own: which GPU it sees.
        processes: that train together, on all nodes.
        beside: see `Run`.
        nodes: of a cluster's job, each with its share of the processes.
        again: it goes on with what was cut short.
    """

    words: tuple[str, ...]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    processes: int = 1
    beside: tuple[Any, ...] = ()
    nodes: int = 1
    again: bool = False


def work(job: Job) -> None:
    """Do the run; the exit status is that of `python -m transfer run`."""
    os.setsid()  # Ctrl-C in the suite's terminal is the suite's business
    _end_with_parent()
    _print_to(job.log, job.again)
    os.environ.update(job.environment)
    if job.processes > 1:
        words = [sys.executable, "-m", "transfer.torchrun", *_meeting(job), "-m", "transfer", "run", *job.words]
        together = subprocess.Popen(words, env=with_root())
        signal.signal(signal.SIGTERM, lambda *_: together.terminate())  # and that passes it on
        sys.exit(_status(together.wait()))
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s", force=True)
    say_from(logging.INFO)
    sys.exit(answer(lambda: run_command(job.words, beside=job.beside), debug=False, interrupted=GOES_ON))


def _meeting(job: Job) -> list[str]:
    """What torchrun has to know for its processes to find each other: within a machine, or on the nodes of a job.

    SLURM runs this once on each node and says in its variables which they are.
    """
    each = ["--nproc-per-node", str(job.processes // job.nodes)]
    if job.nodes == 1:
        return ["--standalone", *each]
    number = int(os.environ["SLURM_JOB_ID"])
    first = subprocess.check_output(["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]], text=True)
    nodes = ["--nnodes", str(job.nodes), "--node-rank", os.environ["SLURM_NODEID"], *each]
    return [*nodes, "--master-addr", first.split()[0], "--master-port", str(PORTS[number % len(PORTS)])]


def _status(code: int) -> int:
    return 128 - code if code < 0 else code


def with_root() -> dict[str, str]:
    """The environment of a process that is to find the project's packages wherever it is started."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path}


def _print_to(log: Path, further: bool) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    how = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    file = os.open(log, how if further else how | os.O_TRUNC, 0o666)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, nothing), (1, file), (2, file)):
        os.dup2(source, target)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # it is a file


def _end_with_parent() -> None:
    """A suite that is killed takes its runs along: they would hold their locks while the same line is typed again."""
    suite = parent_process()
    if suite is None:
        raise RuntimeError("a run of a suite is started by the suite")

    def watch() -> None:
        connection.wait([suite.sentinel])
        kill_tree(os.getpid())

    threading.Thread(target=watch, daemon=True, name="watch").start()


def family_of(process: int) -> list[psutil.Process]:
    """A process and all that it has started, those that are there now."""
    try:
        root = psutil.Process(process)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kill_tree(process: int) -> None:
    """End a process and all that it has started, at once. That loses nothing: files are written whole or not at all."""
    kill(family_of(process)[::-1])


def kill(family: Iterable[psutil.Process]) -> None:
    """End those that are there still; a number that another process has got since is left alone."""
    for each in family:
        with suppress(psutil.NoSuchProcess):
            each.kill()


def memory_of(family: Iterable[psutil.Process]) -> float:
    """GB that processes take of what cannot be dropped: mapped files do not count, and shared pages once (Linux)."""
    return sum(map(_memory_of, family)) / 1e9


def _memory_of(process: psutil.Process) -> int:
    try:
        text = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii")
        return sum(1024 * int(found) for found in re.findall(r"^Pss_(?:Anon|Shmem):\s+(\d+)", text, re.MULTILINE))
    except OSError:
        pass
    try:
        return int(process.memory_full_info().uss)
    except psutil.Error:  # it has just ended
        return 0
