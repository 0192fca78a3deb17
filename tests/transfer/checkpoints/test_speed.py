"""A machine's speed is measured once and remembered; nothing that is wrong with the file ends a run."""

import json
import os
from pathlib import Path

import pytest
import torch

from transfer.checkpoints import speed as module
from transfer.checkpoints.cpu_time import PATIENCE_HOURS, refuse_if_endless
from transfer.checkpoints.speed import known_speed, machine_file, speed
from transfer.runtime.errors import UserError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "msbreg-transfer" / "machine.json"


@pytest.fixture
def measured(cache, monkeypatch):
    """(device, threads) of every measurement, the n-th of which gives 100 · n."""
    calls = []

    def measure(device, threads):
        calls.append((device, threads))
        return 100.0 * len(calls)

    monkeypatch.setattr(module, "_measured", measure)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.5, 0.5, 0.5))
    return calls


def test_tests_leave_the_users_cache_alone():
    assert Path(os.environ["XDG_CACHE_HOME"]).is_dir()
    assert not machine_file().is_relative_to(Path.home() / ".cache")


def test_it_is_measured_once_for_each_number_of_threads_and_each_torch(measured, cache, monkeypatch):
    assert [speed("cpu", 1), speed("cpu", 1), speed("cpu", 2), speed("cpu", 1)] == [100, 100, 200, 100]
    assert measured == [("cpu", 1), ("cpu", 2)]
    monkeypatch.setattr(torch, "__version__", "9.9")
    assert speed("cpu", 1) == 300
    monkeypatch.setattr(module, "processor_name", lambda: "another processor")
    assert speed("cpu", 1) == 400
    assert len(json.loads(cache.read_text(encoding="utf-8"))) == 4


@pytest.mark.parametrize("content", ["", "[3]", "{", "\x00", '{"a": 1}'])
def test_a_damaged_file_is_written_anew(measured, cache, content):
    cache.parent.mkdir()
    cache.write_text(content, encoding="utf-8")
    assert [speed("cpu", 1), speed("cpu", 1)] == [100, 100]
    assert len(measured) == 1


@pytest.mark.parametrize("value", [0.0, -3.0, float("inf"), float("nan"), "fast", True, None])
def test_a_speed_that_is_none_is_measured_again_and_others_stay(measured, cache, value):
    speed("cpu", 1)
    speed("cpu", 2)
    known = json.loads(cache.read_text(encoding="utf-8"))
    (broken,) = [key for key in known if ", 1 threads" in key]
    known[broken]["gmacs_per_second"] = value
    cache.write_text(json.dumps(known), encoding="utf-8")
    assert [speed("cpu", 1), speed("cpu", 2)] == [300, 200]


def test_a_folder_that_cannot_be_written_costs_a_measurement_each_time(measured, cache):
    cache.parent.write_text("a file in the folder's place", encoding="utf-8")
    assert [speed("cpu", 1), speed("cpu", 1)] == [100, 200]


def test_what_a_busy_machine_does_is_not_remembered(measured, cache, monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (os.cpu_count() + 0.5, 0.0, 0.0))
    assert [speed("cpu", 1), speed("cpu", 1)] == [100, 200]
    assert not cache.exists()
    monkeypatch.setattr(os, "getloadavg", lambda: (os.cpu_count(), 9.0, 9.0))
    assert [speed("cpu", 1), speed("cpu", 1)] == [300, 300]


def test_a_relative_cache_folder_is_ignored(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert machine_file() == Path.home() / ".cache" / "msbreg-transfer" / "machine.json"
    monkeypatch.setenv("HOME", "nowhere")
    assert machine_file() is None


def test_measuring_draws_nothing_from_the_callers_generator_and_leaves_its_threads(cache):
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = known_speed("cpu", 1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert 0.1 < found.gmacs < 1e5
    assert torch.equal(torch.random.get_rng_state(), before)


def refused(gmacs: float) -> str:
    with pytest.raises(UserError) as caught:
        refuse_if_endless(gmacs, 1, "9 crops", ["cpu"], allow_slow=False)
    return str(caught.value)


def test_an_endless_run_is_refused_and_the_estimate_says_where_it_is_from(measured, cache):
    endless = 100 * 3600 * 100.0  # a hundred hours at 100 GMAC/s
    assert "about 4 days of training on this CPU (9 crops; estimated from 100 GMAC/s measured just now)" in refused(
        endless
    )
    again = refused(endless)
    assert "just now" not in again
    assert f"estimated from 100 GMAC/s measured on {known_speed('cpu', 1).utc[:10]}, which {cache} remembers" in again
    assert len(measured) == 1
    refuse_if_endless(100 * 3600 * PATIENCE_HOURS, 1, "", [], allow_slow=False)
    refuse_if_endless(endless, 1, "", [], allow_slow=True)


def test_what_is_surely_short_is_not_measured(measured, cache):
    refuse_if_endless(20_000, 1, "", [], allow_slow=False)
    assert measured == []
