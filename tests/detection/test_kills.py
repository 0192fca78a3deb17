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
import torch
from voc_runs import ROOT, records, script, tiny

from transfer.record import read_record

pytestmark = pytest.mark.slow


def kill_group(process, number):
    os.killpg(process.pid, number)
    process.communicate(timeout=60)


def wait_for(condition, process, seconds):
    """Poll until `condition()` or the process ends; the test fails if neither happens in time."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and not condition():
        assert time.monotonic() < deadline, "neither progress nor an end"
        time.sleep(0.02)


def saved(runs):
    """When the run's checkpoint was last written; None before the first one."""
    found = list((runs / "work").rglob("checkpoint.pth")) if runs.exists() else []
    return found[0].stat().st_mtime_ns if found else None


def weights(runs):
    """The trained model in the run's last checkpoint."""
    (path,) = (runs / "work").rglob("checkpoint.pth")
    return torch.load(path, weights_only=True)["model"]


@pytest.mark.parametrize("engine", ["mmdet", "detectron2"])
def test_ten_kills_and_one_record(engine, voc, tmp_path):
    pytest.importorskip(engine)
    runs, undisturbed = tmp_path / "runs", tmp_path / "undisturbed"
    one_thread = {"OMP_NUM_THREADS": "1"}  # sums in one order, so equal means equal
    more = ("--engine", engine)
    calm = script("random:resnet18", *tiny(voc, undisturbed, *more, iterations=250), cwd=tmp_path, **one_thread)
    arguments = ["random:resnet18", *tiny(voc, runs, *more, iterations=250)]

    moments = random.Random(0)
    for attempt in range(10):
        process = script(*arguments, cwd=tmp_path, **one_thread)
        if attempt % 2:  # some time after it has gone on from the last checkpoint and written another
            before = saved(runs)
            wait_for(lambda: saved(runs) != before, process, 300)  # noqa: B023 - used at once
        time.sleep(moments.uniform(0, 1 if attempt % 2 else 6))
        assert process.poll() is None, process.communicate()[1]  # 250 iterations outlast the kills
        before = saved(runs)
        kill_group(process, signal.SIGTERM if attempt % 4 == 1 else signal.SIGKILL)
        if attempt % 4 == 1:  # asked, it saves before it leaves
            assert saved(runs) != before
        assert not runs.exists() or not records(runs)

    last = script(*arguments, cwd=tmp_path, **one_thread)
    _, err = last.communicate(timeout=600)
    assert last.returncode == 0, err
    _, err = calm.communicate(timeout=600)
    assert calm.returncode == 0, err
    (path,) = records(runs)
    (calm_path,) = records(undisturbed)
    resumed, whole = read_record(path), read_record(calm_path)
    assert resumed.status == "finished"
    assert resumed.metrics == whole.metrics
    ours, theirs = weights(runs), weights(undisturbed)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)  # the resumed run is the uninterrupted one
    rows = (runs / "work" / "detection.voc" / resumed.run_id / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(row)["step"] for row in rows] == [*range(20, 250, 20), 250]


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
    assert "type the same command again" in err
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
