"""The pixels of one object: polygons or COCO's compressed run lengths, in the image's coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as coco_mask  # needs numpy only; pycocotools has the same kernels
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Mask:
    """One object's mask; either `polygons` or `counts` is filled.

    Attributes:
        height, width: pixels of the image.
        polygons: each float64 [2k], k ≥ 3, (x1, y1, x2, y2, …); pixels inside any of them belong to the object.
        counts: run lengths, column by column, compressed as in COCO's files (cocoapi: common/maskApi.c).
    """

    height: int
    width: int
    polygons: tuple[NDArray[np.float64], ...] = ()
    counts: bytes = b""

    @staticmethod
    def from_pixels(pixels: NDArray[np.bool_]) -> Mask:
        """The mask of a bool array [height, width]."""
        encoded = coco_mask.encode(np.asfortranarray(pixels, dtype=np.uint8))
        return Mask(pixels.shape[0], pixels.shape[1], counts=bytes(encoded["counts"]))

    def rle(self) -> bytes:
        """Compressed run lengths; polygons are drawn as COCO's own code draws them."""
        if not self.polygons:
            return self.counts
        parts = coco_mask.frPyObjects([polygon.tolist() for polygon in self.polygons], self.height, self.width)
        return bytes(coco_mask.merge(parts)["counts"])

    def pixels(self) -> NDArray[np.bool_]:
        """Bool [height, width]."""
        decoded: NDArray[np.uint8] = coco_mask.decode(sized(self.rle(), self.height, self.width))
        return decoded.astype(np.bool_)

    def to_coco(self) -> list[list[float]] | dict[str, Any]:
        """What COCO's files hold under `segmentation`."""
        if self.polygons:
            return [polygon.tolist() for polygon in self.polygons]
        return {"size": [self.height, self.width], "counts": self.counts.decode("ascii")}


def sized(counts: bytes, height: int, width: int) -> dict[str, Any]:
    """Run lengths as the COCO libraries take them."""
    return {"size": [height, width], "counts": counts}
