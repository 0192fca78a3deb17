"""The contact sheet: which images, which boxes, which colours, and that it is a whole PNG or none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detection.pictures import contact_sheet
from detection.pictures.contact_sheet import draw_contact_sheet
from detection.pictures.panels import MARGIN, MASK_ALPHA, PANEL, class_colour
from transfer.datasets.boxes.detection import DetectionDataset, DetectionImage, Detections
from transfer.datasets.boxes.masks import Mask
from transfer.runtime.errors import DataError, UserError

GROUND = (20, 70, 110)  # no grey: text has every grey


def made(folder: Path, images: int = 3, classes: int = 2) -> DetectionDataset:
    """Plain pictures 100 × 60; all but the first have one box (10, 10, 60, 40) of class 1."""
    rows = []
    for index in range(images):
        path = folder / f"{index}.png"
        Image.new("RGB", (100, 60), GROUND).save(path)
        boxes = np.array([[10, 10, 60, 40]] if index else [], np.float32).reshape(-1, 4)
        rows.append(
            DetectionImage(
                image_id=index + 1,
                name=f"set/{index}",
                path=path,
                width=100,
                height=60,
                boxes=boxes,
                labels=np.ones(len(boxes), np.int64),
                difficult=np.zeros(len(boxes), np.bool_),
            )
        )
    return DetectionDataset("made", tuple(f"class{k}" for k in range(classes)), tuple(rows))


def detections(*rows: tuple[int, int, float]) -> Detections:
    """(image_id, label, score), all with the box (20, 10, 80, 50)."""
    return Detections(
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.int64),
        np.tile(np.array([20, 10, 80, 50], np.float32), (len(rows), 1)),
        np.array([row[2] for row in rows], np.float32),
    )


def colours(path: Path, left: int = 0, top: int = 90) -> set[tuple[int, int, int]]:
    """Colours of a sheet right of `left` and below the legend, whose swatches have every class's colour."""
    with Image.open(path) as image:
        return set(image.crop((left, top, *image.size)).convert("RGB").get_flattened_data())


def test_ground_truth_is_left_and_detections_above_the_threshold_are_right(tmp_path: Path) -> None:
    path, right = tmp_path / "sheets" / "sheet.png", MARGIN + PANEL + 4
    draw_contact_sheet(made(tmp_path, 2), detections((2, 0, 0.5), (1, 0, 0.9)), path, score_threshold=0.6)
    assert class_colour(1) in colours(path)  # ground truth
    assert class_colour(1) not in colours(path, right)
    assert class_colour(0) not in colours(path)  # one detection is too low, the other on an image without objects
    draw_contact_sheet(made(tmp_path, 2), detections((2, 0, 0.5)), path, score_threshold=0.5)
    assert class_colour(0) in colours(path, right)


def test_boxes_are_drawn_where_they_are(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    draw_contact_sheet(made(tmp_path, 2), Detections.concatenate([]), path)
    scale = PANEL / 100
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    ground = np.argwhere((np.abs(pixels.astype(int) - GROUND) <= 2).all(axis=2))
    top, left = ground.min(axis=0)
    frame = (pixels[:, : left + PANEL] == class_colour(1)).all(axis=2)
    frame[:top] = False  # the legend
    middle = round(top + 25 * scale)
    columns = np.flatnonzero(frame[middle]) - left
    assert columns.min() == pytest.approx(10 * scale, abs=2)
    assert columns.max() == pytest.approx(60 * scale, abs=2)


@pytest.mark.parametrize("flag", ["difficult", "crowd"])
def test_ignored_boxes_are_dashed(flag: str, tmp_path: Path) -> None:
    dataset = made(tmp_path, 2)
    easy, hard = tmp_path / "easy.png", tmp_path / "hard.png"
    draw_contact_sheet(dataset, Detections.concatenate([]), easy)
    getattr(dataset.images[1], flag)[:] = True
    draw_contact_sheet(dataset, Detections.concatenate([]), hard)

    def framed(path: Path) -> int:
        with Image.open(path) as image:
            return int((np.asarray(image.convert("RGB"))[90:] == class_colour(1)).all(axis=2).sum())

    assert framed(hard) < 0.9 * framed(easy)


def with_mask(dataset: DetectionDataset) -> DetectionDataset:
    """The second image's object, whose box is (10, 10, 60, 40), covers the left half of its box."""
    pixels = np.zeros((60, 100), np.bool_)
    pixels[10:40, 10:35] = True
    first, second = dataset.images
    images = (replace(first, masks=()), replace(second, masks=(Mask.from_pixels(pixels),)))
    return replace(dataset, images=images)


def at(path: Path, x: float, y: float, panel: int) -> tuple[int, ...]:
    """The colour at a place of the image that is drawn there; panel 0 is left, 1 right."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    ground = np.argwhere((np.abs(pixels.astype(int) - GROUND) <= 2).all(axis=2))
    top, left = ground.min(axis=0)
    row, column = round(top + y * PANEL / 100), round(left + panel * (PANEL + 4) + x * PANEL / 100)
    return tuple(pixels[row, column].tolist())


def blended(label: int) -> list[float]:
    return [MASK_ALPHA * c + (1 - MASK_ALPHA) * g for c, g in zip(class_colour(label), GROUND, strict=True)]


def test_masks_of_objects_are_filled_and_outlined_where_they_are(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    draw_contact_sheet(with_mask(made(tmp_path, 2)), Detections.concatenate([]), path)
    assert at(path, 25, 25, panel=0) == pytest.approx(blended(1), abs=2)
    assert at(path, 45, 25, panel=0) == GROUND  # in the box, not in the mask
    assert at(path, 25, 25, panel=1) == GROUND
    rim = {at(path, 35 + step / 4, 25, panel=0) for step in range(-4, 5)}
    assert class_colour(1) in rim


def test_masks_of_detections_are_filled(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    dataset = made(tmp_path, 2)
    masks = with_mask(dataset).images[1].masks or ()
    found = replace(detections((2, 0, 0.9)), masks=(masks[0].counts,))
    draw_contact_sheet(dataset, found, path)
    assert at(path, 15, 25, panel=1) == pytest.approx(blended(0), abs=2)
    assert at(path, 70, 25, panel=1) == GROUND  # in the box, not in the mask
    assert at(path, 15, 25, panel=0) == GROUND


def test_a_mask_too_small_to_be_seen_and_one_of_the_whole_image(tmp_path: Path) -> None:
    dataset = made(tmp_path, 2)
    for pixels in (np.zeros((60, 100), np.bool_), np.ones((60, 100), np.bool_)):
        found = replace(detections((2, 0, 0.9)), masks=(Mask.from_pixels(pixels).counts,))
        draw_contact_sheet(dataset, found, tmp_path / "sheet.png")
        whole = pytest.approx(blended(0), abs=2) if pixels.all() else GROUND
        assert at(tmp_path / "sheet.png", 50, 30, panel=1) == whole


def test_the_same_input_gives_the_same_bytes_whatever_the_order_of_detections(tmp_path: Path) -> None:
    dataset = made(tmp_path, 6)
    found = detections((2, 0, 0.5), (3, 1, 0.9), (4, 0, 0.7))
    turned = Detections(found.image_ids[::-1], found.labels[::-1], found.boxes[::-1], found.scores[::-1])
    draw_contact_sheet(dataset, found, tmp_path / "a.png")
    draw_contact_sheet(dataset, turned, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_images_are_spread_over_those_with_objects(tmp_path: Path) -> None:
    dataset = made(tmp_path, 11)  # ten of them have objects
    assert [image.image_id for image in contact_sheet._choose(dataset, 2)] == [4, 9]
    assert [image.image_id for image in contact_sheet._choose(dataset, 50)] == list(range(2, 12))
    empty = DetectionDataset("made", dataset.classes, dataset.images[:1])
    assert [image.image_id for image in contact_sheet._choose(empty, 3)] == [1]


def test_more_pairs_make_a_taller_sheet(tmp_path: Path) -> None:
    sizes = []
    for images in (2, 4, 6):
        draw_contact_sheet(made(tmp_path, 7), Detections.concatenate([]), tmp_path / "sheet.png", images=images)
        with Image.open(tmp_path / "sheet.png") as image:
            sizes.append(image.size)
    assert sizes[0][0] == sizes[1][0] == sizes[2][0]
    assert sizes[2][1] - sizes[1][1] == sizes[1][1] - sizes[0][1] > 0.6 * PANEL


def test_class_colours_differ() -> None:
    assert len({class_colour(label) for label in range(80)}) == 80


def test_many_classes_and_many_boxes_still_make_a_sheet(tmp_path: Path) -> None:
    found = detections(*[(2, label, 0.3 + label / 200) for label in range(80)])
    draw_contact_sheet(made(tmp_path, 2, classes=80), found, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 1000


def test_refusals_leave_no_file(tmp_path: Path) -> None:
    path = tmp_path / "out" / "sheet.png"
    with pytest.raises(DataError, match="no image"):
        draw_contact_sheet(DetectionDataset("none", ("a",), ()), Detections.concatenate([]), path)
    dataset = made(tmp_path, 2)
    (tmp_path / "1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1\.png"):
        draw_contact_sheet(dataset, Detections.concatenate([]), path)
    assert not path.exists()
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="cannot write"):
        draw_contact_sheet(made(tmp_path, 2), Detections.concatenate([]), tmp_path / "file" / "sheet.png")
