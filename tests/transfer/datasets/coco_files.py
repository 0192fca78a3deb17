"""A small data set in COCO layout that a test changes in one place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from transfer.datasets.boxes.coco import read_coco
from transfer.datasets.boxes.detection import DetectionDataset

SQUARE = [[10, 10, 30, 10, 30, 20, 10, 20]]  # 20 × 10 pixels


def annotation(number: int, image: int, category: int, **changes: Any) -> dict[str, Any]:
    """A box of 20 × 10 at (10, 10) with its polygon; `changes` replace fields, None takes one out."""
    entry = {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [10, 10, 20, 10],
        "area": 200.0,
        "iscrowd": 0,
        "segmentation": SQUARE,
    } | changes
    return {key: value for key, value in entry.items() if value is not None}


def document() -> dict[str, Any]:
    """Ids neither contiguous nor in order: images 7 (b.jpg), 0 (a.jpg), 3 (c.jpg, no objects); categories 5, 2, 9."""
    return {
        "info": {"description": "test"},
        "images": [
            {"id": 7, "file_name": "b.jpg", "width": 100, "height": 80},
            {"id": 0, "file_name": "a.jpg", "width": 60, "height": 50},
            {"id": 3, "file_name": "c.jpg", "width": 40, "height": 40},
        ],
        "categories": [{"id": 5, "name": "owl"}, {"id": 2, "name": "zebra"}, {"id": 9, "name": "bee"}],
        "annotations": [annotation(11, 7, 5), annotation(4, 0, 9), annotation(12, 7, 2)],
    }


class CocoFolder:
    """`instances.json` and `images/` in a folder; change `document`, then `read`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path, self.images = folder, folder / "instances.json", folder / "images"
        self.document = document()
        self.images.mkdir()
        for entry in self.document["images"]:
            self.image(entry["file_name"], entry["width"], entry["height"])

    def image(self, name: str, width: int, height: int) -> None:
        (self.images / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, height)).save(self.images / name)

    @property
    def first(self) -> dict[str, Any]:
        """Annotation 11, an owl in b.jpg (100 × 80)."""
        return self.document["annotations"][0]

    def read(self, masks: bool = True, **options: Any) -> DetectionDataset:
        self.path.write_text(json.dumps(self.document), encoding="utf-8")
        return read_coco(self.path, self.images, "test", masks=masks, **options)


def uncompressed(pixels: np.ndarray) -> dict[str, Any]:
    """COCO's run lengths as a list, the plainest way: pixel by pixel, column by column."""
    counts, value = [0], False
    for pixel in pixels.ravel(order="F").tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"size": list(pixels.shape), "counts": counts}
