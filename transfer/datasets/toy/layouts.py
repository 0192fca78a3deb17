"""Writers of the toy scenes in the layouts that people's data sets have: VOC, COCO, folders by class."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from transfer.datasets.toy.scene import Mask, Scene, ToyObject


def write_voc(root: Path, splits: dict[str, list[tuple[str, Scene]]], classes: Sequence[str]) -> None:
    """`Annotations`, `JPEGImages` and `ImageSets/Main`; `trainval` is written as the union of `train` and `val`."""
    lists = root / "ImageSets" / "Main"
    for folder in (root / "Annotations", root / "JPEGImages", lists):
        folder.mkdir(parents=True)
    for split, scenes in splits.items():
        for name, scene in scenes:
            write_jpeg(root / "JPEGImages" / f"{name}.jpg", scene.pixels)
            (root / "Annotations" / f"{name}.xml").write_text(_voc_xml(name, scene, classes), encoding="utf-8")
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name, _ in scenes), encoding="utf-8")
    trainval = [name for split in ("train", "val") for name, _ in splits[split]]
    (lists / "trainval.txt").write_text("".join(f"{name}\n" for name in trainval), encoding="utf-8")


def _voc_xml(name: str, scene: Scene, classes: Sequence[str]) -> str:
    height, width = scene.pixels.shape[:2]
    root = ET.Element("annotation")
    for tag, text in (("folder", "voc"), ("filename", f"{name}.jpg")):
        ET.SubElement(root, tag).text = text
    _numbers(ET.SubElement(root, "size"), width=width, height=height, depth=3)
    ET.SubElement(root, "segmented").text = "0"
    for item in scene.objects:
        node = ET.SubElement(root, "object")
        ET.SubElement(node, "name").text = classes[item.label]
        ET.SubElement(node, "pose").text = "Unspecified"
        _numbers(node, truncated=0, difficult=int(item.difficult))
        x1, y1, x2, y2 = item.box()
        _numbers(ET.SubElement(node, "bndbox"), xmin=x1 + 1, ymin=y1 + 1, xmax=x2, ymax=y2)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


def _numbers(node: ET.Element, **values: int) -> None:
    for tag, value in values.items():
        ET.SubElement(node, tag).text = str(value)


def write_coco(root: Path, splits: dict[str, list[tuple[str, Scene]]], classes: Sequence[str]) -> None:
    """`annotations/instances_<split>2017.json` and `<split>2017/`, category ids from 1, as in COCO 2017."""
    (root / "annotations").mkdir(parents=True)
    for split, scenes in splits.items():
        (root / f"{split}2017").mkdir()
        images: list[dict[str, object]] = []
        annotations: list[dict[str, object]] = []
        for image_id, (name, scene) in enumerate(scenes, 1):
            write_jpeg(root / f"{split}2017" / f"{name}.jpg", scene.pixels)
            height, width = scene.pixels.shape[:2]
            images.append({"id": image_id, "file_name": f"{name}.jpg", "width": width, "height": height})
            items = [*scene.objects, *([scene.crowd] if scene.crowd else [])]
            for item in items:
                record = _coco_annotation(item, crowd=item is scene.crowd)
                annotations.append({"id": len(annotations) + 1, "image_id": image_id, **record})
        categories = [{"id": index, "name": name, "supercategory": "toy"} for index, name in enumerate(classes, 1)]
        document = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(document), encoding="utf-8")


def _coco_annotation(item: ToyObject, crowd: bool) -> dict[str, object]:
    x1, y1, x2, y2 = item.box()
    common = {"category_id": item.label + 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": int(crowd)}
    if crowd:
        size = list(item.visible.shape)
        counts = run_lengths(item.visible)
        return {**common, "area": int(item.visible.sum()), "segmentation": {"size": size, "counts": counts}}
    rings = outlines(item.visible)
    return {**common, "area": sum(area for area, _ in rings), "segmentation": [points for _, points in rings]}


def run_lengths(mask: Mask) -> list[int]:
    """COCO's uncompressed RLE: lengths of alternating runs of 0 and 1 down the columns, beginning with 0."""
    flat = np.concatenate([[False], mask.ravel(order="F"), [False]])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    ends = np.concatenate([[0], changes, [mask.size]])
    lengths: list[int] = np.diff(ends).tolist()
    return lengths[:-1] if lengths[-1] == 0 else lengths


def outlines(mask: Mask) -> list[tuple[int, list[int]]]:
    """(area, [x, y, x, y, …]) of every connected piece of a mask, along the edges of its pixels; holes are filled.

    Pixel (x, y) is the square from (x, y) to (x + 1, y + 1). Each boundary edge is directed so that the inside lies
    on its right; following them gives closed rings, clockwise around pieces and counter-clockwise around holes.
    """
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    # Direction of the edge → (pixels that have it, where it begins and ends relative to the pixel).
    sides: tuple[tuple[NDArray[np.bool_], tuple[int, int], tuple[int, int]], ...] = (
        (inside & ~padded[:-2, 1:-1], (0, 0), (1, 0)),
        (inside & ~padded[1:-1, 2:], (1, 0), (1, 1)),
        (inside & ~padded[2:, 1:-1], (1, 1), (0, 1)),
        (inside & ~padded[1:-1, :-2], (0, 1), (0, 0)),
    )
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for has_edge, (bx, by), (ex, ey) in sides:
        for y, x in np.argwhere(has_edge).tolist():
            following.setdefault((x + bx, y + by), []).append((x + ex, y + ey))
    rings = []
    while following:
        ring = _ring(following)
        area = _area(ring)
        if area > 0:
            rings.append((area, [number for point in ring for number in point]))
    return rings


def _ring(following: dict[tuple[int, int], list[tuple[int, int]]]) -> list[tuple[int, int]]:
    """Take one closed ring out of `following`; points in the middle of straight runs are left out."""
    start = min(following)
    ring, here, came = [start], start, (0, 0)
    while True:
        ways = following[here]
        # Where two pieces touch at a corner, turning right stays on the same piece.
        right = (here[0] - came[1], here[1] + came[0])
        there = right if right in ways else ways[0]
        ways.remove(there)
        if not ways:
            del following[here]
        step = (there[0] - here[0], there[1] - here[1])
        if step == came:
            ring.pop()
        if there == start and start not in following:
            return ring
        ring.append(there)
        here, came = there, step


def _area(ring: Sequence[tuple[int, int]]) -> int:
    """Area inside of a clockwise ring (y points down); negative for counter-clockwise ones."""
    return sum(x * v - u * y for (x, y), (u, v) in zip(ring, [*ring[1:], ring[0]], strict=True)) // 2


def write_folders(root: Path, splits: dict[str, list[tuple[str, str, NDArray[np.uint8]]]]) -> None:
    """`<split>/<class>/<name>.jpg` for (class, name, pixels)."""
    for split, rows in splits.items():
        for label, name, pixels in rows:
            (root / split / label).mkdir(parents=True, exist_ok=True)
            write_jpeg(root / split / label / f"{name}.jpg", pixels)


def write_jpeg(path: Path, pixels: NDArray[np.uint8]) -> None:
    """The same pixels always give the same bytes (under the same version of Pillow)."""
    Image.fromarray(pixels).save(path, quality=80)
