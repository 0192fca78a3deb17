"""The VOC reader: what it reads, what it mends and says, and what it refuses."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from transfer.datasets.boxes.voc import VOC_CLASSES, read_voc, read_voc_sets
from transfer.runtime.errors import DataError

CAT = ("cat", 11, 21, 60, 70)


def box_xml(label: str, xmin: object, ymin: object, xmax: object, ymax: object, extra: str = "") -> str:
    return (
        f"<object><name>{label}</name>{extra}<bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin>"
        f"<xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox></object>"
    )


def write_image(
    root: Path, name: str, objects: str = "", size: tuple[int, int] = (100, 80), suffix: str = ".jpg"
) -> None:
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(root / "JPEGImages" / f"{name}{suffix}")
    size_xml = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{size_xml}{objects}</annotation>", encoding="utf-8")


def write_split(root: Path, split: str, text: str) -> None:
    (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text(text, encoding="utf-8")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two images, `a` with a cat, `b` with nothing; split `train`."""
    root = tmp_path / "Animals"
    write_image(root, "a", box_xml(*CAT))
    write_image(root, "b")
    write_split(root, "train", "a\nb\n")
    return root


def refusal(root: Path, split: str = "train", **options: object) -> DataError:
    with pytest.raises(DataError) as caught:
        read_voc([(root, split)], "animals", **options)  # type: ignore[arg-type]
    assert caught.value.todo, "says nothing about what to do"
    return caught.value


# -- what it reads -----------------------------------------------------------------------------------------------


def test_coordinates_become_zero_based_with_exclusive_ends(root: Path) -> None:
    write_image(root, "a", box_xml("cat", 1, 1, 100, 80) + box_xml("dog", 10, 20, 30.5, 40, "<difficult>1</difficult>"))
    dataset = read_voc([(root, "train")], "animals")
    assert dataset.classes == ("cat", "dog")
    first, second = dataset.images
    assert (first.name, first.image_id, first.width, first.height) == ("Animals/a", 1, 100, 80)
    np.testing.assert_array_equal(first.boxes, [[0, 0, 100, 80], [9, 19, 30.5, 40]])
    assert first.boxes.dtype == np.float32
    assert first.labels.tolist() == [0, 1]
    assert first.difficult.tolist() == [False, True]
    assert (second.name, second.image_id, second.boxes.shape) == ("Animals/b", 2, (0, 4))
    assert dataset.notes == ()


def test_several_folders_are_one_sorted_data_set(tmp_path: Path) -> None:
    for folder, names in (("VOC2012", ["z", "c"]), ("VOC2007", ["k", "c"])):
        for name in names:
            write_image(tmp_path / folder, name, box_xml(*CAT))
        write_split(tmp_path / folder, "mine", "\n".join(names))
    dataset = read_voc([(tmp_path / "VOC2012", "mine"), (tmp_path / "VOC2007", "mine")], "both", VOC_CLASSES)
    assert [image.name for image in dataset.images] == ["VOC2007/c", "VOC2007/k", "VOC2012/c", "VOC2012/z"]
    assert [image.image_id for image in dataset.images] == [1, 2, 3, 4]
    assert dataset.box_counts()["cat"] == 4
    assert all(image.labels.tolist() == [VOC_CLASSES.index("cat")] for image in dataset.images)


def test_split_files_may_hold_a_second_column_blank_lines_and_trailing_spaces(root: Path) -> None:
    write_image(root, "two words", box_xml(*CAT))
    write_split(root, "cat_train", "\ufeffa  1  \r\n\n  b -1\ntwo words  0 \n\n")
    dataset = read_voc([(root, "cat_train")], "animals")
    assert [image.name for image in dataset.images] == ["Animals/a", "Animals/b", "Animals/two words"]


def test_the_folder_has_its_own_name_however_it_is_written(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root / "Annotations")
    assert read_voc([(Path(".."), "train")], "animals").images[0].name == "Animals/a"


@pytest.mark.parametrize("suffix", [".jpeg", ".png", ".JPG", ".PNG"])
def test_other_suffixes(root: Path, suffix: str) -> None:
    (root / "JPEGImages" / "a.jpg").unlink()
    write_image(root, "a", box_xml(*CAT), suffix=suffix)
    assert read_voc([(root, "train")], "animals").images[0].path.name == f"a{suffix}"


@pytest.mark.parametrize("size", ["", "<size/>", "<size><width>0</width><height>0</height></size>"])
def test_size_comes_from_the_image_where_the_annotation_has_none(root: Path, size: str) -> None:
    (root / "Annotations" / "a.xml").write_text(f"<annotation>{size}{box_xml(*CAT)}</annotation>", encoding="utf-8")
    image = read_voc([(root, "train")], "animals").images[0]
    assert (image.width, image.height) == (100, 80)


def test_parts_of_objects_are_no_objects(root: Path) -> None:
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></part>"
    write_image(root, "a", box_xml(*CAT, part))
    image = read_voc([(root, "train")], "animals").images[0]
    np.testing.assert_array_equal(image.boxes, [[10, 20, 60, 70]])


def test_class_names_are_united_over_train_and_test(root: Path) -> None:
    write_image(root, "t", box_xml("ant", 1, 1, 9, 9))
    write_split(root, "test", "t")
    train, test = read_voc_sets([("one", [(root, "train")]), ("two", [(root, "test")])])
    assert (train.name, test.name) == ("one", "two")
    assert train.classes == test.classes == ("ant", "cat")
    assert (train.images[0].labels.tolist(), test.images[0].labels.tolist()) == ([1], [0])


def test_official_splits_are_counted(tmp_path: Path) -> None:
    root = tmp_path / "VOC2007"
    write_image(root, "000001", box_xml(*CAT))
    write_split(root, "test", "000001")
    write_split(root, "mine", "000001")
    (note,) = read_voc([(root, "test")], "voc", VOC_CLASSES).notes
    assert "1 " in note
    assert "4952" in note.replace(",", "")
    assert read_voc([(root, "mine")], "voc", VOC_CLASSES).notes == ()


def test_there_are_twenty_classes() -> None:
    assert len(set(VOC_CLASSES)) == 20
    assert list(VOC_CLASSES) == sorted(VOC_CLASSES)


# -- what it mends and says --------------------------------------------------------------------------------------


@pytest.mark.parametrize("corners", [(50, 20, 50, 40), (50, 20, 60, 20), (50, 20, 40, 40), (50, 20, 60, 10)])
def test_boxes_without_area_are_dropped_and_named(root: Path, corners: tuple, caplog: pytest.LogCaptureFixture) -> None:
    write_image(root, "a", box_xml("dog", *corners) + box_xml(*CAT))
    dataset = read_voc([(root, "train")], "animals", ("cat", "dog"))
    assert dataset.box_counts() == {"cat": 1, "dog": 0}
    (note,) = dataset.notes
    assert note.startswith("1 box without area dropped")
    assert "Animals/a" in note
    assert note in caplog.text


def test_zero_based_annotations_are_clipped_and_counted(root: Path) -> None:
    write_image(root, "a", box_xml("cat", 0, 0, 99, 79) + box_xml("cat", 5, 5, 101, 81) + box_xml(*CAT))
    dataset = read_voc([(root, "train")], "animals")
    np.testing.assert_array_equal(dataset.images[0].boxes[:2], [[0, 0, 99, 79], [4, 4, 100, 80]])
    (note,) = dataset.notes
    assert note.startswith("2 boxes clipped that reached up to 1 pixel")


def test_boxes_further_outside_are_refused_or_clipped_on_demand(root: Path) -> None:
    write_image(root, "a", box_xml("cat", 5, 5, 101.5, 20) + box_xml("cat", 150, 5, 170, 20))
    error = refusal(root)
    assert "--clip-boxes" in error.todo
    assert "a.xml" in error.what
    assert "101.5" in error.found
    assert "100 × 80" in error.found
    dataset = read_voc([(root, "train")], "animals", clip_boxes=True)
    np.testing.assert_array_equal(dataset.images[0].boxes, [[4, 4, 100, 20]])
    assert [note.split(":")[0] for note in dataset.notes] == [
        "1 box clipped at the border of the image (--clip-boxes)",
        "1 box dropped that lay outside of the image (--clip-boxes)",
    ]


@settings(max_examples=60, deadline=None)
@given(corners=st.tuples(*[st.integers(-20, 130)] * 4))
def test_whatever_is_kept_lies_inside_and_is_never_lost_unsaid(
    tmp_path_factory: pytest.TempPathFactory, corners: tuple[int, int, int, int]
) -> None:
    root = tmp_path_factory.mktemp("set")
    write_image(root, "a", box_xml("cat", *corners))
    write_split(root, "train", "a")
    dataset = read_voc([(root, "train")], "one", ("cat",), clip_boxes=True)
    boxes = dataset.images[0].boxes
    xmin, ymin, xmax, ymax = corners
    if 1 <= xmin < xmax <= 100 and 1 <= ymin < ymax <= 80:
        np.testing.assert_array_equal(boxes, [[xmin - 1, ymin - 1, xmax, ymax]])
        assert dataset.notes == ()
    else:
        assert len(dataset.notes) == 1
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= [100, 80]).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()


# -- what it refuses ---------------------------------------------------------------------------------------------


def test_missing_folder_says_what_is_there_and_which_options_name_it(tmp_path: Path, root: Path) -> None:
    error = refusal(tmp_path / "nowhere" / "VOC2007")
    assert "Animals" in error.found
    assert "--data-root" in error.todo
    assert "--voc-root" in error.todo
    assert "ImageSets/Main" in error.todo
    assert str(root) in refusal(tmp_path).found, "does not point at the VOC folder one level below"


def test_missing_split_lists_the_splits(root: Path) -> None:
    write_split(root, "val", "a")
    error = refusal(root, "test")
    assert "train, val" in error.found


def test_empty_split(root: Path) -> None:
    write_split(root, "none", "\n  \n")
    assert "empty" in refusal(root, "none").what


def test_missing_images_are_counted_before_anything_is_read(root: Path) -> None:
    (root / "Annotations" / "a.xml").write_text("<broken", encoding="utf-8")
    for name in ("p", "q"):
        (root / "Annotations" / f"{name}.xml").write_text("<annotation/>", encoding="utf-8")
    write_split(root, "train", "a\np\nb\nq\n")
    error = refusal(root)
    assert "2 of 4 images" in error.what
    assert "no file for p, q" in error.found


def test_missing_annotation(root: Path) -> None:
    (root / "Annotations" / "b.xml").unlink()
    error = refusal(root)
    assert "1 of 2 annotations" in error.what
    assert "no file for b" in error.found


def test_names_listed_twice(root: Path) -> None:
    write_split(root, "train", "a\nb\na.jpg\n")
    error = refusal(root)
    assert "more than once" in error.what
    assert "Animals/a" in error.found


def test_overlapping_splits(root: Path) -> None:
    write_split(root, "val", "b\n")
    with pytest.raises(DataError, match="more than once"):
        read_voc([(root, "train"), (root, "val")], "animals")


@pytest.mark.parametrize(
    "content", ["", "<annotation>\n<object>\n</annotation>", "\x00", '<?xml version="1.0" encoding="no"?><a/>']
)
def test_broken_xml_names_file_and_place(root: Path, content: str) -> None:
    (root / "Annotations" / "b.xml").write_text(content, encoding="utf-8")
    error = refusal(root)
    assert "b.xml" in error.what
    assert error.found
    if "object" in content:
        assert "line 3" in error.found


def test_other_xml(root: Path) -> None:
    (root / "Annotations" / "b.xml").write_text("<html><body/></html>", encoding="utf-8")
    error = refusal(root)
    assert "no VOC annotation" in error.what
    assert "<html>" in error.found


@pytest.mark.parametrize(
    ("objects", "said"),
    [
        ("<object><name>cat</name></object>", "<bndbox>"),
        (box_xml("", 1, 1, 5, 5), "<name>"),
        (box_xml("cat", "", 1, 5, 5), "<xmin>"),
        (box_xml("cat", 1, "one", 5, 5), "ymin"),
        (box_xml("cat", 1, 1, "nan", 5), "xmax"),
        (box_xml("cat", 1, 1, 5, "inf"), "ymax"),
        (box_xml("cat", 1, 1, 5, 5, "<difficult>maybe</difficult>"), "difficult"),
    ],
)
def test_incomplete_objects_are_named_by_number_and_file(root: Path, objects: str, said: str) -> None:
    write_image(root, "b", box_xml(*CAT) + objects)
    error = refusal(root)
    assert said in error.what
    assert "object 2" in error.what
    assert "b.xml" in error.what


def test_unknown_class_names_it_the_file_and_the_expected(root: Path) -> None:
    error = refusal(root, classes=("dog", "owl"))
    assert "'cat'" in error.what
    assert "a.xml" in error.what
    assert "dog, owl" in error.found


def test_size_other_than_the_images(root: Path) -> None:
    Image.new("RGB", (80, 100)).save(root / "JPEGImages" / "a.jpg")
    error = refusal(root)
    assert "100 × 80" in error.found
    assert "80 × 100" in error.found


@pytest.mark.parametrize("content", [b"", b"<html>not here</html>", b"\xff\xd8\xff"])
def test_files_that_are_no_images(root: Path, content: bytes) -> None:
    (root / "JPEGImages" / "a.jpg").write_bytes(content)
    error = refusal(root)
    assert "a.jpg" in error.what


def test_no_objects_to_take_class_names_from(root: Path) -> None:
    write_split(root, "blank", "b")
    assert "class names" in refusal(root, "blank").what
    assert len(read_voc([(root, "blank")], "animals", ("cat",))) == 1


# -- real images -------------------------------------------------------------------------------------------------


@pytest.mark.data
def test_bccd_counts_are_those_published_less_two_boxes_without_area(test_data: Path, tmp_path: Path) -> None:
    with tarfile.open(test_data / "bccd" / "BCCD.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    expected = {  # images, RBC, WBC, platelets in the annotations, boxes without area (all RBC)
        "train": (205, 2382, 214, 209, 1),
        "val": (87, 968, 87, 83, 1),
        "trainval": (292, 3350, 301, 292, 2),
        "test": (72, 805, 71, 69, 0),
    }
    for split, (images, red, white, platelets, dropped) in expected.items():
        dataset = read_voc([(tmp_path / "BCCD", split)], "bccd")
        assert len(dataset) == images
        assert dataset.box_counts() == {"Platelets": platelets, "RBC": red - dropped, "WBC": white}
        assert len(dataset.notes) == (1 if dropped else 0)
    note = read_voc([(tmp_path / "BCCD", "trainval")], "bccd").notes[0]
    assert "BloodImage_00338 (504, 337, 504, 337)" in note
    assert "BloodImage_00343 (181, 329, 181, 329)" in note
    assert read_voc([(tmp_path / "BCCD", "test")], "bccd").classes == ("Platelets", "RBC", "WBC")


@pytest.mark.data
@pytest.mark.detectron2
def test_bccd_boxes_are_those_that_detectron2_reads(test_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("detectron2")
    from detectron2.data.datasets.pascal_voc import load_voc_instances

    with tarfile.open(test_data / "bccd" / "BCCD.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    ours = read_voc([(tmp_path / "BCCD", "test")], "bccd")
    theirs = {row["image_id"]: row for row in load_voc_instances(str(tmp_path / "BCCD"), "test", ours.classes)}
    assert len(theirs) == len(ours)
    for image in ours.images:
        row = theirs[image.path.stem]
        assert (image.width, image.height) == (row["width"], row["height"])
        np.testing.assert_array_equal(image.boxes, [item["bbox"] for item in row["annotations"]])
        assert image.labels.tolist() == [item["category_id"] for item in row["annotations"]]
