"""Which files the VOC reader takes: layouts, names in lists, endings. Every picture carries a number in its pixels."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transfer.datasets.boxes.detection import DetectionDataset
from transfer.datasets.boxes.voc import read_voc, read_voc_sets, voc_splits
from transfer.datasets.image_files import open_list
from transfer.datasets.images import read_image
from transfer.datasets.labels.voc_labels import read_voc_labels
from transfer.runtime.errors import DataError

SIZE = 40


def picture(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIZE, SIZE), (8 * number + 4,) * 3).save(path)


def number_in(path: Path) -> int:
    return round((float(np.asarray(read_image(path, path.name)).mean()) - 4) / 8)


def annotation(path: Path, number: int, filename: str = "", encoding: str = "utf-8", head: str = "") -> None:
    """One object, of a class and with a box that tell the number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    box = "".join(f"<{tag}>{value}</{tag}>" for tag, value in corners(number).items())
    said = f"<filename>{filename}</filename>" if filename else ""
    item = f"<object><name>kind {number}</name><bndbox>{box}</bndbox></object>"
    path.write_bytes(f"{head}<annotation>{said}{item}</annotation>".encode(encoding))


def corners(number: int) -> dict[str, int]:
    return {"xmin": number + 1, "ymin": 2, "xmax": number + 5, "ymax": 9}


def annotated(folder: Path, name: str, number: int, ending: str = ".png") -> None:
    """Picture and annotation in one folder."""
    picture(folder / f"{name}{ending}", number)
    annotation(folder / f"{name}.xml", number)


def in_kit(root: Path, name: str, number: int, ending: str = ".png") -> None:
    picture(root / "JPEGImages" / f"{name}{ending}", number)
    annotation(root / "Annotations" / f"{name}.xml", number)


def listed(root: Path, *lines: str, split: str = "train") -> None:
    path = root / "ImageSets" / "Main" / f"{split}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def numbers(found: DetectionDataset) -> dict[str, int]:
    """Name → number in the picture, after a check that the objects are those of the same number."""
    result = {}
    for image in found.images:
        number = number_in(image.path)
        assert [found.classes[label] for label in image.labels] == [f"kind {number}"]
        box = corners(number)
        assert image.boxes.tolist() == [[box["xmin"] - 1, box["ymin"] - 1, box["xmax"], box["ymax"]]]
        result[image.name] = number
    return result


def refusal(root: Path, split: str = "train") -> DataError:
    with pytest.raises(DataError) as caught:
        read_voc([(root, split)], "set")
    assert caught.value.todo
    return caught.value


# -- names in lists ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "lines", "expected"),
    [
        ({"IMG 1": 1, "IMG": 2}, ["IMG 1"], {"IMG 1": 1}),
        ({"IMG 1": 1, "IMG": 2}, ["IMG 1", "IMG"], {"IMG 1": 1, "IMG": 2}),
        ({"photo 0": 0, "photo 1": 1, "photo -1": 2}, ["photo 0", "photo 1", "photo -1"], None),
        ({"IMG": 2, "cat": 3, "dog": 4}, ["IMG  1", "cat -1", "dog  0"], {"IMG": 2, "cat": 3, "dog": 4}),
        ({"IMG 1": 1, "IMG 0": 2}, ["IMG 1 -1", "IMG 0  1"], {"IMG 1": 1, "IMG 0": 2}),
        ({"sub/IMG_1": 1, "IMG_1": 2}, ["sub/IMG_1"], {"sub/IMG_1": 1}),
        ({"a/b/c 1": 1, "d": 2}, ["a\\b\\c 1", "d"], {"a/b/c 1": 1, "d": 2}),
        ({"a": 1, "b": 2}, ["a.png", "b.png"], {"a": 1, "b": 2}),
        ({"a": 1, "b": 2}, ["a.png 1", "b.png 0"], {"a": 1, "b": 2}),
        ({"a.b": 1, "a": 2}, ["a.b"], {"a.b": 1}),
        ({"a.b": 1, "a": 2}, ["a.b.png", "a"], {"a.b": 1, "a": 2}),
        ({"a.jpg": 1, "b": 2}, ["a.jpg", "b"], {"a.jpg": 1, "b": 2}),
        ({"IMG": 1, "img": 2}, ["img"], {"img": 2}),
        ({"IMG ": 1, "IMG": 2}, ["IMG "], {"IMG ": 1}),
        ({"übung\x85 1": 1, "übung": 2}, ["übung\x85 1"], {"übung\x85 1": 1}),
    ],
)
def test_a_line_names_the_picture_that_it_says(
    files: dict[str, int], lines: list[str], expected: dict[str, int] | None, tmp_path: Path
) -> None:
    for name, number in files.items():
        in_kit(tmp_path / "set", name, number)
    listed(tmp_path / "set", *lines)
    found = read_voc([(tmp_path / "set", "train")], "set")
    assert numbers(found) == {f"set/{name}": number for name, number in (expected or files).items()}
    assert found.notes == ()


@pytest.mark.parametrize(
    ("files", "lines", "said"),
    [
        (["IMG 1", "IMG"], ["IMG 1", "IMG 0"], "IMG 0"),  # the first is a name, so the second is no name and a flag
        (["a", "b"], ["a 1", "b"], "a 1"),  # not every line has a flag
        (["a"], ["a 1", "a 0"], "set/a"),  # twice
        (["IMG"], ["img"], "there is IMG.png"),
        (["photo"], ["pic 0", "pic 1"], "pic 0, pic 1"),
        (["a"], ["a.jpg"], "a.jpg"),  # another ending than the file's
        (["a", "a.png"], ["a.png"], "a.png.png"),  # a.png by its ending, a.png.png without
    ],
)
def test_a_line_that_names_none_or_two_is_refused(
    files: list[str], lines: list[str], said: str, tmp_path: Path
) -> None:
    for number, name in enumerate(files):
        in_kit(tmp_path / "set", name, number)
    listed(tmp_path / "set", *lines)
    error = refusal(tmp_path / "set")
    assert said in error.found
    assert str(tmp_path / "set") in str(error)


def test_lists_of_one_class_hold_names_with_spaces_and_flags(tmp_path: Path) -> None:
    root, names = tmp_path / "set", ["photo 1", "two words", "sub/c"]
    for number, name in enumerate(names):
        in_kit(root, name, number)
    for split, own in (("train", names[:2]), ("test", names[2:])):
        listed(root, *own, split=split)
        listed(root, *(f"{name}  1" for name in own), split=f"cat_{split}")
        listed(root, *(f"{name} -1" for name in own), split=f"dog_{split}")
    found = read_voc_labels(root, "train")
    assert found.train.classes == ("cat", "dog")
    assert found.train.labels.tolist() == [[1, -1], [1, -1]]
    assert [number_in(root / "JPEGImages" / found.train.images.name(place)) for place in range(2)] == [0, 1]
    assert found.test.images.name(0) == "sub/c.png"
    assert voc_splits(root) == ["test", "train"]
    assert numbers(read_voc([(root, "dog_train")], "set")) == {"set/photo 1": 0, "set/two words": 1}


def test_a_name_is_not_taken_for_a_name_and_a_flag_of_a_class(tmp_path: Path) -> None:
    for number, name in enumerate(["IMG", "IMG 1", "t"]):
        in_kit(tmp_path, name, number)
    for split, name in (("small_train", "IMG 1"), ("small_test", "t 1")):
        listed(tmp_path, name, split=split)
    with pytest.raises(DataError, match="together with what should be a flag") as caught:
        read_voc_labels(tmp_path, "train")
    assert "IMG 1" in caught.value.found


def test_labels_from_annotations_are_of_the_pictures_in_subfolders(tmp_path: Path) -> None:
    for number, name in enumerate(["a/IMG", "b/IMG", "t"]):
        in_kit(tmp_path, name, number)
    listed(tmp_path, "b/IMG", "a/IMG")
    listed(tmp_path, "t", split="test")
    found = read_voc_labels(tmp_path, "train")
    assert found.train.classes == ("kind 0", "kind 1", "kind 2")
    shown = [number_in(tmp_path / "JPEGImages" / found.train.images.name(place)) for place in range(2)]
    assert [row.index(1) for row in found.train.labels.tolist()] == shown == [0, 1]


def test_a_list_of_images_names_files_as_they_stand(tmp_path: Path) -> None:
    for name, number in (("IMG", 1), ("IMG 1", 2), ("photo.png", 3)):
        picture(tmp_path / "x.png", number)
        (tmp_path / "x.png").rename(tmp_path / name)
    (tmp_path / "list.txt").write_text("IMG 1\nphoto.png 7\n", encoding="utf-8")
    found = open_list(tmp_path / "list.txt", labelled=False)
    assert [number_in(tmp_path / found.name(place)) for place in range(2)] == [2, 3]
    with pytest.raises(DataError, match=r"1 of 2 lines .* have no label"):
        open_list(tmp_path / "list.txt", labelled=True)


# -- folders -----------------------------------------------------------------------------------------------------


def beside(root: Path, split: str, name: str, number: int) -> None:
    annotated(root / split, name, number, ".jpg")


def kit_in_split(root: Path, split: str, name: str, number: int) -> None:
    in_kit(root / split, name, number, ".jpg")


def split_in_kit(root: Path, split: str, name: str, number: int) -> None:
    in_kit(root, f"{split}/{name}", number, ".jpg")


@pytest.mark.parametrize("write", [beside, kit_in_split, split_in_kit])
def test_a_folder_for_each_split(write: Callable[[Path, str, str, int], None], tmp_path: Path) -> None:
    root = tmp_path / "Cards"
    for number, name in enumerate(["train/a_jpg.rf.0f", "train/sub/b 1", "valid/a_jpg.rf.0f", "test/c"]):
        split, _, rest = name.partition("/")
        write(root, split, rest, number)
    (root / "README.roboflow.txt").write_text("made for this test", encoding="utf-8")
    assert voc_splits(root) == ["test", "train", "valid"]
    train, rest = read_voc_sets([("train", [(root, "train")]), ("rest", [(root, "valid"), (root, "test")])])
    assert numbers(train) == {"Cards/train/a_jpg.rf.0f": 0, "Cards/train/sub/b 1": 1}
    assert numbers(rest) == {"Cards/valid/a_jpg.rf.0f": 2, "Cards/test/c": 3}
    error = refusal(root, "val")
    assert "test, train, valid" in error.found
    assert "Cards" in refusal(tmp_path, "train").found


@pytest.mark.parametrize(("write", "masks"), [(beside, "train"), (kit_in_split, "train"), (split_in_kit, "")])
def test_masks_of_a_folder_for_each_split(
    write: Callable[[Path, str, str, int], None], masks: str, tmp_path: Path
) -> None:
    write(tmp_path, "train", "sub/a", 3)
    pixels = np.zeros((SIZE, SIZE), np.uint8)
    pixels[1:9, 3:8] = 255
    file = tmp_path / masks / "InstanceMasks" / ("" if masks else "train") / "sub/a_1.png"
    file.parent.mkdir(parents=True)
    Image.fromarray(pixels).save(file)
    found = read_voc([(tmp_path, "train")], "set", masks=True)
    assert found.images[0].masks is not None
    assert (found.images[0].masks[0].pixels() == (pixels > 0)).all()
    file.unlink()
    with pytest.raises(DataError, match="1 of 1 masks are missing") as caught:
        read_voc([(tmp_path, "train")], "set", masks=True)
    assert "sub/a_1.png" in caught.value.found


def test_pictures_and_annotations_without_a_partner_are_named(tmp_path: Path) -> None:
    annotated(tmp_path / "train", "a", 1)
    picture(tmp_path / "train/b.png", 2)
    assert "no file for b" in refusal(tmp_path).found
    annotation(tmp_path / "train/c.xml", 3)
    error = refusal(tmp_path)
    assert "1 of 3 annotations of split 'train' are missing" in error.found
    assert "1 of 3 images of split 'train' are missing" in error.found
    assert "no file for c" in error.found


def test_pictures_of_unreadable_kinds_are_refused_with_the_endings(tmp_path: Path) -> None:
    annotation(tmp_path / "train/a.xml", 1)
    (tmp_path / "train/a.heic").write_bytes(b"no picture that is read here")
    error = refusal(tmp_path)
    assert "no file for a" in error.found
    assert ".webp" in error.todo


def test_what_is_no_voc_layout_has_no_splits(tmp_path: Path) -> None:
    picture(tmp_path / "folders/train/cat/a.png", 1)
    annotation(tmp_path / "notes/train/b.xml", 1)
    in_kit(tmp_path / "unlisted", "a", 1)
    in_kit(tmp_path / "several/VOC2007", "a", 1)
    listed(tmp_path / "several/VOC2007", "a")
    (tmp_path / "file").touch()
    for name in ("folders", "notes", "unlisted", "several", "file", "nowhere"):
        assert voc_splits(tmp_path / name) == [], name
    assert "VOC2007" in refusal(tmp_path / "several").found
    assert voc_splits(tmp_path / "several/VOC2007") == ["train"]


def test_hidden_files_of_other_systems_are_no_images(tmp_path: Path) -> None:
    annotated(tmp_path / "train", "a", 1)
    for name in ("._a.png", "._a.xml", ".DS_Store", "classes.txt"):
        (tmp_path / "train" / name).write_bytes(b"\0\5\x16\7")
    assert numbers(read_voc([(tmp_path, "train")], "set")) == {f"{tmp_path.name}/train/a": 1}


# -- endings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("upper", [False, True])
def test_every_ending_that_is_read(upper: bool, tmp_path: Path) -> None:
    # Written out: what the reader of pixels knows, from its documentation.
    endings = [".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"]
    for number, ending in enumerate(endings):
        in_kit(tmp_path, f"p{number}", number, ending.upper() if upper else ending)
        annotated(tmp_path / "folder" / "train", f"p{number}", number, ending.upper() if upper else ending)
    listed(tmp_path, *(f"p{number}" for number in range(len(endings))))
    assert sorted(numbers(read_voc([(tmp_path, "train")], "set")).values()) == list(range(len(endings)))
    assert sorted(numbers(read_voc([(tmp_path / "folder", "train")], "set")).values()) == list(range(len(endings)))


def test_of_two_files_of_one_name_it_is_the_one_that_the_annotation_names(tmp_path: Path) -> None:
    for number, ending in enumerate([".jpg", ".png", ".bmp"]):
        picture(tmp_path / f"train/a{ending}", number)
    annotation(tmp_path / "train/a.xml", 1, filename="C:\\photos\\a.png")
    found = read_voc([(tmp_path, "train")], "set")
    assert list(numbers(found).values()) == [1]
    (note,) = found.notes
    assert note.startswith("2 images of the same name as another left out")
    assert "a.jpg (a.png is read)" in note


@pytest.mark.parametrize("filename", ["", "a", "a.gif", "b.png"])
def test_two_files_of_one_name_are_refused_if_nothing_says_which(filename: str, tmp_path: Path) -> None:
    for number, ending in enumerate([".jpg", ".png"]):
        picture(tmp_path / f"JPEGImages/a{ending}", number)
    annotation(tmp_path / "Annotations/a.xml", 1, filename=filename)
    listed(tmp_path, "a")
    error = refusal(tmp_path)
    assert "2 files could be the image a" in error.what
    assert "a.jpg, a.png" in error.found
    listed(tmp_path, "a.png")
    found = read_voc([(tmp_path, "train")], "set")
    assert list(numbers(found).values()) == [1]


def test_two_annotations_of_one_name_are_refused(tmp_path: Path) -> None:
    annotated(tmp_path / "train", "a", 1)
    annotation(tmp_path / "train/a.XML", 2)
    assert "a.XML, a.xml" in refusal(tmp_path).found


def test_an_annotation_that_names_another_picture_beside_it_is_said(tmp_path: Path) -> None:
    for number, name in enumerate("abc"):
        annotated(tmp_path / "train", name, number)
    annotation(tmp_path / "train/a.xml", 0, filename="b.png")
    annotation(tmp_path / "train/b.xml", 1, filename="long" * 99)
    annotation(tmp_path / "train/c.xml", 2, filename="gone.png")  # an old name, of no file: nothing to say
    found = read_voc([(tmp_path, "train")], "set")
    assert list(numbers(found).values()) == [0, 1, 2]
    (note,) = found.notes
    assert "a.xml names b.png" in note
    assert "c.xml" not in note


# -- many made sets ----------------------------------------------------------------------------------------------

STEMS = [
    "IMG",
    "IMG 1",
    "IMG 0",
    "img",
    "a.b",
    "a",
    "a.jpg",
    "two words",
    "x -1",
    "日本",
    "IMG.png",
    "sub/IMG",
    "sub/c 1",
]


@pytest.mark.parametrize("seed", range(60))
def test_made_sets_end_in_the_right_objects_or_a_refusal(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    root, kit = tmp_path / "set", draw.random() < 0.7
    made: dict[str, int] = {}
    files: dict[str, str] = {}
    for number, stem in enumerate(draw.sample(STEMS, draw.randint(1, 6))):
        ending = draw.choice([".jpg", ".png", ".PNG", ".bmp", ".tif", ".webp"])
        (in_kit if kit else annotated)(root if kit else root / "train", stem, number, ending)
        made[stem], files[stem + ending] = number, stem
    if not kit:
        found = read_voc([(root, "train")], "set")
        assert numbers(found) == {f"set/train/{stem}": number for stem, number in made.items()}
        return
    chosen = draw.sample(sorted(made), draw.randint(1, len(made)))
    ends = draw.choice(["", "", " {}", "  {}"])
    lines = [stem + ends.format(draw.choice([-1, 0, 1])) for stem in chosen]
    listed(root, *lines)
    whole = [line in made or line in files for line in lines]
    meant = chosen if not any(whole) else [line if line in made else files.get(line, "") for line in lines]
    double = any(name in made and name in files for name in ([*chosen, *lines]))
    if double or not all(name in made for name in meant):
        error = refusal(root)
        assert str(root) in error.what
    else:
        assert numbers(read_voc([(root, "train")], "set")) == {f"set/{stem}": made[stem] for stem in meant}
