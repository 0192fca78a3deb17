"""`LabelledImages`, `ImageSplits`, and images that two splits share."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from official_layouts import picture, write_folders

from transfer.datasets.image_files import ImageFiles
from transfer.datasets.labels.duplicates import duplicates, note, refuse_shared
from transfer.datasets.labels.labelled import ImageSplits, LabelledImages, Level
from transfer.datasets.labels.own_images import read_image_folder
from transfer.datasets.labels.torchvision_sets import PixelArray
from transfer.runtime.errors import DataError

CLASSES = ("a", "b", "c")


def split(labels: list[int], name: str = "train", seed: int = 0) -> LabelledImages:
    pixels = np.random.default_rng(seed).integers(0, 256, (len(labels), 4, 4, 3), dtype=np.uint8)
    return LabelledImages(name, PixelArray(name, pixels), np.array(labels, dtype=np.int64), CLASSES)


labels = st.lists(st.integers(0, 2), min_size=1, max_size=12)


@settings(max_examples=20, deadline=None)
@given(labels, st.data())
def test_the_fingerprint_does_not_depend_on_the_order(numbers: list[int], data: st.DataObject) -> None:
    whole = split(numbers)
    order = data.draw(st.permutations(range(len(numbers))))
    assert whole.subset(order, "train").fingerprint() == whole.fingerprint()


@settings(max_examples=20, deadline=None)
@given(labels, st.data())
def test_another_label_gives_another_fingerprint(numbers: list[int], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(numbers) - 1))
    other = [*numbers]
    other[place] = (other[place] + data.draw(st.integers(1, 2))) % 3
    assert split(numbers).fingerprint() != split(other).fingerprint()


def test_classes_and_levels_are_part_of_the_fingerprint() -> None:
    whole = split([0, 1, 2])
    levels = {"coarse": Level(("x", "y"), np.array([0, 0, 1]))}
    others = [
        dataclasses.replace(whole, classes=("a", "c", "b")),
        dataclasses.replace(whole, levels=levels),
        dataclasses.replace(whole, levels={"coarse": Level(("x", "y"), np.array([0, 1, 1]))}),
    ]
    assert len({str(one.fingerprint()["sha256"]) for one in (whole, *others)}) == 4


@settings(max_examples=20, deadline=None)
@given(labels, labels)
def test_joined_and_chosen_images_are_those_of_their_parts(first: list[int], second: list[int]) -> None:
    one, two = split(first), split(second, "val", seed=1)
    both = one.joined(two, "trainval")
    assert both.counts().tolist() == (one.counts() + two.counts()).tolist()
    back = both.subset(range(len(first), len(both)), "val")
    for place in range(len(two)):
        assert back.images.name(place) == two.images.name(place)
        assert back.images.size(place) == two.images.size(place)
        assert back.images.content(place) == two.images.content(place)
        assert np.array_equal(np.asarray(back.images.read(place)), np.asarray(two.images.read(place)))
    assert back.fingerprint() == two.fingerprint()


def test_notes_of_joined_splits_are_kept_once() -> None:
    one = dataclasses.replace(split([0]), notes=("x", "y"))
    two = dataclasses.replace(split([1], "val"), notes=("y", "z"))
    assert one.joined(two, "both").notes == ("x", "y", "z")


def test_multi_label_sets_count_what_is_present() -> None:
    pixels = np.zeros((3, 4, 4, 3), dtype=np.uint8)
    table = np.array([[1, 0, -1], [1, -1, -1], [-1, 0, 1]], dtype=np.int8)
    whole = LabelledImages("voc", PixelArray("x", pixels), table, CLASSES)
    assert whole.multilabel
    assert whole.counts().tolist() == [2, 0, 1]
    with pytest.raises(DataError, match="no classes"):
        dataclasses.replace(whole, labels=table * np.int8(2))


@pytest.mark.parametrize("numbers", [[0, 3], [-1, 0]])
def test_labels_that_are_no_classes_are_refused(numbers: list[int]) -> None:
    with pytest.raises(DataError, match="no classes"):
        split(numbers)


def test_splits_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="no images"):
        split([])
    whole = split([0, 1, 2])
    with pytest.raises(DataError, match="do not fit"):
        dataclasses.replace(whole, labels=whole.labels[:2])
    other = dataclasses.replace(whole, classes=("a", "b", "d"))
    with pytest.raises(DataError, match="differ"):
        ImageSplits(whole, None, other)
    with pytest.raises(DataError, match="differ"):
        whole.joined(other, "both")
    single = dataclasses.replace(split([0, 0]), classes=("a",))
    with pytest.raises(DataError, match="single class"):
        ImageSplits(single, None, single)


# -- shared images -----------------------------------------------------------------------------------------------


def test_byte_identical_images_are_found_whatever_their_names(tmp_path: Path) -> None:
    write_folders(tmp_path, ("ant", "bee"))
    shutil.copy(tmp_path / "train/ant/ant_1.JPEG", tmp_path / "test/bee/copy.JPEG")
    shutil.copy(tmp_path / "train/ant/ant_1.JPEG", tmp_path / "train/bee/another.JPEG")
    padded = (tmp_path / "train/bee/bee_0.JPEG").read_bytes() + b"x"  # the same picture, other bytes
    (tmp_path / "test/bee/padded.JPEG").write_bytes(padded)
    found = read_image_folder(tmp_path)
    pairs = duplicates(found.train, found.test)
    assert pairs == [("train/ant/ant_1.JPEG", "test/bee/copy.JPEG")]
    assert "1 of 6 images" in note(pairs, found.train, found.test)
    assert "test/bee/copy.JPEG = train/ant/ant_1.JPEG" in note(pairs, found.train, found.test)


def test_equal_sizes_are_no_duplicates() -> None:
    assert duplicates(split([0, 1], seed=1), split([0, 1, 2], "test", seed=2)) == []
    assert note([], split([0]), split([0])) == ""


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_duplicates_are_those_of_a_plain_comparison(first: list[int], second: list[int]) -> None:
    def of(values: list[int], name: str) -> LabelledImages:
        pixels = np.array(values, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), dtype=np.uint8)
        return LabelledImages(name, PixelArray(name, pixels), np.zeros(len(values), dtype=np.int64), CLASSES)

    expected = [(f"train/{first.index(v):05d}", f"test/{i:05d}") for i, v in enumerate(second) if v in first]
    assert duplicates(of(first, "train"), of(second, "test")) == expected


def test_an_image_that_is_gone_is_named(tmp_path: Path) -> None:
    write_folders(tmp_path, ("ant", "bee"))
    found = read_image_folder(tmp_path)
    (tmp_path / "test/bee/bee_0.JPEG").unlink()
    with pytest.raises(DataError, match=r"bee_0\.JPEG"):
        duplicates(found.train, found.test)


def test_the_same_files_in_two_splits_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "x.jpg", 0)
    whole = LabelledImages("x", ImageFiles(tmp_path, ["x.jpg"], None, []), np.array([0]), CLASSES)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="on training data"):
        refuse_shared(whole, whole)
    refuse_shared(split([0, 1]), split([0, 1], "test"))
