"""Which splits `coco_splits` finds in a root: every layout is written here by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from transfer.datasets.boxes.coco import coco_splits, read_coco
from transfer.runtime.errors import DataError

SMALL = {
    "info": {},
    "licenses": [],
    "categories": [{"id": 1, "name": "cup", "supercategory": ""}],
    "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 6}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 3], "area": 12, "iscrowd": 0}],
}


def write(root: Path, *names: str) -> None:
    """Images and instances files, told apart by their endings."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".json":
            path.write_text(json.dumps(SMALL), encoding="utf-8")
        else:
            Image.new("RGB", (8, 6)).save(path)


LAYOUTS = {
    "roboflow": (
        ["train/_annotations.coco.json", "train/a.png", "valid/_annotations.coco.json", "valid/a.png", "README.md.png"],
        {"train": ("train/_annotations.coco.json", "train"), "valid": ("valid/_annotations.coco.json", "valid")},
    ),
    "official": (
        [
            *("annotations/instances_train2017.json", "annotations/captions_train2017.json"),
            *("annotations/person_keypoints_train2017.json", "annotations/image_info_test2017.json"),
            *("annotations/instances_val2017.json", "train2017/a.png", "val2017/a.png", "test2017/a.png"),
        ],
        {
            "train2017": ("annotations/instances_train2017.json", "train2017"),
            "val2017": ("annotations/instances_val2017.json", "val2017"),
        },
    ),
    "images per split": (
        [
            "annotations/instances_Train.json",
            "annotations/instances_Val.json",
            "images/Train/a.png",
            "images/Val/a.png",
        ],
        {
            "Train": ("annotations/instances_Train.json", "images/Train"),
            "Val": ("annotations/instances_Val.json", "images/Val"),
        },
    ),
    "images of all splits": (
        ["annotations/train.json", "annotations/test.json", "images/a.png"],
        {"train": ("annotations/train.json", "images"), "test": ("annotations/test.json", "images")},
    ),
    "files in the root": (
        ["train.json", "val.json", "train/a.png", "val/deep/a.png"],
        {"train": ("train.json", "train"), "val": ("val.json", "val")},
    ),
    "all in the root": (
        ["train.json", "val.json", "a.png"],
        {"train": ("train.json", "."), "val": ("val.json", ".")},
    ),
    "images below the split": (
        ["train/labels.json", "train/data/a.png", "test/annotations.json", "test/images/x/a.png"],
        {"train": ("train/labels.json", "train/data"), "test": ("test/annotations.json", "test/images")},
    ),
    "no images": (["annotations/instances_train.json", "train/_annotations.coco.json"], {}),
    "no annotations": (["train/a.png", "valid/a.png"], {}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path: Path, layout: str) -> None:
    files, expected = LAYOUTS[layout]
    write(tmp_path, *files)
    found = coco_splits(tmp_path)
    assert found == {name: (tmp_path / file, tmp_path / folder) for name, (file, folder) in expected.items()}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (json.dumps(SMALL), True),
        (json.dumps(dict(reversed(SMALL.items())), indent=1), True),
        ("\ufeff\n " + json.dumps(SMALL), True),
        (json.dumps({key: SMALL[key] for key in ("images", "categories")}), True),
        (json.dumps([{"image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2], "score": 1}]), False),
        (json.dumps({"shapes": [], "imagePath": "a.png", "images": []}), False),
        (json.dumps({"note": '"images" and "annotations"', "categories": []}), False),
        ("", False),
        ("images", False),
    ],
)
def test_other_json_beside_the_images_is_no_split(tmp_path: Path, content: str, found: bool) -> None:
    write(tmp_path, "train/a.png")
    (tmp_path / "train" / "x.json").write_text(content, encoding="utf-8")
    assert bool(coco_splits(tmp_path)) is found


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_every_encoding_of_json(tmp_path: Path, encoding: str) -> None:
    write(tmp_path, "train/a.png")
    (tmp_path / "train" / "x.json").write_text(json.dumps(SMALL), encoding=encoding)
    assert list(coco_splits(tmp_path)) == ["train"]


def test_a_key_far_into_the_file_is_found(tmp_path: Path) -> None:
    write(tmp_path, "train/a.png")
    far = {"images": SMALL["images"], "license": "x" * 300_000, "categories": SMALL["categories"]}
    (tmp_path / "train" / "x.json").write_text(json.dumps(far), encoding="utf-8")
    assert list(coco_splits(tmp_path)) == ["train"]


@pytest.mark.parametrize(
    "files",
    [
        ["train/a.png", "train/one.json", "train/two.json"],
        ["annotations/train.json", "train/a.png", "train/x.json"],
        ["annotations/instances_train.json", "train.json", "train/a.png"],
        ["annotations/train.json", "train/a.png", "images/train/a.png"],
    ],
)
def test_a_split_that_can_be_read_in_two_ways_is_refused(tmp_path: Path, files: list[str]) -> None:
    write(tmp_path, *files)
    with pytest.raises(DataError, match=r"the split train .* can be read in 2 ways") as caught:
        coco_splits(tmp_path)
    assert all(str(tmp_path / name) in caught.value.found for name in files if name.endswith(".json"))
    assert "--train-json" in caught.value.todo


def test_a_link_to_the_same_folder_is_no_second_way(tmp_path: Path) -> None:
    write(tmp_path, "annotations/train.json", "train/a.png")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "train").symlink_to(tmp_path / "train")
    assert coco_splits(tmp_path) == {"train": (tmp_path / "annotations" / "train.json", tmp_path / "train")}


def test_what_is_found_can_be_read(tmp_path: Path) -> None:
    write(tmp_path, "train/_annotations.coco.json", "train/a.png")
    ((file, folder),) = coco_splits(tmp_path).values()
    dataset = read_coco(file, folder, "train", masks=False)
    assert [image.path for image in dataset.images] == [tmp_path / "train" / "a.png"]
    assert dataset.images[0].boxes.tolist() == [[1, 1, 5, 4]]
