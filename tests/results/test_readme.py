"""`results/README.md` shows the published records as they are."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from results import picture, readme
from transfer.runtime.errors import UserError

TODO = "python -m results readme"


def test_the_file_is_of_these_records() -> None:
    text = readme.FILE.read_text(encoding="utf-8")
    assert readme.hash_in(text) == readme.records_hash(), TODO
    assert text == readme.render_readme(), TODO


def test_the_picture_is_of_these_records() -> None:
    assert picture.records_in(readme.PICTURE) == readme.records_hash(), TODO
    assert readme.PICTURE.stat().st_size < 300_000


def test_without_a_browser_the_picture_stays_and_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "report.png").write_bytes(b"before")
    with pytest.raises(UserError, match=r"report\.png is not renewed: there is no Chromium here"):
        picture.take(tmp_path / "report.html", tmp_path / "report.png", "hash")
    assert (tmp_path / "report.png").read_bytes() == b"before"


def test_any_change_of_a_record_makes_it_stale(tmp_path: Path) -> None:
    shutil.copytree(readme.PUBLISHED, tmp_path / "records")
    before = readme.records_hash(tmp_path / "records")
    assert before == readme.records_hash()
    file = sorted((tmp_path / "records").rglob("*.json"))[3]
    content = file.read_bytes()
    file.write_bytes(content + b" ")
    assert readme.records_hash(tmp_path / "records") != before
    file.write_bytes(content)
    file.rename(file.with_name("f" * 16 + ".json"))
    assert readme.records_hash(tmp_path / "records") != before
