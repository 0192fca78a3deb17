"""Reading the image files of a data set: one way for every engine, checked against the annotation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from transfer.datasets.detection import DetectionImage
from transfer.errors import DataError


def read_pixels(image: DetectionImage, channels: str = "RGB") -> NDArray[np.uint8]:
    """The stored pixels, uint8 [height, width, 3], in "RGB" or "BGR" order.

    EXIF orientation is not applied: the boxes of VOC and COCO are drawn on the pixels as they are stored.

    Raises:
        DataError: the file cannot be read, or has another size than its annotation says.
    """
    try:
        with Image.open(image.path) as file:
            pixels = np.asarray(file.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            f"cannot read the image {image.path}",
            found=str(error),
            todo="copy or download this file again, or take the image out of the split",
        ) from error
    height, width = pixels.shape[:2]
    if (width, height) != (image.width, image.height):
        raise DataError(
            f"{image.path} has another size than its annotation says",
            found=f"{width}×{height} pixels, annotated {image.width}×{image.height}",
            todo="restore the image that was annotated, or correct the annotation",
        )
    return pixels if channels == "RGB" else np.ascontiguousarray(pixels[..., ::-1])
