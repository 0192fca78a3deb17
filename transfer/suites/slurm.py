"""A cluster's queue for the runs of a suite: SLURM, through submitit. One job a run, in arrays.

Every suite in a `--runs` folder sees the same queue: a job's name leads to the list of runs that it was made of, which
was written before it was submitted. So the same line, typed again, finds its jobs, and no run is queued twice.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from transfer.runtime.errors import UserError
from transfer.runtime.files import locked, write_json
from transfer.suites.plan import Planned, standing
from transfer.suites.pool import Ended, Slot, Started
from transfer.suites.slurm_job import ClusterJob
from transfer.suites.work import Job, with_root

logger = logging.getLogger(__name__)

LARGEST_ARRAY = 1000  # SLURM's own MaxArraySize is 1001
PATIENCE = 60  # seconds for another suite that is submitting, and for an answer of the scheduler
LAG = 60.0  # seconds after which a file system has shown what another machine has written: NFS's acdirmax
TIMES = 1000  # that a job may come to the end of its time; what saves nothing is given up earlier
LIST = "runs.json"  # in the folder of a submission

# How squeue calls what has ended → (reason, whether it stays so until --retry).
ENDS = {
    "CANCELLED": ("cancelled (scancel); the same line does it again", False),
    "TIMEOUT": ("the time of its job (--time) ended before it could be queued again: see --grace", True),
    "OUT_OF_MEMORY": ("its job took more memory than it may (--gigabytes)", True),
    "NODE_FAIL": ("its node failed, and it was not queued again; the same line does it again", False),
    "BOOT_FAIL": ("its node did not start; the same line does it again", False),
    "PREEMPTED": ("preempted, and not queued again; the same line goes on from its last checkpoint", False),
    "DEADLINE": ("its deadline passed", True),
}
GONE = "its job has left the queue, which does not say how; the same line does it again"


@dataclass(frozen=True)
class SlurmOptions:
    """Of `--on slurm`.

    Attributes:
        partition, account, qos, constraint: as sbatch has them.
        time: of a job, as sbatch has it: minutes, H:M:S or days-H:M:S. A run that needs longer saves, is queued again
            and goes on, as after a preemption.
        array: runs at a time, at most.
        gpus_per_run: that train together; 1 unless --device cpu.
        nodes: that a run is spread over.
        cpus_per_run: on each node; by default one, and one for each of --workers.
        gpu_gigabytes: memory of a GPU, to which recipes are fitted; asked for where this machine has none to look at.
        grace: seconds before the end of its time at which a run is asked to save.
        poll: seconds between two looks at the queue.
        sbatch: further options, each in one word: reservation=ours exclude=node7
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    time: str = "4:00:00"
    array: int = 100
    gpus_per_run: int | None = None
    nodes: int = 1
    cpus_per_run: int | None = None
    gpu_gigabytes: float | None = None
    grace: int = 120
    poll: float = 10.0
    sbatch: tuple[str, ...] = ()


def minutes(text: str) -> int:
    """Of a duration as sbatch has it ("90", "90:00", "1:30:00", "1-12", "1-12:30:00"), rounded up.

    Raises:
        UserError: it is none, or 0.
    """
    days, dash, rest = text.strip().rpartition("-")
    parts = rest.split(":")
    known = re.fullmatch(r"\d*", days) and all(re.fullmatch(r"\d+", part) for part in parts) and len(parts) <= 3
    if not known or (dash and not days):
        raise UserError(f"--time {text!r} is no duration", todo="minutes, H:M:S or days-H:M:S: --time 4:00:00")
    if dash or len(parts) == 3:
        hours, m, s = (*map(int, parts), 0, 0)[:3]
    else:
        hours, m, s = (0, *map(int, parts), 0)[:3]
    seconds = 86400 * int(days or 0) + 3600 * hours + 60 * m + s
    if not seconds:
        raise UserError(f"--time {text}", todo="give more than 0")
    return -(-seconds // 60)


@dataclass(frozen=True)
class QueuedJob:
    """A job as squeue shows it.

    Attributes:
        name: of its submission. place: in it.
        state, reason: in SLURM's words: "PENDING", "Priority".
        seconds: that it has run.
    """

    id: str
    name: str
    state: str
    reason: str
    seconds: float

    @property
    def place(self) -> int:
        """Which run of its submission it is."""
        return int(self.id.partition("_")[2] or 0)

    def newer_than(self, other: QueuedJob) -> bool:
        """Which of two jobs of a run counts: the one that goes on, else the later."""
        if self.over != other.over:
            return other.over
        return int(self.id.partition("_")[0]) > int(other.id.partition("_")[0])

    @property
    def over(self) -> bool:
        """Whether it has ended for good."""
        return self.state in ENDS or self.state in ("COMPLETED", "FAILED")


class Scheduler(Protocol):
    """What is asked of a cluster."""

    def submit(self, name: str, folder: Path, jobs: Sequence[ClusterJob]) -> str:
        """Queue these as one submission of this name; its id.

        Raises:
            UserError: refused.
        """

    def jobs(self, names: Sequence[str]) -> list[QueuedJob]:
        """Those of the submissions that are queued, go on, or have ended a few minutes ago.

        Raises:
            UserError: no answer.
        """


class Slurm:
    """The scheduler of this machine's cluster.

    Args:
        options: of every job.
        gigabytes: of memory, of every job; None: as the partition has it.
        processes: that train together in a run.
        cores: that each of them needs, unless the options say how many.
        gpus: of a run, on all nodes.

    Raises:
        UserError: an option that means nothing, or no SLURM.
    """

    def __init__(self, options: SlurmOptions, gigabytes: float | None, processes: int, cores: int, gpus: int) -> None:
        missing = [name for name in ("sbatch", "squeue", "srun", "scontrol") if shutil.which(name) is None]
        if missing:
            raise UserError(
                f"--on slurm, but there is no {missing[0]} here",
                todo="log in where jobs are submitted, or leave it out",
            )
        if processes % options.nodes:
            raise UserError(f"{processes} processes on --nodes {options.nodes}", todo="give a number that divides them")
        each = processes // options.nodes
        wanted: dict[str, Any] = {
            "partition": options.partition,
            "account": options.account,
            "qos": options.qos,
            "constraint": options.constraint,
            "time": minutes(options.time),
            "nodes": options.nodes,
            "ntasks_per_node": 1,
            "cpus_per_task": options.cpus_per_run or each * cores,
            "gpus_per_node": gpus // options.nodes or None,
            "mem": f"{1000 * gigabytes:.0f}M" if gigabytes else None,
            "array_parallelism": options.array,
            "signal_delay_s": options.grace,
            "stderr_to_stdout": True,
            "additional_parameters": {"requeue": True, **_further(options.sbatch)},
        }
        self.parameters = {name: value for name, value in wanted.items() if value is not None}

    def submit(self, name: str, folder: Path, jobs: Sequence[ClusterJob]) -> str:
        """See `Scheduler`."""
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        executor = SlurmExecutor(folder, max_num_timeout=TIMES)
        executor.update_parameters(job_name=name, **self.parameters)
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = with_root()["PYTHONPATH"]  # sbatch takes the environment along
        try:
            with executor.batch():
                made = [executor.submit(job) for job in jobs]
        except (FailedJobError, FailedSubmissionError, subprocess.SubprocessError, OSError) as error:
            said = [line for line in str(error).splitlines() if "error" in line.lower()]
            raise UserError(
                "sbatch does not take the jobs",
                found=said[-1].strip() if said else str(error).strip(),
                todo="see --partition, --time, --gpus-per-run and --sbatch; what was queued before is queued still",
            ) from error
        finally:
            os.environ.pop("PYTHONPATH")
            os.environ |= {"PYTHONPATH": before} if before is not None else {}
        return str(made[0].job_id).partition("_")[0]

    def jobs(self, names: Sequence[str]) -> list[QueuedJob]:
        """See `Scheduler`."""
        return queue(names)


def queue(names: Sequence[str]) -> list[QueuedJob]:
    """See `Scheduler.jobs`; one request, however many they are."""
    if not names:
        return []
    words = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%j|%T|%M|%r", f"--name={','.join(names)}"]
    try:
        said = subprocess.run(words, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout
    except FileNotFoundError as error:
        raise UserError("there is no squeue here", todo="log in where jobs are submitted") from error
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        found = (error.stderr or b"") if isinstance(error, subprocess.TimeoutExpired) else error.stderr
        raise UserError("squeue does not answer", found=str(found).strip() or str(error)) from error
    return [read_job(line) for line in said.splitlines()]


def read_job(line: str) -> QueuedJob:
    """A line of squeue: id, name, state, time, reason."""
    number, name, state, used, reason = line.split("|", 4)
    return QueuedJob(number, name, state, reason, _seconds(used))


def _seconds(used: str) -> float:
    """Of "3-04:05:06", "04:05:06" or "05:06"; 0 of "INVALID", as squeue calls a clock that was put back."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", used)
    if found is None:
        return 0.0
    days, hours, minutes_, seconds = (int(part or 0) for part in found.groups())
    return 86400.0 * days + 3600 * hours + 60 * minutes_ + seconds


def _further(words: Sequence[str]) -> dict[str, Any]:
    wrong = [word for word in words if word.startswith("-") or not word.partition("=")[0]]
    if wrong:
        raise UserError(f"--sbatch {wrong[0]!r}", todo="without dashes, in one word: --sbatch reservation=ours")
    return {name: value or True for name, _, value in (word.partition("=") for word in words)}


# -- the runs of a suite in it


def queued(runs: Path, ask: Scheduler | None = None) -> dict[str, QueuedJob]:
    """Run id → its job, of all that the suites in this folder have queued.

    Raises:
        UserError: no answer.
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
    except (OSError, ValueError, TypeError):  # taken away meanwhile
        return []


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
        self.width, self.room = options.array, True
        self.running: list[Started] = []
        self._known = {run.id: run for run in planned if run.id}
        self._gathered: list[ClusterJob] = []
        self._completed: dict[Planned, float] = {}
        self._looked = -math.inf
        self._silent = False
        self._take_over(queued(runs, scheduler))

    def start(self, run: Planned, log: Path, beside: Sequence[Any] = ()) -> str:
        """Queue a run, together with others that are started before the next look at what has ended."""
        job = Job(run.words, log, self.environment, self.processes, tuple(beside), self.options.nodes)
        # Some seconds are left to SLURM for the queueing.
        self._gathered.append(ClusterJob(run, job, self.runs, grace=max(5.0, self.options.grace - 15)))
        self.running.append(Started(run, Slot(), log, 0.0, waits="being queued"))
        return "queued"

    def ended(self, patience: float) -> list[Ended]:
        """Those that have ended; the queue is looked at every few seconds, with one request."""
        if self._gathered:
            try:
                self._submit()
            except UserError:  # the command ends with this
                self.running = [each for each in self.running if each.slot.name]
                raise
        wait = self._looked + self.options.poll - time.monotonic()
        if wait > 0:
            time.sleep(min(wait, patience))
            return []
        try:
            return self._look()
        except UserError as error:  # it may be back in a minute, and the runs do not need it
            if not self._silent:
                logger.warning("%s", error)
            self._silent = True
            self._looked = time.monotonic()
            return []

    def stop(self) -> None:
        """Nothing: what is queued goes on, and the same line finds it."""
        if self.running:
            names = sorted({each.slot.name.split("_")[0] for each in self.running})
            logger.info(
                "%d runs stay in the queue, and the same line watches them again; to end them: scancel %s",
                len(self.running), " ".join(name.removeprefix("job ") for name in names),
            )  # fmt: skip

    def _look(self) -> list[Ended]:
        found = queued(self.runs, self.scheduler)
        self._looked, self._silent = time.monotonic(), False
        self._take_over(found)
        ended = []
        for each in list(self.running):
            job = found.get(each.run.id)
            if job is not None and (not job.over or self._unseen(each.run, job)):
                _update(each, job)
                continue
            self.running.remove(each)
            ended.append(_ended(each, job))
        return ended

    def _unseen(self, run: Planned, job: QueuedJob) -> bool:
        """Whether its record may still be on its way: another machine has written it."""
        if job.state != "COMPLETED" or standing(run, self.runs).state == "done":
            return False
        return time.monotonic() - self._completed.setdefault(run, time.monotonic()) < LAG

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
        gathered, self._gathered = self._gathered, []
        with locked(folder, "another suite is queueing its runs here", "type the same line again", patience=PATIENCE):
            found = queued(self.runs, self.scheduler)
            _forget(folder, {job.name for job in found.values()})
            there = {key for key, job in found.items() if not job.over}
            new = [job for job in gathered if job.run.id not in there]
            for at in range(0, len(new), LARGEST_ARRAY):
                part = new[at : at + LARGEST_ARRAY]
                name = f"msbreg-{uuid.uuid4().hex[:12]}"
                write_json(folder / name / LIST, [job.run.id for job in part])
                number = self.scheduler.submit(name, folder / name, part)
                logger.info("runs queued as job %s: %d", number, len(part))


def _forget(folder: Path, names: set[str]) -> None:
    """Lists of which nothing is left in the queue; under the lock, so that no list is of a submission to come."""
    for file in folder.glob(f"*/{LIST}"):
        if file.parent.name not in names:
            file.unlink(missing_ok=True)


def _update(started: Started, job: QueuedJob) -> None:
    begun = job.state not in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "CONFIGURING")
    started.slot = Slot(f"job {job.id}")
    started.began = time.monotonic() - job.seconds if begun else 0.0
    started.waits = "" if begun else in_words(job)


def in_words(job: QueuedJob) -> str:
    """How a job is: "pending (Priority)"; with what to type where it would wait for ever."""
    state = job.state.lower().replace("_", " ")
    why = "" if job.reason == "None" else f" ({job.reason})"
    held = "held" in job.reason.lower() or "hold" in state
    return f"{state}{why}" + (f": scontrol release {job.id}" if held else "")


def _ended(each: Started, job: QueuedJob | None) -> Ended:
    seconds = job.seconds if job else each.seconds
    if job is not None and job.state in ("COMPLETED", "FAILED"):
        return Ended(each.run, each.slot, each.log, int(job.state == "FAILED"), seconds)
    reason, stays = ENDS[job.state] if job else (GONE, False)
    return Ended(each.run, each.slot, each.log, -9, seconds, reason, stays)
