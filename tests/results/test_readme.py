"""`results/README.md` shows the published records as they are."""

from __future__ import annotations

import shutil
from pathlib import Path

from results import readme

TODO = "python -m results readme"


def test_the_file_is_of_these_records() -> None:
    text = readme.FILE.read_text(encoding="utf-8")
    assert readme.hash_in(text) == readme.records_hash(), TODO
    assert text == readme.render_readme(), TODO


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
