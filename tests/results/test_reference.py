"""Published numbers: typed, in percent, each value with its source, protocols kept apart."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from results import reference
from results.blocks import published
from results.layouts import LAYOUTS
from transfer.runtime.errors import UserError

FILES = sorted(path.name for path in reference.FOLDER.glob("*.csv"))


def test_every_file_is_described() -> None:
    text = (reference.FOLDER / "README.md").read_text(encoding="utf-8")
    assert len(FILES) == 7
    assert all(f"`{name}`" in text for name in FILES)


@pytest.mark.parametrize("name", FILES)
def test_the_frame_holds_what_the_file_says(name: str) -> None:
    frame = reference.load()
    with (reference.FOLDER / name).open(newline="", encoding="utf-8") as file:
        lines = [line for line in csv.DictReader(line for line in file if line[0] != "#") if line["value"]]
    mine = frame[frame["file"] == name]
    assert [tuple(row) for row in mine[list(reference.COLUMNS)].itertuples(index=False)] == [
        tuple(line[column] for column in reference.COLUMNS) for line in lines
    ]
    assert all(line["source"].strip() and 0 < float(line["value"]) < 100 for line in lines)


def test_every_value_has_a_place_in_a_table() -> None:
    places = {(group.task, metric) for layout in LAYOUTS for group in layout.groups for metric, _ in group.metrics}
    frame = reference.load()
    assert set(zip(frame["task"], frame["metric"], strict=True)) <= places
    with (reference.FOLDER / "msbreg.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(line for line in file if line[0] != "#"))
    assert {(line["task"], line["metric"]) for line in lines} <= places


def test_msbreg_is_empty_until_someone_reads_it_in_the_paper() -> None:
    first, *lines = (reference.FOLDER / "msbreg.csv").read_text(encoding="utf-8").splitlines()
    assert "arXiv 2207.03552" in first
    assert "To fill a line" in first
    assert len(lines) > 20
    assert "MSBReg" not in set(reference.load()["method"])


def test_three_numbers_read_in_the_papers() -> None:
    # MoCo's detection README (v2, 800 epochs), VICReg Table 2, and VICReg Table 1.
    frame = reference.load().set_index(["file", "method", "epochs", "task", "metric"])["value"]
    moco = [frame["detection_c4.csv", "MoCo v2", "800", "detection.voc", name] for name in ("AP", "AP50", "AP75")]
    assert moco == ["57.4", "82.5", "64.0"]
    assert frame["detection_fpn.csv", "VICReg", "", "segmentation.coco_fpn", "box_AP"] == "39.4"
    assert frame["imagenet.csv", "VICReg", "", "transfer.imagenet_linear", "top1"] == "73.2"


def test_c4_and_fpn_never_share_a_block() -> None:
    for block in published(["segmentation.coco_c4", "segmentation.coco_fpn"]):
        tasks = {head.task for head in block.columns}
        assert not {"segmentation.coco_c4", "segmentation.coco_fpn"} <= tasks


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("A,,t,m,173.0,,paper", "not a percentage"),
        ("A,,t,m,x,,paper", "not a percentage"),
        ("A,,t,m,73.0,, ", "no source"),
        ("A,,t,m,73.0,,paper\nA,,t,m,74.0,,paper", "stands there twice"),
        ("A,,t,m,73.0", "no source"),
    ],
)
def test_a_line_that_cannot_be_is_refused(line: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(",".join(reference.COLUMNS) + f"\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError, match="not a table of published numbers") as caught:
        reference.load(tmp_path)
    assert found in caught.value.found
