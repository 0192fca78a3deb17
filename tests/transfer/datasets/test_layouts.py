"""--dataset: the layout of a folder is recognised and said, or the command stops and says what to type."""

from __future__ import annotations

import csv
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from official_layouts import picture
from test_split_check import box, write_coco, write_voc

from detection.data import (
    COCO,
    DetectionData,
    DetectionSplits,
    data_differences,
    load_splits,
)
from transfer.datasets.labels.catalogue import ClassificationData, load
from transfer.datasets.labels.catalogue import data_differences as classification_differences
from transfer.datasets.labels.command import data_command
from transfer.datasets.layouts import Layout, chosen
from transfer.runtime.errors import DataError

SPLITS = {"train": [[box("weld")], [box("pore")]], "test": [[box("weld"), box("pore")]]}


def read(options: DetectionData) -> DetectionSplits:
    return load_splits(options, COCO, masks=False)


def refusal(act: Callable[[], object]) -> DataError:
    with pytest.raises(DataError) as caught:
        act()
    assert caught.value.todo, "says nothing about what to do"
    return caught.value


def voc_kit(root: Path) -> None:
    write_voc(root, SPLITS)


def voc_beside(root: Path) -> None:
    """As LabelImg leaves them and Roboflow exports them."""
    write_voc(root, SPLITS)
    for split, images in SPLITS.items():
        (root / split).mkdir()
        for number in range(len(images)):
            shutil.move(root / f"JPEGImages/{split}_{number}.png", root / split)
            shutil.move(root / f"Annotations/{split}_{number}.xml", root / split)
    for folder in ("JPEGImages", "Annotations", "ImageSets"):
        shutil.rmtree(root / folder)


def coco_files(root: Path) -> None:
    """As COCO itself."""
    write_coco(root, SPLITS)
    (root / "annotations").mkdir()
    for split in SPLITS:
        shutil.move(root / f"{split}.json", root / "annotations" / f"instances_{split}.json")


def coco_beside(root: Path) -> None:
    """As Roboflow exports them: every file has the same name."""
    write_coco(root, SPLITS)
    for split in SPLITS:
        shutil.move(root / f"{split}.json", root / split / "_annotations.coco.json")


DETECTION = {
    "kit": (voc_kit, "VOC layout (its own folders)"),
    "XML beside images": (voc_beside, "VOC layout (XML beside images in a folder for each split)"),
    "COCO": (coco_files, "COCO layout (JSON files and folders of images)"),
    "JSON beside images": (coco_beside, "COCO layout (JSON beside images in a folder for each split)"),
}


@pytest.mark.parametrize("name", DETECTION)
def test_the_layout_is_recognised_said_and_read(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write, title = DETECTION[name]
    write(tmp_path / "welds")
    options = DetectionData(dataset=tmp_path / "welds")
    with caplog.at_level(logging.INFO):
        found = read(options)
    assert f"welds is read as {title}: train on 'train', report on 'test'" in caplog.text
    # SPLITS: one weld and one pore to train on, one of each to find.
    assert found.train.box_counts() == {"weld": 1, "pore": 1}
    assert found.test.box_counts() == {"weld": 1, "pore": 1}
    assert [len(found.train), len(found.test)] == [2, 1]
    assert data_differences(options, "VOC") == (("data", "VOC", "welds train → test"),)
    assert found.train.name != found.test.name


def test_the_explicit_options_name_the_same_data(tmp_path: Path) -> None:
    voc_kit(tmp_path / "a")
    by_root = DetectionData(voc_root=tmp_path / "a", train="train", test="test")
    assert read(by_root).fingerprints == read(DetectionData(dataset=tmp_path / "a")).fingerprints
    assert read(by_root).fingerprints == read(DetectionData(voc_root=tmp_path / "a")).fingerprints
    assert data_differences(by_root, "VOC") == data_differences(DetectionData(dataset=tmp_path / "a"), "VOC")
    coco_files(tmp_path / "b")
    by_file = DetectionData(
        train_json=tmp_path / "b/annotations/instances_train.json", train_images=tmp_path / "b/train",
        test_json=tmp_path / "b/annotations/instances_test.json", test_images=tmp_path / "b/test",
    )  # fmt: skip
    assert read(by_file).fingerprints == read(DetectionData(dataset=tmp_path / "b")).fingerprints


def test_two_layouts_in_one_folder_are_both_named(tmp_path: Path) -> None:
    voc_beside(tmp_path / "both")
    coco_beside(tmp_path / "other")
    for split in SPLITS:
        shutil.copy(tmp_path / "other" / split / "_annotations.coco.json", tmp_path / "both" / split)
    root = tmp_path / "both"
    error = refusal(lambda: read(DetectionData(dataset=root)))
    assert "can be read in 2 ways" in error.what
    assert "VOC layout" in error.found
    assert "COCO layout" in error.found
    assert f"--voc-root {root} --train train --test test" in error.todo
    file = "_annotations.coco.json"
    line = (
        f"--train-json {root}/train/{file} --train-images {root}/train "
        f"--test-json {root}/test/{file} --test-images {root}/test"
    )
    assert line in error.todo
    # What it says to type works.
    assert len(read(DetectionData(voc_root=root, train="train", test="test")).train) == 2


@pytest.mark.parametrize("kind", ["nothing", "no folder", "a file", "one above", "by class"])
def test_no_layout(kind: str, tmp_path: Path) -> None:
    root = tmp_path / "set"
    if kind == "one above":
        voc_kit(root / "VOC")
        coco_files(root / "COCO")
    elif kind == "by class":
        for number, path in enumerate(("train/ant/1.png", "train/bee/2.png", "test/ant/3.png", "test/bee/4.png")):
            picture(root / path, number)
    elif kind == "nothing":
        (root / "notes").mkdir(parents=True)
    elif kind == "a file":
        root.write_text("x", encoding="utf-8")
    error = refusal(lambda: read(DetectionData(dataset=root)))
    said = {
        "nothing": "it holds notes",
        "no folder": "nothing of that name",
        "a file": "a file",
        "one above": "in its folder VOC: VOC layout",
        "by class": "it is folders by class, which this task does not read",
    }
    assert said[kind] in error.found
    assert "--voc-root DIR" in error.todo
    if kind in ("nothing", "by class"):
        assert "XML beside the images" in error.todo
        assert "JSON beside the images" in error.todo


# -- which splits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ("train test", "train test"),
        ("train val", "train val"),
        ("train valid test", "train test"),
        ("Train Validation", "Train Validation"),
        ("train2017 val2017", "train2017 val2017"),
        ("trainval test", "trainval test"),
        ("training testing other", "training testing"),
        ("train trainval val test", None),
        ("train", None),
        ("a b", None),
        ("train test testing", None),
        ("train2014 train2017 val2017", None),
    ],
)
def test_the_obvious_pair_or_a_list(there: str, expected: str | None) -> None:
    layout = Layout("voc", "VOC", Path("set"), tuple(sorted(there.split())))
    if expected is not None:
        assert chosen(layout, None, None) == tuple(expected.split())
        return
    error = refusal(lambda: chosen(layout, None, None))
    assert all(name in error.found for name in there.split())
    assert "--train SPLIT --test SPLIT" in error.todo


def test_what_is_named_is_taken() -> None:
    layout = Layout("voc", "VOC", Path("set"), ("test", "train", "trainval", "val"))
    assert chosen(layout, "train", None) == ("train", "test")
    assert chosen(layout, "trainval", "val") == ("trainval", "val")
    assert chosen(Layout("voc", "VOC", Path("set"), ("a", "b")), "b", "a") == ("b", "a")


@pytest.mark.parametrize("write", [voc_kit, voc_beside, coco_files, coco_beside])
def test_a_split_that_is_not_there(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path / "set")
    error = refusal(lambda: read(DetectionData(dataset=tmp_path / "set", test="exam")))
    assert "no split 'exam'" in error.what
    assert "test, train" in error.found


@pytest.mark.parametrize("emptied", ["train", "test"])
def test_a_split_whose_images_are_missing_is_named(emptied: str, tmp_path: Path) -> None:
    root = tmp_path / "set"
    coco_beside(root)
    annotations = next((root / emptied).glob("*.json"))
    for file in (root / emptied).glob("*.png"):
        file.unlink()
    asked = refusal(lambda: read(DetectionData(dataset=root, train="train", test="test")))
    assert f"the split {emptied!r}" in asked.what
    assert "no images" in asked.what
    assert str(annotations) in asked.found
    unasked = refusal(lambda: read(DetectionData(dataset=root)))
    assert f"the split {emptied} has annotations ({emptied}/{annotations.name})" in unasked.found


def test_validation_images_to_report_on_are_noted(tmp_path: Path) -> None:
    write_voc(tmp_path / "set", {"train": SPLITS["train"], "valid": SPLITS["test"]})
    found = read(DetectionData(dataset=tmp_path / "set"))
    assert found.test.name == "set_valid"
    assert "results are on the validation images" in found.notes[0]
    assert read(DetectionData(dataset=tmp_path / "set", test="valid")).notes == (), "it was asked for"


@pytest.mark.parametrize("second", ["voc_root", "data_root"])
def test_two_places_are_refused(second: str, tmp_path: Path) -> None:
    error = refusal(lambda: read(DetectionData(dataset=tmp_path, **{second: tmp_path})))
    assert "both name the data" in error.what


# -- classification ----------------------------------------------------------------------------------------------


def by_class(root: Path) -> None:
    for number, path in enumerate(("train/weld/1.png", "train/pore/2.png", "test/weld/3.png", "test/pore/4.png")):
        picture(root / path, number)


def table(root: Path) -> None:
    root.mkdir()
    rows = [
        ("a.png", "weld", "train"),
        ("b.png", "pore", "train"),
        ("c.png", "weld", "test"),
        ("d.png", "pore", "test"),
    ]
    for number, row in enumerate(rows):
        picture(root / row[0], number)
    with (root / "list.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])


@pytest.mark.parametrize("write", [by_class, table, voc_kit])
def test_own_images_are_recognised_too(
    write: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "set")
    options = ClassificationData(dataset=tmp_path / "set")
    with caplog.at_level(logging.INFO):
        found = load(None, options)
    title = {by_class: "folders by class", table: "a CSV file of images", voc_kit: "VOC layout"}[write]
    assert f"set is read as {title}" in caplog.text
    assert (len(found.train), len(found.test), sorted(found.train.classes)) == (
        2, 1 if write is voc_kit else 2, ["pore", "weld"]
    )  # fmt: skip
    assert found.own
    assert classification_differences(None, options)[0][2] == "own images: set"


def test_own_images_in_two_layouts_or_none(tmp_path: Path) -> None:
    by_class(tmp_path / "both")
    table(tmp_path / "list")
    for file in (tmp_path / "list").iterdir():
        shutil.copy(file, tmp_path / "both")
    error = refusal(lambda: load(None, ClassificationData(dataset=tmp_path / "both")))
    assert f"--image-folder {tmp_path}/both" in error.todo
    assert f"--csv {tmp_path}/both/list.csv" in error.todo
    coco_files(tmp_path / "coco")
    error = refusal(lambda: load(None, ClassificationData(dataset=tmp_path / "coco")))
    assert "it is COCO layout (JSON files and folders of images), which this task does not read" in error.found
    assert "folders by class" in error.todo
    voc_beside(tmp_path / "voc")
    error = refusal(lambda: load(None, ClassificationData(dataset=tmp_path / "voc")))
    assert "detection tasks read it" in error.todo


def test_a_csv_file_of_other_things_is_no_list_of_images(tmp_path: Path) -> None:
    by_class(tmp_path / "set")
    (tmp_path / "set" / "prices.csv").write_text("name,price\nweld,3\n", encoding="utf-8")
    (tmp_path / "set" / "broken.csv").write_bytes(b"\xff\xfe\x00path,split")
    assert len(load(None, ClassificationData(dataset=tmp_path / "set")).train) == 2


# -- python -m transfer data -------------------------------------------------------------------------------------


def test_data_says_what_a_folder_is_taken_for(tmp_path: Path) -> None:
    coco_beside(tmp_path / "set")
    said = data_command(["--dataset", str(tmp_path / "set")])
    assert "COCO layout (JSON beside images in a folder for each split)\n  splits: test, train\n" in said
    assert f"--train-json {tmp_path}/set/train/_annotations.coco.json" in said
    (tmp_path / "empty").mkdir()
    assert "it holds nothing" in refusal(lambda: data_command(["--dataset", str(tmp_path / "empty")])).found


def test_files_that_only_look_like_a_set(tmp_path: Path) -> None:
    """A folder of images with a JSON that is no COCO file, an XML that is none of VOC's pictures."""
    picture(tmp_path / "set/train/1.png", 1)
    (tmp_path / "set/train/settings.json").write_text(json.dumps({"images": 3}), encoding="utf-8")
    (tmp_path / "set/train/other.xml").write_text("<annotation/>", encoding="utf-8")
    assert "it holds train" in refusal(lambda: read(DetectionData(dataset=tmp_path / "set"))).found
