"""The transfer of the long ablation's checkpoints: three tasks, three seeds of three rows, and their table."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest

import results
from results.__main__ import main
from transfer.record import read_record

FOLDER = Path(results.frame.ROOT) / "results" / "ablation"


def test_every_training_has_a_finished_record_of_every_task() -> None:
    records = [read_record(file) for file in sorted((FOLDER / "records").glob("*/*.json"))]
    assert {record.status for record in records} == {"finished"}
    made = sorted((record.task, record.label, record.seed) for record in records)
    tasks = ("detection.voc", "finegrained.own_linear", "transfer.knn")
    assert made == sorted(itertools.product(tasks, ("byol", "msbreg", "random"), range(3)))


def test_its_table_is_that_of_its_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "table.md"
    words = ["results", "table", "--trainings", "--records", str(FOLDER / "records"), "--markdown", str(table)]
    monkeypatch.setattr(sys, "argv", words)
    assert main() == 0
    assert table.read_text(encoding="utf-8") == (FOLDER / "table.md").read_text(encoding="utf-8")
