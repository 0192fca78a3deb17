"""What one job of a cluster does: its run in a process of its own, which is asked to save before the job ends.

A job is told in two ways that it ends. Preemption and `scancel` send SIGTERM to all its processes, and SLURM itself
queues a preempted job again. Before the end of its time submitit's signal comes (SIGUSR2, or $SUBMITIT_PREEMPT_SIGNAL):
submitit calls `checkpoint`, keeps what that returns in place of this job, and queues it again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from dataclasses import dataclass, replace
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from submitit.core.job_environment import JobEnvironment
from submitit.helpers import DelayedSubmission

from transfer.suites.plan import Planned, note_ended, standing
from transfer.suites.pool import last_words
from transfer.suites.work import Job, kill_tree, work

SAVED = (128 + signal.SIGTERM, 128 + signal.SIGINT)  # exit statuses of a run that was asked to leave
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
    """

    run: Planned
    job: Job
    runs: Path
    grace: float
    fruitless: int = 0
    process: SpawnProcess | None = None

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
        self.process.start()
        signal.signal(number, before)
        signal.signal(signal.SIGTERM, lambda *_: self._ask())
        self.process.join()
        status = self.process.exitcode
        status = 1 if status is None else 128 - status if status < 0 else status
        if status and status not in SAVED and node == 0:
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
        return self.process.exitcode in (0, *SAVED)

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
        if standing(self.run, self.runs).state != "waiting":  # its record says it
            return
        said = last_words(self.job.log)
        reason = said if said.startswith("error: ") else f"it ended with status {status}; its last words:\n{said}"
        note_ended(self.runs, self.run, reason)
