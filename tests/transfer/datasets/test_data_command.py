"""`python -m transfer data`."""

from __future__ import annotations

from pathlib import Path

import pytest
from official_layouts import write_birdsnap, write_pets

from transfer.__main__ import HELP, main
from transfer.datasets.labels.catalogue import CATALOGUE


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["data", *arguments]) == 0
    return capsys.readouterr().out


def test_every_set_is_listed_with_its_counts_and_how_to_get_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = listed(capsys, "--data-root", str(tmp_path))
    assert str(tmp_path) in text
    for name, entry in CATALOGUE.items():
        line = next(line for line in text.splitlines() if line.startswith(name + " "))
        assert line.split()[1:3] == ["missing", entry.needs[0]]
        assert f"{entry.train:,}" in line
        assert entry.how in text
    assert max(len(line) for line in text.splitlines()) <= 125


def test_sets_that_are_there_need_no_advice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pets(tmp_path)
    text = listed(capsys, "pets", "--data-root", str(tmp_path))
    assert "found" in text
    assert CATALOGUE["pets"].how not in text
    assert "imagenet" not in text


def test_a_set_that_is_there_in_part_says_what_it_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "oxford-iiit-pet/images").mkdir(parents=True)
    assert "without oxford-iiit-pet/annotations" in listed(capsys, "pets", "--data-root", str(tmp_path))


def test_check_reads_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pets(tmp_path)
    write_birdsnap(tmp_path)
    (tmp_path / "birdsnap/species.txt").unlink()
    assert main(["data", "pets", "birdsnap", "cub200", "--check", "--data-root", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert "pets_trainval: 6 images here, the official split has 3,680" in shown.out
    assert "species.txt" in shown.out
    assert [line.split()[1] for line in shown.out.splitlines()[3:6]] == ["read", "broken", "missing"]
    assert shown.err == ""


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "cats"]) == 2
    assert "no data set is called 'cats'" in capsys.readouterr().err


def test_help_names_it() -> None:
    assert "\n  data [NAME …]" in HELP
