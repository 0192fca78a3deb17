"""Masks: pixels in, pixels out, and the compressed form against COCO's own code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from test_voc_reader import CAT, box_xml, write_image, write_split

from transfer.datasets.boxes.coco_masks import run_lengths
from transfer.datasets.boxes.mask_files import area_of
from transfer.datasets.boxes.masks import Mask
from transfer.datasets.boxes.voc import read_voc
from transfer.runtime.errors import DataError

PIXELS = arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 40)))


@settings(max_examples=150, deadline=None)
@given(PIXELS)
def test_pixels_come_back_and_other_code_reads_them(pixels: np.ndarray) -> None:
    mask_api = pytest.importorskip("pycocotools.mask")
    mask = Mask.from_pixels(pixels)
    np.testing.assert_array_equal(mask.pixels(), pixels)
    assert area_of(mask) == pixels.sum()
    theirs = mask_api.encode(np.asfortranarray(pixels, np.uint8))
    assert (mask.rle(), [mask.height, mask.width]) == (theirs["counts"], theirs["size"])


@settings(max_examples=150, deadline=None)
@given(PIXELS)
def test_decoded_run_lengths_describe_the_pixels(pixels: np.ndarray) -> None:
    lengths = run_lengths(Mask.from_pixels(pixels).counts)
    values = np.repeat(np.arange(len(lengths)) % 2, lengths).astype(bool)
    np.testing.assert_array_equal(values.reshape(pixels.shape, order="F"), pixels)


@pytest.mark.parametrize("lengths", [[0, 2**31 - 1], [5, 2**31 - 6], [1, 1, 2**20, 3, 2**30, 7, 2, 2**20]])
def test_long_runs(lengths: list[int]) -> None:
    mask_api = pytest.importorskip("pycocotools.mask")
    total = sum(lengths)
    counts = mask_api.frPyObjects({"size": [1, total], "counts": lengths}, 1, total)["counts"]
    assert run_lengths(counts).tolist() == lengths


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=12))
def test_any_bytes_are_decoded_or_refused(counts: bytes) -> None:
    try:
        lengths = run_lengths(counts)
    except ValueError:
        return
    assert 0 < len(lengths) <= len(counts)


@settings(max_examples=80, deadline=None)
@given(
    points=st.lists(st.tuples(st.floats(0, 50), st.floats(0, 40)), min_size=3, max_size=9),
    more=st.lists(st.tuples(st.floats(0, 50), st.floats(0, 40)), min_size=3, max_size=5),
)
def test_polygons_are_drawn_as_by_pycocotools(
    points: list[tuple[float, float]], more: list[tuple[float, float]]
) -> None:
    mask_api = pytest.importorskip("pycocotools.mask")
    polygons = (np.array(points).ravel(), np.array(more).ravel())
    mask = Mask(40, 50, polygons=polygons)
    theirs = mask_api.merge(mask_api.frPyObjects([polygon.tolist() for polygon in polygons], 40, 50))
    np.testing.assert_array_equal(mask.pixels(), mask_api.decode(theirs).astype(bool))
    assert area_of(mask) == mask_api.area(theirs)


# -- VOC layout --------------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Image a: a cat, a box without area, an owl; image b: nothing."""
    root = tmp_path / "Animals"
    write_image(root, "a", box_xml(*CAT) + box_xml("cat", 5, 5, 5, 9) + box_xml("owl", 1, 1, 9, 9))
    write_image(root, "b")
    write_split(root, "train", "a\nb\n")
    return root


def numbered() -> np.ndarray:
    """Object 1 in 50 × 50 pixels, object 3 in 8 × 9, void beside it."""
    values = np.zeros((80, 100), np.uint8)
    values[20:70, 10:60] = 1
    values[0:9, 0:8] = 3
    values[0:9, 8] = 255
    return values


def save(root: Path, folder: str, name: str, values: np.ndarray) -> None:
    (root / folder).mkdir(exist_ok=True)
    Image.fromarray(values).save(root / folder / f"{name}.png")


def refusal(root: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        read_voc([(root, "train")], "animals", masks=True)
    assert caught.value.todo, "says nothing about what to do"
    return caught.value


@pytest.mark.parametrize("folder", ["InstanceMasks", "SegmentationObject"])
def test_both_layouts_are_the_same_masks(root: Path, folder: str) -> None:
    if folder == "SegmentationObject":
        picture = Image.fromarray(numbered())
        picture.putpalette([*range(256)] * 3)
        (root / folder).mkdir()
        picture.save(root / folder / "a.png")
    else:
        for number in (1, 2, 3):
            save(root, folder, f"a_{number}", np.uint8(200) * (numbered() == max(number, 1)) + (number == 2))
    dataset = read_voc([(root, "train")], "animals", masks=True)
    first, second = dataset.images
    assert first.masks is not None
    assert [mask.pixels().tolist() for mask in first.masks] == [(numbered() == k).tolist() for k in (1, 3)]
    assert first.areas.tolist() == [2500, 72]
    assert first.labels.tolist() == [0, 1]
    assert second.masks == ()
    assert dataset.has_masks
    assert len(dataset.notes) == 1, "the box without area"
    without = read_voc([(root, "train")], "animals")
    assert without.images[0].masks is None
    assert without.fingerprint()["sha256"] != dataset.fingerprint()["sha256"]


def test_an_object_that_void_hides_is_dropped_and_said(root: Path) -> None:
    values = numbered()
    values[values == 3] = 255
    save(root, "SegmentationObject", "a", values)
    dataset = read_voc([(root, "train")], "animals", masks=True)
    assert len(dataset.images[0].boxes) == 1
    assert dataset.notes[-1] == "1 object without a pixel dropped: Animals/a object 3"


def test_no_masks_at_all(root: Path) -> None:
    error = refusal(root)
    assert "no masks in" in error.what
    assert "InstanceMasks" in error.todo


def test_missing_masks_are_counted(root: Path) -> None:
    save(root, "InstanceMasks", "a_2", numbered())
    error = refusal(root)
    assert "2 of 3 masks are missing" in error.what
    assert "a_1.png, a_3.png" in error.found


def test_missing_files_of_whole_images(root: Path) -> None:
    (root / "SegmentationObject").mkdir()
    error = refusal(root)
    assert "1 of 1 masks" in error.what, "image b has no objects and needs none"
    assert "ImageSets/Segmentation" in error.todo


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.full((80, 100), 4, np.uint8), "4; the XML has 3 objects"),
        (np.ones((100, 80), np.uint8), "80 × 100"),
        (np.ones((80, 100, 3), np.uint8), "mode RGB"),
    ],
)
def test_a_png_that_does_not_fit(root: Path, values: np.ndarray, said: str) -> None:
    save(root, "SegmentationObject", "a", values)
    assert said in refusal(root).found


def test_an_empty_mask_of_one_object(root: Path) -> None:
    for number in (1, 2, 3):
        save(root, "InstanceMasks", f"a_{number}", np.full((80, 100), number != 3, np.uint8))
    error = refusal(root)
    assert "object 3 of a.jpg is empty" in error.what
