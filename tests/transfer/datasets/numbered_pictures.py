"""Pictures that carry their number in their pixels, in every format, pixel type and EXIF orientation.

Cells of dark and light survive JPEG; the corners tell how a picture has been turned.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Box = tuple[int, int, int, int]
LONG, SHORT = 4, 3  # cells along the sides; a square has 4 × 4
DARK, LIGHT = 40, 215


def _cells(size: tuple[int, int]) -> tuple[int, int]:
    """(columns, rows) of a picture as seen."""
    width, height = size
    return LONG if width >= height else SHORT, LONG if height >= width else SHORT


def drawn(number: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """[height, width] as seen: the corner of the first cell is light, the other three dark, between them are bits."""
    columns, rows = _cells(size)
    cells = np.full((rows, columns), DARK, np.uint8)
    cells[0, 0] = LIGHT
    inner = [
        (row, column) for row in range(rows) for column in range(columns) if not _corner(row, column, rows, columns)
    ]
    for bit, place in enumerate(inner[:8]):
        cells[place] = LIGHT if number >> bit & 1 else DARK
    y, x = (np.arange(side) * count // side for side, count in zip(size[::-1], (rows, columns), strict=True))
    return cells[y[:, None], x[None, :]]


def _corner(row: int, column: int, rows: int, columns: int) -> bool:
    return row in (0, rows - 1) and column in (0, columns - 1)


def number_of(pixels: NDArray[np.uint8]) -> int | None:
    """The number in [height, width, 3]; None if the picture is turned, mirrored or not one of ours."""
    height, width = pixels.shape[:2]
    columns, rows = _cells((width, height))
    light = np.zeros((rows, columns), np.bool_)
    for row in range(rows):
        for column in range(columns):
            y, x = int((row + 0.5) * height / rows), int((column + 0.5) * width / columns)
            light[row, column] = pixels[y, x].mean() > (DARK + LIGHT) / 2
    if [bool(light[row, column]) for row in (0, -1) for column in (0, -1)] != [True, False, False, False]:
        return None
    inner = [light[r, c] for r in range(rows) for c in range(columns) if not _corner(r, c, rows, columns)]
    return sum(1 << bit for bit, lit in enumerate(inner[:8]) if lit)


def stored_pixels(seen: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """The rows and columns of the file: EXIF says where its row 0 and column 0 are on the picture as seen."""
    turned = {
        1: seen,  # top, left
        2: seen[:, ::-1],  # top, right
        3: seen[::-1, ::-1],  # bottom, right
        4: seen[::-1],  # bottom, left
        5: seen.T,  # left, top
        6: seen.T[::-1],  # right, top
        7: seen.T[::-1, ::-1],  # right, bottom
        8: seen.T[:, ::-1],  # left, bottom
    }
    return np.ascontiguousarray(turned[orientation])


def stored_box(box: Box, size: tuple[int, int], orientation: int) -> Box:
    """A box on the picture as seen (of that size), on the pixels of the file."""
    (x1, y1, x2, y2), (width, height) = box, size
    left, top = width - x2, height - y2  # distances of the box from the other two sides
    right, bottom = width - x1, height - y1
    return {
        1: (x1, y1, x2, y2),
        2: (left, y1, right, y2),
        3: (left, top, right, bottom),
        4: (x1, top, x2, bottom),
        5: (y1, x1, y2, x2),
        6: (y1, left, y2, right),
        7: (top, left, bottom, right),
        8: (top, x1, bottom, x2),
    }[orientation]


FORMATS = {
    ".jpg": "JPEG",
    ".ppm": "PPM",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".bmp": "BMP",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
MODES = {
    "JPEG": ("L", "RGB", "RGB", "CMYK"),
    "PNG": ("1", "L", "RGB", "RGBA", "P", "I;16"),
    "BMP": ("L", "RGB", "P"),
    "PPM": ("L", "RGB"),
    "WEBP": ("RGB", "RGBA"),
    "TIFF": ("L", "RGB", "CMYK", "I;16"),
}
TURNABLE = ("JPEG", "PNG", "WEBP")  # as which Pillow writes EXIF


def save(
    number: int, size: tuple[int, int], orientation: int, path: Path, draw: random.Random, frames: bool = True
) -> None:
    """Write a picture in the format that its ending says and any pixel type of it; `frames` allows a second one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    form = FORMATS[path.suffix.lower()]
    mode = draw.choice(MODES[form])
    grey = stored_pixels(drawn(number, size), orientation)
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    elif mode == "P":
        image = Image.fromarray(grey).convert("RGB").quantize(8)
    else:
        image = Image.fromarray(grey).convert("RGB").convert(mode, dither=Image.Dither.NONE)
    if mode == "RGBA" and form == "PNG":  # what lies under transparent pixels counts
        image.putalpha(Image.fromarray(255 - grey))
    more: dict[str, Any] = {"quality": 95} if form == "JPEG" else {"lossless": True} if form == "WEBP" else {}
    if orientation > 1:
        exif = Image.Exif()
        exif[0x0112] = orientation
        more["exif"] = exif
    if form in ("PNG", "WEBP", "TIFF") and mode in ("L", "RGB") and frames and draw.random() < 0.1:
        # Of several frames the first counts; the second is another picture.
        other = drawn(255 - number, size)
        frame = Image.fromarray(stored_pixels(other, orientation)).convert(mode)
        more |= {"save_all": True, "append_images": [frame]}
    image.save(path, form, **more)
