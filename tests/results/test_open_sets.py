"""What the suite of open sets left in results/open_sets is whole, and its table is that of its records."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

import results
from results.__main__ import main
from transfer.record import read_record

FOLDER = Path(results.frame.ROOT) / "results" / "open_sets"
SUITE = Path(results.frame.ROOT) / "transfer" / "suites" / "open_sets.toml"


def test_each_line_of_the_suite_has_a_finished_record_of_each_checkpoint() -> None:
    records = [read_record(file) for file in sorted((FOLDER / "records").glob("*/*.json"))]
    assert {record.status for record in records} == {"finished"}
    asked = sorted(line["task"] for line in tomllib.loads(SUITE.read_text(encoding="utf-8"))["runs"])
    for label in ("msbreg", "byol", "random"):
        assert sorted(record.task for record in records if record.checkpoint["label"] == label) == asked


def test_its_table_is_that_of_its_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "table.md"
    words = ["results", "table", "--records", str(FOLDER / "records"), "--markdown", str(table)]
    monkeypatch.setattr(sys, "argv", words)
    assert main() == 0
    assert table.read_text(encoding="utf-8") == (FOLDER / "table.md").read_text(encoding="utf-8")
