"""Processes for the runs of a suite: one each, in a slot of its own, with limits on time and memory."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import psutil

from transfer.suites.plan import Planned
from transfer.suites.pool import Ended, Limits, Slot, Started
from transfer.suites.work import PRELOADED, Job, family_of, kill, kill_tree, memory_of, work

LOOK = 1.0  # seconds between two looks at the memory of runs


@dataclass(eq=False, kw_only=True)
class _Process(Started):
    """A run that goes on here.

    Attributes:
        family: its process and all that this has started, when last looked at.
        exceeded: which limit it was ended for.
    """

    process: ForkServerProcess
    family: list[psutil.Process] = field(default_factory=list)
    exceeded: str = ""


def _server() -> ForkServerContext:
    """What processes are forked from; it is started once, and has imported what takes long."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


def in_a_process(ask: Callable[..., Any], *arguments: Any) -> Any:
    """The answer of a function in a process of its own, which takes what it holds of a GPU along."""
    with ProcessPoolExecutor(1, mp_context=_server()) as pool:
        return pool.submit(ask, *arguments).result()


class ProcessPool:
    """Starts runs, ends them at their limits, and tells which have ended.

    Args:
        slots: one run at a time on each.
        limits: of each run.
        processes: that train together in each run.
    """

    def __init__(self, slots: Sequence[Slot], limits: Limits, processes: int = 1) -> None:
        self.limits, self.processes = limits, processes
        self.free, self.width = list(slots), len(slots)
        self._processes: list[_Process] = []
        self._context = _server()
        self._looked = 0.0

    @property
    def running(self) -> list[Started]:
        """Those that go on."""
        return list(self._processes)

    @property
    def room(self) -> bool:
        """Whether a slot is free."""
        return bool(self.free)

    def start(self, run: Planned, log: Path, beside: Sequence[Any] = ()) -> str:
        """Begin a run in a free slot."""
        slot = self.free.pop(0)
        job = Job(run.words, log, slot.environment, self.processes, tuple(beside))
        process = self._context.Process(target=work, args=(job,), name=run.name)
        process.start()
        self._processes.append(_Process(run, slot, log, time.monotonic(), process=process))
        return f"begun on {slot.name}" if slot.name else "begun"

    def ended(self, patience: float) -> list[Ended]:
        """Those that have ended, waiting for the first of them for so many seconds at most."""
        connection.wait([each.process.sentinel for each in self._processes], patience)
        self._hold_to_limits()
        found = []
        for each in [each for each in self._processes if not each.process.is_alive()]:
            self._processes.remove(each)
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
        for each in self._processes:
            if each.process.pid is not None:
                kill_tree(each.process.pid)
                kill(each.family)
        for each in self._processes:
            each.process.join()

    def _hold_to_limits(self) -> None:
        if time.monotonic() - self._looked < LOOK:
            return
        for each in self._processes:
            pid = each.process.pid
            if pid is None or each.exceeded:
                continue
            each.family = family_of(pid)
            each.memory = memory_of(each.family)
            each.exceeded = _exceeded(each, self.limits)
            if each.exceeded:
                kill_tree(pid)
        self._looked = time.monotonic()


def _exceeded(started: _Process, limits: Limits) -> str:
    if limits.gigabytes is not None and started.memory > limits.gigabytes:
        return f"over the limit of {limits.gigabytes:g} GB (--gigabytes): it took {started.memory:.1f}"
    if limits.hours is not None and started.seconds > 3600 * limits.hours:
        return f"over the limit of {limits.hours:g} hours (--hours); --retry goes on from its last checkpoint"
    return ""


def _signal(status: int) -> str:
    name = signal.Signals(-status).name
    return f"ended by {name}" + (": the system does this when memory is full" if name == "SIGKILL" else "")
