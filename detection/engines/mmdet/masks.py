"""`Mask`s as MMDetection's Mask R-CNN is trained on them, resized and flipped with their image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from numpy.typing import NDArray
from PIL import Image

from transfer.datasets.boxes.detection import DetectionDataset
from transfer.datasets.boxes.masks import Mask

MaskFormat = Literal["polygon", "bitmask"]


def mask_format(dataset: DetectionDataset) -> MaskFormat:
    """ "bitmask" for all as soon as one object has run lengths, as in the Detectron2 engine.

    Polygons are cut to the regions as polygons and drawn at the mask head's resolution; bit masks are resized with the
    image, polygons among them drawn at its size first.
    """
    masks = (mask for image in dataset.images for mask in image.masks or ())
    return "bitmask" if any(not mask.polygons for mask in masks) else "polygon"


def training_masks(
    masks: Sequence[Mask], shape: tuple[int, int], flipped: bool, kind: MaskFormat
) -> PolygonMasks | BitmapMasks:
    """The masks of an image that was resized to `shape`, (height, width), and then perhaps flipped left to right."""
    moved = [_moved(mask, shape, flipped) for mask in masks]
    if kind == "polygon":
        return PolygonMasks([list(mask.polygons) for mask in moved], *shape)
    pixels = [mask.pixels() if mask.polygons else _moved_pixels(mask, shape, flipped) for mask in moved]
    return BitmapMasks(np.array(pixels, np.uint8).reshape(-1, *shape), *shape)


def _moved(mask: Mask, shape: tuple[int, int], flipped: bool) -> Mask:
    """Polygons in the new coordinates; run lengths as they are."""
    if not mask.polygons:
        return mask
    height, width = shape
    polygons = []
    for polygon in mask.polygons:
        points = polygon.reshape(-1, 2) * (width / mask.width, height / mask.height)
        if flipped:
            points[:, 0] = width - points[:, 0]
        polygons.append(points.ravel())
    return Mask(height, width, tuple(polygons))


def _moved_pixels(mask: Mask, shape: tuple[int, int], flipped: bool) -> NDArray[np.bool_]:
    # Pillow's nearest pixel, as in Detectron2's ResizeTransform.apply_segmentation; OpenCV takes another one.
    resized = Image.fromarray(mask.pixels().astype(np.uint8)).resize(shape[::-1], Image.Resampling.NEAREST)
    pixels = np.asarray(resized, np.bool_)
    return pixels[:, ::-1] if flipped else pixels
