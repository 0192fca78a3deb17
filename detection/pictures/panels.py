"""Pictures with boxes and masks on them, laid out in pairs on a sheet."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFilter
from PIL.ImageFont import FreeTypeFont as Font

from transfer.datasets.boxes.detection import DetectionDataset, DetectionImage, Detections
from transfer.datasets.boxes.masks import Mask
from transfer.datasets.boxes.pixels import read_pixels
from transfer.runtime.files import write_atomically
from transfer.runtime.letters import drawable, font

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
NAMES_UP_TO = 10  # boxes in a panel; above that the colour names the class
LEGEND_ALL_UP_TO = 24  # classes; above that the legend has only those in the pictures
PAIRS_PER_ROW = 2
DASH = 6
MASK_ALPHA = 0.4


@dataclass(frozen=True)
class Shape:
    """One object or detection to be drawn.

    Attributes:
        corners: (x1, y1, x2, y2) in pixels of the picture as seen.
        label: class index; gives the colour.
        text: written at the box where there is room; may be empty.
        dashed: an object that the evaluation ignores.
        mask: drawn under the box; None where there is none.
    """

    corners: Rectangle
    label: int
    text: str
    dashed: bool = False
    mask: Mask | None = None


@dataclass(frozen=True)
class PanelPair:
    """Two panels side by side with their captions."""

    left: Image.Image
    right: Image.Image
    captions: tuple[str, str]


def class_colour(label: int) -> Colour:
    """The same colour for the same class index on every sheet."""
    if label < len(PALETTE):
        return PALETTE[label]
    hue = (label * 0.618034) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.55 + 0.45 * (label % 2), 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def detected_mask(detections: Detections, row: int, image: DetectionImage) -> Mask | None:
    """The mask of detection number `row`, which is on `image`; None from detectors without masks."""
    return None if detections.masks is None else Mask(image.height, image.width, counts=detections.masks[row])


def draw_pair(
    image: DetectionImage, left: Sequence[Shape], right: Sequence[Shape], captions: tuple[str, str]
) -> PanelPair:
    """The image twice, each with its shapes; the last shapes lie on top.

    Raises:
        DataError: the image cannot be read.
    """
    picture, scale = _picture(image)
    return PanelPair(_panel(picture, scale, left), _panel(picture, scale, right), captions)


def write_sheet(
    path: Path, dataset: DetectionDataset, title: str, labels: set[int], pairs: Sequence[PanelPair]
) -> None:
    """Write a PNG with a heading, a legend of the classes and the pairs; whole or not at all.

    Args:
        path: the PNG.
        dataset: whose class names the legend has.
        title: the heading.
        labels: the classes in the pictures; the legend of a data set with few classes has all.
        pairs: may be none.
    """
    shown = range(len(dataset.classes)) if len(dataset.classes) <= LEGEND_ALL_UP_TO else sorted(labels)
    legend = [(drawable(dataset.classes[label]), class_colour(label)) for label in shown]
    sheet = _compose(drawable(title), legend, pairs)
    write_atomically(path, lambda file: sheet.save(file, "PNG"))


# -- drawing -----------------------------------------------------------------------------------------------------


def _picture(image: DetectionImage) -> tuple[Image.Image, float]:
    """The image as seen, its longest side `PANEL` pixels, and the factor by which it was scaled."""
    picture = Image.fromarray(read_pixels(image))
    scale = PANEL / max(picture.size)
    size = tuple(max(1, round(side * scale)) for side in picture.size)
    return picture.resize((size[0], size[1]), Image.Resampling.LANCZOS), scale


def _panel(picture: Image.Image, scale: float, boxes: Sequence[Shape]) -> Image.Image:
    panel = picture.copy()
    for box in boxes:
        if box.mask is not None:
            _fill(panel, box.mask, class_colour(box.label))
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
            _write(pen, panel.size, drawable(box.text), corners, class_colour(box.label), taken)
    return panel


def _fill(panel: Image.Image, mask: Mask, colour: Colour) -> None:
    """The mask's pixels in a translucent colour, their rim in the full one."""
    inside = Image.fromarray(mask.pixels()).convert("L").resize(panel.size, Image.Resampling.BOX)
    inside = inside.point(lambda value: 255 * (value >= 128))
    rim = ImageChops.subtract(inside, inside.filter(ImageFilter.MinFilter(3)))
    panel.paste(colour, mask=inside.point(lambda value: round(MASK_ALPHA * value)))
    panel.paste(colour, mask=rim)


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
    small = font(TEXT - 2)
    left, top, right, bottom = small.getbbox(text)
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
    pen.text((x + 3 - left, y + 2 - top), text, fill=_ink_on(colour), font=small)


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    """Whether two rectangles (x, y, width, height) share a pixel."""
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]


def _ink_on(colour: Colour) -> Colour:
    red, green, blue = colour
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 110 else (255, 255, 255)


def _compose(title: str, legend: list[tuple[str, Colour]], pairs: Sequence[PanelPair]) -> Image.Image:
    """Heading, legend, and the pairs in rows as high as their highest picture."""
    columns = max(1, min(PAIRS_PER_ROW, len(pairs)))
    pair_width = 2 * PANEL + 4
    width = columns * pair_width + (columns + 1) * MARGIN
    heading, caption = font(TEXT + 2), font(TEXT)
    legend_at, legend_end = _legend_places([name for name, _ in legend], caption, width, MARGIN + 2 * TEXT)
    rows = [pairs[start : start + columns] for start in range(0, len(pairs), columns)]
    heights = [max(pair.left.height for pair in row) + 2 * TEXT + MARGIN for row in rows]
    sheet = Image.new("RGB", (width, legend_end + sum(heights) + MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN - 4), title, fill="black", font=_fitting(title, heading, width - 2 * MARGIN))
    for (name, colour), (x, y) in zip(legend, legend_at, strict=True):
        pen.rectangle([x, y + 2, x + TEXT, y + 2 + TEXT], fill=colour, outline="black")
        pen.text((x + TEXT + 6, y), name, fill="black", font=caption)
    top = legend_end
    for row, height in zip(rows, heights, strict=True):
        for column, pair in enumerate(row):
            x = MARGIN + column * (pair_width + MARGIN)
            captions = map(drawable, pair.captions)
            for offset, text, picture in zip((0, PANEL + 4), captions, (pair.left, pair.right), strict=True):
                pen.text((x + offset, top + 4), text, fill="black", font=_fitting(text, caption, PANEL))
                sheet.paste(picture, (x + offset, top + 2 * TEXT))
        top += height
    return sheet


def _legend_places(names: list[str], caption: Font, width: int, top: int) -> tuple[list[tuple[int, int]], int]:
    """Where each entry begins, in lines no wider than the sheet, and where the legend ends."""
    places, x, y = [], MARGIN, top
    for name in names:
        entry = TEXT + 6 + int(caption.getlength(name)) + 18
        if x > MARGIN and x + entry > width:
            x, y = MARGIN, y + TEXT + 8
        places.append((x, y))
        x += entry
    return places, y + TEXT + MARGIN


def _fitting(text: str, wanted: Font, width: int) -> Font:
    """`wanted`, or a smaller one in which `text` is no wider than `width` (down to 8 pixels)."""
    size = int(wanted.size)
    while size > 8 and font(size).getlength(text) > width:
        size -= 1
    return font(size)
