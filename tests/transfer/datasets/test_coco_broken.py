"""What the COCO reader refuses, each with what was found, where, and what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import CocoFolder, annotation, uncompressed
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from transfer.datasets.boxes.coco import read_coco
from transfer.runtime.errors import DataError


@pytest.fixture
def coco(tmp_path: Path) -> CocoFolder:
    return CocoFolder(tmp_path)


def refusal(coco: CocoFolder, masks: bool = True, **options: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        coco.read(masks=masks, **options)
    assert caught.value.todo, "says nothing about what to do"
    return caught.value


# -- the file ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"images": [{"id": 1, "file_na',
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"images": ' + b"1" * 5_000 + b"}",
    ],
    ids=["empty", "cut", "binary", "deep", "digits"],
)
def test_files_that_are_not_json(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "instances.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"instances\.json is not JSON") as caught:
        read_coco(path, tmp_path, "test", masks=True)
    assert caught.value.found


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*none\.json"):
        read_coco(tmp_path / "none.json", tmp_path, "test", masks=True)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "list at the top"),
        ("{}", r"no `categories`"),
        ('{"categories": [], "images": []}', "no `annotations`"),
        ('{"categories": {}, "images": [], "annotations": []}', "`categories` .* is no list"),
        ('{"categories": [], "images": [], "annotations": []}', "`categories` .* is empty"),
        ('{"categories": [{"id": 1, "name": "a"}], "images": [], "annotations": []}', "`images` .* is empty"),
        ('{"categories": [{"id": 1, "name": "a"}], "images": [3], "annotations": []}', r"images\[0\] .* is no object"),
    ],
)
def test_other_json(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "instances.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_coco(tmp_path / "instances.json", tmp_path, "test", masks=True)
    assert re.search(said, f"{caught.value.what} {caught.value.found}")
    assert "instances.json" in caught.value.what


Change = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["images"][1].update(id=7), "1 image id is there more than once"),
        (lambda d: d["images"][1].update(file_name="b.png"), "1 image name"),
        (lambda d: d["annotations"][1].update(id=11), "1 annotation id is"),
        (lambda d: d["categories"][1].update(id=5), "1 category id is"),
        (lambda d: d["categories"][1].update(name="owl"), "1 category name is"),
        (lambda d: d["categories"][1].pop("name"), "1 category .* has no name"),
        (lambda d: d["annotations"][1].update(image_id=99), "1 annotation .* of an unknown image"),
        (lambda d: d["annotations"][1].update(category_id=1), "1 annotation .* of an unknown category"),
        (lambda d: d["annotations"][1].pop("image_id"), "`image_id` of 1 annotation in"),
        (lambda d: d["annotations"][1].update(id="4"), "`id` of 1 annotation in"),
        (lambda d: d["images"][1].update(id=True), "`id` of 1 image in"),
        (lambda d: d["images"][1].update(width=0), "`width` of 1 image in"),
        (lambda d: d["images"][1].pop("height"), "`height` of 1 image in"),
        (lambda d: d["images"][1].update(file_name="../a.jpg"), "1 image .* has no file below"),
        (lambda d: d["images"][1].update(file_name="/a.jpg"), "1 image .* has no file below"),
        (lambda d: d["images"][1].update(file_name=""), "1 image .* has no file below"),
        (lambda d: d["images"][1].pop("file_name"), "1 image .* has no file below"),
    ],
)
def test_ids_and_names(coco: CocoFolder, change: Change, said: str) -> None:
    change(coco.document)
    with pytest.raises(DataError, match=said) as caught:
        coco.read()
    assert "instances.json" in caught.value.what
    assert caught.value.found
    assert caught.value.todo


def test_unknown_images_are_counted(coco: CocoFolder) -> None:
    coco.document["annotations"] += [annotation(100 + number, 999, 2) for number in range(8)]
    error = refusal(coco)
    assert "8 annotations" in error.what
    assert "image_id 999 in annotation 100" in error.found
    assert "3 more" in error.found


# -- categories of the test file ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.pop(0), "missing here: owl (id 5)"),
        (lambda c: c.append({"id": 10, "name": "ant"}), "only here: ant (id 10)"),
        (lambda c: (c[0].update(id=2), c[1].update(id=5)), "with other ids: zebra (2, here 5), owl (5, here 2)"),
        (lambda c: c[2].update(name="wasp"), "missing here: bee (id 9)\nonly here: wasp (id 9)"),
    ],
)
def test_categories_other_than_those_of_training(coco: CocoFolder, change: Change, said: str) -> None:
    train = coco.read()
    coco.document["annotations"] = []
    change(coco.document["categories"])  # type: ignore[arg-type]
    error = refusal(coco, classes_like=train)
    assert "other categories than test" in error.what
    assert error.found == said


# -- images ------------------------------------------------------------------------------------------------------


def test_missing_images_are_counted_before_annotations_are_read(coco: CocoFolder) -> None:
    for name in ("a.jpg", "c.jpg"):
        (coco.images / name).unlink()
    coco.first["bbox"] = "broken"
    error = refusal(coco)
    assert "2 of 3 images" in error.what
    assert "no file for a.jpg, c.jpg" in error.found
    assert "holds b.jpg" in error.found


def test_no_folder_of_images(coco: CocoFolder) -> None:
    coco.images = coco.folder / "nowhere"
    assert "nowhere" in refusal(coco).what


def test_images_of_another_size_are_counted(coco: CocoFolder) -> None:
    coco.image("a.jpg", 30, 25)
    coco.image("b.jpg", 80, 100)
    error = refusal(coco)
    assert "2 images have another size" in error.what
    assert error.found == "a.jpg: 30 × 25, annotated 60 × 50\nb.jpg: 80 × 100, annotated 100 × 80"


def test_files_that_are_no_images(coco: CocoFolder) -> None:
    (coco.images / "a.jpg").write_bytes(b"<html>not here</html>")
    assert "a.jpg" in refusal(coco).what


# -- objects -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bbox": [1, 2, 3]}, "malformed box"),
        ({"bbox": "1 2 3 4"}, "malformed box"),
        ({"bbox": [1, 2, None, 4]}, "malformed box"),
        ({"bbox": [1, 2, float("nan"), 4]}, "malformed box"),
        ({"bbox": [1, 2, float("inf"), 4]}, "malformed box"),
        ({"bbox": [1, 2, True, 4]}, "malformed box"),
        ({"bbox": [1, 2, 10**400, 4]}, "malformed box"),
        ({"bbox": [30, 20, -20, -10]}, "box of negative size"),
        ({"bbox": [90, 10, 12, 10]}, "box outside the image"),
        ({"area": -1}, "malformed area"),
        ({"area": "large"}, "malformed area"),
        ({"area": float("nan")}, "malformed area"),
        ({"iscrowd": 2}, "`iscrowd` is neither 0 nor 1"),
        ({"iscrowd": "no"}, "`iscrowd` is neither 0 nor 1"),
        ({"ignore": 1}, "`ignore` is set"),
    ],
)
def test_fields_of_an_object(coco: CocoFolder, changes: dict[str, Any], said: str) -> None:
    coco.first.update(changes)
    error = refusal(coco, masks=False)
    assert said in error.what
    assert "instances.json" in error.what
    assert "annotation 11" in error.what + error.found
    assert error.found


def test_no_box(coco: CocoFolder) -> None:
    del coco.first["bbox"]
    assert refusal(coco).found == "no bbox"


WRONG_SIZE = uncompressed(np.ones((100, 80), bool))
RIGHT = uncompressed(np.arange(8000).reshape(80, 100) % 2 == 0)


@pytest.mark.parametrize(
    ("segmentation", "said"),
    [
        ([[10, 10, 30, 10, 30]], "polygon 1 has 5 coordinates"),
        ([[10, 10, 30, 10]], "no polygon with three points"),
        ([[]], "no polygon with three points"),
        ([[10, 10, float("nan"), 10, 30, 20]], "no number"),
        ([[10, 10, 30, float("nan"), 30, 20]], "no number"),
        ([[10, 10, 30, float("inf"), 30, 20]], "no number"),
        ([[10, 10, 30, 10, 30, 20], [10, 10, 130, 10, 30, 20]], "polygon 2 reaches 30.0 pixels beyond 100 × 80"),
        ([10, 10, 30, 10, 30, 20], "polygon 1 is no list of numbers"),
        ([[[10, 10], [30, 10], [30, 20]]], "polygon 1 is no list of numbers"),
        ([[10, 10, "30", 10, 30, 20]], "polygon 1 is no list of numbers"),
        ([[10, [10], 30]], "polygon 1 is no list of numbers"),
        ([[10**400, 0, 1, 1, 1, 1]], "polygon 1 is no list of numbers"),
        ([None], "polygon 1 is no list of numbers"),
        (5, "a int"),
        (WRONG_SIZE, "size [100, 80], the image has [80, 100]"),
        ({"counts": [8000]}, "size None"),
        ({"size": [80, 100]}, "counts None"),
        ({"size": [80, 100], "counts": [4000, 3999]}, "add up to 7999, the image has 8000"),
        ({"size": [80, 100], "counts": [4000, -1, 4001]}, "from -1"),
        ({"size": [80, 100], "counts": [2**62] * 4 + [8000]}, "to 4611686018427387904"),
        ({"size": [80, 100], "counts": [1.5, 7998.5]}, "counts array([1.5"),
        ({"size": [80, 100], "counts": [8000]}, "without a pixel"),
        ({"size": [80, 100], "counts": [8000, 0]}, "without a pixel"),
        ({"size": [80, 100], "counts": []}, "counts array([]"),
        ({"size": [80, 100], "counts": ""}, "cannot be decoded"),
        ({"size": [80, 100], "counts": "12"}, "add up to 3, the image has 8000 pixels"),
        ({"size": [80, 100], "counts": "oooo"}, "cannot be decoded"),
        ({"size": [80, 100], "counts": "o" * 40 + "0"}, "cannot be decoded"),
        ({"size": [80, 100], "counts": "é"}, "cannot be decoded"),
    ],
)
def test_segmentations(coco: CocoFolder, segmentation: object, said: str) -> None:
    coco.first["segmentation"] = segmentation
    error = refusal(coco)
    assert said in error.found
    assert "annotation 11" in error.what
    assert "instances.json" in error.what


def test_polygons_in_another_world_are_refused_although_clipping_is_on(coco: CocoFolder) -> None:
    coco.first["segmentation"] = [[10, 10, 1e9, 10, 30, 20]]
    assert "pixels beyond 100 × 80" in refusal(coco, clip_boxes=True).found


def test_objects_without_segmentation_are_counted_crowds_too(coco: CocoFolder) -> None:
    coco.first["segmentation"] = []
    coco.document["annotations"][1]["segmentation"] = None
    coco.document["annotations"].append(annotation(30, 3, 2, iscrowd=1, segmentation={}))
    coco.document["annotations"].append(annotation(31, 3, 2, iscrowd=1, segmentation=RIGHT | {"size": [40, 40]}))
    error = refusal(coco)
    assert "3 of 5 objects" in error.what
    assert "annotation 4, annotation 11, annotation 30" in error.found


def test_masks_in_files(coco: CocoFolder) -> None:
    coco.first["segmentation"] = "m.png"
    assert "m.png" in refusal(coco).found
    (coco.folder / "m.png").write_bytes(b"no picture")
    assert "cannot read the mask of annotation 11" in refusal(coco).what
    for picture, said in (
        (Image.new("L", (80, 100), 1), "80 × 100"),
        (Image.new("L", (100, 80), 0), "is 0"),
        (Image.new("RGBA", (100, 80), 1), "mode RGBA"),
    ):
        picture.save(coco.folder / "m.png")
        error = refusal(coco)
        assert said in error.found
        assert "annotation 11" in error.what


LEAVES = st.none() | st.booleans() | st.integers(-5, 200) | st.just(10**400) | st.floats(-5, 200) | st.text(max_size=3)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["size", "counts"]), inner, max_size=2),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(
    place=st.sampled_from(["images", "categories", "annotations"]),
    key=st.sampled_from(
        ["id", "name", "file_name", "width", "image_id", "category_id", "bbox", "segmentation", "area"]
    ),
    value=VALUES,
)
def test_any_value_anywhere_is_read_or_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, place: str, key: str, value: object
) -> None:
    coco = CocoFolder(tmp_path_factory.mktemp("set"))
    coco.document[place][0][key] = value
    coco.path.write_text(json.dumps(coco.document), encoding="utf-8")
    refused: DataError | None = None
    try:
        dataset = read_coco(coco.path, coco.images, "test", masks=True)
    except DataError as error:
        refused = error
    if refused is None:
        assert len(dataset) == 3
    else:
        assert refused.what
        assert refused.todo
