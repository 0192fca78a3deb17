"""COCO areas that contradict the boxes and masks are said, with counts; areas as tools write them are not."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from coco_files import CocoFolder, annotation

from transfer.datasets.boxes.coco_areas import AreaCheck
from transfer.datasets.boxes.masks import Mask


@pytest.fixture
def coco(tmp_path: Path) -> CocoFolder:
    return CocoFolder(tmp_path)


def boxes(coco: CocoFolder, area: Callable[[float, float], float], shape: str = "box", number: int = 20) -> None:
    """Boxes of many sizes, each with the polygon of a box, an ellipse or a scratch and the `area` of its sides."""
    rng = random.Random(0)
    coco.document["images"] = [{"id": 7, "file_name": "b.jpg", "width": 100, "height": 80}]
    entries = []
    for place in range(number):
        width, height = rng.randint(20, 60), rng.randint(20, 60)
        x, y = rng.randint(0, 100 - width), rng.randint(0, 80 - height)
        if shape == "box":
            polygon: list[float] = [x, y, x + width, y, x + width, y + height, x, y + height]
        elif shape == "ellipse":
            turns = np.linspace(0, 2 * np.pi, 40)
            points = np.stack([x + width / 2 * (1 + np.cos(turns)), y + height / 2 * (1 + np.sin(turns))], 1)
            polygon = points.ravel().tolist()
        else:
            polygon = [x, y, x + 1.5, y, x + width, y + height, x + width - 1.5, y + height]
        values = {"bbox": [x, y, width, height], "area": area(width, height), "segmentation": [polygon]}
        entries.append(annotation(place + 1, 7, 2, **values))
    coco.document["annotations"] = entries


# The areas below are computed: of a box w·h, of an ellipse π/4·w·h, of a scratch 1.5 pixels wide 1.5·h.
@pytest.mark.parametrize(
    ("area", "shape", "masks", "said"),
    [
        (lambda w, h: w * h, "box", True, ""),
        (lambda w, h: np.pi / 4 * w * h, "ellipse", True, ""),
        (lambda w, h: 1.5 * h, "scratch", True, ""),
        (lambda w, h: np.pi / 4 * w * h, "ellipse", False, ""),
        (lambda w, h: w * h, "ellipse", True, ""),  # the box's area, as many tools write it: right within a factor
        (lambda w, h: 0, "box", False, "contradicts the box of 20 of 20 objects (all are 0)"),
        (lambda w, h: 1.0, "box", True, "contradicts the box of 20 of 20 objects (all are 1)"),
        (lambda w, h: w * h / 6400, "box", False, "contradicts the box of 20 of 20 objects"),
        (lambda w, h: 4 * w * h, "box", False, "contradicts the box of 20 of 20 objects"),
        (lambda w, h: w * h / 9, "box", True, "contradicts 20 of 20 masks that were measured"),
        (lambda w, h: w * h, "scratch", True, "contradicts 20 of 20 masks that were measured"),
        (lambda w, h: max(w, h), "box", False, "is less than a 25th of the box in"),
    ],
)
def test_areas_that_cannot_be_right_are_said(
    coco: CocoFolder, area: Callable[[float, float], float], shape: str, masks: bool, said: str
) -> None:
    boxes(coco, area, shape)
    dataset = coco.read(masks=masks)
    assert dataset.images[0].areas.tolist() == [entry["area"] for entry in coco.document["annotations"]]
    assert len(dataset.notes) == bool(said)
    assert all(said in note for note in dataset.notes)


def test_a_few_odd_areas_make_no_note(coco: CocoFolder) -> None:
    boxes(coco, lambda w, h: w * h, number=100)
    for entry in coco.document["annotations"][:5]:
        entry["area"] = 0
    assert coco.read(masks=False).notes == ()
    coco.document["annotations"][5]["area"] = 0
    assert "6 of 100 objects (they go from 0" in coco.read(masks=False).notes[0]


def test_areas_of_crowds_are_not_looked_at(coco: CocoFolder) -> None:
    boxes(coco, lambda w, h: 1)
    for entry in coco.document["annotations"]:
        entry["iscrowd"] = 1
    assert coco.read(masks=False).notes == ()


def test_of_many_masks_some_are_measured() -> None:
    """Every third of six; the box of each has 20 × 10 pixels, its mask too."""
    check = AreaCheck(every=3)
    mask = Mask(50, 50, polygons=(np.array([10.0, 10, 30, 10, 30, 20, 10, 20]),))
    for number in range(6):
        check.look(f"annotation {number}", 30 if number < 2 else 200, (10, 10, 30, 20), mask)
    (note,) = check.notes()
    assert "contradicts 1 of 2 masks that were measured (they go from 30 to 200): annotation 0" in note
    assert "box 20 × 10, mask 200 pixels" in note
