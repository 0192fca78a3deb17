"""Numbers do not move in silence: runs of seconds against what is stored, and the same run with one and two threads."""

import sys
import warnings
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))
import stored_runs
from stored_runs import RUNS, conditions_of, do, exactly, make_data, numbers, read_stored, roughly, store

from detection.engines.choose import load_engine
from transfer.runtime.conditions import differences


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("stored"))


def usable(name):
    """The run of that name; skips where its engine is not installed."""
    short = RUNS[name]
    if short.engine and (problem := load_engine(short.engine).missing()):
        pytest.skip(problem)
    return short


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_numbers_are_those_that_are_stored(name, data, tmp_path):
    record = do(usable(name), data, tmp_path)
    found, here, known = numbers(record, tmp_path), conditions_of(record), read_stored()[name]
    assert known["version"] == record.task_version, "a raised version wants new numbers: see tests/stored_runs.py"
    others = {}
    for entry in known["entries"]:
        lines = differences(entry["conditions"], here)
        if not lines:
            assert not exactly(found, entry["numbers"])
            return
        others[len(lines)] = (lines, entry["numbers"])
    lines, expected = others[min(others)]
    warnings.warn(
        f"{name}: compared within {stored_runs.TOLERANCE:g} alone, nothing is stored for here: {'; '.join(lines)}",
        stacklevel=1,
    )
    assert not roughly(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["detection.voc mmdet", "detection.voc detectron2", "transfer.imagenet_linear crops"])
def test_equal_threads_repeat_every_digit_and_others_differ_as_the_record_says(name, data, tmp_path):
    short, made = usable(name), {}
    for threads in (1, 2):
        for attempt in "ab":
            runs = tmp_path / f"{threads}{attempt}"
            record = do(short, data, runs, threads)
            made[threads, attempt] = (record, numbers(record, runs))
    for threads in (1, 2):
        (first, ours), (second, theirs) = made[threads, "a"], made[threads, "b"]
        assert not exactly(ours, theirs)
        assert first.conditions == second.conditions
        assert first.conditions["threads"] == threads
    (one, by_one), (two, by_two) = made[1, "a"], made[2, "a"]
    assert one.run_id == two.run_id
    said = differences(one.conditions, two.conditions)
    assert "the number of CPU threads was 1 and is now 2" in said
    assert {line.split(" was ")[0] for line in said} <= {
        "the number of CPU threads",
        "the arithmetic (digest of fixed sums)",
    }
    assert not roughly(by_one, by_two)


def record_like(version=1, **conditions):
    """As much of a record as `store` looks at."""

    class Some:
        task, task_version, versions = "room.task", version, {"torch": "2", "python": "3"}

    Some.conditions = {"threads": 1} | conditions
    return Some


def test_a_stored_number_is_replaced_by_a_raised_version_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(stored_runs, "STORED", tmp_path / "stored.json")
    assert store("a run", record_like(), {"AP": 1.0}) == "a run: stored"
    assert store("a run", record_like(), {"AP": 1.0}) == "a run: unchanged"
    assert store("a run", record_like(threads=2), {"AP": 1.5}) == "a run: stored"  # other conditions: beside it
    before = (tmp_path / "stored.json").read_bytes()
    with pytest.raises(SystemExit, match=r"AP: 1\.0 stored, 1\.0000000000000002 now\n.*raise its version"):
        store("a run", record_like(), {"AP": 1.0000000000000002})
    assert (tmp_path / "stored.json").read_bytes() == before
    assert store("a run", record_like(version=2), {"AP": 3.0}) == "a run: stored anew, as version 2"
    assert read_stored()["a run"] == {
        "version": 2,
        "entries": [{"conditions": {"threads": 1, "torch": "2"}, "numbers": {"AP": 3.0}}],
    }
    with pytest.raises(SystemExit, match="numbers of version 2 are stored, the task says 1"):
        store("a run", record_like(version=1), {"AP": 1.0})


def test_every_stored_run_is_one_that_is_done():
    assert set(read_stored()) == set(RUNS)
    for known in read_stored().values():
        assert known["entries"]
