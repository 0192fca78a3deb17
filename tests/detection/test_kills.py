"""Kill a run at a random moment, again and again: it goes on, ends, and there is exactly one record."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time

import pytest
from voc_runs import ROOT, records, script, tiny

from transfer.record import read_record

pytestmark = pytest.mark.slow


def kill_group(process, number):
    os.killpg(process.pid, number)
    process.communicate(timeout=60)


@pytest.mark.parametrize("engine", ["mmdet", "detectron2"])
def test_ten_kills_and_one_record(engine, voc, tmp_path):
    pytest.importorskip(engine)
    runs = tmp_path / "runs"
    arguments = ["random:resnet18", *tiny(voc, runs, "--engine", engine, iterations=60)]
    undisturbed = tmp_path / "undisturbed"
    calm = script("random:resnet18", *tiny(voc, undisturbed, "--engine", engine, iterations=60), cwd=tmp_path)
    began = time.monotonic()
    _, err = calm.communicate(timeout=600)
    assert calm.returncode == 0, err
    duration = time.monotonic() - began

    moments = random.Random(0)
    kills = 0
    for _ in range(10):
        process = script(*arguments, cwd=tmp_path)
        try:
            process.wait(timeout=moments.uniform(0.3, 1.0) * duration)
        except subprocess.TimeoutExpired:
            kills += 1
        if process.poll() is None:
            kill_group(process, signal.SIGKILL)
        else:
            process.communicate()
        assert len(records(runs) if runs.exists() else []) <= 1
    assert kills >= 1  # the later attempts may find the run finished
    last = script(*arguments, cwd=tmp_path)
    _, err = last.communicate(timeout=600)
    assert last.returncode == 0, err
    (path,) = records(runs)
    (calm_path,) = records(undisturbed)
    resumed, whole = read_record(path), read_record(calm_path)
    assert resumed.status == "finished"
    assert resumed.metrics == whole.metrics  # on a CPU the resumed run is the uninterrupted one
    rows = (runs / "work" / "detection.voc" / resumed.run_id / "metrics.jsonl").read_text().splitlines()
    iterations = [json.loads(row)["iteration"] for row in rows]
    assert iterations == sorted(set(iterations))


def test_ctrl_c_says_how_to_go_on_and_leaves_no_record(voc, tmp_path):
    pytest.importorskip("mmdet")
    runs = tmp_path / "runs"
    process = script("random:resnet18", *tiny(voc, runs, "--engine", "mmdet", iterations=400), cwd=tmp_path)
    deadline = time.monotonic() + 120
    while not list(runs.rglob("metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "the same command goes on" in err
    assert "Traceback" not in err
    assert not records(runs)


def test_no_space_left_is_one_message(voc, tmp_path):
    pytest.importorskip("mmdet")
    runs = tmp_path / "runs"

    def small_files_only():  # a checkpoint is larger; Python turns the signal into an OSError
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    process = subprocess.run(
        ["bash", str(ROOT / "detection" / "run_voc.sh"), "random:resnet18", *tiny(voc, runs, "--engine", "mmdet")],
        cwd=tmp_path,
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=small_files_only,
    )
    assert process.returncode in (1, 2)
    assert "cannot write" in process.stderr
    assert "Traceback" not in process.stderr
    assert not list(runs.rglob("*.part"))
    for path in records(runs):
        assert read_record(path).status == "failed"
