"""What one job of a cluster does: its run in a process of its own, which is asked to save before the job ends.

A job is told in two ways that it ends. Preemption and `scancel` send SIGTERM, to this process or to all of the job, and
SLURM itself queues a preempted job again, unless it has left within its grace time: then it is queued again from here.
Before the end of its time submitit's signal comes (SIGUSR2, or $SUBMITIT_PREEMPT_SIGNAL): submitit calls `checkpoint`,
keeps what that returns in place of this job, and queues it again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from submitit.core.job_environment import JobEnvironment
from submitit.helpers import DelayedSubmission

from transfer.suites.plan import Planned, note_ended, standing
from transfer.suites.pool import why_ended
from transfer.suites.work import Job, kill_tree, work

ASK = (signal.SIGTERM, signal.SIGUSR1)
SAVED = tuple(128 + number for number in (*ASK, signal.SIGINT))  # exit statuses of a run that was asked to leave
LOCKED = 10.0  # seconds that what a killed run has started may hold its lock
FRUITLESS = 3  # ends of a job's time, one after another, at which nothing could be saved
NOTHING_SAVED = (
    f"the time of its job ended {FRUITLESS} times before it could save anything: give it more (--time), or more "
    "seconds to save (--grace)"
)


@dataclass
class ClusterJob:
    """One run, as submitit pickles it.

    Attributes:
        run: what is done.
        job: as its process is told.
        runs: the folder of records and of everything else.
        grace: seconds that it has to save.
        fruitless: how many ends of its time in a row have saved nothing.
        process, began: of the run, in its job; `began` by the clock of files.
    """

    run: Planned
    job: Job
    runs: Path
    grace: float
    fruitless: int = 0
    process: SpawnProcess | None = None
    began: float = 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "process": None}

    def __call__(self) -> None:
        """Do the run; the exit status of the job is the run's."""
        node = int(os.environ.get("SLURM_NODEID", "0"))
        job = replace(self.job, again="SLURM_RESTART_COUNT" in os.environ)  # whoever has queued it again
        if node:
            job = replace(job, log=job.log.with_suffix(f".node{node}.log"))
        self.process = multiprocessing.get_context("spawn").Process(target=work, args=(job,), name=self.run.name)
        number = getattr(signal, f"SIG{JobEnvironment.USR_SIG}")
        # It comes to every process of the job; the run is told what it means by `checkpoint`.
        before = signal.signal(number, signal.SIG_IGN)
        self.began = time.time()
        self.process.start()
        signal.signal(number, before)
        for each in {*ASK} - {number}:
            signal.signal(each, lambda *_: self._ask())
        self.process.join()
        status = self.process.exitcode
        status = 1 if status is None else 128 - status if status < 0 else status
        if status in SAVED and node == 0:
            _queue_again()
        elif status and node == 0:
            self._note(status)
        sys.exit(status)

    def checkpoint(self) -> DelayedSubmission | None:
        """Let the run save and leave; what goes on with it when the job begins again. None: it is given up."""
        fruitless = 0 if self._left() else self.fruitless + 1
        if fruitless == FRUITLESS:
            note_ended(self.runs, self.run, NOTHING_SAVED)
            return None
        return DelayedSubmission(replace(self, fruitless=fruitless, process=None))

    def _left(self) -> bool:
        """Whether it has saved, or has come to its end meanwhile."""
        assert self.process is not None
        self._ask()
        self.process.join(self.grace)
        if self.process.exitcode is None:
            self.kill()
        # torchrun ends in the same way whether its processes have left or were killed
        return self.process.exitcode in (0, *SAVED) and (self.job.processes == 1 or self._written())

    def _written(self) -> bool:
        files = (self.runs / "work" / self.run.task / self.run.id).rglob("*.pth")
        return any(file.stat().st_mtime > self.began for file in files)

    def _ask(self) -> None:
        assert self.process is not None
        if self.process.exitcode is None:
            self.process.terminate()

    def kill(self) -> None:
        """End it with all that it has started."""
        assert self.process is not None
        assert self.process.pid is not None
        kill_tree(self.process.pid)
        self.process.join()

    def _note(self, status: int) -> None:
        """Why it ended, for whoever looks later: the suite that has queued it may be gone."""
        deadline = time.monotonic() + LOCKED
        while (found := standing(self.run, self.runs)).state == "running" and time.monotonic() < deadline:
            time.sleep(0.5)
        if found.state != "waiting":  # its record says it
            return
        note_ended(self.runs, self.run, why_ended(self.job.log, status))


def _queue_again() -> None:
    """Where SLURM has not done it: it takes a job that leaves within its grace time for one that has failed."""
    job = os.environ["SLURM_JOB_ID"]
    state = subprocess.run(["squeue", "--noheader", f"--jobs={job}", "--format=%T"], capture_output=True, text=True)
    if state.stdout.strip() == "RUNNING":
        subprocess.run(["scontrol", "requeue", job], check=True)
        time.sleep(60)  # until SLURM ends it
