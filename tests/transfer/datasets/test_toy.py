"""The toy data: layouts that independent readers accept, exact annotations, the same bytes for the same seed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageDraw

import transfer.datasets.toy as toy
from transfer.datasets.boxes.voc import read_voc
from transfer.datasets.toy import CLASSES, COLOURED, ToySizes, make_toy
from transfer.datasets.toy.layouts import outlines, run_lengths
from transfer.datasets.toy.scene import draw_scene
from transfer.runtime.errors import DataError, UserError

SMALL = ToySizes(voc_train=6, voc_val=3, voc_test=4, coco_train=4, coco_val=3, per_class_train=2, per_class_val=1)

TINY = ToySizes(1, 1, 1, 1, 1, 1, 1, detection_sides=(64, 70), classification_side=32)


def digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "toy"
    make_toy(folder, seed=3, sizes=SMALL)
    return folder


# -- complete or absent ------------------------------------------------------------------------------------------


def test_same_seed_same_bytes_other_seed_other_pictures(small: Path, tmp_path: Path) -> None:
    make_toy(tmp_path / "again", seed=3, sizes=SMALL)
    assert digest(tmp_path / "again") == digest(small)
    make_toy(tmp_path / "other", seed=4, sizes=SMALL)
    same = set(digest(tmp_path / "other").values()) & set(digest(small).values())
    pictures = {value for name, value in digest(small).items() if name.endswith(".jpg")}
    assert not same & pictures


def test_no_picture_occurs_twice(small: Path) -> None:
    pictures = [value for name, value in digest(small).items() if name.endswith(".jpg")]
    assert len(pictures) == 6 + 3 + 4 + 4 + 3 + 5 * (2 + 1)
    assert len(set(pictures)) == len(pictures)


def test_a_second_call_changes_nothing(small: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in small.rglob("*")}
    assert "already" in make_toy(small, seed=3, sizes=SMALL)
    assert before == {path: path.stat().st_mtime_ns for path in small.rglob("*")}


def test_a_marker_from_before_there_were_two_looks_is_read(tmp_path: Path) -> None:
    make_toy(tmp_path / "toy", seed=3, sizes=TINY)
    marker = tmp_path / "toy" / "toy.json"
    older = {key: value for key, value in json.loads(marker.read_text("utf-8")).items() if key != "classes"}
    marker.write_text(json.dumps(older), encoding="utf-8")
    assert "already" in make_toy(tmp_path / "toy", seed=3, sizes=TINY)
    with pytest.raises(DataError, match="other toy data"):
        make_toy(tmp_path / "toy", seed=3, sizes=TINY, look=COLOURED)


def test_what_is_there_is_never_lost_unasked(small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    shutil.copytree(small, folder)
    with pytest.raises(DataError, match="other toy data") as caught:
        make_toy(folder, seed=4, sizes=SMALL)
    assert "--overwrite" in caught.value.todo
    assert digest(folder) == digest(small)
    next(folder.rglob("*.jpg")).unlink()
    with pytest.raises(DataError, match="not complete"):
        make_toy(folder, seed=3, sizes=SMALL)
    make_toy(folder, seed=3, overwrite=True, sizes=SMALL)
    assert digest(folder) == digest(small)
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_is_no_toy_data_is_left_alone(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(DataError, match="no toy data"):
        make_toy(tmp_path, seed=3, overwrite=overwrite, sizes=SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    make_toy(tmp_path / "toy", seed=3, sizes=TINY)
    assert sorted(path.name for path in (tmp_path / "toy").iterdir()) == ["coco", "images", "toy.json", "voc"]


def test_broken_marker(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "toy")
    (tmp_path / "toy" / "toy.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="broken"):
        make_toy(tmp_path / "toy", seed=3, sizes=SMALL)


def test_a_failure_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(toy, "write_coco", full)
    with pytest.raises(UserError, match="cannot write toy data") as caught:
        make_toy(tmp_path / "toy", seed=3, sizes=TINY)
    assert "No space left" in caught.value.found
    assert list(tmp_path.iterdir()) == []


def test_a_kill_half_way_leaves_no_toy_folder(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, transfer.datasets.toy as toy\n"
        "toy.write_coco = lambda *_: os.kill(os.getpid(), 9)\n"
        "toy.make_toy(pathlib.Path('toy'), sizes=toy.ToySizes(1, 1, 1, 1, 1, 1, 1))\n"
    )
    root = Path(toy.__file__).resolve().parents[3]
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(root)}, check=False
    )
    assert ended.returncode == -9
    assert not (tmp_path / "toy").exists()
    make_toy(tmp_path / "toy", seed=3, sizes=TINY)
    assert (tmp_path / "toy" / "toy.json").is_file()


# -- layouts -----------------------------------------------------------------------------------------------------


def test_voc_layout_reads_without_a_complaint(small: Path) -> None:
    counts = {}
    for split in ("train", "val", "trainval", "test"):
        dataset = read_voc([(small / "voc", split)], split, CLASSES)
        assert dataset.notes == ()
        assert all(1 <= len(image.boxes) <= 4 for image in dataset.images)
        counts[split] = len(dataset)
    assert counts == {"train": 6, "val": 3, "trainval": 9, "test": 4}


def test_images_are_in_folders_by_class(small: Path) -> None:
    for split, count in (("train", 2), ("val", 1)):
        folders = sorted((small / "images" / split).iterdir())
        assert tuple(folder.name for folder in folders) == CLASSES
        for folder in folders:
            assert len(list(folder.iterdir())) == count
            with Image.open(next(folder.iterdir())) as image:
                assert image.size == (96, 96)


def test_coco_masks_agree_with_their_boxes_and_areas(small: Path) -> None:
    for split, images in (("train", 4), ("val", 3)):
        document = json.loads(
            (small / "coco" / "annotations" / f"instances_{split}2017.json").read_text(encoding="utf-8")
        )
        assert len(document["images"]) == images
        assert [category["name"] for category in document["categories"]] == list(CLASSES)
        by_id = {image["id"]: image for image in document["images"]}
        for image in by_id.values():
            with Image.open(small / "coco" / f"{split}2017" / image["file_name"]) as picture:
                assert picture.size == (image["width"], image["height"])
        assert Counter(a["iscrowd"] for a in document["annotations"])[1] == 1
        for annotation in document["annotations"]:
            x, y, width, height = annotation["bbox"]
            if annotation["iscrowd"]:
                mask = decoded(annotation["segmentation"])
                assert mask.sum() == annotation["area"]
                rows, columns = np.nonzero(mask)
                assert [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1] == annotation["bbox"]
                continue
            points = np.concatenate([np.reshape(ring, (-1, 2)) for ring in annotation["segmentation"]])
            np.testing.assert_array_equal(points.min(axis=0), [x, y])
            np.testing.assert_array_equal(points.max(axis=0), [x + width, y + height])
            assert 0 < annotation["area"] <= width * height


def decoded(segmentation: dict) -> np.ndarray:
    height, width = segmentation["size"]
    values = np.repeat(np.arange(len(segmentation["counts"])) % 2, segmentation["counts"])
    return values.reshape(width, height).T.astype(bool)


def test_pycocotools_agrees_on_areas_and_boxes(small: Path) -> None:
    coco_tools = pytest.importorskip("pycocotools.coco")
    coco = coco_tools.COCO(str(small / "coco" / "annotations" / "instances_train2017.json"))
    for annotation in coco.loadAnns(coco.getAnnIds()):
        mask = coco.annToMask(annotation)
        assert mask.sum() == annotation["area"]
        x, y, width, height = annotation["bbox"]
        assert mask[y : y + height, x : x + width].sum() == annotation["area"]


@settings(max_examples=100, deadline=None)
@given(arrays(np.bool_, st.tuples(st.integers(1, 8), st.integers(1, 8))))
def test_outlines_and_run_lengths_describe_the_mask(mask: np.ndarray) -> None:
    segmentation = {"size": list(mask.shape), "counts": run_lengths(mask)}
    np.testing.assert_array_equal(decoded(segmentation), mask)
    # An independent fill: a pixel is inside if a ray from its centre crosses an odd number of edges of some ring.
    filled = np.zeros_like(mask)
    for area, ring in outlines(mask):
        points = np.reshape(ring, (-1, 2))
        inside = np.zeros_like(mask)
        for (ax, ay), (bx, by) in zip(points, np.roll(points, -1, axis=0), strict=True):
            assert (ax == bx) != (ay == by)
            for y in range(min(ay, by), max(ay, by)):
                inside[y, : int(ax)] ^= True
        assert inside.sum() == area
        filled |= inside
    padded = Image.fromarray(np.pad(mask, 1).astype(np.uint8))
    ImageDraw.floodfill(padded, (0, 0), 2)
    holes_filled = (np.asarray(padded) != 2)[1:-1, 1:-1]
    np.testing.assert_array_equal(filled | mask, filled)
    # Ground enclosed only across corners is open for an 8-neighbour and closed for a 4-neighbour flood.
    assert not (filled & ~holes_filled).any()


# -- contents ----------------------------------------------------------------------------------------------------


def test_scenes_have_every_class_and_some_difficult_and_mostly_visible_objects() -> None:
    scenes = [draw_scene(np.random.default_rng(seed), 170, 180, 3) for seed in range(40)]
    objects = [item for scene in scenes for item in scene.objects]
    assert {item.label for item in objects} == set(range(len(CLASSES)))
    share = np.mean([item.difficult for item in objects])
    assert 0.01 < share < 0.25
    for scene in scenes:
        assert sum(item.visible.astype(int) for item in scene.objects).max() == 1, "a pixel shows one object"


def test_colour_tells_nothing_about_the_class() -> None:
    """Class means of the objects' mean colours lie as close together as chance has them (4 standard errors)."""
    colours: dict[int, list] = {label: [] for label in range(len(CLASSES))}
    for seed in range(60):
        scene = draw_scene(np.random.default_rng([seed, 1]), 160, 160, 3)
        for item in scene.objects:
            colours[item.label].append(scene.pixels[item.visible].mean(axis=0))
    every = np.concatenate(list(colours.values()))
    for rows in colours.values():
        error = every.std(axis=0) / np.sqrt(len(rows))
        assert (np.abs(np.mean(rows, axis=0) - every.mean(axis=0)) < 4 * error).all()


def test_colour_tells_the_class_of_easy_scenes_and_distractors_have_the_same_colours() -> None:
    scenes = [draw_scene(np.random.default_rng([seed, 2]), 96, 96, 3, look=COLOURED) for seed in range(40)]
    channel = {"red": 0, "green": 1, "blue": 2}
    labels = set()
    for scene in scenes:
        for item in scene.objects:
            name = COLOURED.names[item.label]
            assert scene.pixels[item.visible].mean(axis=0).argmax() == channel[name.split("_")[1]]
            labels.add(name)
    assert labels == {"disc_red", "square_blue", "triangle_green"}
    assert {kind.colour for kind in COLOURED.distractors} == {"red", "green", "blue", "grey"}
