"""`python -m transfer doctor`: what it says of packages, folders and data, and when it says that nothing can run."""

from __future__ import annotations

import importlib.metadata
import os
import stat
from pathlib import Path

import pytest

from transfer import doctor
from transfer.__main__ import main
from transfer.task import load_task, task_names


def test_the_whole_listing_names_each_part_and_every_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tested = doctor.tested_versions(doctor.ROOT / "constraints.txt")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: tested[name.lower()])
    root = tmp_path / "data"
    for part in load_task("detection.voc_07").needs:
        (root / part).mkdir(parents=True)
    assert main(["doctor", "--data-root", str(root), "--runs", str(tmp_path / "runs")]) == 0
    said = capsys.readouterr().out
    for part in ("packages", "engines", "machine", "folders", f"official data below {root}"):
        assert f"\n{part}" in f"\n{said}"
    assert all(name in said for name in task_names() if load_task(name).needs)
    assert "ok      detection.voc_07" in said
    assert "VOC2012/JPEGImages, for detection.voc, detection.voc_fpn" in said
    assert "→ python -m transfer data pets" in said


def test_a_package_that_is_not_there_or_not_the_tested_one(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"torch": "2.11.0+cpu", "numpy": "1.0"}

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = {finding.what.split()[0]: finding for finding in doctor.packages(dict.fromkeys(doctor.PACKAGES, "2.11.0"))}
    assert found["torch"].state == "ok"
    assert found["numpy"].state == "note"
    assert "tested: 2.11.0" in found["numpy"].todo
    assert found["timm"].state == "MISSING"
    assert found["timm"].todo == "make setup"


def test_every_package_that_is_looked_at_is_pinned() -> None:
    assert doctor.tested_versions(doctor.ROOT / "constraints.txt").keys() >= set(doctor.PACKAGES)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_stops_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert main(["doctor", "--runs", str(tmp_path / "runs"), "--tasks", "transfer.knn"]) == 1
    finally:
        tmp_path.chmod(stat.S_IRWXU)
    assert "cannot be written" in capsys.readouterr().out


def test_a_file_in_the_place_of_the_folder_stops_everything(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("x", encoding="utf-8")
    assert doctor.folder(tmp_path / "taken" / "runs").state == "MISSING"


def test_a_full_disk_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.os, "access", lambda place, mode: False)
    assert doctor.folder(tmp_path / "runs").state == "MISSING"
    monkeypatch.setattr(doctor.os, "access", lambda place, mode: True)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: Usage())
    assert doctor.folder(tmp_path / "runs").state == "note"


class Usage:
    free = 3e9


def test_no_engine_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from detection.engines import choose
    from detection.engines.mmdet import MMDetection

    class Absent(MMDetection):
        def missing(self) -> str:
            return "it is not here"

    monkeypatch.setattr(choose, "load_engine", lambda name: Absent())
    *each, last = doctor.engines()
    assert {finding.state for finding in each} == {"note"}
    assert last.state == "MISSING"


def test_an_unknown_task_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--tasks", "transfer.kn"]) == 2
    assert "transfer.knn" in capsys.readouterr().err
