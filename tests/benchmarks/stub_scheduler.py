"""A cluster that takes jobs and does with them what a test or a benchmark says; it answers in squeue's own lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from transfer.runtime.errors import UserError
from transfer.suites.slurm import NoAnswer, QueuedJob, read_job
from transfer.suites.slurm_job import ClusterJob


class StubScheduler:
    """Jobs in the order in which they were queued.

    Args:
        at_once: how many `advance` lets run.
        done: is called with each job that `advance` ends well.
    """

    def __init__(self, at_once: int = 0, done: Callable[[ClusterJob], None] = lambda job: None) -> None:
        self.at_once, self.done = at_once, done
        self.made: dict[str, ClusterJob] = {}
        self.states: dict[str, tuple[str, str]] = {}  # state and reason
        self.names: dict[str, str] = {}
        self.arrays: list[int] = []
        self.requests = self.characters = 0
        self.silent = self.refuses = False
        self.prefix, self.largest = "msbreg-stub-", 1000
        self._running: list[str] = []
        self._waiting: list[str] = []

    def submit(self, name: str, folder: Path, jobs: Sequence[ClusterJob]) -> str:
        """See `Scheduler`."""
        if self.refuses:
            raise UserError("sbatch does not take the jobs")
        assert folder.name == name
        self.arrays.append(len(jobs))
        number = str(len(self.arrays))
        for place, job in enumerate(jobs):
            key = f"{number}_{place}" if len(jobs) > 1 else number
            self.made[key], self.names[key], self.states[key] = job, name, ("PENDING", "Priority")
            self._waiting.append(key)
        return number

    def jobs(self, names: Sequence[str]) -> list[QueuedJob]:
        """See `Scheduler`."""
        if self.silent:
            raise NoAnswer("squeue does not answer")
        if not names:
            return []
        self.requests += 1
        wanted = set(names)
        said = "\n".join(
            f"{key}|{self.names[key]}|{state}|0:07|{reason}"
            for key, (state, reason) in self.states.items()
            if self.names[key] in wanted
        )
        self.characters += len(said)
        return [read_job(line) for line in said.splitlines()]

    def set(self, state: str, reason: str = "None", *keys: str) -> None:
        """All jobs, or these."""
        for key in keys or tuple(self.states):
            self.states[key] = (state, reason)

    def advance(self) -> None:
        """What runs ends well, and the next begin; what has ended leaves the queue one call later."""
        for key in [key for key, (state, _) in self.states.items() if state == "COMPLETED"]:
            del self.states[key]
        for key in self._running:
            self.done(self.made[key])
            self.states[key] = ("COMPLETED", "None")
        self._running, self._waiting = self._waiting[: self.at_once], self._waiting[self.at_once :]
        for key in self._running:
            self.states[key] = ("RUNNING", "None")
