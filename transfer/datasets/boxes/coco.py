"""COCO instances JSON → `DetectionDataset`: strict about what cannot be trusted, explicit about what it mended.

Layout: one JSON file (cocodataset.org: "Object Detection" data format) and one folder of images, which may be the same.
Detectron2 reads the same files (detectron2/data/datasets/coco.py), and so does pycocotools.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from transfer.datasets.boxes.box_limits import BoxLimits, Corners
from transfer.datasets.boxes.coco_areas import DRAWN, AreaCheck
from transfer.datasets.boxes.coco_images import locate
from transfer.datasets.boxes.coco_layout import coco_splits
from transfer.datasets.boxes.coco_masks import MaskReader
from transfer.datasets.boxes.coco_records import CocoImage, CocoRecords, Json, read_records
from transfer.datasets.boxes.detection import DetectionDataset, DetectionImage
from transfer.datasets.boxes.mask_files import area_of
from transfer.datasets.boxes.masks import Mask
from transfer.datasets.boxes.orientation import ExifFrame, Frames, as_seen
from transfer.datasets.headers import read_headers
from transfer.datasets.images import Header
from transfer.datasets.wording import counted, few
from transfer.runtime.errors import DataError

__all__ = ["OFFICIAL_COUNTS", "coco_splits", "read_coco"]

logger = logging.getLogger(__name__)

SHOWN = 5  # objects of one kind of fault that are named; all are counted

# Images per official file (cocodataset.org).
OFFICIAL_COUNTS = {
    "instances_train2017.json": 118_287,
    "instances_val2017.json": 5_000,
    "instances_train2014.json": 82_783,
    "instances_val2014.json": 40_504,
}


def read_coco(
    annotations: Path,
    images: Path,
    name: str,
    *,
    masks: bool,
    clip_boxes: bool = False,
    exif: ExifFrame | None = None,
    classes_like: DetectionDataset | None = None,
) -> DetectionDataset:
    """One data set from a COCO instances file and the folder of its images.

    Images are sorted by name (`file_name` without suffix), classes by their category id. A name that is no file of the
    images folder is read as `coco_images` says, and noted; it never leads to one of two files. Images
    without annotations are kept, their detections count as false. Every image file is looked for and the size in its
    header compared with the JSON's before anything else is done: a folder that was resized would otherwise show in the
    middle of a training.

    Boxes without area are dropped, boxes at most one pixel beyond the image are clipped; both are logged and listed in
    the data set's notes. Where `area` is missing, that of the mask is taken, without masks that of the
    box; areas that cannot be right are kept, as pycocotools keeps them, and noted.

    Args:
        annotations: the JSON file.
        images: the folder that `file_name` is relative to.
        name: what the data set is called.
        masks: read segmentations; every object must have one. Without, they are not looked at.
        clip_boxes: clip boxes (and let drawing clip polygons) that reach further beyond the image.
        exif: whether boxes are on the picture as seen or as stored where its size cannot tell (`orientation.py`).
        classes_like: a data set, for example the one to train on, whose class names and category ids this must have.

    Raises:
        DataError: a file is missing or malformed, annotations make no sense (all of a kind are counted), the categories
            differ.
    """
    like = None if classes_like is None else dict(zip(classes_like.category_ids, classes_like.classes, strict=True))
    records = read_records(annotations, masks, like)
    if classes_like is not None:
        _demand_same_classes(records, classes_like)
    if masks:
        _demand_segmentations(records)
    records, paths, renamed = locate(images, records)
    reading = _Reading(records, BoxLimits(clip_boxes), MaskReader(annotations.parent, clip_boxes), masks)
    headers, frames = _headers(paths, records), Frames(exif)
    turns = [
        frames.turn(image.name, header, (image.width, image.height), bool(records.objects[image.source_id]))
        for image, header in zip(records.images, headers, strict=True)
    ]
    frames.demand_clear(name)
    rows = tuple(
        as_seen(reading.image(position, image, paths[image.source_id]), header, turn)
        for position, (image, header, turn) in enumerate(zip(records.images, headers, turns, strict=True), 1)
    )
    reading.demand_no_faults()
    notes = (*_wrong_count(records), *records.notes, *renamed, *frames.notes(), *reading.notes())
    for note in notes:
        logger.warning("%s: %s", name, note)
    classes, ids = tuple(records.categories.values()), tuple(records.categories)
    counts = reading.limits.counts()
    return DetectionDataset(name=name, classes=classes, images=rows, notes=notes, category_ids=ids, **counts)


def _demand_same_classes(records: CocoRecords, like: DetectionDataset) -> None:
    """Names and ids must agree: detectors answer in ids, and a category that is only in one file changes the mean."""
    expected, here = dict(zip(like.category_ids, like.classes, strict=True)), records.categories
    if here == expected:
        return
    there = {name: number for number, name in expected.items()}
    ids = {name: number for number, name in here.items()}
    missing = [f"{name} (id {number})" for name, number in there.items() if name not in ids]
    unknown = [f"{name} (id {number})" for name, number in ids.items() if name not in there]
    moved = [
        f"{name} ({number}, here {ids[name]})" for name, number in there.items() if ids.get(name, number) != number
    ]
    kinds = (("missing here", missing), ("only here", unknown), ("with other ids", moved))
    raise DataError(
        f"{records.path} has other categories than {like.name}",
        found="\n".join(f"{kind}: {few(found, 10)}" for kind, found in kinds if found),
        todo="write the same list of `categories` (id and name) into both files, also those without objects",
    )


def _demand_segmentations(records: CocoRecords) -> None:
    entries = [entry for own in records.objects.values() for entry in own]
    without = [f"annotation {entry['id']}" for entry in entries if not entry.get("segmentation")]
    if without:
        raise DataError(
            f"{len(without):,} of {counted(len(entries), 'object', 'objects')} in {records.path} have no segmentation",
            found=f"nothing under `segmentation` of {few(without)}",
            todo="complete or remove these objects, or run a box detector, which needs no masks",
        )


def _wrong_count(records: CocoRecords) -> list[str]:
    official = OFFICIAL_COUNTS.get(records.path.name, len(records.images))
    if len(records.images) == official:
        return []
    return [f"{records.path.name} has {len(records.images):,} images here, the official file has {official:,}"]


# -- images ------------------------------------------------------------------------------------------------------


def _headers(paths: dict[int, Path], records: CocoRecords) -> list[Header]:
    """Headers in the order of `records.images`; all have the JSON's size, as seen or as stored."""
    headers = read_headers([paths[image.source_id] for image in records.images])
    wrong = [
        f"{paths[image.source_id].name}: {header.width} × {header.height}, annotated {image.width} × {image.height}"
        for image, header in zip(records.images, headers, strict=True)
        if (image.width, image.height) not in (header.seen, header.stored)
    ]
    if wrong:
        raise DataError(
            f"{counted(len(wrong), 'image has', 'images have')} another size than {records.path} says",
            found="\n".join(wrong[:5]),
            todo="put back the images that were annotated, not resized, cropped or turned",
        )
    return headers


# -- objects -----------------------------------------------------------------------------------------------------


@dataclass
class _Faults:
    """Objects with one kind of fault."""

    first: DataError
    number: int = 0
    lines: list[str] = field(default_factory=list)


@dataclass
class _Reading:
    """What goes through the annotations of one file; the lists become notes and errors."""

    records: CocoRecords
    limits: BoxLimits
    masks: MaskReader
    with_masks: bool
    without_area: list[str] = field(default_factory=list)
    faults: dict[str, _Faults] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.objects = sum(len(own) for own in self.records.objects.values())
        self.area_check = AreaCheck(every=self.objects // DRAWN + 1)
        self.labels = {number: label for label, number in enumerate(self.records.categories)}

    def image(self, position: int, image: CocoImage, path: Path) -> DetectionImage:
        """Takes the image's annotations out of `records`, so that they are not kept beside the arrays."""
        boxes, labels, crowd, areas, masks = [], [], [], [], []
        for entry in self.records.objects.pop(image.source_id):
            try:
                found = self._object(entry, image)
            except DataError as error:
                self._fault(entry, error)
                continue
            if found is None:
                continue
            box, is_crowd, area, mask = found
            boxes.append(box)
            labels.append(self.labels[entry["category_id"]])
            crowd.append(is_crowd)
            areas.append(area)
            masks.append(mask)
        return DetectionImage(
            image_id=position,
            name=image.name,
            path=path,
            width=image.width,
            height=image.height,
            boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
            labels=np.array(labels, dtype=np.int64),
            difficult=np.zeros(len(labels), np.bool_),
            crowd=np.array(crowd, dtype=np.bool_),
            areas=np.array(areas, dtype=np.float64),
            masks=tuple(mask for mask in masks if mask is not None) if self.with_masks else None,
            source_id=image.source_id,
        )

    def notes(self) -> list[str]:
        """What was mended and what is odd."""
        notes = [*self.limits.notes(), *self.masks.notes(), *self.area_check.notes()]
        if self.without_area:
            whose = "masks" if self.with_masks else "boxes"
            count = counted(len(self.without_area), "object has", "objects have")
            notes.append(f"{count} no `area`, those of the {whose} were taken: {few(self.without_area)}")
        return notes

    def demand_no_faults(self) -> None:
        """Refuses the file by its first kind of fault.

        Raises:
            DataError: objects of that kind are there; it says how many and which.
        """
        for faults in self.faults.values():
            error = faults.first
            if faults.number == 1:
                raise error
            more = f"\nand {faults.number - len(faults.lines):,} more" if faults.number > len(faults.lines) else ""
            raise DataError(
                f"{faults.number:,} objects with a fault of one kind in {self.records.path}, the first: {error.what}",
                found="\n".join(faults.lines) + more,
                todo=error.todo,
            )

    def _fault(self, entry: Json, error: DataError) -> None:
        """What is to do tells the kinds apart: `what` names the object."""
        faults = self.faults.setdefault(error.todo, _Faults(error))
        faults.number += 1
        if len(faults.lines) < SHOWN:
            short = self._short(entry)
            faults.lines.append(error.found if short in error.found else f"{short}: {error.found}")

    def _object(self, entry: Json, image: CocoImage) -> tuple[Corners, bool, float, Mask | None] | None:
        """Box, crowd flag, area and mask; None if nothing of the box is in the image."""
        box = self._box(entry, image)
        if box is None:
            return None
        crowd = self._crowd(entry)
        mask = self._mask(entry, crowd, image) if self.with_masks else None
        area = self._area(entry, box, mask)
        x, y, width, height = entry["bbox"]
        if not crowd and entry.get("area") is not None and box == (x, y, x + width, y + height):
            self.area_check.look(self._short(entry), area, box, mask)
        return box, crowd, area, mask

    def _box(self, entry: Json, image: CocoImage) -> Corners | None:
        values = entry.get("bbox")
        if not isinstance(values, list) or len(values) != 4 or not all(_is_number(value) for value in values):
            found = repr(values)[:80] if "bbox" in entry else "no bbox"
            raise self._error("malformed box", entry, found, "write bbox as [x, y, width, height] in pixels")
        x, y, width, height = (float(value) for value in values)
        text = f"{self._short(entry)} ({x:g}, {y:g}, {width:g}, {height:g})"
        if width < 0 or height < 0:
            raise self._error("box of negative size", entry, text, "write bbox as [x, y, width, height], not corners")
        if width == 0 or height == 0:
            self.limits.empty.append(text)
            return None
        return self.limits.inside(
            (x, y, x + width, y + height), image.width, image.height, text, str(self.records.path)
        )

    def _crowd(self, entry: Json) -> bool:
        if entry.get("ignore", 0) not in (0, None):
            # COCO's evaluation overwrites this flag by `iscrowd` (cocoapi: cocoeval.py), Detectron2 refuses it too.
            raise self._error("`ignore` is set", entry, repr(entry["ignore"])[:40], "set `iscrowd`, or take it out")
        value = entry.get("iscrowd", 0)
        if not isinstance(value, int | float) or value not in (0, 1):
            raise self._error("`iscrowd` is neither 0 nor 1", entry, repr(value)[:40], "write 0 or 1")
        return bool(value)

    def _mask(self, entry: Json, crowd: bool, image: CocoImage) -> Mask:
        return self.masks.read(entry.pop("segmentation"), crowd, image, f"{self._short(entry)} in {self.records.path}")

    def _area(self, entry: Json, box: Corners, mask: Mask | None) -> float:
        value: Any = entry.get("area")
        if value is None:
            self.without_area.append(self._short(entry))
            return (box[2] - box[0]) * (box[3] - box[1]) if mask is None else area_of(mask)
        if not _is_number(value) or value < 0:
            raise self._error("malformed area", entry, repr(value)[:80], "write pixels², or leave `area` out")
        return float(value)

    def _short(self, entry: Json) -> str:
        return f"annotation {entry['id']}"

    def _error(self, what: str, entry: Json, found: str, todo: str) -> DataError:
        return DataError(f"{what}: {self._short(entry)} in {self.records.path}", found=found, todo=todo)


def _is_number(value: Any) -> bool:
    """Not for NaN, infinity and integers that no float holds: none of them is below the limit."""
    return type(value) in (int, float) and abs(value) < 1e12
