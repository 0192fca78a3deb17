"""A picture of what a detector does: ground truth beside detections, image by image."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from transfer.atomic import write_atomically
from transfer.datasets.detection import DetectionDataset, DetectionImage, Detections
from transfer.errors import DataError

Colour = tuple[int, int, int]
Rectangle = tuple[float, float, float, float]

# Colours that stay apart on photographs; further classes get hues from the golden ratio.
PALETTE: tuple[Colour, ...] = (
    *((255, 64, 64), (64, 144, 255), (64, 208, 64), (255, 176, 0), (208, 80, 255), (0, 216, 216)),
    *((255, 112, 192), (176, 224, 0), (255, 128, 48), (128, 112, 255), (0, 160, 112), (192, 144, 96)),
)
PANEL = 360  # pixels, the longest side of one picture
MARGIN = 14
TEXT = 14
NAMES_UP_TO = 10  # boxes in a panel; above that the colour names the class, and only scores are written
LEGEND_ALL_UP_TO = 24  # classes; above that the legend has only those in the pictures
PAIRS_PER_ROW = 2
DASH = 6


@dataclass(frozen=True)
class _Box:
    corners: Rectangle
    label: int
    text: str
    dashed: bool = False


def draw_contact_sheet(
    dataset: DetectionDataset,
    detections: Detections,
    path: Path,
    images: int = 8,
    score_threshold: float = 0.3,
) -> None:
    """Write a PNG with pairs of pictures, ground truth on the left, detections on the right.

    The images are spread evenly over those that have objects (over all if none has), so that the same data set always
    shows the same ones. Difficult objects are dashed.

    Args:
        dataset: what was predicted on.
        detections: any number, in any order.
        path: the PNG, written whole or not at all.
        images: how many pairs at most.
        score_threshold: detections below it are not drawn; the heading says so.

    Raises:
        DataError: there is no image, or one cannot be read.
    """
    chosen = _choose(dataset, images)
    captions, pairs = [], []
    labels: set[int] = set()
    for image in chosen:
        truth = _truth_boxes(dataset, image)
        found = _found_boxes(dataset, detections, image, score_threshold)
        labels.update(box.label for box in (*truth, *found))
        picture, scale = _picture(image)
        pairs.append((_panel(picture, scale, truth), _panel(picture, scale, found)))
        captions.append((f"{image.name}: {_count(len(truth), 'object')}", _count(len(found), "detection")))
    difficult = any(image.difficult.any() for image in chosen)
    title = (
        f"{dataset.name}: {len(chosen)} of {_count(len(dataset), 'image')}; left ground truth"
        f"{' (dashed: difficult)' if difficult else ''}, right detections of score {score_threshold:g} and above"
    )
    shown = range(len(dataset.classes)) if len(dataset.classes) <= LEGEND_ALL_UP_TO else sorted(labels)
    sheet = _compose(title, [(dataset.classes[label], class_colour(label)) for label in shown], captions, pairs)
    write_atomically(path, lambda file: sheet.save(file, "PNG", optimize=True))


def class_colour(label: int) -> Colour:
    """The same colour for the same class index on every sheet."""
    if label < len(PALETTE):
        return PALETTE[label]
    hue = (label * 0.618034) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.55 + 0.45 * (label % 2), 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


# -- what is shown -----------------------------------------------------------------------------------------------


def _choose(dataset: DetectionDataset, count: int) -> list[DetectionImage]:
    images = dataset.with_objects().images or dataset.images
    if not images or count < 1:
        raise DataError(f"no image of {dataset.name} to draw", found=f"{len(images)} images, {count} wanted")
    count = min(count, len(images))
    return [images[(2 * position + 1) * len(images) // (2 * count)] for position in range(count)]


def _truth_boxes(dataset: DetectionDataset, image: DetectionImage) -> list[_Box]:
    return [
        _Box(tuple(corners), label, _label(dataset.classes[label], "", len(image.labels)), bool(difficult))
        for corners, label, difficult in zip(
            image.boxes.tolist(), image.labels.tolist(), image.difficult.tolist(), strict=True
        )
    ]


def _found_boxes(
    dataset: DetectionDataset, detections: Detections, image: DetectionImage, threshold: float
) -> list[_Box]:
    """Lowest score first, so that the best lie on top."""
    rows = np.flatnonzero((detections.image_ids == image.image_id) & (detections.scores >= threshold))
    rows = rows[np.argsort(detections.scores[rows], kind="stable")]
    return [
        _Box(
            tuple(detections.boxes[row].tolist()),
            int(detections.labels[row]),
            _label(dataset.classes[int(detections.labels[row])], f"{detections.scores[row]:.2f}", len(rows)),
        )
        for row in rows
    ]


def _label(name: str, score: str, boxes: int) -> str:
    return f"{name} {score}".strip() if boxes <= NAMES_UP_TO else score


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


# -- drawing -----------------------------------------------------------------------------------------------------


def _picture(image: DetectionImage) -> tuple[Image.Image, float]:
    """The image as stored, its longest side `PANEL` pixels, and the factor by which it was scaled."""
    try:
        with Image.open(image.path) as file:
            picture = file.convert("RGB")  # not turned by EXIF: boxes are drawn on stored pixels
    except OSError as error:
        raise DataError(f"cannot read the image {image.path}", found=str(error), todo="replace this file") from error
    scale = PANEL / max(picture.size)
    size = tuple(max(1, round(side * scale)) for side in picture.size)
    return picture.resize((size[0], size[1]), Image.Resampling.LANCZOS), scale


def _panel(picture: Image.Image, scale: float, boxes: Sequence[_Box]) -> Image.Image:
    panel = picture.copy()
    pen = ImageDraw.Draw(panel)
    scaled: list[Rectangle] = []
    for box in boxes:
        x1, y1, x2, y2 = (scale * value for value in box.corners)
        scaled.append((x1, y1, x2, y2))
        _rectangle(pen, (x1, y1, max(x2 - 1, x1), max(y2 - 1, y1)), class_colour(box.label), box.dashed)
    taken: list[Rectangle] = []
    # The last boxes are the best scored: their labels choose their places first.
    for box, corners in reversed(list(zip(boxes, scaled, strict=True))):
        if box.text:
            _write(pen, panel.size, box.text, corners, class_colour(box.label), taken)
    return panel


def _rectangle(pen: ImageDraw.ImageDraw, corners: Rectangle, colour: Colour, dashed: bool) -> None:
    """A coloured frame with a thin dark rim on both sides, to be seen on any ground."""
    x1, y1, x2, y2 = corners
    if not dashed:
        pen.rectangle([x1 - 1, y1 - 1, x2 + 1, y2 + 1], outline=(0, 0, 0), width=4)
        pen.rectangle([x1, y1, x2, y2], outline=colour, width=2)
        return
    ring = [(x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1)]
    for (ax, ay), (bx, by) in pairwise(ring):
        steps = max(1, round(max(abs(bx - ax), abs(by - ay)) / DASH))
        points = [(ax + (bx - ax) * k / steps, ay + (by - ay) * k / steps) for k in range(steps + 1)]
        for number, (start, end) in enumerate(pairwise(points)):
            pen.line([start, end], fill=(0, 0, 0) if number % 2 else colour, width=2)


def _write(
    pen: ImageDraw.ImageDraw,
    size: tuple[int, int],
    text: str,
    corners: Rectangle,
    colour: Colour,
    taken: list[Rectangle],
) -> None:
    """A label at the box, at the first of four places that is free; none where all are taken."""
    font = ImageFont.load_default(TEXT - 2)
    left, top, right, bottom = font.getbbox(text)
    width, height = right - left + 6, bottom - top + 5
    x1, y1, x2, y2 = corners
    wanted = ((x1, y1 - height), (x1, y2), (x1, y1), (x2 - width, y2 - height))
    places = [(min(max(x, 0), size[0] - width), min(max(y, 0), size[1] - height)) for x, y in wanted]
    free = [place for place in places if not any(_overlap((*place, width, height), other) for other in taken)]
    if not free:
        return
    x, y = free[0]
    taken.append((x, y, width, height))
    pen.rectangle([x, y, x + width - 1, y + height - 1], fill=colour)
    pen.text((x + 3 - left, y + 2 - top), text, fill=_ink_on(colour), font=font)


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    """Whether two rectangles (x, y, width, height) share a pixel."""
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]


def _ink_on(colour: Colour) -> Colour:
    red, green, blue = colour
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 110 else (255, 255, 255)


def _compose(
    title: str,
    legend: list[tuple[str, Colour]],
    captions: list[tuple[str, str]],
    pairs: list[tuple[Image.Image, Image.Image]],
) -> Image.Image:
    """Heading, legend, and the pairs in rows as high as their highest picture."""
    columns = min(PAIRS_PER_ROW, len(pairs))
    pair_width = 2 * PANEL + 4
    width = columns * pair_width + (columns + 1) * MARGIN
    heading, caption = ImageFont.load_default(TEXT + 2), ImageFont.load_default(TEXT)
    legend_at, legend_end = _legend_places([name for name, _ in legend], caption, width, MARGIN + 2 * TEXT)
    rows = [range(start, min(start + columns, len(pairs))) for start in range(0, len(pairs), columns)]
    heights = [max(pairs[index][0].height for index in row) + 2 * TEXT + MARGIN for row in rows]
    sheet = Image.new("RGB", (width, legend_end + sum(heights) + MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN - 4), title, fill="black", font=_fitting(title, heading, width - 2 * MARGIN))
    for (name, colour), (x, y) in zip(legend, legend_at, strict=True):
        pen.rectangle([x, y + 2, x + TEXT, y + 2 + TEXT], fill=colour, outline="black")
        pen.text((x + TEXT + 6, y), name, fill="black", font=caption)
    top = legend_end
    for row, height in zip(rows, heights, strict=True):
        for column, index in enumerate(row):
            x = MARGIN + column * (pair_width + MARGIN)
            for offset, text, picture in zip((0, PANEL + 4), captions[index], pairs[index], strict=True):
                pen.text((x + offset, top + 4), text, fill="black", font=_fitting(text, caption, PANEL))
                sheet.paste(picture, (x + offset, top + 2 * TEXT))
        top += height
    return sheet


def _legend_places(
    names: list[str], font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int, top: int
) -> tuple[list[tuple[int, int]], int]:
    """Where each entry begins, in lines no wider than the sheet, and where the legend ends."""
    places, x, y = [], MARGIN, top
    for name in names:
        entry = TEXT + 6 + int(font.getlength(name)) + 18
        if x > MARGIN and x + entry > width:
            x, y = MARGIN, y + TEXT + 8
        places.append((x, y))
        x += entry
    return places, y + TEXT + MARGIN


def _fitting(
    text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """`font`, or a smaller one in which `text` is no wider than `width` (down to 8 pixels)."""
    size = getattr(font, "size", TEXT)
    while size > 8 and font.getlength(text) > width:
        size -= 1
        font = ImageFont.load_default(size)
    return font
