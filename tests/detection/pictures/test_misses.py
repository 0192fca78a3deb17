"""Which errors of a detector are found, what is said about them, and that the picture shows them and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detection.pictures import mistakes as misses
from detection.pictures.mistakes import draw_misses, find_misses
from detection.pictures.panels import MARGIN, PANEL, class_colour
from transfer.datasets.boxes.detection import DetectionDataset, DetectionImage, Detections
from transfer.datasets.boxes.masks import Mask
from transfer.runtime.errors import DataError

CLASSES = ("cat", "dog", "owl")
WIDTH, HEIGHT = 100, 60
GROUND = (20, 70, 110)
Row = tuple[int, int, float, tuple[float, float, float, float]]  # image_id, label, score, box
LEFT, RIGHT = (0.0, 0.0, 40.0, 40.0), (50.0, 10.0, 90.0, 50.0)


def image_of(number: int, *objects: tuple[int, tuple[float, ...]], path: Path = Path("none.png")) -> DetectionImage:
    """(label, box) each."""
    return DetectionImage(
        image_id=number,
        name=f"image {number}",
        path=path,
        width=WIDTH,
        height=HEIGHT,
        boxes=np.array([box for _, box in objects], np.float32).reshape(-1, 4),
        labels=np.array([label for label, _ in objects], np.int64),
        difficult=np.zeros(len(objects), np.bool_),
    )


def detections_of(*rows: Row) -> Detections:
    return Detections(
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.int64),
        np.array([row[3] for row in rows], np.float32).reshape(-1, 4),
        np.array([row[2] for row in rows], np.float32),
    )


def errors_of(image: DetectionImage, *rows: Row) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """(missed objects, false detections), each as (index, why)."""
    found = find_misses(DetectionDataset("set", CLASSES, (image,)), detections_of(*rows))
    if not found:
        return [], []
    (one,) = found
    return [(miss.index, miss.why) for miss in one.missed], [(miss.index, miss.why) for miss in one.false]


def test_what_is_found_is_no_error() -> None:
    image = image_of(1, (0, LEFT), (1, RIGHT))
    assert errors_of(image, (1, 0, 0.05, LEFT), (1, 1, 0.9, RIGHT), (1, 1, 0.8, RIGHT)) == ([], [])


@pytest.mark.parametrize(
    ("row", "missed", "false"),
    [
        ((1, 0, 0.04, LEFT), [(0, "not found")], []),  # too low to count for or against
        ((1, 1, 0.4, LEFT), [(0, "taken for dog 0.40")], []),  # not confident
        ((1, 1, 0.5, LEFT), [(0, "taken for dog 0.50")], [(0, "is cat")]),
        ((1, 0, 0.9, (0, 0, 40, 20)), [], []),  # an IoU of a half is enough
        ((1, 0, 0.9, (0, 0, 40, 19)), [(0, "best IoU 0.47")], [(0, "best IoU 0.47")]),
        ((1, 0, 0.9, (0, 0, 10, 10)), [(0, "not found")], [(0, "nothing there")]),
        ((1, 1, 0.9, RIGHT), [(0, "not found")], [(0, "nothing there")]),
        ((1, 0, 0.9, (20, 20, 20, 20)), [(0, "not found")], [(0, "nothing there")]),  # no area
    ],
)
def test_one_cat_and_one_detection(row: Row, missed: list[tuple[int, str]], false: list[tuple[int, str]]) -> None:
    assert errors_of(image_of(1, (0, LEFT)), row) == (missed, false)


def test_of_several_wrong_names_the_best_scored_is_told() -> None:
    rows = [(1, 2, 0.3, LEFT), (1, 1, 0.7, LEFT), (1, 2, 0.2, LEFT)]
    assert errors_of(image_of(1, (0, LEFT)), *rows)[0] == [(0, "taken for dog 0.70")]


@pytest.mark.parametrize("flag", ["crowd", "difficult"])
def test_ignored_objects_are_not_missed_and_excuse_what_lies_in_them(flag: str) -> None:
    image = replace(image_of(1, (0, LEFT), (1, RIGHT)), **{flag: np.array([True, False])})
    inside, half, beside = (0, 0, 9, 9), (30, 0, 50, 9), (31, 0, 51, 9)
    assert errors_of(image, (1, 1, 0.9, RIGHT)) == ([], [])
    assert errors_of(image, (1, 1, 0.9, RIGHT), (1, 0, 0.9, inside), (1, 0, 0.9, half)) == ([], [])
    assert errors_of(image, (1, 1, 0.9, RIGHT), (1, 0, 0.9, beside)) == ([], [(1, "nothing there")])
    assert errors_of(image, (1, 1, 0.9, RIGHT), (1, 2, 0.9, inside)) == ([], [(1, "nothing there")])


corners = st.tuples(st.integers(0, 40), st.integers(0, 25), st.integers(45, WIDTH), st.integers(30, HEIGHT))
objects = st.lists(st.tuples(st.integers(0, 2), corners), max_size=4)
rows = st.lists(st.tuples(st.integers(1, 2), st.integers(0, 2), st.sampled_from([0.01, 0.3, 0.6, 0.9]), corners))


@settings(max_examples=100, deadline=None)
@given(st.tuples(objects, objects), rows)
def test_errors_are_those_of_the_plain_definition(made: tuple[list, list], detections: list[Row]) -> None:
    dataset = DetectionDataset("set", CLASSES, tuple(image_of(n, *own) for n, own in enumerate(made, 1)))
    missed, false = set(), set()
    for number, own in enumerate(made, 1):
        here = [(index, row) for index, row in enumerate(detections) if row[0] == number]
        for index, (label, box) in enumerate(own):
            if not any(row[1] == label and row[2] >= 0.05 and iou(row[3], box) >= 0.5 for _, row in here):
                missed.add((number, index))
        for index, row in here:
            if row[2] >= 0.5 and not any(row[1] == label and iou(row[3], box) >= 0.5 for label, box in own):
                false.add((number, index))
    found = find_misses(dataset, detections_of(*detections))
    assert {(one.image.image_id, miss.index) for one in found for miss in one.missed} == missed
    assert {(one.image.image_id, miss.index) for one in found for miss in one.false} == false
    assert all(one.missed or one.false for one in found)
    for one in found:
        scores = [detections[miss.index][2] for miss in one.false]
        assert scores == sorted(scores)


def iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(wide, 0) * max(high, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


# -- the picture -------------------------------------------------------------------------------------------------


def pictured(folder: Path, *images: list[tuple[int, tuple[float, ...]]]) -> DetectionDataset:
    rows = []
    for number, own in enumerate(images, 1):
        path = folder / f"{number}.png"
        Image.new("RGB", (WIDTH, HEIGHT), GROUND).save(path)
        rows.append(image_of(number, *own, path=path))
    return DetectionDataset("set", CLASSES, tuple(rows))


def panels(path: Path) -> tuple[set[tuple[int, ...]], set[tuple[int, ...]]]:
    """Colours below the legend in the first column's left and right panels."""
    with Image.open(path) as image:
        halves = [(0, MARGIN + PANEL), (MARGIN + PANEL + 4, MARGIN + 2 * PANEL + 4)]
        crops = [image.crop((left, 90, right, image.height)).convert("RGB") for left, right in halves]
    return set(crops[0].get_flattened_data()), set(crops[1].get_flattened_data())


def test_missed_objects_are_left_false_detections_right_and_nothing_else(tmp_path: Path) -> None:
    dataset, path = pictured(tmp_path, [(0, LEFT), (1, RIGHT)]), tmp_path / "out" / "misses.png"
    draw_misses(dataset, detections_of((1, 1, 0.9, RIGHT), (1, 2, 0.9, (60, 0, 90, 9))), path)
    left, right = panels(path)
    cat, dog, owl = (class_colour(label) for label in range(3))
    assert cat in left
    assert owl in right
    assert not {dog, owl} & left  # the dog was found
    assert not {cat, dog} & right


def test_the_images_with_most_errors_are_drawn(tmp_path: Path) -> None:
    dataset = pictured(tmp_path, [(0, LEFT)], [], [(0, LEFT), (1, RIGHT)], [(2, LEFT)])
    for absent in (1, 2):
        (tmp_path / f"{absent}.png").unlink()
    draw_misses(dataset, detections_of(), tmp_path / "misses.png", images=1)
    with pytest.raises(DataError, match=r"1\.png"):  # as bad as the fourth, and before it
        draw_misses(dataset, detections_of(), tmp_path / "misses.png", images=2)


def test_a_sheet_without_errors_is_a_sheet_without_pictures(tmp_path: Path) -> None:
    dataset = pictured(tmp_path, [(0, LEFT)])
    (tmp_path / "1.png").unlink()
    draw_misses(dataset, detections_of((1, 0, 0.9, LEFT)), tmp_path / "none.png")
    with Image.open(tmp_path / "none.png") as sheet:
        assert sheet.height < 0.5 * PANEL
        dark = np.asarray(sheet.convert("L"))[: MARGIN + 16] < 100
    assert dark.sum() > 300  # the sentence that says so


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([(1, 0, 0.9, LEFT)], "no missed object and no false detection of score 0.5 and above in 1 image"),
        ([], "the 1 worst of 1 image with errors (of 1); left 1 object missed at IoU 0.5, right 0 false detections"),
    ],
)
def test_the_heading(rows: list[Row], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    headings: list[str] = []
    monkeypatch.setattr(misses, "write_sheet", lambda path, dataset, title, labels, pairs: headings.append(title))
    draw_misses(pictured(tmp_path, [(0, LEFT)]), detections_of(*rows), tmp_path / "misses.png")
    assert said in headings[0]


def test_masks_are_drawn(tmp_path: Path) -> None:
    plain, masked = tmp_path / "plain.png", tmp_path / "masked.png"
    dataset = pictured(tmp_path, [(0, LEFT)])
    draw_misses(dataset, detections_of(), plain)
    pixels = np.zeros((HEIGHT, WIDTH), np.bool_)
    pixels[20:30, 10:20] = True
    image = replace(dataset.images[0], masks=(Mask.from_pixels(pixels),))
    draw_misses(replace(dataset, images=(image,)), detections_of(), masked)
    assert len(panels(masked)[0] - panels(plain)[0]) >= 1
    assert panels(masked)[1] == panels(plain)[1]


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image"):
        draw_misses(DetectionDataset("none", CLASSES, ()), detections_of(), tmp_path / "misses.png")
    with pytest.raises(DataError, match="no image"):
        draw_misses(pictured(tmp_path, [(0, LEFT)]), detections_of(), tmp_path / "misses.png", images=0)
    assert not (tmp_path / "misses.png").exists()
