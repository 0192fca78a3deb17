"""Processes for the runs of a suite: one each, in a slot of its own, with limits on time and memory.

Another kind of pool (a cluster's queue) has the same three methods: `start`, `ended`, `stop`.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import psutil

from transfer.suites.plan import Planned
from transfer.suites.work import PRELOADED, Job, family_of, kill, kill_tree, memory_of, work

LOOK = 1.0  # seconds between two looks at the memory of runs
SHOWN = 5  # last lines of a log that a message shows


@dataclass(frozen=True)
class Slot:
    """Where one run at a time may be.

    Attributes:
        name: for people.
        environment: what makes a process stay there.
    """

    name: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Limits:
    """Of one run: hours, and GB of memory (not of a GPU). None: none."""

    hours: float | None = None
    gigabytes: float | None = None


@dataclass(eq=False)
class Started:
    """A run that goes on.

    Attributes:
        began: by a clock that never jumps.
        family: its process and all that this has started, when last looked at.
        memory: GB that they took then.
        exceeded: which limit it was ended for.
    """

    run: Planned
    slot: Slot
    log: Path
    process: ForkServerProcess
    began: float
    family: list[psutil.Process] = field(default_factory=list)
    memory: float = 0.0
    exceeded: str = ""

    @property
    def seconds(self) -> float:
        """So far."""
        return time.monotonic() - self.began


@dataclass(frozen=True)
class Ended:
    """A run whose process has ended.

    Attributes:
        status: its exit status; -9: by that signal.
        reason: if it did not end by itself, why.
        over_limit: it was one of `Limits`.
    """

    run: Planned
    slot: Slot
    log: Path
    status: int
    seconds: float
    reason: str = ""
    over_limit: bool = False


def _server() -> ForkServerContext:
    """What processes are forked from; it is started once, and has imported what takes long."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


def in_a_process(ask: Callable[..., Any], *arguments: Any) -> Any:
    """The answer of a function in a process of its own, which takes what it holds of a GPU along."""
    with ProcessPoolExecutor(1, mp_context=_server()) as pool:
        return pool.submit(ask, *arguments).result()


class Pool:
    """Starts runs, ends them at their limits, and tells which have ended.

    Args:
        slots: one run at a time on each.
        limits: of each run.
        processes: that train together in each run.
    """

    def __init__(self, slots: Sequence[Slot], limits: Limits, processes: int = 1) -> None:
        self.limits, self.processes = limits, processes
        self.free = list(slots)
        self.running: list[Started] = []
        self._context = _server()
        self._looked = 0.0

    def start(self, run: Planned, log: Path, beside: Sequence[Any] = ()) -> Started:
        """Begin a run in a free slot."""
        slot = self.free.pop(0)
        job = Job(run.words, log, slot.environment, self.processes, tuple(beside))
        process = self._context.Process(target=work, args=(job,), name=run.name)
        process.start()
        started = Started(run, slot, log, process, time.monotonic())
        self.running.append(started)
        return started

    def ended(self, patience: float) -> list[Ended]:
        """Those that have ended, waiting for the first of them for so many seconds at most."""
        connection.wait([each.process.sentinel for each in self.running], patience)
        self._hold_to_limits()
        found = []
        for each in [each for each in self.running if not each.process.is_alive()]:
            self.running.remove(each)
            self.free.append(each.slot)
            status = each.process.exitcode
            status = 1 if status is None else status
            if each.process.pid is not None:  # where the server was killed, what it had started goes on
                kill_tree(each.process.pid)
            kill(each.family)  # and one that was killed cannot end its own
            reason = each.exceeded or (_signal(status) if status < 0 else "")
            over = bool(each.exceeded)
            found.append(Ended(each.run, each.slot, each.log, status, each.seconds, reason, over))
            each.process.close()
        return found

    def stop(self) -> None:
        """End all runs; typed again, they go on from their last checkpoints."""
        for each in self.running:
            if each.process.pid is not None:
                kill_tree(each.process.pid)
                kill(each.family)
        for each in self.running:
            each.process.join()

    def _hold_to_limits(self) -> None:
        if time.monotonic() - self._looked < LOOK:
            return
        for each in self.running:
            pid = each.process.pid
            if pid is None or each.exceeded:
                continue
            each.family = family_of(pid)
            each.memory = memory_of(each.family)
            each.exceeded = _exceeded(each, self.limits)
            if each.exceeded:
                kill_tree(pid)
        self._looked = time.monotonic()


def _exceeded(started: Started, limits: Limits) -> str:
    if limits.gigabytes is not None and started.memory > limits.gigabytes:
        return f"over the limit of {limits.gigabytes:g} GB (--gigabytes): it took {started.memory:.1f}"
    if limits.hours is not None and started.seconds > 3600 * limits.hours:
        return f"over the limit of {limits.hours:g} hours (--hours); --retry goes on from its last checkpoint"
    return ""


def _signal(status: int) -> str:
    name = signal.Signals(-status).name
    return f"ended by {name}" + (": the system does this when memory is full" if name == "SIGKILL" else "")


def last_words(log: Path) -> str:
    """What a run said last: its error, or the last lines."""
    try:
        text = log.read_bytes()[-20_000:].decode("utf-8", "replace")
    except OSError:
        return ""
    lines = text.rstrip().splitlines()
    errors = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    shown = lines[errors[-1] :] if errors else lines[-SHOWN:]
    return "\n".join("".join(letter for letter in line if letter.isprintable()) for line in shown[: 2 * SHOWN])
