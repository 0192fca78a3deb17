"""Published numbers: typed, in percent, each with its source, protocols kept apart."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from results import reference
from results.reference import PUBLISHED
from transfer.errors import UserError

FILES = sorted(path.name for path in reference.FOLDER.glob("*.csv"))


def test_every_file_is_described_once() -> None:
    assert sorted(published.file for published in PUBLISHED) == FILES
    assert len(FILES) == 4


@pytest.mark.parametrize("published", PUBLISHED, ids=lambda published: published.file)
def test_the_frame_holds_what_the_file_says(published: reference.Published) -> None:
    frame = published.read()
    with (reference.FOLDER / published.file).open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(frame) == len(lines) > 0
    for (_, row), line in zip(frame.iterrows(), lines, strict=True):
        assert row["method"] == line["method"]
        assert row["source"] == line["source"]
        assert line["source"].strip()
        for name in published.columns:
            if line[name]:
                assert row[name] == float(line[name])
                assert 0 < float(line[name]) < 100
            else:
                assert row[name] != row[name]  # NaN


@pytest.mark.parametrize("name", FILES)
def test_msbreg_is_absent_until_someone_reads_it_in_the_paper(name: str) -> None:
    assert "msbreg" not in (reference.FOLDER / name).read_text(encoding="utf-8").lower()


def test_three_numbers_read_in_the_papers() -> None:
    # MoCo's detection README (v2, 800 epochs), VICReg Table 2, and VICReg Table 1.
    c4, fpn, imagenet, _ = (published.read() for published in PUBLISHED)
    moco = c4[(c4["method"] == "MoCo v2") & (c4["epochs"] == 800)].iloc[0]
    assert (moco["voc_AP"], moco["voc_AP50"], moco["voc_AP75"]) == (57.4, 82.5, 64.0)
    assert fpn.set_index("method").loc["VICReg", "coco_box_AP_fpn"] == 39.4
    assert imagenet.set_index("method").loc["VICReg", "linear_top1"] == 73.2


def test_c4_and_fpn_never_share_a_block() -> None:
    blocks = reference.blocks()
    fpn = [block for block in blocks if any("FPN" in head for head in block.headers)]
    assert len(fpn) == 1
    assert [head for head in fpn[0].headers if "COCO" in head and "FPN" not in head] == []
    for block in blocks:
        if block is not fpn[0]:
            assert not any("FPN" in head for head in block.headers)


def test_a_task_shows_its_own_columns() -> None:
    heads = [block.headers for block in reference.blocks(["detection.voc"])]
    assert heads == [
        ("method", "epochs", "VOC AP", "VOC AP50", "VOC AP75", "notes"),
        ("method", "VOC AP50 (C4)", "notes"),
    ]
    assert reference.blocks(["transfer.knn"]) == []
    (imagenet,) = reference.blocks(["transfer.imagenet_linear"])
    assert imagenet.title == "Published: ImageNet"


def test_every_row_shown_names_its_source() -> None:
    for block in reference.blocks():
        texts = dict(block.footnotes)
        for row in block.rows:
            assert any(texts[mark].startswith("Source: ") for mark in row[-1].split(", "))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("57.4", "574", "voc_AP is '574', not a percentage"),
        ("57.4", "-1", "not a percentage"),
        ("57.4", "57,4", "not a table of published numbers"),
        (",36.5,Barlow Twins Table 4; MoCo detection README (VOC)", "", "a row has no source"),
        ("57.4", "about 57", "'about 57', not a percentage"),
        ("MoCo v1,", " ,", "a row has no method"),
        ("voc_AP75", "voc_ap75", "columns method"),
        ("MoCo v2,MoCo lr 0.02 (VOC); COCO as in source,800", "MoCo v2,x,200", "stands there twice"),
    ],
)
def test_damaged_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, said: str
) -> None:
    text = (reference.FOLDER / "detection_c4.csv").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "detection_c4.csv").write_text(text.replace(old, new, 1), encoding="utf-8")
    monkeypatch.setattr(reference, "FOLDER", tmp_path)
    with pytest.raises(UserError) as caught:
        PUBLISHED[0].read()
    assert said in str(caught.value)
