"""`suite status` says from another shell how a suite stands."""

import json
import os

import pytest

from transfer.__main__ import main
from transfer.runtime.files import locked
from transfer.suites.plan import Planned, note_ended, plan_file, write_plan
from transfer.suites.view import Estimate, duration


@pytest.fixture
def runs(tmp_path):
    """A suite of four: one done, one running, one that was ended, one to do; and an older one."""
    planned = [Planned("transfer.knn", label, 0, ("transfer.knn", label), id=label * 16) for label in "abcd"]
    write_plan(plan_file(tmp_path, "quick-1"), "older", planned[:1])
    write_plan(plan_file(tmp_path, "paper-2"), "the paper's tasks", planned)
    os.utime(plan_file(tmp_path, "quick-1"), (1, 1))
    record = tmp_path / "records" / "transfer.knn" / f"{'a' * 16}.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"status": "finished", "checkpoint": {"label": "a"}}), encoding="utf-8")
    note_ended(tmp_path, planned[2], "over the limit of 2 hours")
    with locked(tmp_path / "work" / "transfer.knn" / ("b" * 16), "", ""):
        yield tmp_path


def test_a_suite_is_shown_as_it_stands(runs, capsys):
    progress = {"what": "features", "unit": "im", "began": 0, "done": 30, "total": 100, "seconds": 60.0}
    progress |= {"gpu_gb": 1.5, "pid": 1, "utc": ""}
    file = runs / "work" / "transfer.knn" / ("b" * 16) / "progress.json"
    file.write_text(json.dumps(progress), encoding="utf-8")
    assert main(["suite", "status", "--runs", str(runs)]) == 1
    said = capsys.readouterr().out
    for part in (
        "paper-2: the paper's tasks",
        "running: transfer.knn  b  seed 0: features 30/100, about 2 min left, 1.5 GB of the GPU",
        "over the limit of 2 hours",
        "4 runs: 1 done, 1 running, 1 to do, 1 failed",
    ):
        assert part in said


def test_a_suite_is_found_by_the_beginning_of_its_name(runs, capsys):
    assert main(["suite", "status", "quick", "--runs", str(runs)]) == 0
    assert "1 run: 1 done" in capsys.readouterr().out
    assert main(["suite", "status", "qui", "--runs", str(runs)]) == 2
    assert "quick-1, paper-2" in capsys.readouterr().err


def test_durations_are_for_people():
    assert [duration(seconds) for seconds in (3, 89, 100, 5_000, 6_000, 200_000)] == [
        *("3 s", "89 s", "2 min", "83 min"),
        *("1.7 h", "2.3 days"),
    ]
    assert duration(None) == "?"
    assert [Estimate(100, True).line(), Estimate(100, False).line()] == ["about 2 min", "at least 2 min"]
    assert Estimate(0, False).line() == "an unknown time"
