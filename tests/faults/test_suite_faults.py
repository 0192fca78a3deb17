"""A suite goes on whatever its runs do, and ends with the planned records whoever kills it, whenever.

The number of kills is 4; MSBREG_KILLS=100 makes it a hundred.
"""

from __future__ import annotations

import csv
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from noise_images import write_noise

from transfer.record import read_record
from transfer.suites.plan import is_locked

SUITE = Path(__file__).with_name("suite_of_faults.py")
ROOT = Path(__file__).resolve().parents[2]
TASK = "faults.task"
KILLS = int(os.environ.get("MSBREG_KILLS", "4"))

pytestmark = pytest.mark.slow


def command(runs: Path, *words: str) -> list[str]:
    return [sys.executable, str(SUITE), *words, "--device", "cpu", "--runs", str(runs)]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def suite(runs: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(runs, *words), capture_output=True, text=True, timeout=900, env=environment(**more), check=False
    )


def lines(**hows: int) -> list[str]:
    return [f"{TASK} --how {how} --steps {steps}" for how, steps in hows.items()]


def records(runs: Path) -> dict[str, tuple[str, dict[str, float]]]:
    """Run id → status and metrics."""
    found = [read_record(file) for file in sorted((runs / "records").glob("*/*.json"))]
    return {record.run_id: (record.status, record.metrics) for record in found}


def test_what_one_run_does_leaves_the_others_alone(tmp_path):
    hows = {"raise": 0, "hang": 0, "eat": 0, "garbage": 0, "exit": 0, "crash": 0, "fine": 1}
    limits = ["--hours", "0.006", "--gigabytes", "1.2"]
    done = suite(tmp_path, "random:resnet18", "--tasks", *lines(**hows), *limits, "--jobs", "2")
    assert done.returncode == 1, done.stderr
    for said in ("as planned", "limit of 0.006 hours", "limit of 1.2 GB", "SIGSEGV", "status 3"):
        assert said in done.stdout, f"{said}: {done.stdout}"
    assert "\x1b[2J" not in done.stdout
    statuses = sorted(status for status, _ in records(tmp_path).values())
    assert statuses == ["failed", "finished", "finished"]  # garbage and fine; raise has a record of its failure

    planned = suite(tmp_path, "random:resnet18", "--tasks", *lines(**hows), *limits, "--plan")
    assert "2 done" in planned.stdout
    assert "4 failed" in planned.stdout  # they stay so until --retry; the one that a signal ended is simply to do
    assert "1 to do now" in planned.stdout
    retried = suite(tmp_path, "random:resnet18", "--tasks", *lines(**hows), *limits, "--plan", "--retry")
    assert "5 to do now" in retried.stdout


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return write_noise(tmp_path_factory.mktemp("images") / "images", 40, 10)


def training(images: Path) -> list[str]:
    """A small suite of real training and extraction: 10 runs of a few seconds."""
    sgd = "--preset cpu --sgd.crop 32 --sgd.resize 32 --sgd.steps 40 --sgd.batch 16 --lrs 0.01 --decays 0"
    knn = f"transfer.knn --view.crop 32 --view.resize 32 --ks 20 --image-folder {images}"
    checkpoints = ["random:resnet18", "random:resnet18:1"]
    tasks = [f"finegrained.own_finetune {sgd} --image-folder {images}", knn, f"{TASK} --how fine --steps 40"]
    return [*checkpoints, "--tasks", *tasks, "--seeds", "0", "1", "--jobs", "2"]


def table(runs: Path) -> list[dict[str, str]]:
    words = [sys.executable, "-m", "results", "table", "--records", str(runs / "records"), "--format", "csv", "--all"]
    text = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    # which seconds a run took is not its number
    return [
        {key: value for key, value in row.items() if "seconds" not in key} for row in csv.DictReader(io.StringIO(text))
    ]


def _locked(runs: Path) -> bool:
    """Whether a run goes on."""
    return any(is_locked(lock) for lock in runs.glob("work/*/*/lock"))


def test_random_kills_end_with_the_planned_records_and_no_others(tmp_path, images):
    words = training(images)
    undisturbed = suite(tmp_path / "whole", *words)
    assert undisturbed.returncode == 0, undisturbed.stdout + undisturbed.stderr
    whole = records(tmp_path / "whole")
    assert len(whole) == 10

    chance, killed, in_a_run, rounds = random.Random(16), 0, 0, 0
    runs = tmp_path / "killed"
    while killed < KILLS:
        rounds += 1
        if len(records(runs)) == len(whole):  # begun anew, or there is nothing left to kill
            shutil.rmtree(runs)
        going = subprocess.Popen(
            command(runs, *words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(),
            start_new_session=True,
        )  # fmt: skip
        begun = time.monotonic()
        in_training = chance.random() < 0.8  # else in start-up and planning
        while in_training and going.poll() is None and not _locked(runs):
            assert time.monotonic() < begun + 300
            time.sleep(0.05)
        deadline = time.monotonic() + chance.uniform(0, 10)
        while going.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if going.poll() is not None:
            continue
        in_a_run += _locked(runs)
        if chance.random() < 0.3 and (children := psutil.Process(going.pid).children(recursive=True)):
            chance.choice(children).send_signal(signal.SIGKILL)  # one process, which may be the server of all
            time.sleep(chance.uniform(0, 2))
        os.killpg(going.pid, signal.SIGKILL)
        going.wait()
        killed += 1
        ended = time.monotonic() + 60
        while _locked(runs):
            assert time.monotonic() < ended, "a run outlived its suite"
            time.sleep(0.1)
    assert in_a_run >= killed / 2
    print(f"{killed} kills in {rounds} rounds, {in_a_run} of them while runs went on")
    finished = suite(runs, *words, "--retry")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert records(runs) == whole
    assert table(runs) == table(tmp_path / "whole")
    assert not list(runs.rglob("*.part"))


def test_two_suites_started_at_the_same_moment_share_the_work(tmp_path, images):
    words = training(images)
    both = [
        subprocess.Popen(command(tmp_path, *words), stdout=subprocess.PIPE, text=True, env=environment())
        for _ in range(2)
    ]
    said = [each.communicate(timeout=600)[0] for each in both]
    assert [each.returncode for each in both] == [0, 0], said
    assert len(records(tmp_path)) == 10
    assert [file.read_text("utf-8") for file in tmp_path.glob("work/*/*/done.txt")] == ["once\n"] * 4


def test_a_clock_that_jumps_ends_no_run(tmp_path):
    words = ["--tasks", *lines(fine=20, garbage=20), "--hours", "0.05"]
    assert suite(tmp_path, "random:resnet18", *words, JUMPING_CLOCK="1").returncode == 0
    assert len(records(tmp_path)) == 2


@pytest.mark.parametrize(("how", "said"), [("full", "No space left on device"), ("readonly", "Read-only file system")])
def test_a_disk_that_takes_no_more_is_said_and_loses_nothing(tmp_path, how, said):
    words = [
        "random:resnet18",
        "--tasks",
        *lines(fine=0),
        f"{TASK} --how {how} --steps 1",
        f"{TASK} --how fine --steps 2",
    ]
    done = suite(tmp_path, *words)
    assert done.returncode == 1
    assert said in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert [status for status, _ in records(tmp_path).values()] == ["finished"] * 2
    assert "1 failed" in suite(tmp_path, *words, "--plan").stdout


def test_books_that_cannot_be_kept_end_no_run(tmp_path):
    words = ["random:resnet18", "--tasks", *lines(exit=0, fine=1, garbage=2)]
    assert suite(tmp_path, *words, "--plan").returncode == 0  # remembers the checkpoint
    done = suite(tmp_path, *words, FULL_BOOKS="1")
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert [status for status, _ in records(tmp_path).values()] == ["finished"] * 2


def test_images_that_changed_unseen_are_planned_anew_the_next_time(tmp_path, images):
    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    knn = f"transfer.knn --view.crop 32 --view.resize 32 --ks 20 --image-folder {folder}"
    words = ["random:resnet18", "--tasks", knn]
    assert suite(tmp_path / "runs", *words, "--plan").returncode == 0
    with (folder / "train" / "one" / "0.png").open("ab") as file:
        file.write(b"larger")  # in place: no folder's time changes
    first = suite(tmp_path / "runs", *words)
    assert (first.returncode, "looked at anew" in first.stdout) == (1, True)
    again = suite(tmp_path / "runs", *words)
    assert (again.returncode, "1 done" in again.stdout) == (0, True)


def test_a_new_label_is_given_to_what_is_done(tmp_path):
    words = ["random:resnet18", "--tasks", *lines(fine=0)]
    assert suite(tmp_path, *words, "--labels", "one").returncode == 0
    renamed = suite(tmp_path, *words, "--labels", "two")
    assert renamed.returncode == 0
    assert [read_record(file).label for file in tmp_path.glob("records/*/*.json")] == ["two"]
    assert [file.read_text("utf-8") for file in tmp_path.glob("work/*/*/done.txt")] == ["once\n"]


def test_processes_that_train_together_end_with_the_one_that_started_them(tmp_path, images):
    endless = f"{training(images)[3]} --sgd.steps 20000 --sgd.processes 2"
    words = ["random:resnet18", "--tasks", endless, "--processes", "2", "--seeds", "0"]
    going = subprocess.Popen(command(tmp_path, *words), stdout=subprocess.PIPE, text=True, env=environment())
    try:
        deadline = time.monotonic() + 300
        while not list(tmp_path.glob("work/*/*/progress.json")):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        time.sleep(6)  # the suite has looked at them
        family = psutil.Process(going.pid).children(recursive=True)
        together = [each for each in family if "transfer.torchrun" in each.cmdline()]
        trained = [each for each in family if "run" in each.cmdline() and each not in together]
        assert len(trained) == 2
        together[0].parent().kill()  # the process of the run, which waits for torchrun
        said, _ = going.communicate(timeout=200)
        assert "SIGKILL" in said
        _, alive = psutil.wait_procs([*together, *trained], timeout=60)
        assert not alive
    finally:
        going.kill()
