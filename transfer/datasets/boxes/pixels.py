"""The pixels of a detection image: the one way of `transfer/datasets/images.py`, checked against the annotation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from transfer.datasets.boxes.detection import DetectionImage
from transfer.datasets.images import read_image
from transfer.runtime.errors import DataError


def read_pixels(image: DetectionImage, channels: str = "RGB") -> NDArray[np.uint8]:
    """The picture as seen, uint8 [height, width, 3], in "RGB" or "BGR" order; its boxes are in this frame.

    Raises:
        DataError: the file cannot be read, or has another size than its annotation says.
    """
    pixels = np.asarray(read_image(image.path, str(image.path)))
    height, width = pixels.shape[:2]
    if (width, height) != (image.width, image.height):
        raise DataError(
            f"{image.path} has another size than its annotation says",
            found=f"{width}×{height} pixels, annotated {image.width}×{image.height}",
            todo="restore the image that was annotated, or correct the annotation",
        )
    return pixels if channels == "RGB" else np.ascontiguousarray(pixels[..., ::-1])
