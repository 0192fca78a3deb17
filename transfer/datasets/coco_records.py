"""The JSON of a COCO instances file: its three lists, with ids that are whole, unique and lead somewhere."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from transfer.datasets.wording import counted, few
from transfer.errors import DataError

Json = dict[str, Any]

FORMAT = (
    "a COCO instances file holds `images` (id, file_name, width, height), `categories` (id, name) and `annotations`\n"
    "(id, image_id, category_id, bbox as x, y, width, height; for masks segmentation), as cocodataset.org describes"
)


@dataclass(frozen=True)
class CocoImage:
    """One entry of `images`.

    Attributes:
        source_id: its id there.
        name: the file's name without suffix, with its folders below the images folder if it has any.
        file_name: relative to the images folder.
        width, height: pixels.
    """

    source_id: int
    name: str
    file_name: str
    width: int
    height: int


@dataclass(frozen=True)
class CocoRecords:
    """Attributes: path of the file; categories id → name, ascending; images sorted by name; objects by image id."""

    path: Path
    categories: dict[int, str]
    images: tuple[CocoImage, ...]
    objects: dict[int, list[Json]]


def read_records(path: Path, masks: bool) -> CocoRecords:
    """Categories, images and annotations of one file; polygons are float64 arrays, so that a list of numbers never
    stays in memory.

    Args:
        path: the JSON file.
        masks: keep segmentations.

    Raises:
        DataError: the file is no COCO instances file, or an id is not whole, not unique, or names nothing.
    """
    document = _load(path, _with_arrays if masks else _without_segmentation)
    if not isinstance(document, dict):
        raise DataError(f"{path} is no COCO file", found=f"{type(document).__name__} at the top", todo=FORMAT)
    lists = {key: _entries(document, key, path) for key in ("categories", "images", "annotations")}
    del document
    categories = _categories(lists["categories"], path)
    images = _images(lists["images"], path)
    objects = _by_image(lists["annotations"], categories, images, path)
    return CocoRecords(path, categories, images, objects)


# -- JSON --------------------------------------------------------------------------------------------------------


def _load(path: Path, hook: Callable[[Json], Json]) -> Any:
    try:
        with open(path, encoding="utf-8-sig") as file:
            return json.load(file, object_hook=hook)
    except OSError as error:
        raise DataError(f"cannot read {path}", found=str(error), todo="name an existing COCO JSON file") from error
    except (ValueError, RecursionError) as error:  # the former: no UTF-8, no JSON, a number with thousands of digits
        raise DataError(
            f"{path} is not JSON", found=str(error), todo="copy or export this file again; a cut copy ends like this"
        ) from error


def _without_segmentation(record: Json) -> Json:
    record.pop("segmentation", None)
    return record


def _with_arrays(record: Json) -> Json:
    if isinstance(record.get("segmentation"), list):
        record["segmentation"] = [_array(polygon) for polygon in record["segmentation"]]
    elif "counts" in record:
        record["counts"] = _array(record["counts"])
    return record


def _array(values: Any) -> Any:
    """A list of numbers as an array; anything else as it is, to be refused where its annotation is known."""
    if not isinstance(values, list):
        return values
    try:
        array = np.array(values)
    except (ValueError, OverflowError):  # lists of unequal lengths; huge integers
        return values
    return array if array.dtype.kind in "iuf" else values


def _entries(document: Json, key: str, path: Path) -> list[Json]:
    """The list of dicts under `key`, taken out of `document`."""
    if key not in document:
        raise DataError(f"{path} has no `{key}`", found=f"keys {few(sorted(document), 12) or '(none)'}", todo=FORMAT)
    entries = document.pop(key)
    if not isinstance(entries, list):
        raise DataError(f"`{key}` in {path} is no list", found=type(entries).__name__, todo=FORMAT)
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise DataError(f"{key}[{place}] in {path} is no object", found=repr(entry)[:80], todo=FORMAT)
    return entries


# -- ids ---------------------------------------------------------------------------------------------------------


def _categories(entries: list[Json], path: Path) -> dict[int, str]:
    _demand_unique((_whole(entry, "id", "categories", path) for entry in entries), "category id", path)
    for entry in entries:
        if not isinstance(entry.get("name"), str) or not entry["name"].strip():
            raise DataError(f"category {entry['id']} in {path} has no name", found=repr(entry)[:80], todo=FORMAT)
    _demand_unique((entry["name"] for entry in entries), "category name", path)
    if not entries:
        raise DataError(f"`categories` in {path} is empty", todo=FORMAT)
    # The order of Detectron2 (data/datasets/coco.py) and of pycocotools' evaluation: ascending ids.
    return {entry["id"]: entry["name"] for entry in sorted(entries, key=lambda entry: int(entry["id"]))}


def _images(entries: list[Json], path: Path) -> tuple[CocoImage, ...]:
    images = tuple(sorted((_image(entry, path) for entry in entries), key=lambda image: image.name))
    if not images:
        raise DataError(f"`images` in {path} is empty", todo=FORMAT)
    _demand_unique((image.source_id for image in images), "image id", path)
    _demand_unique((image.name for image in images), "image name (file_name without suffix)", path)
    return images


def _image(entry: Json, path: Path) -> CocoImage:
    number = _whole(entry, "id", "images", path)
    text = entry.get("file_name")
    name = PurePosixPath(text) if isinstance(text, str) else PurePosixPath()
    if not name.name or name.is_absolute() or ".." in name.parts or "\0" in str(name):
        raise DataError(
            f"image {number} in {path} has no file below the images folder",
            found=f"file_name {text!r}" if "file_name" in entry else "no file_name",
            todo="write names relative to the images folder, without `..`",
        )
    width, height = (_whole(entry, side, "images", path, least=1) for side in ("width", "height"))
    return CocoImage(number, str(name.with_suffix("")), str(name), width, height)


def _by_image(
    entries: list[Json], categories: dict[int, str], images: Iterable[CocoImage], path: Path
) -> dict[int, list[Json]]:
    grouped: dict[int, list[Json]] = {image.source_id: [] for image in images}
    _demand_unique([_whole(entry, "id", "annotations", path) for entry in entries], "annotation id", path)
    strangers: dict[str, list[str]] = {"image": [], "category": []}
    for entry in entries:
        image = _whole(entry, "image_id", "annotations", path)
        category = _whole(entry, "category_id", "annotations", path)
        if category not in categories:
            strangers["category"].append(f"category_id {category} in annotation {entry['id']}")
        elif image not in grouped:
            strangers["image"].append(f"image_id {image} in annotation {entry['id']}")
        else:
            grouped[image].append(entry)
    for kind, found in strangers.items():
        if found:
            count = counted(len(found), "annotation", "annotations")
            raise DataError(
                f"{count} in {path} of an unknown {kind}",
                found=few(found),
                todo=f"complete the list of {'images' if kind == 'image' else 'categories'}, or remove the annotations",
            )
    return grouped


def _whole(entry: Json, key: str, section: str, path: Path, least: int = 0) -> int:
    value = entry.get(key)
    if type(value) is int and value >= least:
        return value
    whose = f" {entry['id']}" if key != "id" and "id" in entry else ""
    found = repr(value)[:80] if key in entry else f"no {key}"
    raise DataError(
        f"`{key}` of an entry{whose} of `{section}` in {path} is no whole number from {least}",
        found=f"{found} in {repr(entry)[:200]}",
        todo=FORMAT,
    )


def _demand_unique(values: Iterable[int] | Iterable[str], what: str, path: Path) -> None:
    counts: Counter[int | str] = Counter(values)
    twice = [str(value) for value, times in counts.items() if times > 1]
    if twice:
        raise DataError(
            f"{counted(len(twice), what + ' is', what + 's are')} there more than once in {path}",
            found=few(twice),
            todo="number and name every entry of its own; files joined by hand need new ids",
        )
