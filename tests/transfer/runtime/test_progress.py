"""A bar tells a file how far it is; whoever reads that file believes nothing else."""

import itertools
import json
import logging
import os
import re
import sys
import time
from pathlib import Path

import pytest

from transfer.runtime import progress
from transfer.runtime.progress import Bar, Progress, read, report_to


@pytest.fixture
def file(tmp_path):
    return tmp_path / "progress.json"


@pytest.fixture
def clock(monkeypatch):
    """Seconds of the monotonic clock, in a list of one."""
    now = [1_000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_bar_says_how_far_it_is_and_how_long_the_rest_takes(file, clock):
    with report_to(file):
        bar = Bar(110, 10, unit="im", what="features of train")
        assert read(file).left is None
        clock[0] += 50
        bar.update(25)
        found = read(file)
    assert (found.what, found.unit, found.began, found.done, found.total) == ("features of train", "im", 10, 35, 110)
    assert found.seconds == 50
    assert found.left == pytest.approx(150)  # 25 took 50 seconds, 75 are left
    assert found.pid == os.getpid()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found.utc)


def test_it_writes_once_a_second_and_when_it_ends(file, clock, monkeypatch):
    written = []
    replace = os.replace
    monkeypatch.setattr(progress.os, "replace", lambda *paths: (written.append(clock[0]), replace(*paths)))
    with report_to(file):
        with Bar(100, unit="it") as bar:
            for _ in range(90):
                bar.update(1)
                clock[0] += 0.125
        assert read(file).done == 90
    assert written[0] == 1_000
    assert len(written) == 1 + 11 + 1  # at the beginning, for each whole second of 11.25, at the end
    assert all(after - before >= 1 for before, after in itertools.pairwise(written[:-1]))


def test_a_bar_within_another_speaks_and_the_outer_one_goes_on(file, clock):
    with report_to(file):
        outer = Bar(10, unit="it", what="training")
        with Bar(3, unit="im", what="predict") as inner:
            inner.update(3)
        assert read(file).what == "predict"
        clock[0] += 1
        outer.update(1)
        assert (read(file).what, read(file).done) == ("training", 1)


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_the_file_is_gone_in_the_end_and_what_a_kill_left_at_the_beginning(file, error):
    file.write_text("of an earlier attempt", encoding="utf-8")
    try:
        with report_to(file):
            assert not file.exists()
            with Bar(2, unit="it") as bar:
                bar.update(1)
                if error:
                    raise error
    except (ValueError, KeyboardInterrupt):
        pass
    assert os.listdir(file.parent) == []
    Bar(2, unit="it").close()
    assert os.listdir(file.parent) == []


def test_nothing_is_written_where_no_file_was_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Bar(2, unit="it") as bar:
        bar.update(2)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_ends_no_run_and_is_told_once(file, clock, monkeypatch, caplog):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with caplog.at_level(logging.DEBUG), report_to(file), Bar(10, unit="it") as bar:
        monkeypatch.setattr(Path, "write_text", full)
        for _ in range(5):
            clock[0] += 2
            bar.update(1)
        monkeypatch.undo()
        assert read(file).done == 0
    assert caplog.text.count("No space left on device") == 1


def test_a_folder_that_is_not_there_ends_no_run(tmp_path):
    with report_to(tmp_path / "file" / "progress.json"), Bar(3, unit="it") as bar:
        (tmp_path / "file").write_text("a file where the folder should be", encoding="utf-8")
        bar.update(3)
    assert read(tmp_path / "file" / "progress.json") is None


def test_no_part_of_a_file_is_taken_for_the_whole(file):
    with report_to(file):
        Bar(7, 2, unit="im", what="Ünïcode").close()
        whole = file.read_bytes()
    for cut in range(len(whole) - 1):  # the closing brace is the last but one
        file.write_bytes(whole[:cut])
        assert read(file) is None
    file.write_bytes(whole)
    assert isinstance(read(file), Progress)


FOREIGN = ["[]", "3", '{"done": 3}', "null", "\x00"]


@pytest.mark.parametrize("text", FOREIGN)
def test_other_files_are_not_believed(file, text):
    file.write_text(text, encoding="utf-8")
    assert read(file) is None


@pytest.mark.parametrize(("name", "value"), [("done", "3"), ("done", True), ("seconds", None), ("more", 1)])
def test_a_file_of_another_schema_is_not_believed(file, name, value):
    with report_to(file):
        Bar(7, unit="im").close()
        content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(content | {name: value}), encoding="utf-8")
    assert read(file) is None


def test_a_bar_is_shown_on_a_terminal_to_the_leader_alone(monkeypatch, capsys):
    def drawn(shown):
        with Bar(4, unit="im", what="features of train", shown=shown) as bar:
            bar.update(4)
            bar.note("loss=0.250")
        return bar.shown, capsys.readouterr().err

    assert drawn(True) == (False, "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    shown, text = drawn(True)
    assert shown
    assert "features of train: 100%" in text
    assert "4/4" in text
    assert "loss=0.250" in text
    assert drawn(False) == (False, "")


def test_counting_costs_microseconds(file):
    with report_to(file), Bar(20_000, unit="it") as bar:
        began = time.perf_counter()
        for _ in range(20_000):
            bar.update(1)
        assert (time.perf_counter() - began) / 20_000 < 1e-4
