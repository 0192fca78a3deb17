"""SLURM, through submitit: what a suite asks of a cluster, and how the jobs are submitted."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from transfer.runtime.errors import UserError
from transfer.runtime.interrupts import children_left_alone
from transfer.suites.slurm_job import ClusterJob
from transfer.suites.work import with_root

LARGEST = 1000  # runs of one submission, unless the cluster's MaxArraySize allows fewer
PATIENCE = 60.0  # seconds for an answer of the scheduler
TIMES = 1000  # that a job may come to the end of its time; what saves nothing is given up earlier
# Options of sbatch that keep jobs findable and let them be asked to save.
KEPT = ("job-name", "array", "signal", "output", "error", "open-mode", "ntasks", "ntasks-per-node", "nodes", "requeue",
        "no-requeue", "time", "cpus-per-task")  # fmt: skip
# Variables of sbatch that would override a job's script, and of a training that is under way where this is typed.
_OURS = (
    *("SBATCH_JOB_NAME", "SBATCH_ARRAY_INX", "SBATCH_SIGNAL", "SBATCH_OUTPUT", "SBATCH_ERROR", "SBATCH_OPEN_MODE"),
    *("SBATCH_REQUEUE", "SBATCH_NO_REQUEUE", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"),
)
_VARIABLES = {"time": "TIMELIMIT", "mem": "MEM_PER_NODE", "gpus_per_node": "GPUS_PER_NODE"}

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
        partition: as sbatch has it; by default the cluster's own.
        account: as sbatch has it.
        qos: as sbatch has it.
        constraint: as sbatch has it: "a100" or "a100&ib".
        time: of a job, as sbatch has it: minutes, H:M:S or days-H:M:S. A run that needs longer saves, is queued again
            and goes on, as after a preemption.
        array: runs at a time of one submission, of which there may be several.
        queued: runs in the queue at a time, at most: those that wait, too.
        gpus_per_run: that train together; 1 unless --device cpu.
        nodes: that a run is spread over.
        cpus_per_run: on each node; by default one and one for each of --workers, for each process that trains there.
        gpu_gigabytes: memory of a GPU of the cluster, to which recipes are fitted.
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
    queued: int = 1000
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


class NoAnswer(UserError):
    """The scheduler cannot be asked now; it may be back in a minute."""


class Scheduler(Protocol):
    """What is asked of a cluster.

    Attributes:
        prefix: of the names of this user's submissions to this cluster.
        largest: runs of one submission, at most.
    """

    prefix: str
    largest: int

    def submit(self, name: str, folder: Path, jobs: Sequence[ClusterJob]) -> str:
        """Queue these as one submission of this name; its id.

        Raises:
            UserError: refused.
        """

    def jobs(self, names: Sequence[str]) -> list[QueuedJob]:
        """Those of the submissions that are queued, go on, or have ended a few minutes ago.

        Raises:
            NoAnswer: as it says.
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
        NoAnswer: it is away.
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
        each, time = processes // options.nodes, minutes(options.time)
        if options.grace >= 60 * time:
            raise UserError(f"--grace {options.grace} seconds of --time {options.time}", todo="give a longer time")
        cpus = options.cpus_per_run or each * cores
        wanted: dict[str, Any] = {
            "partition": options.partition,
            "account": options.account,
            "qos": options.qos,
            "constraint": options.constraint,
            "time": time,
            "nodes": options.nodes,
            "ntasks_per_node": 1,
            "cpus_per_task": cpus,
            # Since 22.05 srun does not take the cores over; and a node that has left is not to end the others.
            "srun_args": [f"--cpus-per-task={cpus}", "--kill-on-bad-exit=0"],
            "gpus_per_node": gpus // options.nodes or None,
            "mem": f"{1000 * gigabytes:.0f}M" if gigabytes else None,
            "array_parallelism": options.array,
            "signal_delay_s": options.grace,
            "stderr_to_stdout": True,
            "additional_parameters": {"requeue": True, **_further(options.sbatch)},
        }
        self.parameters = {name: value for name, value in wanted.items() if value is not None}
        config = dict(re.findall(r"^(\w+)\s*=\s*(\S+)", _asked("scontrol", "show", "config"), re.MULTILINE))
        self.largest = min(LARGEST, int(config.get("MaxArraySize", LARGEST + 1)) - 1)
        self.prefix = re.sub(r"[^\w-]", "_", f"msbreg-{config.get('ClusterName', '')}-{getpass.getuser()}-")

    def submit(self, name: str, folder: Path, jobs: Sequence[ClusterJob]) -> str:
        """See `Scheduler`."""
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        executor = SlurmExecutor(folder, max_num_timeout=TIMES)
        executor.update_parameters(job_name=name, **self.parameters)
        try:
            # Ctrl-C between sbatch and the files of its jobs would leave jobs that find no file.
            with children_left_alone(), self._environment(), executor.batch():
                made = [executor.submit(job) for job in jobs]
        except OSError as error:
            raise UserError(f"cannot write the files of the jobs to {folder}", found=str(error)) from error
        except (FailedJobError, FailedSubmissionError, subprocess.SubprocessError) as error:
            said = [line for line in str(error).splitlines() if "error" in line.lower()]
            raise UserError(
                "sbatch does not take the jobs",
                found=said[-1].strip() if said else str(error).strip(),
                todo="see --partition, --time, --gpus-per-run, --queued and --sbatch",
            ) from error
        return str(made[0].job_id).partition("_")[0]

    def jobs(self, names: Sequence[str]) -> list[QueuedJob]:
        """See `Scheduler`."""
        return queue(names)

    @contextmanager
    def _environment(self) -> Iterator[None]:
        """What sbatch takes along to the jobs: this process's own, without what another job has left in it."""
        before = dict(os.environ)
        typed = {f"SBATCH_{_VARIABLES.get(name, name.upper())}" for name in self.parameters}
        for name in before:
            foreign = name.startswith("SLURM_") and name != "SLURM_CONF"
            if foreign or name in _OURS or name in typed:
                del os.environ[name]
        os.environ["PYTHONPATH"] = with_root()["PYTHONPATH"]
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def queue(names: Sequence[str]) -> list[QueuedJob]:
    """See `Scheduler.jobs`; one request, however many they are."""
    if not names:
        return []
    how = ("--noheader", "--array", "--states=all", "--format=%i|%j|%T|%M|%r")
    return [read_job(line) for line in _asked("squeue", *how, f"--name={','.join(names)}").splitlines()]


def _asked(*words: str) -> str:
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout
    except FileNotFoundError as error:
        raise UserError(f"there is no {words[0]} here", todo="log in where jobs are submitted") from error
    except subprocess.CalledProcessError as error:
        raise NoAnswer(f"{words[0]} does not answer", found=error.stderr.strip()) from error
    except subprocess.TimeoutExpired as error:
        raise NoAnswer(f"{words[0]} does not answer", found=f"nothing in {PATIENCE:.0f} seconds") from error


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
    kept = [word for word in words if word.partition("=")[0].replace("_", "-") in KEPT]
    if kept:
        raise UserError(f"--sbatch {kept[0]!r}: that is the suite's own", todo="see --help for its own options")
    return {name: value or True for name, _, value in (word.partition("=") for word in words)}


def in_words(job: QueuedJob) -> str:
    """How a job is: "pending (Priority)"; with what to type where it would wait for ever."""
    state = job.state.lower().replace("_", " ")
    why = "" if job.reason == "None" else f" ({job.reason})"
    held = "held" in job.reason.lower() or "hold" in state
    return f"{state}{why}" + (f": scontrol release {job.id}" if held else "")
