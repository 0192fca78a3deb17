"""COCO files as other tools write them: the right pictures and objects with a note, or a refusal that says what to do.

Every picture carries its number in its colour, and what is expected comes from the generator of the files.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import CocoFolder, annotation
from PIL import Image

from transfer.datasets.boxes.account import account
from transfer.datasets.boxes.coco import read_coco
from transfer.datasets.boxes.detection import DetectionDataset
from transfer.runtime.errors import DataError


@pytest.fixture
def coco(tmp_path: Path) -> CocoFolder:
    return CocoFolder(tmp_path)


def refusal(coco: CocoFolder, masks: bool = False, **options: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        coco.read(masks=masks, **options)
    assert caught.value.todo, "says nothing about what to do"
    assert "instances.json" in str(caught.value)
    return caught.value


def picture(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 10), (number, 0, 0)).save(path)


def number_of(path: Path) -> int:
    with Image.open(path) as image:
        return int(np.asarray(image)[0, 0, 0])


# -- file names --------------------------------------------------------------------------------------------------


def set_of(root: Path, name: str, files: dict[str, int], where: str = "set/annotations/x.json") -> tuple[Path, Path]:
    """One image called `name`, its JSON at `where` and pictures with numbers; the images folder is `set/images`."""
    for file, number in files.items():
        picture(root / file, number)
    (root / "set" / "images").mkdir(parents=True, exist_ok=True)
    path = root / where
    path.parent.mkdir(parents=True, exist_ok=True)
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 2, 10, 5], "area": 50, "iscrowd": 0}
    image = {"id": 1, "file_name": name, "width": 20, "height": 10}
    content = {"images": [image], "categories": [{"id": 1, "name": "cup"}], "annotations": [box]}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path, root / "set" / "images"


# What `file_name` says, the files there with their numbers, the name in the data set, a word of the note ("" for none).
# The right picture has number 7.
NAMES = [
    ("a.png", {"set/images/a.png": 7}, "a", ""),
    ("./a.png", {"set/images/a.png": 7}, "a", ""),
    ("sub/a.png", {"set/images/sub/a.png": 7, "set/images/a.png": 1}, "sub/a", ""),
    ("images/a.png", {"set/images/images/a.png": 7, "set/images/a.png": 1}, "images/a", ""),
    ("a.png", {"set/images/a.png": 7, "set/annotations/a.png": 1}, "a", ""),
    ("sub\\a.png", {"set/images/sub\\a.png": 7, "set/images/sub/a.png": 1}, "sub\\a", ""),
    ("sub\\a.png", {"set/images/sub/a.png": 7, "set/images/a.png": 1}, "sub/a", "backslashes"),
    (".\\sub\\deep\\a.png", {"set/images/sub/deep/a.png": 7}, "sub/deep/a", "backslashes"),
    ("images/a.png", {"set/images/a.png": 7}, "a", "begin with"),
    ("set/images/a.png", {"set/images/a.png": 7}, "a", "begin with"),
    ("./images/sub/a.png", {"set/images/sub/a.png": 7, "set/images/a.png": 1}, "sub/a", "begin with"),
    ("images\\a.png", {"set/images/a.png": 7}, "a", "begin with"),
    ("a.png", {"set/annotations/a.png": 7}, "a", "folder of x.json"),
    ("crops/a.png", {"set/annotations/crops/a.png": 7, "set/images/a.png": 1}, "crops/a", "folder of x.json"),
    ("crops\\a.png", {"set/annotations/crops/a.png": 7}, "crops/a", "folder of x.json"),
    ("Straße/ö 1.png", {"set/images/Straße/ö 1.png": 7}, "Straße/ö 1", ""),
]


@pytest.mark.parametrize(("name", "files", "called", "noted"), NAMES)
def test_a_name_leads_to_its_picture(tmp_path: Path, name: str, files: dict[str, int], called: str, noted: str) -> None:
    path, images = set_of(tmp_path, name, files)
    dataset = read_coco(path, images, "test", masks=False)
    (image,) = dataset.images
    assert number_of(image.path) == 7
    assert image.name == called
    assert bool(dataset.notes) is bool(noted)
    assert all(noted in "".join(dataset.notes) and Path(name).name in note for note in dataset.notes)


@pytest.mark.parametrize(
    ("name", "files", "said"),
    [
        ("val/a.png", {"set/images/a.png": 1}, "missing"),
        ("train/images/a.png", {"set/images/a.png": 1}, "missing"),
        ("a.png", {"set/images/a.jpg": 1}, "missing"),
        ("a.png", {"set/images/A.png": 1}, "missing"),
        ("val\\a.png", {"set/images/a.png": 1}, "missing"),
        ("images/a.png", {"set/images/a.png": 1, "set/annotations/images/a.png": 2}, "can mean two files"),
        ("sub\\a.png", {"set/images/sub/a.png": 1, "set/annotations/sub/a.png": 2}, "can mean two files"),
        ("images/set/images/a.png", {"set/images/set/images/a.png": 1, "set/annotations/b.png": 2}, ""),
        ("https://example.org/a.png", {"set/images/a.png": 1}, "no file below"),
        ("s3://bucket/a.png", {"set/images/bucket/a.png": 1}, "no file below"),
        ("data:image/png;base64,AAAA", {"set/images/a.png": 1}, "no file below"),
        ("C:\\Users\\me\\a.png", {"set/images/a.png": 1}, "no file below"),
        ("D:/me/a.png", {"set/images/a.png": 1}, "no file below"),
        ("\\\\server\\share\\a.png", {"set/images/a.png": 1}, "no file below"),
        ("..\\images\\a.png", {"set/images/a.png": 1}, "no file below"),
        ("sub\\", {"set/images/sub/a.png": 1}, "no file below"),
        ("sub/", {"set/images/sub/a.png": 1}, "no file below"),
    ],
)
def test_a_name_never_leads_to_another_picture(tmp_path: Path, name: str, files: dict[str, int], said: str) -> None:
    path, images = set_of(tmp_path, name, files)
    if not said:
        assert number_of(read_coco(path, images, "test", masks=False).images[0].path) == 1
        return
    with pytest.raises(DataError, match=said) as caught:
        read_coco(path, images, "test", masks=False)
    assert str(path) in caught.value.what
    assert name[:5] in caught.value.found or repr(name)[1:6] in caught.value.found
    assert caught.value.todo


def test_backslashes_in_the_names_of_masks(coco: CocoFolder) -> None:
    for name, pixels in (("png/11.png", 30), ("png\\4.png", 20), ("png/4.png", 10)):
        values = np.zeros((80, 100) if "11" in name else (50, 60), np.uint8)
        values[0, :pixels] = 1
        (coco.folder / "png").mkdir(exist_ok=True)
        Image.fromarray(values).save(coco.folder / name)
    coco.first["segmentation"] = "png\\11.png"
    coco.document["annotations"][1]["segmentation"] = "png\\4.png"
    for entry in coco.document["annotations"]:
        entry.pop("area")
    dataset = coco.read(masks=True)
    assert [image.areas.tolist() for image in dataset.images] == [[20], [30, 200], []]
    assert dataset.notes[0].startswith("1 mask in a file whose name has backslashes, read as slashes: annotation 11")


def test_images_beside_the_json(tmp_path: Path) -> None:
    path, _ = set_of(tmp_path, "a.png", {"train/a.png": 7}, "train/_annotations.coco.json")
    dataset = read_coco(path, tmp_path / "train", "train", masks=False)
    assert number_of(dataset.images[0].path) == 7
    assert dataset.notes == ()


def test_two_entries_that_are_one_file_are_refused(coco: CocoFolder) -> None:
    coco.document["images"][1]["file_name"] = "images/b.jpg"
    error = refusal(coco)
    assert "1 file is more than one image" in error.what
    assert "images 7, 0" in error.found or "images 0, 7" in error.found


def test_names_found_elsewhere_are_sorted_like_others(coco: CocoFolder) -> None:
    coco.document["images"][0]["file_name"] = "images/z.jpg"
    (coco.images / "b.jpg").rename(coco.images / "z.jpg")
    coco.document["images"][2]["file_name"] = "images\\c.jpg"
    images = coco.read(masks=False).images
    assert [(image.image_id, image.name, image.source_id) for image in images] == [
        (1, "a", 0),
        (2, "c", 3),
        (3, "z", 7),
    ]


# -- Roboflow's root category ------------------------------------------------------------------------------------


def rooted(root: dict[str, Any], others: list[tuple[int, str, str]], used: list[int]) -> Callable[[CocoFolder], None]:
    def change(coco: CocoFolder) -> None:
        coco.document["categories"] = [
            root,
            *({"id": number, "name": name, "supercategory": above} for number, name, above in others),
        ]
        coco.document["annotations"] = [annotation(place, 7, number) for place, number in enumerate(used, 1)]

    return change


ROOT = {"id": 0, "name": "cards", "supercategory": "none"}


@pytest.mark.parametrize(
    ("root", "others", "used", "expected"),
    [
        (ROOT, [(1, "ace", "cards"), (2, "king", "cards")], [1, 2], {1: "ace", 2: "king"}),
        (ROOT | {"name": "ace"}, [(1, "ace", "ace")], [1], {1: "ace"}),
        (ROOT | {"id": 9}, [(1, "ace", "cards"), (2, "king", "cards")], [2], {1: "ace", 2: "king"}),
        (ROOT, [(1, "ace", "x")], [], {1: "ace"}),
        # Classes: with objects, alone, without a sign of a root, or of a kind with others.
        (ROOT, [(1, "ace", "cards")], [0, 1], {0: "cards", 1: "ace"}),
        (ROOT, [], [0], {0: "cards"}),
        (ROOT, [(1, "ace", "none")], [1], {0: "cards", 1: "ace"}),
        (ROOT | {"id": 3}, [(1, "ace", "x"), (2, "king", "cards")], [1], {1: "ace", 2: "king", 3: "cards"}),
        (ROOT | {"supercategory": ""}, [(1, "ace", "cards")], [1], {0: "cards", 1: "ace"}),
    ],
)
def test_the_root_is_left_out_where_it_is_one(
    coco: CocoFolder,
    root: dict[str, Any],
    others: list[tuple[int, str, str]],
    used: list[int],
    expected: dict[int, str],
) -> None:
    rooted(root, others, used)(coco)
    dataset = coco.read(masks=False)
    assert dict(zip(dataset.category_ids, dataset.classes, strict=True)) == expected
    assert [dataset.category_ids[label] for label in dataset.images[1].labels] == used
    left_out = len(expected) == len(others)
    assert [note for note in dataset.notes if "root that Roboflow puts" in note and root["name"] in note] == list(
        dataset.notes
    )
    assert len(dataset.notes) == left_out


def test_train_and_test_agree_on_the_root(coco: CocoFolder) -> None:
    others = [(1, "ace", "cards"), (2, "king", "cards")]
    rooted(ROOT, others, [1])(coco)
    plain = coco.read(masks=False)
    assert coco.read(masks=False, classes_like=plain).classes == ("ace", "king")
    del coco.document["categories"][0]
    assert coco.read(masks=False, classes_like=plain).classes == ("ace", "king")

    rooted(ROOT, others, [0, 1])(coco)
    with_root = coco.read(masks=False)
    assert with_root.classes == ("cards", "ace", "king")
    rooted(ROOT, others, [2])(coco)
    test = coco.read(masks=False, classes_like=with_root)
    assert (test.classes, test.images[1].labels.tolist()) == (with_root.classes, [2])

    rooted(ROOT, others, [0, 0])(coco)
    error = refusal(coco, classes_like=plain)
    assert "objects of a root category" in error.what
    assert error.found == "2 of cards (id 0)"


def test_real_duplicates_are_refused_with_their_ids_and_objects(coco: CocoFolder) -> None:
    coco.document["categories"] = [{"id": 4, "name": "owl"}, {"id": 2, "name": "owl"}, {"id": 3, "name": "bee"}]
    coco.document["annotations"] = [annotation(1, 7, 2), annotation(2, 7, 2), annotation(3, 7, 4)]
    error = refusal(coco)
    assert "1 category name is there more than once" in error.what
    assert error.found == "owl: id 4 with 1 object, id 2 with 2 objects"
    assert "write `category_id` 2 instead of 4" in error.todo


# -- numbers -----------------------------------------------------------------------------------------------------


def as_text(value: int) -> str:
    return f"{value}"


def padded(value: int) -> str:
    return f"{value:012d}"


FIELDS = [
    ("images", "id", "width", "height"),
    ("categories", "id"),
    ("annotations", "id", "image_id", "category_id"),
]


@pytest.mark.parametrize("form", [as_text, padded, float])
@pytest.mark.parametrize("sections", [(0,), (1,), (2,), (0, 1, 2)], ids=["images", "categories", "annotations", "all"])
def test_numbers_that_are_written_otherwise(
    coco: CocoFolder, form: Callable[[int], object], sections: tuple[int, ...]
) -> None:
    plain = coco.read(masks=False)
    for section, *keys in (FIELDS[place] for place in sections):
        for entry in coco.document[section]:
            entry.update({key: form(entry[key]) for key in keys})
    dataset = coco.read(masks=False)
    same(dataset, plain)
    assert len(dataset.notes) == sum(len(FIELDS[place]) - 1 for place in sections)
    assert all("read as whole numbers" in note for note in dataset.notes)


def same(one: DetectionDataset, other: DetectionDataset) -> None:
    assert (one.classes, one.category_ids) == (other.classes, other.category_ids)
    assert one.fingerprint()["sha256"] == other.fingerprint()["sha256"]
    assert [image.source_id for image in one.images] == [image.source_id for image in other.images]


@pytest.mark.parametrize(
    ("section", "key", "values"),
    [
        ("images", "id", ["7", 0, 3]),
        ("images", "id", ["k7", "k0", "k3"]),
        ("images", "id", [7, True, 3]),
        ("images", "id", [7.5, 0, 3]),
        ("images", "id", [float("nan"), 0, 3]),
        ("images", "width", [100.5, 60, 40]),
        ("images", "width", ["100px", "60px", "40px"]),
        ("images", "height", [None, 50, 40]),
        ("annotations", "image_id", ["7", 0, 7]),
        ("annotations", "category_id", [5, 9, False]),
        ("annotations", "id", [-1, 4, 12]),
        ("categories", "id", ["٥", "٢", "٩"]),
    ],
)
def test_numbers_that_are_none_are_counted(coco: CocoFolder, section: str, key: str, values: list[object]) -> None:
    wrong = [value for value in values if not (type(value) is int and value >= 0)]
    for entry, value in zip(coco.document[section], values, strict=True):
        entry[key] = value
    error = refusal(coco)
    assert f"`{key}` of {len(wrong)} " in error.what
    for value in wrong:
        assert repr(value) in error.found


@pytest.mark.parametrize("section", ["images", "categories", "annotations"])
def test_the_line_to_type_for_ids_that_are_names(coco: CocoFolder, section: str) -> None:
    reference = {"images": "image_id", "categories": "category_id"}.get(section)
    plain = coco.read(masks=False)
    coco.path = coco.folder / "my instances.json"
    for entry in coco.document[section]:
        entry["id"] = f"é{entry['id']}"
    for entry in coco.document["annotations"] if reference else []:
        entry[reference] = f"é{entry[reference]}"
    with pytest.raises(DataError) as caught:
        coco.read(masks=False)
    line = caught.value.todo.splitlines()[1].replace("python ", f"{sys.executable} ", 1)
    subprocess.run(line, shell=True, check=True)
    dataset = read_coco(coco.folder / "my instances_numbered.json", coco.images, "test", masks=False)
    assert sorted(dataset.classes) == sorted(plain.classes)
    assert [image.name for image in dataset.images] == ["a", "b", "c"]
    names = [[dataset.classes[label] for label in image.labels] for image in dataset.images]
    assert names == [["bee"], ["owl", "zebra"], []]


# -- the file ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_encodings(coco: CocoFolder, encoding: str) -> None:
    coco.document["categories"][0]["name"] = "Uhu Überall 梟"
    plain = coco.read(masks=False)
    coco.path.write_text(json.dumps(coco.document, ensure_ascii=False), encoding=encoding)
    dataset = read_coco(coco.path, coco.images, "test", masks=False)
    assert "Uhu Überall 梟" in dataset.classes
    same(dataset, plain)
    assert len(dataset.notes) == (encoding != "utf-8-sig")


@pytest.mark.parametrize(
    ("content", "said", "todo"),
    [
        (b"", "the file is empty", "export this file again"),
        (b'{"images": "caf\xe9"}', "invalid continuation byte|can't decode byte 0xe9", "iconv -f WINDOWS-1252"),
        (b'[{"image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2], "score": 0.5}]', "1 score", "transfer score"),
        (b'[{"image_id": 1}]', "list at the top", "a COCO instances file holds"),
        (b'{"images": [], "categories": []}', "the keys categories, images", "instances_"),
        (b'{"images": [], "info": {}, "licenses": []}', "the keys images, info, licenses", "a COCO instances"),
        (b'{"images": [], "images": [], "annotations": [], "categories": []}', "key `images` more than once", "once"),
        (b'{"annotations": [{"id": 1, "bbox": [1, 1, 2, 2], "bbox": [2, 2, 3, 3]}]}', "key `bbox` more", "once"),
    ],
)
def test_files_that_are_something_else(tmp_path: Path, content: bytes, said: str, todo: str) -> None:
    path = tmp_path / "instances.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        read_coco(path, tmp_path, "test", masks=False)
    assert str(path) in caught.value.what
    assert todo in caught.value.todo


def test_nan_where_nothing_is_read_does_not_matter(coco: CocoFolder) -> None:
    plain = coco.read(masks=False)
    coco.first["score"] = float("nan")
    coco.document["info"] = {"version": float("inf")}
    same(coco.read(masks=False), plain)


# -- all faults of a kind ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said", "masks"),
    [
        ({"bbox": ["1", "2", "3", "4"]}, "malformed box", False),
        ({"bbox": None}, "malformed box", False),
        ({"bbox": [30, 20, -20, -10]}, "negative size", False),
        ({"bbox": [90, 10, 300, 10]}, "box outside", False),
        ({"area": "200"}, "malformed area", False),
        ({"iscrowd": "0"}, "neither 0 nor 1", False),
        ({"segmentation": [[1, 2, 3, 4, 5]]}, "broken segmentation", True),
    ],
)
def test_faults_of_one_kind_are_refused_together(
    coco: CocoFolder, changes: dict[str, Any], said: str, masks: bool
) -> None:
    coco.document["annotations"] += [annotation(100 + place, 7, 2) | changes for place in range(7)]
    coco.document["annotations"][1]["bbox"] = [1, 2, 3]
    if said == "malformed box":
        coco.document["annotations"][1] = annotation(4, 0, 9) | changes
    else:
        coco.document["annotations"][1] = annotation(4, 0, 9)
    error = refusal(coco, masks=masks)
    number = 8 if said == "malformed box" else 7
    assert f"{number} objects with a fault of one kind" in error.what
    assert said in error.what
    assert "annotation 101" in error.found
    assert f"and {number - 5} more" in error.found


# -- crowds ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "said", "cvat"),
    [
        ([1, 1, 1], "0 of 3 objects, in 0 of 3 images; not counted are 3 marked iscrowd", True),
        ([1, 0, 1], "1 of 3 objects, in 1 of 3 images; not counted are 2 marked iscrowd", True),
        ([0, True, 0], "2 of 3 objects, in 1 of 3 images; not counted are 1 marked iscrowd", True),
        ([1] + [0] * 20, "20 of 21 objects, in 2 of 3 images; not counted are 1 marked iscrowd", False),
        ([0.0, 1.0, 0.0], "2 of 3 objects, in 1 of 3 images; not counted are 1 marked iscrowd", True),
        ([0, 0, False], "", False),
    ],
)
def test_crowds_are_counted(coco: CocoFolder, flags: list[float], said: str, cvat: bool) -> None:
    coco.document["annotations"] += [annotation(200 + place, 7, 2) for place in range(len(flags) - 3)]
    for entry, flag in zip(coco.document["annotations"], flags, strict=True):
        entry["iscrowd"] = flag
    notes = account(coco.read(masks=False), to_train=True).notes()
    assert len(notes) == bool(said)
    assert all(note.startswith(f"test: trained on {said}") and ("CVAT" in note) is cvat for note in notes)


# -- all of it, mixed --------------------------------------------------------------------------------------------


Objects = list[tuple[list[int], int]]


def generated(root: Path, seed: int) -> tuple[Path, Path, dict[int, tuple[int, Objects]], bool]:
    """A set with random ids, orders, places and spellings.

    Returns:
        the JSON, the images folder, for each image id the picture's number and its (x1, y1, x2, y2) and category ids,
        and whether anything is written otherwise than the format says.
    """
    rng = random.Random(seed)
    beside = rng.random() < 0.4
    folder = root / "data" / rng.choice(["train", "images", "Bilder ü"])
    style = rng.choice(["plain", "plain", "backslash", "leading", "leading backslash", "dot"])
    ids = rng.sample(range(1000), 6)
    classes = rng.sample(range(1, 90), 3)
    images: list[dict[str, Any]] = []
    entries: list[dict[str, Any]] = []
    expected: dict[int, tuple[int, Objects]] = {}
    for number, image_id in enumerate(ids, 1):
        width, height = rng.randint(30, 90), rng.randint(30, 90)
        below = rng.choice(["", "deep/"]) + f"{rng.choice('äbc')} {number}.png"
        (folder / below).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, height), (number, 0, 0)).save(folder / below)
        name = f"{folder.name}/{below}" if style.startswith("leading") else below
        name = name.replace("/", "\\") if "backslash" in style else name
        name = f"./{name}" if style == "dot" else name
        images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        objects = []
        for _ in range(rng.randint(0, 3)):
            w, h = rng.randint(5, 25), rng.randint(5, 25)
            x, y = rng.randint(0, width - w), rng.randint(0, height - h)
            category = rng.choice(classes)
            entries.append({"image_id": image_id, "category_id": category, "bbox": [x, y, w, h], "area": w * h})
            objects.append(([x, y, x + w, y + h], category))
        expected[image_id] = (number, objects)
    for number, entry in zip(rng.sample(range(500), len(entries)), entries, strict=True):
        entry["id"] = number
    if rng.random() < 0.5:
        for entry in entries:
            entry["iscrowd"] = 0
    categories = [{"id": number, "name": f"class {number}", "supercategory": "set"} for number in classes]
    odd = ("backslash" in style and any("\\" in image["file_name"] for image in images)) or "leading" in style
    if rng.random() < 0.3:
        categories.append({"id": 0, "name": rng.choice(["set", "class 1"]), "supercategory": "none"})
        odd = True
    for section, *keys in FIELDS:
        forms: list[Callable[[int], object] | None] = [None, None, None, as_text, padded, float]
        form = rng.choice(forms)
        lists = {"images": images, "categories": categories, "annotations": entries}[section]
        odd |= form is not None and bool(lists)
        for entry in lists:
            entry.update({key: form(entry[key]) for key in keys if form is not None})
    rng.shuffle(images)
    rng.shuffle(categories)
    document: list[tuple[str, Any]] = [("images", images), ("categories", categories), ("annotations", entries)]
    document.append(("info", {"x": "ü"}))
    rng.shuffle(document)
    encoding = rng.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16"])
    odd |= encoding == "utf-16"
    path = (folder if beside else root / "data" / "annotations") / "x.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(document), ensure_ascii=rng.random() < 0.5), encoding=encoding)
    return path, folder, expected, odd


@pytest.mark.parametrize("block", range(4))
def test_generated_sets_come_back(tmp_path: Path, block: int) -> None:
    for seed in range(25 * block, 25 * block + 25):
        path, folder, expected, odd = generated(tmp_path / str(seed), seed)
        dataset = read_coco(path, folder, "test", masks=False)
        assert len(dataset) == len(expected)
        for image in dataset.images:
            number, objects = expected[image.source_id]
            assert number_of(image.path) == number, f"seed {seed}: another picture"
            labels = [dataset.category_ids[label] for label in image.labels]
            assert list(zip(image.boxes.tolist(), labels, strict=True)) == objects
        assert all(dataset.classes[i] == f"class {number}" for i, number in enumerate(dataset.category_ids))
        assert bool(dataset.notes) is odd, f"seed {seed}: {dataset.notes}"


@pytest.mark.parametrize("seed", range(200, 208))
def test_generated_sets_are_those_of_pycocotools(tmp_path: Path, seed: int) -> None:
    """Where pycocotools can read the file: it takes ids as they are written, and no byte order mark."""
    tools = pytest.importorskip("pycocotools.coco")
    path, folder, _, _ = generated(tmp_path, seed)
    dataset = read_coco(path, folder, "test", masks=False)
    document = json.loads(path.read_bytes())
    plain = path.with_suffix(".plain")
    plain.write_text(json.dumps(document), encoding="utf-8")
    theirs = tools.COCO(str(plain))
    assert len(theirs.imgs) == len(dataset)
    by_number = {int(number): number for number in theirs.imgs}
    for image in dataset.images:
        entry = theirs.imgs[by_number[image.source_id]]
        assert (image.width, image.height) == (int(entry["width"]), int(entry["height"]))
        found = [one for one in theirs.anns.values() if int(one["image_id"]) == image.source_id]
        assert [one["area"] for one in found] == image.areas.tolist()
        assert [int(one["category_id"]) for one in found] == [dataset.category_ids[label] for label in image.labels]
