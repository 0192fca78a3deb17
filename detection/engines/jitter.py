"""An image for training a trunk: flipped, resized at random and cut, in one way for every engine.

On a canvas: large-scale jittering (Ghiasi et al., arXiv 2012.07177) as ViTDet has it (facebookresearch/detectron2:
projects/ViTDet/configs/common/coco_loader_lsj.py; detectron2/data/transforms/augmentation_impl.py, ResizeScale,
FixedSizeCrop). At any size: the shorter side of several lengths, and of a share of images a piece that is cut out
before, as DETR has it (SwinTransformer/Swin-Transformer-Object-Detection: configs/swin/*_mstrain_480-800_*.py, with
MMDetection's RandomCrop of "absolute_range").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detection.recipe import Maps, OnTrunk, ViTDet
from transfer.datasets.boxes.detection import DetectionImage
from transfer.datasets.boxes.masks import Mask

SMALLEST_SIDE = 1e-5  # pixels; Detectron2: detectron2/data/detection_utils.py, filter_empty_instances
Frame = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Jittered:
    """What is seen of an image.

    Attributes:
        pixels: uint8 [h, w, 3].
        boxes: float32 [k, 4] of the objects that are seen, cut to the piece; with masks around what is left of them.
        labels: int64 [k].
        masks: of each, in the frame of the piece; polygons stay polygons.
        flipped: whether left and right were changed.
    """

    pixels: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: tuple[Mask, ...]
    flipped: bool


def jittered(image: DetectionImage, pixels: NDArray[np.uint8], recipe: OnTrunk, masks: bool = False) -> Jittered:
    """Draws from numpy's global generator: the flip, the sizes, the piece.

    Args:
        pixels: of the image, uint8 [height, width, 3].
        masks: whether they are wanted. On a canvas boxes are then drawn anew around what is left of them.
    """
    flipped = bool(np.random.uniform() < recipe.flip)
    if isinstance(recipe, ViTDet):
        place = _on_canvas(image, recipe, flipped)
    else:
        assert isinstance(recipe, Maps)  # there are no others
        place = _at_a_size(image, recipe, flipped)
    boxes = place.boxes(image.boxes)
    moved = [place.mask(mask) for mask in image.masks or ()] if masks else []
    if masks and isinstance(recipe, ViTDet):
        boxes = np.array([_bounds(mask) for mask in moved], np.float32).reshape(-1, 4)
    seen = np.asarray((boxes[:, 2:] - boxes[:, :2] > SMALLEST_SIDE).all(axis=1))
    if masks and not isinstance(recipe, ViTDet):
        seen &= [bool(mask.polygons) or bool(mask.pixels().any()) for mask in moved]
    return Jittered(
        place.pixels(pixels),
        boxes[seen],
        image.labels[seen],
        tuple(mask for mask, whether in zip(moved, seen.tolist(), strict=False) if whether),
        flipped,
    )


def _on_canvas(image: DetectionImage, recipe: ViTDet, flipped: bool) -> _Place:
    scale = float(np.random.uniform(*recipe.scales))
    along = float(np.random.uniform())  # one number for both directions, as in FixedSizeCrop
    height, width = (
        max(1, round(side * scale * recipe.canvas / max(image.height, image.width)))
        for side in (image.height, image.width)
    )
    top, left = (round(max(0, side - recipe.canvas) * along) for side in (height, width))
    bottom, right = (min(side, start + recipe.canvas) for side, start in ((height, top), (width, left)))
    return _Place(image, (height, width), (top, left, bottom, right), (bottom - top, right - left), flipped)


def _at_a_size(image: DetectionImage, recipe: Maps, flipped: bool) -> _Place:
    sides = image.height, image.width
    if not np.random.uniform() < recipe.crop_share:
        whole = _resized(sides, int(np.random.choice(recipe.train_sizes)), recipe.max_size)
        return _Place(image, whole, (0, 0, *whole), whole, flipped)
    whole = _resized(sides, int(np.random.choice(recipe.crop_sizes)), recipe.max_size)
    least, most = recipe.crop_range
    piece = [int(np.random.randint(min(side, least), min(side, most) + 1)) for side in whole]
    starts = [int(np.random.randint(0, side - length + 1)) for side, length in zip(whole, piece, strict=True)]
    final = _resized((piece[0], piece[1]), int(np.random.choice(recipe.train_sizes)), recipe.max_size)
    return _Place(image, whole, (*starts, starts[0] + piece[0], starts[1] + piece[1]), final, flipped)  # type: ignore[arg-type]


def _resized(sides: tuple[int, int], shorter: int, longest: int) -> tuple[int, int]:
    """(height, width) whose shorter side has that length, or whose longer one is the longest that is allowed."""
    factor = min(shorter / min(sides), longest / max(sides))
    height, width = (max(1, int(side * factor + 0.5)) for side in sides)
    return height, width


@dataclass(frozen=True)
class _Place:
    """Where a piece lies in its image.

    Attributes:
        size: (height, width) of the whole image once it is resized.
        piece: (top, left, bottom, right) in it.
        final: (height, width) that the piece is resized to.
        flipped: before all of that.
    """

    image: DetectionImage
    size: tuple[int, int]
    piece: tuple[int, int, int, int]
    final: tuple[int, int]
    flipped: bool

    def pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Of the image → of the piece, by Pillow's bilinear filter, which averages when it shrinks."""
        top, left, bottom, right = self.piece
        turned = Image.fromarray(np.ascontiguousarray(pixels[:, ::-1]) if self.flipped else pixels)
        whole = turned.resize(self.size[::-1], Image.Resampling.BILINEAR)
        made = whole.crop((left, top, right, bottom)).resize(self.final[::-1], Image.Resampling.BILINEAR)
        return np.ascontiguousarray(made)

    def points(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """(x, y) [k, 2] of the image → of the piece, which they may lie outside of."""
        height, width = self.size
        top, left, bottom, right = self.piece
        moved = points * (width / self.image.width, height / self.image.height)
        if self.flipped:
            moved[:, 0] = width - moved[:, 0]
        return (moved - (left, top)) * (self.final[1] / (right - left), self.final[0] / (bottom - top))

    def boxes(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """The same of boxes [n, 4], cut to the piece."""
        corners = self.points(boxes.reshape(-1, 2).astype(np.float64)).reshape(-1, 2, 2)
        sides = [corners.min(1).clip(0, self.final[::-1]), corners.max(1).clip(0, self.final[::-1])]
        return np.concatenate(sides, 1).astype(np.float32).reshape(-1, 4)

    def mask(self, mask: Mask) -> Mask:
        """The same of a mask."""
        height, width = self.final
        if mask.polygons:
            moved = [self.points(polygon.reshape(-1, 2)) for polygon in mask.polygons]
            cut = [_cut(polygon, width, height) for polygon in moved]
            kept = tuple(polygon.ravel() for polygon in cut if len(polygon) >= 3)
            return Mask(height, width, kept) if kept else Mask.from_pixels(np.zeros((height, width), np.bool_))
        # Pillow's nearest pixel, as in Detectron2's ResizeTransform.apply_segmentation
        top, left, bottom, right = self.piece
        whole = mask.pixels()
        picture = Image.fromarray((whole[:, ::-1] if self.flipped else whole).astype(np.uint8))
        resized = picture.resize(self.size[::-1], Image.Resampling.NEAREST).crop((left, top, right, bottom))
        return Mask.from_pixels(np.asarray(resized.resize((width, height), Image.Resampling.NEAREST), np.bool_))


def _cut(points: NDArray[np.float64], width: int, height: int) -> NDArray[np.float64]:
    """The part of a polygon [k, 2] within (0, 0, width, height), side by side (Sutherland and Hodgman, 1974)."""
    for axis, limit, sign in ((0, 0, 1), (0, width, -1), (1, 0, 1), (1, height, -1)):
        if not len(points):
            break
        inside = sign * (points[:, axis] - limit) >= 0
        found = []
        for here, there, one, other in zip(points, np.roll(points, -1, 0), inside, np.roll(inside, -1), strict=True):
            if one:
                found.append(here)
            if one != other:
                found.append(here + (there - here) * ((limit - here[axis]) / (there[axis] - here[axis])))
        points = np.array(found).reshape(-1, 2)
    return points


def _bounds(mask: Mask) -> Frame:
    """The box around a mask; of an empty one it has no area."""
    if mask.polygons:
        points = np.concatenate([polygon.reshape(-1, 2) for polygon in mask.polygons])
        return (*points.min(0), *points.max(0))
    rows, columns = np.nonzero(mask.pixels())
    if not len(rows):
        return (0.0, 0.0, 0.0, 0.0)
    return (float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1))
