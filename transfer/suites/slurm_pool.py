"""The runs of a suite in a cluster's queue. One job a run, in arrays.

Every suite in a `--runs` folder sees the same queue: a job's name leads to the list of runs that it was made of, which
was written before it was submitted. So the same line, typed again, finds its jobs, and no run is queued twice.
"""

from __future__ import annotations

import json
import logging
import math
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transfer.runtime.errors import UserError
from transfer.runtime.files import locked, write_json
from transfer.suites.plan import Planned, standing
from transfer.suites.pool import Ended, Slot, Started, last_words
from transfer.suites.slurm import ENDS, GONE, NoAnswer, QueuedJob, Scheduler, SlurmOptions, in_words, queue
from transfer.suites.slurm_job import ClusterJob
from transfer.suites.work import Job

logger = logging.getLogger(__name__)

LIST = "runs.json"  # in the folder of a submission
PATIENCE = 60.0  # seconds for another suite that is submitting
AGAIN = 30.0  # seconds until what the scheduler did not take is submitted again
LAG = 60.0  # seconds after which a file system has shown what another machine has written: NFS's acdirmax
BEGUN = ("RUNNING", "COMPLETING", "COMPLETED", "FAILED", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT")


def queued(runs: Path, ask: Scheduler | None = None) -> dict[str, QueuedJob]:
    """Run id → its job, of all that the suites in this folder have queued.

    Raises:
        NoAnswer: as it says.
        UserError: a list cannot be read.
    """
    made = {file.parent.name: _listed(file) for file in (runs / "slurm").glob(f"*/{LIST}")}
    found: dict[str, QueuedJob] = {}
    for job in (ask.jobs if ask else queue)(sorted(made)):
        ids = made.get(job.name, ())
        if job.place < len(ids):
            before = found.get(ids[job.place])
            if before is None or job.newer_than(before):  # a run that failed may have been queued again
                found[ids[job.place]] = job
    return found


def _listed(file: Path) -> list[str]:
    try:
        return [str(each) for each in json.loads(file.read_bytes())]
    except FileNotFoundError:  # forgotten meanwhile
        return []
    except (OSError, ValueError, TypeError) as error:
        todo = f"mend it; or, if nothing of it is queued, remove {file.parent}"
        raise UserError(f"cannot read {file}, which says what is in the queue", found=str(error), todo=todo) from error


class SlurmPool:
    """Queues runs, and tells which have ended. What is queued goes on without the suite.

    Args:
        scheduler: has the queue.
        planned: all runs of the suite: those that are queued already are found there.
        runs: the folder of records and of everything else.
        logs: of each run, see `Planned.stem`.
        options: of every job.
        processes: that train together in each run.
        environment: variables of every run.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        planned: Sequence[Planned],
        runs: Path,
        logs: Path,
        options: SlurmOptions,
        processes: int = 1,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.scheduler, self.runs, self.logs, self.options, self.processes = scheduler, runs, logs, options, processes
        self.environment = dict(environment or {})
        self.width = options.array
        self.running: list[Started] = []
        self._known = {run.id: run for run in planned if run.id}
        self._gathered: list[ClusterJob] = []
        self._over: dict[Planned, float] = {}  # since when its job has ended
        self._looked = self._refused = -math.inf
        self._warned: set[str] = set()
        self._take_over(queued(runs, scheduler))

    @property
    def room(self) -> bool:
        """Whether another one may wait in the queue."""
        return len(self.running) < self.options.queued

    def start(self, run: Planned, log: Path, beside: Sequence[Any] = ()) -> str:
        """Queue a run, together with others that are started before the next look at what has ended."""
        job = Job(run.words, log, self.environment, self.processes, tuple(beside), self.options.nodes)
        # Some seconds are left to SLURM for the queueing.
        self._gathered.append(ClusterJob(run, job, self.runs, grace=max(5.0, self.options.grace - 15)))
        self.running.append(Started(run, Slot(), log, 0.0, waits="being queued"))
        return "queued"

    def ended(self, patience: float) -> list[Ended]:
        """Those that have ended; the queue is looked at every few seconds, with one request."""
        if self._gathered and time.monotonic() - self._refused > AGAIN:
            try:
                self._submit()
            except UserError as error:
                if not isinstance(error, NoAnswer) and not any(each.slot.name for each in self.running):
                    self.running = []  # nothing is queued, and the command ends with this
                    raise
                self._warn(error)  # a limit of the queue, perhaps: what is in it makes room
                self._refused = time.monotonic()
        wait = self._looked + self.options.poll - time.monotonic()
        if wait > 0:
            time.sleep(min(wait, patience))
            return []
        self._looked = time.monotonic()
        try:
            return self._look()
        except NoAnswer as error:  # the runs do not need it
            self._warn(error)
            return []

    def _warn(self, error: UserError) -> None:
        if error.what not in self._warned:
            logger.warning("%s", error)
        self._warned.add(error.what)

    def stop(self) -> None:
        """Nothing: what is queued goes on, and the same line finds it."""
        there = [each for each in self.running if each.slot.name]
        if there:
            numbers = dict.fromkeys(each.slot.name.removeprefix("job ").partition("_")[0] for each in there)
            logger.info(
                "still in the queue: %d; they go on, and the same line watches them again. To end them: scancel %s",
                len(there), " ".join(numbers),
            )  # fmt: skip

    def _look(self) -> list[Ended]:
        found = queued(self.runs, self.scheduler)
        self._take_over(found)
        gathered = {job.run for job in self._gathered}
        ended = []
        for each in [each for each in self.running if each.run not in gathered]:
            job = found.get(each.run.id)
            if job is not None and (not job.over or self._unseen(each.run, job)):
                _update(each, job)
                continue
            self._over.pop(each.run, None)
            self.running.remove(each)
            ended.append(_ended(each, job, self.runs))
        return ended

    def _unseen(self, run: Planned, job: QueuedJob) -> bool:
        """Whether what it has left may still be on its way: another machine has written it."""
        if job.state not in ("COMPLETED", "FAILED") or standing(run, self.runs).state in ("done", "failed"):
            return False
        return time.monotonic() - self._over.setdefault(run, time.monotonic()) < LAG

    def _take_over(self, found: Mapping[str, QueuedJob]) -> None:
        """Watch what is queued, whoever has put it there."""
        watched = {each.run.id for each in self.running}
        for key, job in found.items():
            if key in self._known and key not in watched and not job.over:
                run = self._known[key]
                self.running.append(started := Started(run, Slot(f"job {job.id}"), self.logs / f"{run.stem}.log", 0.0))
                _update(started, job)

    def _submit(self) -> None:
        """As few submissions as can be; what another suite has queued a moment earlier is watched instead."""
        folder = self.runs / "slurm"
        with locked(folder, "another suite is queueing its runs here", "type the same line again", patience=PATIENCE):
            name = self._new(folder)  # before it looks for lists: NFS shows a folder anew to who has changed it
            found = queued(self.runs, self.scheduler)
            _forget(folder, self.scheduler.prefix, {job.name for job in found.values()})
            there = {key for key, job in found.items() if not job.over}
            self._gathered = [job for job in self._gathered if job.run.id not in there]
            watched = {each.run: each for each in self.running}
            while self._gathered:
                part = self._gathered[: self.scheduler.largest]
                write_json(folder / name / LIST, [job.run.id for job in part])
                number = self.scheduler.submit(name, folder / name, part)
                self._gathered = self._gathered[len(part) :]
                logger.info("runs queued as job %s: %d", number, len(part))
                for place, job in enumerate(part):
                    watched[job.run].slot = Slot(f"job {number}_{place}" if len(part) > 1 else f"job {number}")
                    watched[job.run].waits = "queued just now"
                name = self._new(folder)
            (folder / name).rmdir()  # the one that was not needed
        self._warned.clear()

    def _new(self, folder: Path) -> str:
        name = self.scheduler.prefix + uuid.uuid4().hex[:12]
        (folder / name).mkdir(parents=True)
        return name


def _forget(folder: Path, prefix: str, names: set[str]) -> None:
    """Lists of which nothing is left in the queue; under the lock, so that no list is of a submission to come."""
    for file in folder.glob(f"{prefix}*/{LIST}"):
        if file.parent.name not in names:
            file.unlink(missing_ok=True)


def _update(started: Started, job: QueuedJob) -> None:
    begun = job.state in BEGUN
    started.slot = Slot(f"job {job.id}")
    started.began = time.monotonic() - job.seconds if begun else 0.0
    started.waits = "" if begun else in_words(job)


def _ended(each: Started, job: QueuedJob | None, runs: Path) -> Ended:
    seconds = job.seconds if job else each.seconds
    if job is not None and job.state == "COMPLETED":
        return Ended(each.run, each.slot, each.log, 0, seconds)
    if job is not None and job.state == "FAILED":  # what comes as far as the run leaves a record, or says why not
        log = runs / "slurm" / job.name / f"{job.id}_0_log.out"
        said = last_words(log)
        reason = f"its job failed without a word of the run; the same line does it again. {log}:\n{said}"
        return Ended(each.run, each.slot, log, -1, seconds, reason)
    reason, stays = ENDS[job.state] if job else (GONE, False)
    return Ended(each.run, each.slot, each.log, -9, seconds, reason, stays)
