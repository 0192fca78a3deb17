"""Names of any script in every picture: letters that are there, code points where the font has none, no warning."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from detection.pictures.contact_sheet import draw_contact_sheet
from detection.pictures.curves import draw_curves
from detection.pictures.mistakes import draw_misses
from detection.pictures.panels import TEXT
from detection.score.coco_ap import CocoResult
from transfer.datasets.boxes.detection import DetectionDataset, DetectionImage, Detections
from transfer.runtime import letters
from transfer.runtime.letters import drawable, font, plottable

# As written, and as drawn; what the font has stays: German, Arabic, Russian, Persian with a joiner, Vietnamese.
NAMES = {
    "猫": "[U+732B]",
    "قط": "قط",
    "emoji 🙂": "emoji [U+1F642]",
    "Größe": "Größe",
    "кошка": "кошка",
    "گربه‌ها": "گربه‌ها",
    "mèo": "mèo",
    "東京 犬x": "[U+6771 U+4EAC] [U+72AC]x",
    "a\nb\tc": "a[U+000A]b[U+0009]c",
    "\udcff.png": "[U+DCFF].png",  # a file name that is no UTF-8
    r"$\bad$ and $": r"$\bad$ and $",
    "_hidden": "_hidden",
}


@pytest.fixture(autouse=True)
def no_warning() -> Iterator[None]:
    """As a program that starts: nothing was said yet. Warnings, matplotlib's of absent glyphs too, are errors."""
    letters._say_once.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("name", NAMES)
def test_what_is_drawn(name: str) -> None:
    assert drawable(name) == NAMES[name]


@given(st.text(st.characters(), max_size=8))
def test_every_text_is_drawn_without_empty_boxes(text: str) -> None:
    """An empty box is what the font draws for a code point that is none (U+FFFF)."""
    said = drawable(text)
    box = font(TEXT).getmask("\uffff")
    for letter in {*said} - {*"￿"}:
        mask = font(TEXT).getmask(letter)
        assert mask.size != box.size or bytes(mask) != bytes(box), repr(letter)
    ImageDraw.Draw(Image.new("RGB", (9, 9))).text((0, 0), said, font=font(TEXT))


def test_names_that_differ_look_different() -> None:
    drawn = {bytes(font(TEXT).getmask(drawable(name))) for name in NAMES}
    assert len(drawn) == len(NAMES)


def test_the_log_says_it_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        drawable("Größe قط")
        assert not caplog.records
        drawable("猫")
        plottable("犬")
    (record,) = caplog.records
    assert "[U+732B]" in record.message


def animals(folder: Path) -> tuple[DetectionDataset, Detections]:
    """An image with an object of every class, and detections of which every second is of a wrong class."""
    names = tuple(NAMES)
    path = folder / "picture.png"
    Image.new("RGB", (600, 300), (30, 60, 90)).save(path)
    places = np.arange(len(names))
    left, top = 10 + places % 6 * 98, 30 + places // 6 * 150
    boxes = np.stack([left, top, left + 60, top + 80], axis=1).astype(np.float32)
    image = DetectionImage(1, "动物/猫", path, 600, 300, boxes, places, np.zeros(len(names), np.bool_))
    found = Detections(np.ones(len(names), np.int64), places[::-1].copy(), boxes, np.full(len(names), 0.9, np.float32))
    return DetectionDataset("动物 $x$", names, (image,)), found


@pytest.mark.parametrize("draw", [draw_contact_sheet, draw_misses])
def test_sheets(draw: Callable[..., None], tmp_path: Path) -> None:
    dataset, found = animals(tmp_path)
    draw(dataset, found, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as image:
        assert np.asarray(image).std() > 10


def test_precision_recall_curves(tmp_path: Path) -> None:
    count = len(NAMES)
    precision = np.tile(np.linspace(1, 0, count)[:, None], (10, 101, 1, 4))
    draw_curves(CocoResult("bbox", tuple(NAMES), precision, np.zeros((10, count, 4))), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000
