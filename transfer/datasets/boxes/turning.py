"""Boxes, polygons and masks turned as an EXIF orientation turns a picture."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transfer.datasets.boxes.masks import Mask

BACK = {6: 8, 8: 6}  # every other orientation undoes itself


def turn_points(points: NDArray[Any], width: float, height: float, orientation: int) -> NDArray[np.float64]:
    """Points of the stored frame in the frame as seen, float64 [n, 2].

    Args:
        points: [n, 2], (x, y) from the upper left corner; the lower right one is (width, height).
        width, height: of the stored frame.
        orientation: 1 to 8 (EXIF 2.32, tag Orientation: where row 0 and column 0 of the stored pixels are seen).
    """
    x, y = points[:, 0].astype(np.float64), points[:, 1].astype(np.float64)
    if orientation in (2, 3, 7, 8):
        x = width - x
    if orientation in (3, 4, 6, 7):
        y = height - y
    return np.stack((y, x) if orientation >= 5 else (x, y), axis=1)


def turn_boxes(boxes: NDArray[np.float32], width: int, height: int, orientation: int) -> NDArray[np.float32]:
    """Boxes (x1, y1, x2, y2) with exclusive ends, float32 [n, 4], turned; arguments as of `turn_points`."""
    if orientation == 1:
        return boxes
    ends = [turn_points(boxes[:, columns], width, height, orientation) for columns in (slice(0, 2), slice(2, 4))]
    return np.concatenate([np.minimum(*ends), np.maximum(*ends)], axis=1).astype(np.float32)


def turn_pixels(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """A picture or a mask [height, width, …] turned."""
    if orientation in (2, 3, 7, 8):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 6, 7):
        pixels = pixels[::-1]
    return pixels.swapaxes(0, 1) if orientation >= 5 else pixels


def turn_mask(mask: Mask, orientation: int) -> Mask:
    """Polygons turn corner by corner, run lengths pixel by pixel."""
    if orientation == 1:
        return mask
    if not mask.polygons:
        return Mask.from_pixels(turn_pixels(mask.pixels(), orientation))
    height, width = (mask.width, mask.height) if orientation >= 5 else (mask.height, mask.width)
    polygons = tuple(
        turn_points(polygon.reshape(-1, 2), mask.width, mask.height, orientation).reshape(-1)
        for polygon in mask.polygons
    )
    return dataclasses.replace(mask, height=height, width=width, polygons=polygons)
