"""A suite's jobs in a cluster's queue: each run once, found again, and every end told for what it is.

On a real SLURM: `tests/faults/test_slurm.py`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stub_scheduler import StubScheduler

from transfer.runtime.errors import UserError
from transfer.runtime.files import write_json
from transfer.suites import slurm_pool
from transfer.suites.carry_out import Undertaking
from transfer.suites.command import suite_command
from transfer.suites.facts import Facts
from transfer.suites.plan import Planned, Standing, note_ended, read_ended
from transfer.suites.pool import Ended, Started
from transfer.suites.slurm import Slurm, SlurmOptions, in_words, minutes, read_job
from transfer.suites.slurm_job import FRUITLESS, ClusterJob
from transfer.suites.slurm_pool import LIST, SlurmPool, queued
from transfer.suites.view import Estimate, queue_lines
from transfer.suites.work import Job, _meeting


def runs_of(count: int) -> list[Planned]:
    return [Planned("faults.task", "a", seed, ("faults.task",), id=f"{seed:016x}") for seed in range(count)]


def finish(runs: Path, run: Planned) -> None:
    write_json(
        runs / "records" / run.task / f"{run.id}.json", {"status": "finished", "checkpoint": {"label": run.label}}
    )


def pool_of(runs: Path, scheduler: StubScheduler, planned: list[Planned]) -> SlurmPool:
    return SlurmPool(scheduler, planned, runs, runs / "logs", SlurmOptions(poll=0, queued=5000))


@given(st.integers(0, 6), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_durations_are_read_as_sbatch_reads_them(days: int, hours: int, m: int, s: int) -> None:
    whole = -(-(86400 * days + 3600 * hours + 60 * m + s) // 60)
    if whole:
        assert minutes(f"{days}-{hours}:{m}:{s}") == minutes(f"{24 * days + hours}:{m}:{s}") == whole
    if m or s:
        assert minutes(f"{m}:{s}") == -(-(60 * m + s) // 60)
    if m:
        assert minutes(str(m)) == m
    if days or hours:
        assert minutes(f"{days}-{hours}") == 1440 * days + 60 * hours


@pytest.mark.parametrize("text", ["", "0", "0:00", "4h", "-5", "1:2:3:4", "1-2-3", "UNLIMITED"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--time"):
        minutes(text)


@pytest.mark.parametrize(
    ("line", "seconds", "said"),
    [
        ("7_12|msbreg-1|PENDING|0:00|Priority", 0, "pending (Priority)"),
        ("7|msbreg-1|RUNNING|1-02:03:04|None", 93784, "running"),
        ("7|msbreg-1|PENDING|INVALID|launch failed requeued held", 0, "scontrol release 7"),
        ("7|a|b|PENDING|0:00|Nodes required for job are DOWN, DRAINED", 0, None),
    ],
)
def test_a_line_of_squeue(line: str, seconds: float, said: str | None) -> None:
    if said is None:  # a name of ours holds no such mark
        assert read_job(line).state != "PENDING"
        return
    job = read_job(line)
    assert job.seconds == seconds
    assert said in in_words(job)


def test_runs_are_queued_in_arrays_and_the_same_line_finds_them(tmp_path: Path) -> None:
    scheduler, planned = StubScheduler(), runs_of(2100)
    first = pool_of(tmp_path, scheduler, planned)
    other = pool_of(tmp_path, scheduler, planned[:5])  # it looks at the queue a moment before it is filled
    for run in planned:
        assert first.room
        first.start(run, tmp_path / f"{run.stem}.log")
    assert first.ended(0) == []
    assert scheduler.arrays == [1000, 1000, 100]
    first.stop()
    assert len(first.running) == 2100  # they go on

    again = pool_of(tmp_path, scheduler, planned)
    assert {each.run for each in again.running} == set(planned)
    assert queue_lines(again.running) == ["2100 in the queue: pending (Priority)"]
    other.start(planned[0], tmp_path / "log")
    assert other.ended(0) == []
    assert len(scheduler.made) == 2100
    assert {each.run for each in other.running} == set(planned[:5])


def test_lists_of_what_has_left_the_queue_are_forgotten(
    tmp_path: Path,
) -> None:
    scheduler, planned = StubScheduler(), runs_of(2)
    write_json(tmp_path / "slurm" / "msbreg-stub-killed" / LIST, [planned[0].id])  # written, and never submitted
    pool = pool_of(tmp_path, scheduler, planned)
    assert not pool.running
    pool.start(planned[0], tmp_path / "log")
    pool.ended(0)
    assert len(list(tmp_path.glob(f"slurm/*/{LIST}"))) == 1
    assert queued(tmp_path, scheduler)[planned[0].id].state == "PENDING"


@pytest.mark.parametrize(
    ("state", "status", "said", "stays"),
    [
        ("COMPLETED", 0, "", False),
        ("FAILED", -1, "without a word of the run", False),
        ("CANCELLED", -9, "scancel", False),
        ("TIMEOUT", -9, "--grace", True),
        ("OUT_OF_MEMORY", -9, "--gigabytes", True),
        ("NODE_FAIL", -9, "node failed", False),
        ("PREEMPTED", -9, "preempted", False),
        (None, -9, "left the queue", False),
    ],
)
def test_every_end_is_told_for_what_it_is(
    tmp_path: Path, state: str | None, status: int, said: str, stays: bool
) -> None:
    scheduler, (run,) = StubScheduler(), runs_of(1)
    pool = pool_of(tmp_path, scheduler, [run])
    pool.start(run, tmp_path / "log")
    assert pool.ended(0) == []
    scheduler.set("RUNNING")
    assert pool.ended(0) == []
    assert pool.running[0].seconds >= 7
    if state is None:
        scheduler.states.clear()
    else:
        finish(tmp_path, run)
        scheduler.set(state)
    (ended,) = pool.ended(0)
    assert (ended.run, ended.status, ended.over_limit) == (run, status, stays)
    assert said in ended.reason
    assert not pool.running


def test_what_was_queued_again_goes_on(tmp_path: Path) -> None:
    scheduler, (run,) = StubScheduler(), runs_of(1)
    pool = pool_of(tmp_path, scheduler, [run])
    pool.start(run, tmp_path / "log")
    pool.ended(0)
    for state, reason in (("RUNNING", "None"), ("COMPLETING", "None"), ("PENDING", "BeginTime"), ("RUNNING", "None")):
        scheduler.set(state, reason)
        assert pool.ended(0) == []
        assert bool(pool.running[0].began) == (state != "PENDING")
        assert queue_lines(pool.running) == (["1 in the queue: pending (BeginTime)"] if state == "PENDING" else [])


def test_a_record_that_another_machine_has_written_may_come_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler, (run,) = StubScheduler(), runs_of(1)
    pool = pool_of(tmp_path, scheduler, [run])
    pool.start(run, tmp_path / "log")
    pool.ended(0)
    scheduler.set("COMPLETED")
    assert pool.ended(0) == []
    finish(tmp_path, run)
    assert [ended.status for ended in pool.ended(0)] == [0]
    pool.start(run, tmp_path / "log")
    pool.ended(0)
    scheduler.set("COMPLETED")
    (tmp_path / "records" / run.task / f"{run.id}.json").unlink()
    assert pool.ended(0) == []
    monkeypatch.setattr(slurm_pool, "LAG", -1.0)
    assert [ended.status for ended in pool.ended(0)] == [0]  # none will come


def test_a_scheduler_that_does_not_answer_is_said_once_and_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler, (run,) = StubScheduler(), runs_of(1)
    pool = pool_of(tmp_path, scheduler, [run])
    pool.start(run, tmp_path / "log")
    pool.ended(0)
    scheduler.silent = True
    for _ in range(3):
        assert pool.ended(0) == []
    assert caplog.text.count("does not answer") == 1
    scheduler.silent = False
    finish(tmp_path, run)
    scheduler.set("COMPLETED")
    assert len(pool.ended(0)) == 1


class Meanwhile:
    """A view in whose ticks other things happen, one after the other."""

    def __init__(self, *happens: Callable[[], object]) -> None:
        self.happens = list(happens)
        self.told: list[tuple[Planned, str]] = []

    def started(self, run: Planned, how: str) -> None:
        self.told.append((run, how))

    def ended(self, ended: Ended, standing: Standing) -> None:
        self.told.append((ended.run, standing.state))

    def found(self, run: Planned, standing: Standing) -> None:
        self.told.append((run, f"{standing.state} elsewhere"))

    def tick(self, running: Sequence[Started], waiting: int, others: int, left: Estimate) -> None:
        if self.happens:
            self.happens.pop(0)()

    def close(self) -> None:
        pass


def test_a_suite_watches_what_another_one_queues_and_starts_none_of_it(tmp_path: Path) -> None:
    scheduler, planned = StubScheduler(), runs_of(3)
    pool, other = (pool_of(tmp_path, scheduler, planned) for _ in "ab")
    standings = {run: Standing("failed" if run == planned[0] else "waiting") for run in planned}
    facts = Facts(tmp_path / "suites" / "known.json")
    suite = Undertaking(planned, standings, pool, facts, tmp_path, tmp_path / "logs", None, 1)

    def retried() -> None:
        other.start(planned[0], tmp_path / "log")
        other.ended(0)

    def done() -> None:
        for run in planned[1:]:
            finish(tmp_path, run)
        scheduler.set("COMPLETED")
        scheduler.set("CANCELLED", "None", "2")

    view = Meanwhile(retried, lambda: scheduler.set("RUNNING"), done)
    suite.carry_out(planned[1:], view)
    assert [len(scheduler.made), *scheduler.arrays] == [3, 2, 1]
    assert "scancel" in standings[planned[0]].reason
    assert sorted(view.told, key=str) == sorted(
        [(run, how) for run in planned[1:] for how in ("queued", "done")] + [(planned[0], "failed")], key=str
    )


def test_what_the_queue_has_no_room_for_is_queued_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_pool, "AGAIN", 0.0)
    scheduler, planned = StubScheduler(), runs_of(3)
    pool = SlurmPool(scheduler, planned, tmp_path, tmp_path / "logs", SlurmOptions(poll=0, queued=2))
    pool.start(planned[0], tmp_path / "log")
    pool.ended(0)
    scheduler.refuses = True  # a limit of the queue
    pool.start(planned[1], tmp_path / "log")
    assert not pool.room
    for _ in range(2):
        assert pool.ended(0) == []  # and what was not taken is not what has ended
    assert len(scheduler.made) == 1
    scheduler.refuses = False
    pool.ended(0)
    assert [len(scheduler.made), *scheduler.arrays] == [2, 1, 1]


def test_a_list_that_cannot_be_read_is_not_forgotten(tmp_path: Path) -> None:
    scheduler, (run,) = StubScheduler(), runs_of(1)
    (tmp_path / "slurm" / "msbreg-stub-1").mkdir(parents=True)
    (tmp_path / "slurm" / "msbreg-stub-1" / LIST).write_text("[", encoding="utf-8")
    with pytest.raises(UserError, match="what is in the queue"):
        pool_of(tmp_path, scheduler, [run])


def test_what_sbatch_refuses_is_not_in_the_queue(tmp_path: Path) -> None:
    scheduler, (run,) = StubScheduler(), runs_of(1)
    pool = pool_of(tmp_path, scheduler, [run])
    scheduler.refuses = True
    pool.start(run, tmp_path / "log")
    with pytest.raises(UserError, match="does not take"):
        pool.ended(0)
    assert not queued(tmp_path, scheduler)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """SLURM's, as files that know one thing."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "squeue", "srun", "scontrol"):
        (folder / name).write_text("#!/bin/sh\necho 'MaxArraySize = 501'\n", encoding="utf-8")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def test_what_a_job_asks_for(programs: Path) -> None:
    wanted = SlurmOptions(
        partition="gpu", time="1-0", nodes=2, gpus_per_run=8, sbatch=("reservation=ours", "exclusive")
    )
    scheduler = Slurm(wanted, gigabytes=64, processes=8, cores=5, gpus=8)
    assert scheduler.largest == 500
    parameters = scheduler.parameters
    assert parameters["srun_args"][0] == "--cpus-per-task=20"
    assert parameters["time"] == 1440
    assert (parameters["nodes"], parameters["ntasks_per_node"]) == (2, 1)
    assert (parameters["gpus_per_node"], parameters["cpus_per_task"], parameters["mem"]) == (4, 20, "64000M")
    assert parameters["additional_parameters"] == {"requeue": True, "reservation": "ours", "exclusive": True}
    lost = [{"sbatch": (word,)} for word in ("--exclusive", "job_name=x", "array=1-2", "signal=USR1@60", "time=5")]
    for wrong in ({"nodes": 3}, {"time": "soon"}, {"time": "2", "grace": 120}, *lost):
        with pytest.raises(UserError):
            Slurm(SlurmOptions(**wrong), None, 8, 1, 8)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--partition", "low"], "--partition is of --on slurm"),
        (["--on", "slurm", "--device", "cpu", "--jobs", "3"], "--jobs is for runs here"),
        (["--on", "slurm", "--device", "cpu", "--hours", "3"], "with --on slurm: --time"),
        (["--on", "slurm", "--device", "cpu", "--gpus-per-run", "2"], "--gpus-per-run and --gpu-gigabytes on a CPU"),
        (["--on", "slurm", "--device", "cpu", "--array", "0"], "--array 0"),
        (["--on", "slurm"], "--gpu-gigabytes 80"),
        (["--on", "slurm", "--device", "gpu"], "--device gpu"),
        (["--on", "slurm", "--device", "cpu", "--workers", "-3"], "--workers -3"),
        (["--on", "slurm", "--device", "cpu", "--poll", "0"], "--poll 0"),
        (["--on", "slurm", "--gpus-per-run", "2", "--processes", "3"], "differ"),
    ],
)
def test_options_that_mean_nothing_together_are_refused(
    words: list[str], said: str, programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transfer.suites.command._gpu", lambda: False)
    common = ["random:resnet18", "--tasks", "transfer.knn", "--runs", str(tmp_path)]
    with pytest.raises(UserError, match=said):
        suite_command([*common, *words])


def test_what_another_job_has_left_in_the_environment_stays_behind(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = {"SLURM_CONF": "/etc/slurm.conf", "SBATCH_ACCOUNT": "ours", "DETECTRON2_DATASETS": "/data"}
    left = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_RESTART_COUNT": "1", "SBATCH_JOB_NAME": "x", "SBATCH_PARTITION": "y"}
    for name, value in {**site, **left, "SBATCH_TIMELIMIT": "1", "RANK": "3"}.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with Slurm(SlurmOptions(partition="gpu"), None, 1, 1, 0)._environment():
        assert os.environ.items() >= site.items()
        assert not os.environ.keys() & {*left, "SBATCH_TIMELIMIT", "RANK"}
    assert dict(os.environ) == before


def test_without_slurm_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="there is no sbatch here"):
        Slurm(SlurmOptions(), None, 1, 1, 0)


def test_several_nodes_meet_where_slurm_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "123456")
    monkeypatch.setenv("SLURM_NODEID", "1")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[7-8]")
    monkeypatch.setattr(subprocess, "check_output", lambda words, text: "n7\nn8\n" if words[-1] == "n[7-8]" else "")
    words = _meeting(Job((), tmp_path, processes=8, nodes=2))
    assert words == [
        *("--nnodes", "2", "--node-rank", "1", "--nproc-per-node", "4"),
        *("--master-addr", "n7", "--master-port", "23456"),
    ]
    assert _meeting(Job((), tmp_path, processes=2)) == ["--standalone", "--nproc-per-node", "2"]


class Asked:
    """A run's process that ends as it is told."""

    pid = 2**22  # nobody

    def __init__(self, status: int | None) -> None:
        self.exitcode: int | None = None
        self.status = status

    def terminate(self) -> None:
        self.exitcode = self.status

    def join(self, patience: float | None = None) -> None:
        if self.exitcode is None and patience is None:
            self.exitcode = -signal.SIGKILL


def test_a_run_whose_job_is_too_short_to_save_anything_is_given_up(tmp_path: Path) -> None:
    (run,) = runs_of(1)
    job = ClusterJob(run, Job((), tmp_path / "log"), tmp_path, grace=0.01)
    for status in (-15, None, 128 + 15, None, -15):  # nothing saved, nor the next time; saved; twice nothing
        job.process = Asked(status)  # type: ignore[assignment]
        again = job.checkpoint()
        assert again is not None
        job = again.function
        assert job.process is None
    assert job.fruitless == FRUITLESS - 1
    several = dataclasses.replace(job, job=Job((), tmp_path / "log", processes=2), began=time.time() - 5)
    several.process = Asked(128 + 15)  # type: ignore[assignment]  # torchrun says so of killed processes, too
    assert not several._left()
    checkpoint = tmp_path / "work" / run.task / run.id / "fit.pth"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    assert several._left()
    job.process = Asked(-15)  # type: ignore[assignment]
    assert job.checkpoint() is None
    assert "--time" in read_ended(tmp_path, run)


def test_why_it_ended_is_kept_for_whoever_looks_later(tmp_path: Path) -> None:
    (run,) = runs_of(1)
    (tmp_path / "log").write_text("so far\nerror: no such folder\n  to do: make it\n", encoding="utf-8")
    job = ClusterJob(run, Job((), tmp_path / "log"), tmp_path, grace=1)
    job._note(2)
    assert read_ended(tmp_path, run).startswith("error: no such folder")
    note_ended(tmp_path, run, "earlier")
    finish(tmp_path, run)
    job._note(2)
    assert read_ended(tmp_path, run) == "earlier"
    assert json.loads((tmp_path / "ended" / f"{run.id}.json").read_text(encoding="utf-8"))["reason"] == "earlier"
