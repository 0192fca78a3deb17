"""COCO result list → `Detections`: detections that another program made, matched to a data set's images and classes.

Form (cocodataset.org: "Results Format"): one JSON list of `{image_id, category_id, bbox, score}`, for masks with
`segmentation`; what pycocotools' `loadRes` reads, what MMDetection, Detectron2 and YOLO tools write.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as coco_mask
from numpy.typing import NDArray

from detection.score.detections import mask_areas
from transfer.datasets.boxes.detection import DetectionDataset, DetectionImage, Detections
from transfer.datasets.boxes.masks import Mask, sized
from transfer.datasets.boxes.turning import BACK, turn_boxes, turn_mask
from transfer.datasets.layouts import Kind
from transfer.datasets.wording import counted, few
from transfer.runtime.errors import DataError

Row = dict[str, Any]
Id = int | str

FORM = (
    "a result list is one JSON list of {image_id, category_id, bbox: [x, y, width, height], score}, for masks with\n"
    "segmentation: {size: [height, width], counts}, as cocodataset.org describes and pycocotools' loadRes reads"
)

OWN_IDS = "the file's ids"


@dataclass(frozen=True)
class Found:
    """Attributes: detections, in the order of the list; notes, what was taken for granted or looks odd."""

    detections: Detections
    notes: tuple[str, ...]


def load_results(path: Path) -> list[Row]:
    """The list as it is in the file.

    Raises:
        DataError: it cannot be read, or is no list of objects.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"cannot read {path}", found=error.strerror or str(error), todo=FORM) from error
    except (ValueError, RecursionError) as error:  # no JSON, or no UTF-8
        raise DataError(f"{path} is no JSON", found=str(error)[:200], todo=FORM) from error
    if isinstance(rows, dict):
        inside = [key for key, value in rows.items() if isinstance(value, list)]
        raise DataError(
            f"{path} is no result list",
            found=f"an object with {few(list(rows)) or 'nothing in it'}",
            todo=FORM + (f"\nperhaps it lies under {few(inside)}: write that list alone" if inside else ""),
        )
    if not isinstance(rows, list):
        raise DataError(f"{path} is no result list", found=f"{type(rows).__name__} at the top", todo=FORM)
    _demand(rows, path, "are no objects", FORM, lambda row: isinstance(row, dict))
    return rows


def have_masks(rows: Sequence[Row]) -> bool:
    """Whether the detections come with masks; all of them must then, which `match_results` asks for."""
    return any(row.get("segmentation") is not None for row in rows)


def match_results(
    rows: Sequence[Row],
    path: Path,
    dataset: DetectionDataset,
    layout: Kind,
    *,
    classes: Sequence[str] = (),
    last_pixel: bool = False,
    masks: bool = False,
) -> Found:
    """Detections on the images and with the labels of `dataset`, in its frame: that of the pictures as seen.

    The list is in the frame of the annotations, as COCO's own tools compare the two: boxes and masks on pictures whose
    annotations were turned by EXIF (`DetectionImage.turned`) are turned with them.

    Image ids. Of a set in COCO layout: the file's own ids, or file names. Of a set in VOC layout: names of images,
    with or without suffix, or whole numbers: the position among the sorted names from 1, as this project's own
    `detections.json` has it, or the number that is in the name (5 for 000005). Both readings of the numbers are tried;
    where both lead to images of the set, and not to the same ones, the list is refused.

    Category ids. Class names, or numbers: in COCO layout the file's own ids, in VOC layout positions from 1 among
    `classes`, by default the data set's.

    Args:
        rows: see `load_results`.
        path: of the list, for errors.
        dataset: read from that layout.
        layout: see above.
        classes: of a set in VOC layout: the names of the detector's classes, in the order of its numbers.
        last_pixel: bbox is [first x, first y, last x − first x, last y − first y], both pixels part of the object,
            counted as the annotations count (VOC's from 1); otherwise [x, y, width, height] from 0.
        masks: take the masks too. Boxes that are not there are then those around the masks.

    Raises:
        DataError: keys are missing, values are no numbers, images, classes or masks are not the data set's.
        EngineError: run lengths do not decode to the size of their image.
    """
    keys = ["image_id", "category_id", "score", *(["segmentation"] if masks else ["bbox"])]
    for key in keys:
        _demand(rows, path, f"have no {key}", FORM, functools.partial(_has, key))
    _demand(
        rows, path, "have a score that is no number", "scores are finite numbers", lambda row: _number(row["score"])
    )
    boxed = [row for row in rows if row.get("bbox") is not None]
    _demand(boxed, path, "have a malformed bbox", "write bbox as four finite numbers", lambda row: _four(row["bbox"]))
    corners = "write bbox as [x, y, width, height], not as two corners"
    _demand(boxed, path, "have a bbox of negative size", corners, lambda row: min(row["bbox"][2:]) >= 0)
    if boxed and len(boxed) < len(rows):
        _demand(rows, path, "have no bbox, others have one", FORM, lambda row: row.get("bbox") is not None)

    images, image_note = _matched(rows, path, "image_id", _image_readings(dataset, layout), _images_there(dataset))
    labels, class_notes, kept = _labels(rows, path, dataset, layout, classes)
    runs = tuple(_runs(rows, path, [dataset.images[index] for index in images])) if masks else None
    if len(kept) < len(rows):
        rows, images = [rows[index] for index in kept], [images[index] for index in kept]
        runs = None if runs is None else tuple(runs[index] for index in kept)
    ids = np.array([dataset.images[index].image_id for index in images], np.int64)
    scores = np.array([row["score"] for row in rows], np.float64).astype(np.float32)
    boxes = np.zeros((len(rows), 4), np.float64)
    if boxed:
        boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
    found = Detections(ids, labels, boxes.astype(np.float32), scores, runs)
    notes = [*image_note, *class_notes]
    if runs is not None:
        mask_areas(dataset, found)  # before the library decodes them, which does not check
        if not boxed and len(rows):
            sizes = [_annotated_size(dataset.images[index]) for index in images]
            around = [sized(counts, *size) for counts, size in zip(runs, sizes, strict=True)]
            boxes = np.asarray(coco_mask.toBbox(around), np.float64).reshape(-1, 4)
            notes.append("the list has no boxes: those around the masks were taken")
    boxes[:, 2:] += boxes[:, :2]
    if boxed and last_pixel:
        boxes += (-1.0, -1.0, 0.0, 0.0) if layout == "voc" else (0.0, 0.0, 1.0, 1.0)
    notes += _oddities(dataset, images, boxes)
    boxes, runs = _turned(dataset, np.array(images, np.int64), boxes, runs)
    return Found(Detections(ids, labels, boxes.astype(np.float32), scores, runs), tuple(notes))


# -- values ------------------------------------------------------------------------------------------------------


def _demand(rows: Sequence[Any], path: Path, what: str, todo: str, sound: Callable[[Any], bool]) -> None:
    bad = [number for number, row in enumerate(rows, 1) if not sound(row)]
    if bad:
        raise DataError(
            f"{len(bad):,} of {counted(len(rows), 'detection', 'detections')} in {path} {what}",
            found=f"the first is number {bad[0]}: {repr(rows[bad[0] - 1])[:200]}",
            todo=todo,
        )


def _has(key: str, row: Row) -> bool:
    return row.get(key) is not None


def _number(value: Any) -> bool:
    """Not for NaN, infinity and integers that no float holds: none of them is below the limit."""
    return type(value) in (int, float) and abs(value) < 1e12


def _four(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(_number(part) for part in value)


def _runs(rows: Sequence[Row], path: Path, images: Sequence[DetectionImage]) -> Iterable[bytes]:
    """Compressed run lengths; those that a library would have to trust blindly are looked at by `mask_areas`."""
    forms = "write run lengths {size: [height, width], counts}, as pycocotools' mask.encode gives them"
    _demand(rows, path, "have a segmentation that is no run lengths", forms, lambda row: _is_runs(row["segmentation"]))
    other = [
        (number, row["segmentation"]["size"], image)
        for number, (row, image) in enumerate(zip(rows, images, strict=True), 1)
        if row["segmentation"]["size"] != list(_annotated_size(image))
    ]
    if other:
        number, size, image = other[0]
        raise DataError(
            f"{len(other):,} of {counted(len(rows), 'mask', 'masks')} in {path} are of another size than their image",
            found=f"the first is number {number}: size {repr(size)[:60]}, {image.name} has "
            f"{list(_annotated_size(image))} (height, width)",
            todo="write masks in the size of the original image, not of the detector's input",
        )
    for number, (row, image) in enumerate(zip(rows, images, strict=True), 1):
        counts = row["segmentation"]["counts"]
        if isinstance(counts, str):
            yield counts.encode("ascii")
            continue
        size = _annotated_size(image)
        if sum(counts) != image.height * image.width:
            raise DataError(
                f"mask {number} in {path} does not fill its image",
                found=f"run lengths that add up to {sum(counts)}, {image.name} has {image.height * image.width} pixels",
                todo="export the detections again",
            )
        yield bytes(coco_mask.frPyObjects({"size": list(size), "counts": counts}, *size)["counts"])


def _annotated_size(image: DetectionImage) -> tuple[int, int]:
    """(height, width) of what the annotations, and so the detections, were drawn on."""
    return (image.width, image.height) if image.turned >= 5 else (image.height, image.width)


def _turned(
    dataset: DetectionDataset, images: NDArray[np.int64], boxes: NDArray[np.float64], runs: tuple[bytes, ...] | None
) -> tuple[NDArray[np.float64], tuple[bytes, ...] | None]:
    """Boxes and masks as seen. Places of images are numbers in `dataset.images`."""
    masks = None if runs is None else list(runs)
    for index, image in enumerate(dataset.images):
        rows = np.flatnonzero(images == index) if image.turned != 1 else np.zeros(0, np.int64)
        if not len(rows):
            continue
        height, width = _annotated_size(image)
        boxes[rows] = turn_boxes(boxes[rows].astype(np.float32), width, height, image.turned)
        if masks is not None:
            for row in rows.tolist():
                masks[row] = turn_mask(Mask(height, width, counts=masks[row]), image.turned).counts
    return boxes, None if masks is None else tuple(masks)


def _is_runs(value: Any) -> bool:
    if not isinstance(value, dict) or "size" not in value:
        return False
    counts = value.get("counts")
    if isinstance(counts, str):
        return counts.isascii()
    return isinstance(counts, list) and all(type(length) is int and 0 <= length < 2**31 for length in counts)


# -- ids ---------------------------------------------------------------------------------------------------------


def _matched(
    rows: Sequence[Row], path: Path, key: str, readings: Mapping[str, Mapping[Id, int]], there: str
) -> tuple[list[int], list[str]]:
    """Places that the ids lead to, and a note where the ids alone do not say which reading was meant.

    Numbers and texts are looked at each by themselves. A reading counts if every id leads somewhere.
    """
    ids = [_whole(row[key]) for row in rows]
    wrong = [number for number, value in enumerate(ids, 1) if not isinstance(value, (int, str))]
    if wrong:
        found = f"the first is number {wrong[0]}: {repr(rows[wrong[0] - 1])[:200]}"
        raise DataError(f"{len(wrong):,} detections in {path} have a {key} that is no id", found=found, todo=FORM)
    places: dict[Id, int] = {}
    notes = []
    for kind in (int, str):
        own = dict.fromkeys(value for value in ids if isinstance(value, kind))
        fitting = {name: reading for name, reading in readings.items() if all(value in reading for value in own)}
        if not own:
            continue
        if not fitting:
            _refuse_strangers(ids, own, path, key, readings, there)
        name, reading = next(iter(fitting.items()))
        other = [
            (value, rival)
            for rival, elsewhere in fitting.items()
            for value in own
            if elsewhere[value] != reading[value]
        ]
        if other:
            value, rival = other[0]
            raise DataError(
                f"every {key} in {path} can be read in two ways",
                found=f"{value!r} is one thing as {name}, another as {rival}",
                todo=f"write names instead of numbers under {key}",
            )
        places |= {value: reading[value] for value in own}
        if kind is int and key == "image_id" and OWN_IDS not in fitting:
            notes.append(f"image_id was read as {' and '.join(fitting)}")
    return [places[value] for value in ids], notes


def _whole(value: Any) -> Any:
    """3.0 is what tables make of 3; True is no id."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return None if isinstance(value, bool) else value


def _refuse_strangers(
    ids: Sequence[Any],
    own: Iterable[Id],
    path: Path,
    key: str,
    readings: Mapping[str, Mapping[Id, int]],
    there: str,
) -> None:
    """The nearest reading is the one that leads most ids somewhere."""
    unknown = min(([value for value in own if value not in reading] for reading in readings.values()), key=len)
    times = Counter(ids)
    detections = sum(times[value] for value in unknown)
    one, many = ("image", "images") if key == "image_id" else ("class", "classes")
    raise DataError(
        f"{detections:,} of {counted(len(ids), 'detection', 'detections')} in {path} name "
        f"{counted(len(unknown), one, many)} that the data set does not have",
        found=f"{key} {few([repr(value) for value in unknown], 10)}\n{there}",
        todo="score on the split that the detector was run on, or take these detections out",
    )


def _image_readings(dataset: DetectionDataset, layout: Kind) -> dict[str, dict[Id, int]]:
    names: dict[Id, set[int]] = {}
    files: dict[Id, set[int]] = {}
    for index, image in enumerate(dataset.images):
        inside = image.name.split("/", 1)[-1] if layout == "voc" else image.name  # without the VOC folder's own name
        for name in (image.name, inside, image.path.stem):
            names.setdefault(name, set()).add(index)
        for name in (image.name + image.path.suffix, inside + image.path.suffix, image.path.name):
            files.setdefault(name, set()).add(index)
    # What is a file's whole name is that file, also where it is another one's without suffix.
    by_name = {name: min(found) for name, found in (names | files).items() if len(found) == 1}
    by_id: dict[Id, int] = {image.source_id: index for index, image in enumerate(dataset.images)}
    if layout == "coco":
        texts: dict[Id, int] = {str(number): index for number, index in by_id.items()}
        return {OWN_IDS: by_id | texts, "file names": by_name}
    in_names = [(re.fullmatch(r"\D*(\d+)", image.path.stem), index) for index, image in enumerate(dataset.images)]
    numbers = Counter(int(match[1]) for match, _ in in_names if match)
    by_number: dict[Id, int] = {
        int(match[1]): index for match, index in in_names if match and numbers[int(match[1])] == 1
    }
    return {"positions among the sorted names": by_id, "numbers in the names": by_number, "names": by_name}


def _images_there(dataset: DetectionDataset) -> str:
    ids = few([f"{image.source_id} ({image.path.name})" for image in dataset.images], 3)
    return f"{dataset.name} has {counted(len(dataset), 'image', 'images')}: {ids}"


def _labels(
    rows: Sequence[Row], path: Path, dataset: DetectionDataset, layout: Kind, classes: Sequence[str]
) -> tuple[NDArray[np.int64], list[str], list[int]]:
    """Labels, notes and the places of the detections that are kept: those of classes that the data set has."""
    if classes and layout == "coco":
        raise DataError("--classes is for data sets in VOC layout", todo="the file's `categories` say what the ids are")
    if len(set(classes)) < len(classes):
        raise DataError(f"--classes {' '.join(classes)} names a class twice", todo="name each once, in order")
    order = list(classes or dataset.classes)
    names = [*order, *(name for name in dataset.classes if name not in order)]
    numbers = range(1, len(order) + 1) if layout == "voc" else dataset.category_ids
    by_number: dict[Id, int] = {number: names.index(name) for number, name in zip(numbers, order, strict=True)}
    by_name: dict[Id, int] = {name: index for index, name in enumerate(names)}
    pairs = [f"{number} {name}" for number, name in zip(numbers, order, strict=True)]
    there = f"the classes are {few(pairs, 25)}"
    readings = {"numbers of classes": by_number, "class names": by_name}
    places, _ = _matched(rows, path, "category_id", readings, there)
    notes = []
    if layout == "voc" and not classes and any(not isinstance(row["category_id"], str) for row in rows):
        notes.append(f"category_id was read as positions in {few(pairs, 25)}; --classes gives another order")
    kept = [index for index, place in enumerate(places) if names[place] in dataset.classes]
    if len(kept) < len(rows):
        count = counted(len(rows) - len(kept), "detection", "detections")
        absent = few([name for name in classes if name not in dataset.classes])
        notes.append(f"{count} left out, of classes that {dataset.name} has no object of: {absent}")
    labels = [dataset.classes.index(names[places[index]]) for index in kept]
    return np.array(labels, np.int64), notes, kept


# -- what looks odd ----------------------------------------------------------------------------------------------


def _oddities(dataset: DetectionDataset, images: Sequence[int], boxes: NDArray[np.float64]) -> list[str]:
    """Other forms of box that no check can refuse, and images that were perhaps forgotten."""
    if not len(boxes):
        return ["the list is empty: every AP is 0"]
    notes = []
    ends = np.array([_annotated_size(dataset.images[index])[::-1] for index in images], np.float64)
    beyond = int((boxes[:, 2:] > ends + 2.0).any(axis=1).sum())
    if beyond > len(boxes) / 4:
        notes.append(f"{beyond:,} of {len(boxes):,} boxes end outside of their image: is bbox two corners there?")
    if len(boxes) > 1 and boxes.max() <= 1.5:
        notes.append("all boxes lie within 1.5 pixels of the corner: are they in shares of the image?")
    without = len(dataset) - len(set(images))
    if without > len(dataset) / 2:
        notes.append(f"{without:,} of {counted(len(dataset), 'image has', 'images have')} no detection")
    return notes


def with_last_pixel(dataset: DetectionDataset) -> DetectionDataset:
    """The same set where a box ends behind the pixel that it names as its last: one pixel wider and higher."""
    images = []
    for image in dataset.images:
        height, width = _annotated_size(image)
        written = turn_boxes(image.boxes, image.width, image.height, BACK.get(image.turned, image.turned))
        grown = turn_boxes(written + np.array([0, 0, 1, 1], np.float32), width, height, image.turned)
        images.append(dataclasses.replace(image, boxes=grown))
    return dataclasses.replace(dataset, images=tuple(images))


__all__ = ["Found", "have_masks", "load_results", "match_results", "with_last_pixel"]
