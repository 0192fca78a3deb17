"""Splits beside each other: what is refused, what is said, and what is not odd at all."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from official_layouts import picture
from PIL import Image

from detection.data import COCO, DetectionData, DetectionSplits, load_splits
from transfer.datasets.labels.catalogue import ClassificationData, load
from transfer.datasets.split_check import SplitSummary, compare, refuse_untrained, spelling
from transfer.runtime.errors import DataError

Box = dict[str, Any]


def box(label: str = "weld", at: tuple[int, int, int, int] = (5, 5, 25, 25), **flags: int) -> Box:
    """Corners x1, y1, x2, y2 from 0, ends exclusive; flags are difficult (VOC) or iscrowd (COCO)."""
    return {"label": label, "at": at, **flags}


def write_voc(root: Path, splits: dict[str, list[list[Box]]], size: tuple[int, int] = (80, 60)) -> Path:
    """One image for each list of boxes."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for split, images in splits.items():
        names = [f"{split}_{number}" for number in range(len(images))]
        (root / f"ImageSets/Main/{split}.txt").write_text("\n".join(names), encoding="utf-8")
        for name, boxes in zip(names, images, strict=True):
            Image.new("RGB", size).save(root / f"JPEGImages/{name}.png")
            objects = "".join(
                f"<object><name>{one['label']}</name><difficult>{one.get('difficult', 0)}</difficult><bndbox>"
                f"<xmin>{one['at'][0] + 1}</xmin><ymin>{one['at'][1] + 1}</ymin>"
                f"<xmax>{one['at'][2]}</xmax><ymax>{one['at'][3]}</ymax></bndbox></object>"
                for one in boxes
            )
            (root / f"Annotations/{name}.xml").write_text(f"<annotation>{objects}</annotation>", encoding="utf-8")
    return root


def write_coco(
    root: Path, splits: dict[str, list[list[Box]]], classes: tuple[str, ...] = ("weld", "pore")
) -> DetectionData:
    """`<split>.json` and `<split>/`; the options that name train and test."""
    for split, images in splits.items():
        (root / split).mkdir(parents=True)
        document: dict[str, list[dict[str, Any]]] = {
            "images": [], "annotations": [], "categories": [{"id": i, "name": name} for i, name in enumerate(classes)]
        }  # fmt: skip
        for number, boxes in enumerate(images):
            name = f"{split}_{number}.png"
            Image.new("RGB", (80, 60)).save(root / split / name)
            document["images"].append({"id": number, "file_name": name, "width": 80, "height": 60})
            for one in boxes:
                x1, y1, x2, y2 = one["at"]
                document["annotations"].append(
                    {
                        "id": len(document["annotations"]),
                        "image_id": number,
                        "category_id": classes.index(one["label"]),
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": (x2 - x1) * (y2 - y1),
                        "iscrowd": one.get("iscrowd", 0),
                    }
                )
        (root / f"{split}.json").write_text(json.dumps(document), encoding="utf-8")
    return DetectionData(
        train_json=root / "train.json", train_images=root / "train",
        test_json=root / "test.json", test_images=root / "test",
    )  # fmt: skip


def splits_of(options: DetectionData) -> DetectionSplits:
    return load_splits(options, COCO, masks=False)


def voc(root: Path, **changes: Any) -> DetectionData:
    return DetectionData(voc_root=root, train="train", test="test", **changes)


# -- spelling ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Weld", "weld"),
        ("traffic light", "Traffic_Light"),
        ("traffic-light", "trafficlight"),
        ("weld", "welds"),
        ("box", "Boxes"),
        ("berry", "berries"),
        ("glass", "glasses"),
        ("weld ", "weld"),
        ("Café", "Cafe\u0301"),
        ("STRASSE", "straße"),
        ("１２３号", "123号"),
    ],
)
def test_spellings_of_one_name(one: str, other: str) -> None:
    assert spelling(one) == spelling(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("-1", "1"),
        ("1.5", "15"),
        ("737-200", "73-7200"),
        ("C++", "C"),
        ("C#", "C"),
        ("bus", "bu"),
        ("weld", "well"),
        ("A1", "A11"),
        ("?", "!"),
    ],
)
def test_other_names(one: str, other: str) -> None:
    assert spelling(one) != spelling(other)


# -- classes that only the test annotations have -----------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["Weld", "welds", "we-ld"])
def test_a_class_of_the_test_split_alone_is_refused_with_its_likely_spelling(tmp_path: Path, wrong: str) -> None:
    root = write_voc(tmp_path / "set", {"train": [[box("weld"), box("pore")]], "test": [[box("weld"), box(wrong)]]})
    with pytest.raises(DataError, match="1 class of set_test has no training object") as refused:
        splits_of(voc(root))
    assert refused.value.found == f"{wrong!r}, probably 'weld'"
    assert refused.value.todo == "add them to set_train, take them out, or correct their spelling"


def test_detection_and_classification_refuse_in_the_same_words(tmp_path: Path) -> None:
    for number, path in enumerate(("train/weld/1.png", "train/pore/1.png", "test/weld/1.png", "test/Weld/1.png")):
        picture(tmp_path / "folders" / path, number)
    with pytest.raises(DataError) as by_folder:
        load(None, ClassificationData(image_folder=tmp_path / "folders"))
    with (tmp_path / "list.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [("path", "label", "split"), ("a.png", "weld", "train"), ("b.png", "pore", "train")]
        csv.writer(file).writerows([*rows, ("c.png", "Weld", "test")])
    for name in "abc":
        picture(tmp_path / f"{name}.png", ord(name))
    with pytest.raises(DataError) as by_table:
        load(None, ClassificationData(csv=tmp_path / "list.csv"))
    for refused in (by_folder, by_table):
        assert refused.value.what.endswith("has no training image")
        assert refused.value.found == "'Weld', probably 'weld'"
        assert refused.value.todo.endswith("take them out, or correct their spelling")


def test_a_shared_list_of_categories_does_not_hide_it(tmp_path: Path) -> None:
    options = write_coco(tmp_path, {"train": [[box("weld")]], "test": [[box("weld"), box("pore")]]})
    with pytest.raises(DataError, match="1 class of test has no training object") as refused:
        splits_of(options)
    assert refused.value.found == "pore"


def test_crowds_teach_nothing_and_difficult_objects_are_not_asked_for(tmp_path: Path) -> None:
    only_crowds = write_coco(
        tmp_path / "a", {"train": [[box("weld"), box("pore", iscrowd=1)]], "test": [[box("pore")]]}
    )
    with pytest.raises(DataError, match="no training object"):
        splits_of(only_crowds)
    ignored = write_coco(tmp_path / "b", {"train": [[box("weld")]], "test": [[box("weld"), box("pore", iscrowd=1)]]})
    assert len(splits_of(ignored).test) == 1
    difficult = write_voc(
        tmp_path / "c", {"train": [[box("weld"), box("pore", difficult=1)]], "test": [[box("weld"), box("pore")]]}
    )
    assert len(splits_of(voc(difficult)).test) == 1, "difficult objects are trained on"


def test_training_on_a_part_loses_classes_with_a_note(tmp_path: Path) -> None:
    images = [[box("weld")] for _ in range(9)] + [[box("pore")]]
    root = write_voc(tmp_path / "set", {"train": images, "test": [[box("weld"), box("pore")]]})
    lost = [splits_of(voc(root, fraction=0.1, fraction_seed=seed)).train for seed in range(3)]
    assert any("1 class has no box left: pore" in note for one in lost for note in one.notes)


def test_two_spellings_in_both_splits_and_a_class_of_training_alone_are_said(tmp_path: Path) -> None:
    both = [[box("weld"), box("Weld"), box("Weld")]]
    root = write_voc(tmp_path / "set", {"train": [[*both[0], box("pore")]], "test": both})
    notes = splits_of(voc(root)).notes
    assert (
        "the classes 'Weld' (4 objects) and 'weld' (2 objects) differ in spelling alone: one class under 2 names?"
        in (notes)
    )
    assert "1 of 3 classes with training objects has no object in set_test: pore" in notes


def test_multi_label_sets_are_compared_too(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "set", {"trainval": [[box("weld")], [box("Weld")]], "test": [[box("weld")]]})
    found = load(None, ClassificationData(image_folder=root))
    assert any("differ in spelling alone" in note for note in found.test.notes)
    assert any("no image in set_test: 'Weld', probably 'weld'" in note for note in found.test.notes)


# -- values ------------------------------------------------------------------------------------------------------


def summed(
    name: str, images: int = 100, classes: dict[str, int] | None = None, **values: NDArray[np.float64]
) -> SplitSummary:
    return SplitSummary(name, "object", images, classes or {"a": 100, "b": 100}, values, {})


@pytest.mark.parametrize(
    ("train", "test", "odd"),
    [
        ([640.0] * 9, [640.0] * 9, False),
        ([500.0, 600.0, 640.0, 700.0, 800.0], [450.0, 640.0, 650.0, 700.0, 900.0], False),
        ([640.0] * 9, [300.0] * 9, True),
        ([640.0] * 9, [512.0] * 9, True),  # resized: not one size in common
        ([640.0] * 4, [100.0] * 4, False),  # too few to say anything
        ([1.0] * 9, [100.0] * 9, True),
        ([0.0] * 9, [0.0] * 9, False),
    ],
)
def test_medians_that_lie_apart(train: list[float], test: list[float], odd: bool) -> None:
    notes = compare(summed("train", size=np.array(train)), [summed("test", size=np.array(test))])
    assert bool(notes) == odd
    assert all(note.startswith("train and test differ in size: ") for note in notes)


@pytest.mark.parametrize(
    ("train", "test", "odd"),
    [
        ({"a": 500, "b": 500}, {"a": 50, "b": 50}, False),
        ({"a": 500, "b": 500}, {"a": 30, "b": 70}, False),
        ({"a": 500, "b": 500}, {"a": 3, "b": 97}, True),
        ({"a": 20, "b": 980}, {"a": 300, "b": 700}, True),
        ({"a": 2, "b": 2}, {"a": 1, "b": 19}, False),
        # Long tails, and as many of each to report on: every class differs.
        ({"a": 10000, "b": 10000, "c": 100, "d": 100}, {"a": 10, "b": 10, "c": 1000, "d": 1000}, True),
    ],
)
def test_shares_of_classes(train: dict[str, int], test: dict[str, int], odd: bool) -> None:
    notes = compare(summed("train", classes=train), [summed("test", classes=test)])
    assert any("differ in the share of " in note and "'a' " in note for note in notes) == odd
    assert len(notes) <= 1, "one line, however many classes differ"


@pytest.mark.parametrize(("train", "test", "odd"), [(100, 900, False), (100, 1000, True), (5000, 10, False)])
def test_splits_that_may_have_been_exchanged(train: int, test: int, odd: bool) -> None:
    notes = compare(summed("train", train), [summed("test", test)])
    assert any("exchanged?" in note for note in notes) == odd


def test_boxes_and_images_of_another_size_and_flags_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    small, large = box(at=(5, 5, 15, 15)), box(at=(5, 5, 45, 45))
    root = write_voc(tmp_path / "set", {"train": [[small]] * 12}, size=(80, 60))
    write_voc(root, {"test": [[large, box(difficult=1), box(difficult=1)]] * 20}, size=(400, 300))
    with caplog.at_level(logging.INFO):
        notes = splits_of(voc(root)).notes
    said = [note.split(":")[0] for note in notes]
    assert "set_train and set_test differ in sides of images" in said
    assert "set_train and set_test differ in objects per image" in said
    assert "set_train and set_test differ: 0 of 12 and 40 of 60 are difficult" in notes
    assert "set_test: 20 images, 20 objects, 1 of 1 class, sides of images 346.4" in caplog.text


def test_sizes_of_images_of_a_classification_set(tmp_path: Path) -> None:
    for split, side in (("train", 32), ("test", 96)):
        for label, shade in (("ant", 10), ("bee", 200)):
            for number in range(3):
                (tmp_path / split / label).mkdir(parents=True, exist_ok=True)
                pixels = Image.new("RGB", (side, side), (shade, number, side))
                pixels.save(tmp_path / split / label / f"{number}.png")
    notes = load(None, ClassificationData(image_folder=tmp_path)).test.notes
    assert notes == (f"{tmp_path.name}_train and {tmp_path.name}_test differ in sides of images: 32 and 96",)


def test_nothing_is_odd_about_the_toy_sets(toy: Path) -> None:
    found = splits_of(DetectionData(voc_root=toy / "voc", train="train", test="test"))
    assert len(found.notes) == 1, "its difficult objects alone"
    assert "difficult" in found.notes[0]


def test_refusing_nothing() -> None:
    refuse_untrained(["a"], ["a", "b"], "test", "train", "image")


# -- objects that do not count -----------------------------------------------------------------------------------


def test_objects_are_counted_by_reason(tmp_path: Path) -> None:
    # Of the training split 6 are annotated: 2 crowds, 1 without area; of the test split 3, of which 1 is a crowd.
    train = [[box(), box(iscrowd=1), box(at=(5, 5, 5, 9))], [box(iscrowd=1)], [box(), box()]]
    options = write_coco(tmp_path, {"train": train, "test": [[box(), box(iscrowd=1)], [box()]]})
    found = splits_of(options)
    assert found.objects == {
        "train": {"annotated": 6, "marked iscrowd": 2, "without area": 1, "trained_on": 3, "images_trained_on": 2},
        "test": {"annotated": 3, "marked iscrowd": 1, "to_find": 2, "images_to_find": 2},
    }
    starts = (
        "train: trained on 3 of 6 objects, in 2 of 3 images; not counted are 2 marked iscrowd, 1 without area; iscrowd",
        "test: measured on 2 of 3 objects, in 2 of 2 images; not counted are 1 marked iscrowd; iscrowd 1 marks crowds",
    )
    assert all(note.startswith(start) for note, start in zip(found.notes, starts, strict=True))
    assert found.fingerprints["train"]["boxes"] == 5, "as in the records there are"


def test_clipped_and_outside_boxes_are_counted(tmp_path: Path) -> None:
    inside, over, beyond = box(), box(at=(60, 40, 90, 70)), box(at=(90, 5, 99, 15))
    root = write_voc(tmp_path / "set", {"train": [[inside, over, beyond]], "test": [[inside]]})
    found = splits_of(voc(root, clip_boxes=True))
    expected = {"annotated": 3, "outside of the image": 1, "clipped": 1, "trained_on": 2, "images_trained_on": 1}
    assert found.objects["train"] == expected


def test_a_set_of_which_all_counts_says_nothing(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "set", {"train": [[box()]], "test": [[box()]]})
    assert splits_of(voc(root)).notes == ()


@pytest.mark.parametrize(
    ("train", "test", "what", "found", "todo"),
    [
        ([[box(iscrowd=1)]] * 4, [[box()]], "train has no boxes to train on", "4 images, 4 objects: 4 marked iscrowd",
         "CVAT writes it for masks"),
        ([[box(at=(5, 5, 5, 9))]], [[box()]], "train has no boxes to train on", "1 image, 1 object: 1 without area",
         "draw them again"),
        ([[]], [[box()]], "train has no boxes to train on", "1 image, 0 objects", "annotate objects"),
        ([[box()]], [[box(iscrowd=1)], []], "test has no object to find", "2 images, 1 object: 1 marked iscrowd",
         "set it to 0"),
    ],
)  # fmt: skip
def test_nothing_left(
    tmp_path: Path, train: list[list[Box]], test: list[list[Box]], what: str, found: str, todo: str
) -> None:
    with pytest.raises(DataError, match=what) as refused:
        splits_of(write_coco(tmp_path, {"train": train, "test": test}))
    assert refused.value.found == found
    assert todo in refused.value.todo


def test_nothing_to_find_but_difficult_objects(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "set", {"train": [[box()]], "test": [[box(difficult=1)], [box(difficult=1)]]})
    with pytest.raises(DataError, match="set_test has no object to find") as refused:
        splits_of(voc(root))
    assert refused.value.found == "2 images, 2 objects: 2 marked difficult"
    assert "set <difficult> to 0" in refused.value.todo
