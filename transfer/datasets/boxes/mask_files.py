"""Masks that are image files: zero is background, other values are objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from faster_coco_eval.core import mask as coco_mask
from numpy.typing import NDArray

from transfer.datasets.boxes.masks import Mask, sized
from transfer.datasets.images import decode
from transfer.runtime.errors import DataError

MODES = ("1", "L", "P", "I", "I;16")  # one channel; the values of a palette image are its indices


def read_values(path: Path, width: int, height: int, what: str) -> NDArray[np.int64]:
    """The stored values, int64 [height, width].

    Args:
        path: a file with one channel, PNG or another lossless format.
        width, height: pixels of the image that it belongs to.
        what: whose mask it is, for errors.

    Raises:
        DataError: the file is missing or broken, has several channels or another size.
    """
    if not path.exists():
        raise DataError(f"no mask of {what}", found=f"no file {path}", todo="put it there")
    try:
        image, orientation = decode(path, str(path))
    except DataError as error:
        raise DataError(
            f"cannot read the mask of {what}", found=f"{path}: {error.found}", todo="replace this file"
        ) from error
    if image.mode not in MODES:
        raise DataError(
            f"the mask of {what} has several channels",
            found=f"mode {image.mode} in {path}",
            todo="save it with one channel: grey, black and white, or palette",
        )
    if orientation != 1:
        # It could be meant for the picture as seen or as stored, and the picture has an orientation of its own.
        raise DataError(
            f"the mask of {what} has an EXIF orientation",
            found=f"orientation {orientation} in {path}",
            todo="save it without EXIF, its values where the boxes of its image are",
        )
    values = np.asarray(image)
    if values.shape != (height, width):
        raise DataError(
            f"the mask of {what} has another size than the image",
            found=f"{values.shape[1]} × {values.shape[0]} in {path}, the image has {width} × {height}",
            todo="draw the mask in the frame of the boxes, with their image's annotated width and height",
        )
    return values.astype(np.int64)


def read_object(path: Path, width: int, height: int, what: str) -> NDArray[np.bool_]:
    """Bool [height, width]: where the file of one object is not zero; arguments as of `read_values`.

    Raises:
        DataError: as `read_values`, or no pixel is set.
    """
    pixels: NDArray[np.bool_] = read_values(path, width, height, what) != 0
    if not pixels.any():
        raise DataError(
            f"the mask of {what} is empty", found=f"every pixel of {path} is 0", todo="draw it, or remove the object"
        )
    return pixels


def area_of(mask: Mask) -> float:
    """Pixels of a mask, as drawn."""
    return float(coco_mask.area(sized(mask.rle(), mask.height, mask.width)))
