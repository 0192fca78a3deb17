"""Suites on a real SLURM: two nodes of a core, two partitions, preemption; it begins and ends with these tests."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from noise_images import write_noise
from slurm_cluster import Cluster, cluster, why_not

from transfer.record import Record, read_record
from transfer.runtime.progress import read

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=why_not() or "there is one")]
SGD = "finegrained.own_finetune --preset cpu --sgd.crop 32 --sgd.resize 32 --sgd.batch 16 --lrs 0.01 --decays 0"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("slurm")) as made:
        yield made


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_noise(tmp_path_factory.mktemp("images") / "images", 40, 10)


def begin(where: Cluster, runs: Path, *words: str) -> subprocess.Popen[str]:
    """`python -m transfer suite random:resnet18 …` on the cluster."""
    command = [sys.executable, "-m", "transfer", "suite", "random:resnet18", *words, "--runs", str(runs)]
    if words[0] != "status":
        command += ["--device", "cpu", "--threads", "1", "--on", "slurm", "--poll", "0.5"]
    else:
        command.remove("random:resnet18")
    if "--partition" not in words and words[0] != "status":
        command += ["--partition", "low"]
    environment = os.environ | where.environment | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=environment
    )


def suite(where: Cluster, runs: Path, *words: str) -> tuple[int, str]:
    """Its exit status and what it says."""
    process = begin(where, runs, *words)
    said, _ = process.communicate(timeout=600)
    return process.returncode, said


def fine_tuning(images: Path, steps: int = 20, *more: str) -> list[str]:
    return ["--tasks", " ".join([SGD, f"--sgd.steps {steps}", *more, f"--image-folder {images}"])]


def records(runs: Path) -> dict[str, Record]:
    found = [read_record(file) for file in sorted((runs / "records").glob("*/*.json"))]
    return {record.run_id: record for record in found}


def undisturbed(images: Path, runs: Path, steps: int, *more: str, processes: int = 1) -> dict[str, float]:
    """The metrics of the same run, here."""
    command = [sys.executable, "-m", "transfer", "suite", "random:resnet18", *fine_tuning(images, steps, *more)]
    words = [*command, "--device", "cpu", "--threads", "1", "--processes", str(processes), "--runs", str(runs)]
    subprocess.run(words, check=True, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True)
    (record,) = records(runs).values()
    return record.metrics


def in_training(where: Cluster, runs: Path) -> None:
    """Wait until its run has made some steps."""

    def trains() -> bool:
        found = [read(file) for file in runs.glob("work/*/*/progress.json")]
        return any(each.what.startswith("training") and each.done > each.began + 1 for each in found if each)

    where.wait(trains, 120)


def text_of(runs: Path) -> str:
    """What the runs have printed."""
    return "".join(file.read_text(encoding="utf-8") for file in runs.glob("suites/*/logs/*"))


def test_a_small_suite_two_runs_at_a_time_and_a_scheduler_that_is_away_for_a_while(
    slurm: Cluster, images: Path, tmp_path: Path
) -> None:
    knn = f"transfer.knn --view.crop 32 --view.resize 32 --ks 20 --image-folder {images}"
    words = [*fine_tuning(images), knn, "--seeds", "0", "1"]
    going = begin(slurm, tmp_path / "runs", *words)
    slurm.wait(lambda: list(slurm.states().values()).count("RUNNING") == 2, 60)
    status, said = suite(slurm, tmp_path / "runs", "status")
    assert status == 1
    assert re.search(r"1 in the queue|pending|running", said), said
    slurm.run("pkill", "-F", str(slurm.folder / "slurmctld.pid"))
    time.sleep(2)
    slurm.run("slurmctld")
    said, _ = going.communicate(timeout=300)
    assert going.returncode == 0, said
    assert "3 done" in suite(slurm, tmp_path / "runs", "status")[1]
    assert suite(slurm, tmp_path / "runs", *words)[0] == 0  # nothing is left to queue
    assert len(slurm.states()) == 3
    made = records(tmp_path / "runs")
    assert len(made) == 3
    here = undisturbed(images, tmp_path / "here", 20)
    assert here in [record.metrics for record in made.values()]


@pytest.mark.parametrize("partition", ["low", "patient"])  # SIGTERM at once, or with a grace time
def test_preempted_it_is_queued_again_and_ends_with_the_undisturbed_number(
    partition: str, slurm: Cluster, images: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    going = begin(slurm, runs, *fine_tuning(images, 100), "--partition", partition)
    in_training(slurm, runs)
    (job,) = [job for job, state in slurm.states().items() if state == "RUNNING"]
    slurm.run("sbatch", "--partition=high", "--ntasks=2", "--output=/dev/null", "--wrap=sleep 1")
    slurm.wait(lambda: slurm.states()[job] == "PENDING", 60)
    slurm.begin_now()
    said, _ = going.communicate(timeout=300)
    assert going.returncode == 0, said
    assert "Restarts=1" in slurm.run("scontrol", "show", "job", job)
    assert "SIGTERM: saved" in text_of(runs)
    (record,) = records(runs).values()
    assert record.metrics == undisturbed(images, tmp_path / "here", 100)


def test_at_the_end_of_its_time_it_saves_and_is_queued_again(slurm: Cluster, images: Path, tmp_path: Path) -> None:
    # SLURM looks at the time twice a minute, and may warn a minute earlier than it is asked to
    runs, words = tmp_path / "runs", fine_tuning(images, 4000)
    going = begin(slurm, runs, *words, "--time", "1", "--grace", "20")
    in_training(slurm, runs)
    slurm.wait(lambda: "SIGTERM: saved" in text_of(runs), 90)
    slurm.wait(lambda: "PENDING" in slurm.states().values(), 60)
    slurm.begin_now()
    slurm.wait(lambda: "is resumed at step" in text_of(runs), 90)
    going.send_signal(signal.SIGINT)
    said, _ = going.communicate(timeout=60)
    assert "still in the queue: 1" in said
    (job,) = [job for job, state in slurm.states().items() if state in ("RUNNING", "PENDING", "COMPLETING")]
    slurm.run("scancel", job)
    slurm.wait(lambda: slurm.states()[job] == "CANCELLED", 60)
    assert not records(runs)


def test_what_waits_goes_on_without_its_suite_and_is_queued_once(slurm: Cluster, images: Path, tmp_path: Path) -> None:
    runs, words = tmp_path, [*fine_tuning(images), "--sbatch", "begin=now+1hour"]
    before = len(slurm.states())
    for _ in range(2):
        going = begin(slurm, runs, *words)
        slurm.wait(lambda: len(slurm.states()) == before + 1, 60)
        time.sleep(3)
        going.kill()
        going.wait()
    status, said = suite(slurm, runs, "status")
    assert (status, "pending (BeginTime)" in said) == (1, True), said
    (job,) = [job for job, state in slurm.states().items() if state == "PENDING"]
    slurm.run("scancel", job)
    # cancelled while no suite was looking: simply to do
    going = begin(slurm, runs, *words)
    slurm.wait(lambda: "PENDING" in slurm.states().values(), 60)
    (job,) = [job for job, state in slurm.states().items() if state == "PENDING"]
    slurm.run("scancel", job)
    said, _ = going.communicate(timeout=60)
    assert going.returncode == 1
    assert "cancelled (scancel)" in said
    status, said = suite(slurm, runs, *fine_tuning(images))  # the same run, now
    assert status == 0, said
    assert len(slurm.states()) == before + 3


def test_a_run_that_fails_stays_so_until_retry_and_what_sbatch_refuses_is_said(
    slurm: Cluster, images: Path, tmp_path: Path
) -> None:
    words = fine_tuning(images, 20, "--lrs 1e30")
    status, said = suite(slurm, tmp_path, *words)
    assert (status, "1 failed" in said) == (1, True), said
    before = len(slurm.states())
    status, said = suite(slurm, tmp_path, *words)
    assert (status, "--retry" in said, len(slurm.states())) == (1, True, before), said
    assert suite(slurm, tmp_path, *words, "--retry")[0] == 1
    assert len(slurm.states()) == before + 1
    status, said = suite(slurm, tmp_path / "refused", *fine_tuning(images), "--partition", "none")
    assert (status, "invalid partition" in said, "Traceback" in said) == (2, True, False), said


def test_processes_on_two_nodes_train_as_on_one(slurm: Cluster, images: Path, tmp_path: Path) -> None:
    words = [*fine_tuning(images, 20, "--sgd.processes 2"), "--processes", "2"]
    status, said = suite(slurm, tmp_path / "runs", *words, "--nodes", "2")
    assert status == 0, said + text_of(tmp_path / "runs")
    assert len(list(tmp_path.glob("runs/suites/*/logs/*.node1.log"))) == 1
    (record,) = records(tmp_path / "runs").values()
    assert record.metrics == undisturbed(images, tmp_path / "here", 20, "--sgd.processes 2", processes=2)


def test_a_node_that_dies_and_two_suites_on_two_mounts(slurm: Cluster, images: Path, tmp_path: Path) -> None:
    runs, other = tmp_path / "runs", tmp_path / "other"
    runs.mkdir()
    other.mkdir()
    mount = subprocess.run(["mount", "--bind", str(runs), str(other)], capture_output=True, text=True, check=False)
    if mount.returncode:
        warnings.warn(f"both suites see the folder by one path: {mount.stderr}", stacklevel=1)
        other = runs
    try:
        before, words = len(slurm.states()), [*fine_tuning(images, 100), "--seeds", "0", "1"]
        both = [begin(slurm, folder, *words) for folder in (runs, other)]
        in_training(slurm, runs)
        for what in ("slurmstepd", f"submitit.core._submit {runs}", f"submitit.core._submit {other}"):
            subprocess.run(["pkill", "-9", "-f", what], check=False)
        slurm.run("scontrol", "update", f"nodename={','.join(slurm.nodes)}", "state=down", "reason=test")
        slurm.wait(lambda: list(slurm.states().values()).count("PENDING") == 2, 60)  # the node comes back by itself
        slurm.begin_now()
        said = [each.communicate(timeout=300)[0] for each in both]
        assert [each.returncode for each in both] == [0, 0], said
        assert len(slurm.states()) == before + 2  # each run was queued once, whichever suite did it
        assert [record.status for record in records(runs).values()] == ["finished"] * 2
    finally:
        if not mount.returncode:
            slurm.run("umount", "--lazy", str(other))
