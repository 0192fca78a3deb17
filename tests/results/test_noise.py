"""Repeat noise: computed from its file, stated where numbers are compared; conditions of the runs behind a number."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from results import noise
from results.compare import compare, text
from results.explain import explain
from results.noise import about_conditions, measured, repeat_noise
from transfer.record import Record, read_record

MakeRecord = Callable[..., Record]
Frame = Callable[..., pd.DataFrame]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def toy_noise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """AP of 40, 41 and 42: standard deviation 1."""
    file = tmp_path / "repeat_noise.csv"
    rows = [f"detection.voc,mmdet,{'2b' * 32},0,{count} threads,{39 + count},here" for count in (1, 2, 3)]
    file.write_text("\n".join(["task,engine,test_sha256,seed,conditions,AP,source", *rows]) + "\n", encoding="utf-8")
    monkeypatch.setattr(noise, "measured", lambda: measured(file))


def test_noise_by_hand(toy_noise: None) -> None:
    found = repeat_noise("detection.voc", "mmdet", "2b" * 32)
    assert found is not None
    assert (found.runs, found.std) == (3, {"AP": pytest.approx(1.0)})
    assert found.reach("AP", 1) == pytest.approx(2 * 2**0.5)  # two runs vary by √2, twice that
    assert found.reach("AP", 8) == pytest.approx(1.0)
    assert found.reach("AP50", 1) is None
    assert repeat_noise("detection.voc", "detectron2", "2b" * 32) is None


@pytest.mark.parametrize(("gap", "within"), [(1.5, True), (2.5, False)])
def test_compare_says_what_rounding_alone_could_have_done(
    toy_noise: None, record: MakeRecord, frame: Frame, gap: float, within: bool
) -> None:
    # two pairs: reach 2·√(2/2)·1 = 2
    runs = [record(label, seed, 40 + gap * (label == "a")) for label in "ab" for seed in (0, 1)]
    said = " ".join(text(compare(frame(*runs), "a", "b", ["AP"]), "a", "b").split())
    assert ("Within the repeat noise: of rounding alone, two standard deviations are AP 2.0" in said) is within
    assert "standard deviation of 3 runs of one seed under other threads or instructions" in said
    assert "(results/repeat_noise.csv): AP 1.0." in said


def test_what_was_not_measured_is_said_for_detectors(toy_noise: None, record: MakeRecord, frame: Frame) -> None:
    def said(*runs: Record) -> str:
        (found,) = compare(frame(*runs), runs[0].label, runs[1].label, ["AP"])
        return " ".join(found.cautions)

    assert "was not measured on these data" in said(*(record(label, engine="detectron2") for label in "ab"))
    assert "not measured on these data" not in said(*(record(label, engine="", task="transfer.knn") for label in "cd"))


def test_explain_states_noise_and_conditions(toy_noise: None, record: MakeRecord, frame: Frame) -> None:
    runs = [
        record(seed=0),
        record(seed=1, conditions={"threads": 2, "instructions": "AVX2"}),
        record("old", conditions={}),
    ]
    said = " ".join(explain(frame(*runs), "detection.voc").split())
    assert "Repeat noise, the standard deviation of 3 runs" in said
    assert "These runs differ in the number of CPU threads: 1, 2." in said
    assert said.count("Threads and instruction set of 1 of these runs were not recorded.") == 1


def test_conditions_of_several_runs_in_words(record: MakeRecord) -> None:
    runs = [record(), record(seed=1, conditions={}), record(seed=2, conditions={"threads": 1})]
    mixed = [run.conditions for run in runs]
    assert list(about_conditions([mixed[0], mixed[0]])) == []
    assert list(about_conditions(mixed)) == [
        "Threads and instruction set of 1 of these runs were not recorded.",
        "These runs differ in the CPU's instruction set: AVX2, not recorded.",
    ]


def test_the_published_noise_is_of_published_records() -> None:
    """Rows that name a record hold its numbers."""
    found = measured()[("detection.voc", "mmdet", "7012f3f073859c6d3c7df0422950899306c692270c33b95c2d134cad88cb427b")]
    assert found.runs >= 3
    assert 0.5 < found.std["AP"] < 2  # 34.1 to 36.1
    lines = noise.FILE.read_text(encoding="utf-8").splitlines()
    for run_id in ("38fb101ec666fbdd", "7fd349668b2776b0"):
        record = read_record(ROOT / "results" / "records" / "detection.voc" / f"{run_id}.json")
        (line,) = [line for line in lines if f"record {run_id}" in line]
        assert all(json.dumps(record.metrics[name]) in line for name in ("AP", "AP50", "AP75"))
        assert repeat_noise(record.task, record.engine, record.data["test"]["sha256"]) == found
