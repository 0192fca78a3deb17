"""`results.load`: records as a frame, with an index beside them that is never believed against a file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from sample_records import record

import results
from results import index
from results.frame import COLUMNS, baseline
from transfer.record import Record, read_record, write_record
from transfer.runtime.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
Folder = Callable[..., Path]


@pytest.fixture
def indexed(monkeypatch: pytest.MonkeyPatch, folder: Folder) -> Path:
    """Three records, old enough to be trusted, with their index."""
    monkeypatch.setattr(index, "FROM", 1)
    monkeypatch.setattr(index, "_COARSE", 0)
    where = folder(*(record(seed=seed, ap=40.0 + seed) for seed in range(3)))
    results.load(where)
    assert (where / index.FILE).is_file()
    return where


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    read: list[Path] = []

    def counted(path: Path) -> Record:
        read.append(path)
        return read_record(path)

    monkeypatch.setattr(index, "read_record", counted)
    return read


def test_a_row_a_run_with_the_documented_columns(folder: Folder) -> None:
    where = folder(
        record(seed=1, ap=42.0, command="python -m transfer run x --preset cpu", notes=["a"]),
        record("VICReg", 0, None),
        record("random", 0, 30.0, checkpoint_format="random"),
    )
    frame = results.load(where)
    assert list(frame.columns)[: len(COLUMNS)] == list(COLUMNS)
    assert {name: str(frame[name].dtype) for name in COLUMNS} == {name: dtype for name, (dtype, _) in COLUMNS.items()}
    assert list(frame["label"]) == ["MSBReg", "VICReg", "random"]
    ours, failed, drawn = (frame.iloc[place] for place in range(3))
    assert (ours["value"], ours["metric.AP50"], ours["primary"], ours["preset"]) == (42.0, 62.0, "AP", "cpu")
    assert (failed["status"], failed["reason"]) == ("failed", "TrainingError: the loss is nan")
    assert math.isnan(failed["metric.AP"])
    assert (drawn["baseline"], drawn["identity"], ours["notes"]) == ("random", "random resnet18", ("a",))
    assert ours["utc"] == pd.Timestamp("2026-01-31T12:00:00Z")
    assert frame.attrs["problems"] == ()


def test_the_published_records_of_the_older_schema_load_with_their_own_numbers() -> None:
    frame = results.load(ROOT / "results" / "records").set_index("id")
    files = sorted((ROOT / "results" / "records").rglob("*.json"))
    assert len(frame) == len(files) > 50
    for file in files[::7]:
        content = json.loads(file.read_text(encoding="utf-8"))
        row = frame.loc[content["run_id"]]
        assert {name: row[f"metric.{name}"] for name in content["metrics"]} == content["metrics"]
        assert row["proven"]
    assert set(frame["purpose"]) == {"", "0 iterations", "overfitting"}


def test_an_index_spares_reading_and_changes_nothing(indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = count_reads(monkeypatch)
    warm = results.load(indexed)
    assert read == []
    (indexed / index.FILE).unlink()
    pd.testing.assert_frame_equal(warm, results.load(indexed))
    assert len(read) == 3


def test_a_changed_file_is_read_and_its_run_id_checked(indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = sorted(indexed.rglob("*.json"))[0]
    before = file.stat()
    text = file.read_text(encoding="utf-8")
    seed = json.loads(text)["seed"]
    # equal size, and the time of the last change put back: only the ctime tells
    file.write_text(text.replace(f'"seed": {seed}', f'"seed": {seed + 5}'), encoding="utf-8")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    frame = results.load(indexed)
    assert len(frame) == 2
    (problem,) = frame.attrs["problems"]
    assert problem.kind == "unreadable"
    assert "its contents give" in problem.text
    read = count_reads(monkeypatch)
    results.load(indexed)
    assert read == [file]  # a file that is none is looked at every time


def test_files_that_come_and_go(indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = sorted(indexed.rglob("*.json"))[0]
    gone.unlink()
    write_record(record("New", 7), indexed)
    read = count_reads(monkeypatch)
    frame = results.load(indexed)
    assert len(read) == 1
    assert list(frame["label"]) == ["MSBReg", "MSBReg", "New"]
    results.load(indexed)
    assert len(read) == 1


@pytest.mark.parametrize("damage", [b"", b"x", b"half", b"flip"])
def test_a_damaged_index_is_made_anew(indexed: Path, damage: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    file = indexed / index.FILE
    whole = file.read_bytes()
    expected = results.load(indexed)
    changed = {b"half": whole[: len(whole) // 2], b"flip": whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]}
    file.write_bytes(changed.get(damage, damage))
    read = count_reads(monkeypatch)
    pd.testing.assert_frame_equal(results.load(indexed), expected)
    assert len(read) == 3
    assert file.read_bytes() != changed.get(damage, damage)


def test_a_file_that_has_just_changed_is_not_trusted(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "FROM", 1)
    where = folder(record())
    results.load(where)
    read = count_reads(monkeypatch)
    results.load(where)
    assert len(read) == 1


def test_a_folder_that_cannot_be_written_is_read_without_an_index(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "FROM", 1)

    def refuse(path: Path, write: object) -> None:
        raise UserError(f"cannot write {path}")

    monkeypatch.setattr(index, "write_atomically", refuse)
    where = folder(record())
    assert len(results.load(where)) == 1
    assert not (where / index.FILE).exists()


def test_a_run_in_two_folders_counts_once_and_the_finished_one_wins(tmp_path: Path) -> None:
    write_record(record(ap=None, utc="2026-02-02T00:00:00Z"), tmp_path / "a")
    write_record(record(ap=40.0), tmp_path / "b")
    for names in (("a", "b"), ("b", "a")):
        frame = results.load([tmp_path / name for name in names])
        assert list(frame["status"]) == ["finished"]
        assert frame.attrs["problems"] == ()


def test_two_records_of_one_run_with_other_numbers_are_a_conflict(tmp_path: Path) -> None:
    write_record(record(ap=40.0), tmp_path / "a")
    write_record(record(ap=41.0, utc="2026-03-01T00:00:00Z"), tmp_path / "b")
    frame = results.load([tmp_path / "a", tmp_path / "b"])
    assert list(frame["value"]) == [41.0]
    (problem,) = frame.attrs["problems"]
    assert problem.kind == "conflict"
    assert "AP 41.000 and 40.000, 2 more" in problem.text
    assert str(tmp_path / "a") in problem.text


def test_broken_files_are_listed_and_the_others_loaded(folder: Folder) -> None:
    where = folder(record())
    bad = where / "detection.voc"
    (bad / "half.json").write_text('{"schema": 2, "run', encoding="utf-8")
    (bad / "newer.json").write_text('{"schema": 99}', encoding="utf-8")
    (bad / "nan.json").write_text('{"schema": 2, "metrics": {"AP": NaN}}', encoding="utf-8")
    (bad / "gone.json").symlink_to(bad / "nowhere")
    frame = results.load(where)
    assert len(frame) == 1
    texts = [problem.text for problem in frame.attrs["problems"]]
    assert [problem.kind for problem in frame.attrs["problems"]] == ["unreadable"] * 4
    for word, text in zip(("gone.json", "half.json", "nan.json", "newer.json"), texts, strict=True):
        assert word in text
    assert "schema 99" in texts[3]


def test_what_looks_wrong_is_said_and_kept(folder: Folder) -> None:
    where = folder(
        record("a", 0, 60.0),
        record("a", 1, None, metrics={}),
        record("A", 0, 61.0, utc="2999-01-01T00:00:00Z"),
        record("f", 0, 0.0, metrics={"AP": 0.6, "AP50": 0.8}),
        record("chance", 0, 0.0, metrics={"AP": 0.6, "AP50": 2.0}),
    )
    frame = results.load(where)
    assert len(frame) == 5
    texts = [problem.text for problem in frame.attrs["problems"]]
    assert [problem.kind for problem in frame.attrs["problems"]] == ["caution"] * 3
    assert "ended in the future, 2999-01-01 00:00 UTC" in texts[0]
    assert "look like fractions" in texts[1]
    assert "AP 0.6, where" in texts[1]
    assert "A and a differ only in their letters' case" in texts[2]


def test_an_empty_folder_gives_an_empty_frame_and_a_missing_one_an_error(tmp_path: Path) -> None:
    frame = results.load(tmp_path)
    assert frame.empty
    assert list(frame.columns) == list(COLUMNS)
    with pytest.raises(UserError, match="there is no folder"):
        results.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("label", "form", "kind"),
    [
        ("random", "", "random"),
        ("mine", "random", "random"),
        ("Scratch", "", "random"),
        ("random:resnet18", "", "random"),
        ("Supervised (90 epochs)", "torchvision", "supervised"),
        ("supervised, R18", "", "supervised"),
        ("supervised contrastive", "", ""),
        ("random-erasing", "", ""),
        ("msbreg", "msbreg", ""),
    ],
)
def test_what_gives_the_scale_and_what_competes(label: str, form: str, kind: str) -> None:
    assert baseline(label, form) == kind
