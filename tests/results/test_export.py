"""Evidence: the run stays the same, the machine disappears."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from results import export
from transfer.record import Record, read_record, write_record
from transfer.runtime.errors import UserError

MakeRecord = Callable[..., Record]


def test_export_shortens_paths_and_keeps_the_run(record: MakeRecord, tmp_path: Path) -> None:
    run = record(
        checkpoint_path="/home/jane/ckpt/best.pth",
        command="python -m transfer run detection.voc --checkpoint=/home/jane/ckpt/best.pth "
        "--voc-root '/data/jane doe/BCCD' --train train",
        notes=["read /home/jane/ckpt/best.pth; see https://example.org/a/b and mean/std/range"],
        details={"sheets": ["/home/jane/runs/sheet.png"], "per_class": {"cat": 1.5}},
    )
    path = write_record(run, tmp_path / "runs")
    (written,) = export.export([str(path)], tmp_path / "evidence")
    assert written == tmp_path / "evidence" / "detection.voc" / f"{run.run_id}.json"
    assert "jane" not in written.read_text(encoding="utf-8")
    copy = read_record(written)
    assert copy.run_id == run.run_id
    assert copy.metrics == run.metrics
    assert copy.checkpoint["path"] == "best.pth"
    assert copy.command == (
        "python -m transfer run detection.voc --checkpoint=…/best.pth --voc-root …/BCCD --train train"
    )
    assert copy.notes == ["read …/best.pth; see https://example.org/a/b and mean/std/range"]
    assert copy.details == {"sheets": ["…/sheet.png"], "per_class": {"cat": 1.5}}


def test_a_traceback_loses_its_folders(record: MakeRecord) -> None:
    trace = 'File "/home/jane/code/transfer/runner.py", line 3, in run\n  OSError: /mnt/x/y.jpg: gone'
    run = record(ap=None, failure={"kind": "OSError", "message": "/mnt/x/y.jpg: gone", "traceback": trace})
    failure = export.without_machine(run).failure
    assert failure["message"] == "…/y.jpg: gone"
    assert failure["traceback"] == 'File "…/runner.py", line 3, in run\n  OSError: …/y.jpg: gone'


folders = st.lists(st.text("abcXYZ0-_ ", min_size=1).map(str.strip).filter(bool), min_size=1, max_size=4)


@given(folders)
def test_no_quoted_absolute_path_survives_in_a_command(parts: list[str]) -> None:
    import shlex

    from sample_records import record

    secret = "/SECRET/" + "/".join(parts)
    for words in (["--x", secret], [f"--x={secret}"], [secret]):
        command = export.without_machine(record(command=shlex.join(["run", *words]))).command
        assert "SECRET" not in command
        assert parts[-1] in command


def test_exporting_twice_changes_nothing(record: MakeRecord) -> None:
    once = export.without_machine(record(command="x --y /a/b/c", checkpoint_path="/a/b.pth", notes=["/a/b/c"]))
    assert export.without_machine(once) == once


def test_runs_of_uncommitted_code_are_refused_all_or_none(record: MakeRecord, tmp_path: Path) -> None:
    good = write_record(record(seed=0), tmp_path / "runs")
    dirty = write_record(record(seed=1, git_dirty=True), tmp_path / "runs")
    with pytest.raises(UserError, match="no commit holds") as caught:
        export.export([str(good), str(dirty)], tmp_path / "evidence")
    assert dirty.stem in caught.value.found
    assert not (tmp_path / "evidence").exists()
    assert len(export.export([str(good), str(dirty)], tmp_path / "evidence", allow_dirty=True)) == 2


def test_records_are_found_by_run_id(record: MakeRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = record()
    write_record(run, tmp_path / "runs")
    monkeypatch.setattr(export, "RECORD_FOLDERS", (tmp_path / "runs",))
    for name in (run.run_id, run.run_id[:6]):
        assert [path.stem for path in export.export([name], tmp_path / "to")] == [run.run_id]
    for name in ("0" * 16, "*", "nothing"):
        with pytest.raises(UserError, match="neither a record file nor the id"):
            export.export([name], tmp_path / "to")
    with pytest.raises(UserError, match="no record was named"):
        export.export([], tmp_path / "to")


def test_a_broken_record_is_not_exported(record: MakeRecord, tmp_path: Path) -> None:
    path = write_record(record(), tmp_path / "runs")
    content = json.loads(path.read_text(encoding="utf-8"))
    content["recipe"]["lr"] = 5.0
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match="not a valid record"):
        export.export([str(path)], tmp_path / "to")
