"""iNaturalist 2018 as the competition published it: annotations in COCO's form, levels of the taxonomy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from transfer.datasets.labels.labelled import ImageSplits, LabelledImages, Level
from transfer.datasets.labels.listed import level_of, listed_split
from transfer.datasets.lists import read_json
from transfer.datasets.wording import few_lines
from transfer.runtime.errors import DataError

LAYOUT = "unpack train_val2018.tar.gz, train2018.json.tar.gz and val2018.json.tar.gz of iNaturalist 2018 here"
# Coarse to fine. "supercategory" is in the annotations; the others in categories.json, which was published after the
# competition, with names instead of numbers (visipedia/inat_comp: 2018/README.md, "un-obfuscated names").
LEVELS = ("supercategory", "kingdom", "phylum", "class", "order", "family", "genus")


def read_inat18(root: Path) -> ImageSplits:
    """iNaturalist 2018; its validation images are the test split, as in all published results.

    `root` holds train2018.json, val2018.json and train_val2018/, and categories.json if names and levels are wanted
    beyond the super-category. Classes are in the order of the category ids, whatever the order in the file.

    Raises:
        DataError: a file is missing or malformed, an id comes twice, an image has no annotation or several, an
            annotation names an unknown image or category, the two files have different categories.
    """
    documents = {split: _document(root / f"{split}2018.json") for split in ("train", "val")}
    categories = _categories(documents["train"]["categories"], root / "train2018.json")
    if _categories(documents["val"]["categories"], root / "val2018.json").keys() != categories.keys():
        raise DataError(f"train2018.json and val2018.json in {root} have different categories", todo=LAYOUT)
    published = root / "categories.json"
    if published.is_file():
        categories = _named(categories, _categories(read_json(published, LAYOUT), published), published)
    ids = {key: number for number, key in enumerate(categories)}
    classes = [str(one["name"]) for one in categories.values()]
    levels = _levels(list(categories.values()))
    parts = [_split(root, split, document, ids, classes, levels) for split, document in documents.items()]
    return ImageSplits(parts[0], None, parts[1])


def _document(file: Path) -> dict[str, list[dict[str, Any]]]:
    found = read_json(file, LAYOUT)
    for part, fields in (
        ("images", ("id", "file_name")),
        ("annotations", ("image_id", "category_id")),
        ("categories", ("id", "name")),
    ):
        rows = found.get(part) if isinstance(found, dict) else None
        if not isinstance(rows, list) or not all(_has(row, fields) for row in rows):
            what = f"{file} has no list of {part!r} with {' and '.join(fields)} in each"
            raise DataError(what, todo=LAYOUT)
    checked: dict[str, list[dict[str, Any]]] = found
    return checked


def _has(row: object, fields: Iterable[str]) -> bool:
    return isinstance(row, dict) and all(isinstance(row.get(field), (int, str)) for field in fields)


def _categories(rows: object, file: Path) -> dict[int | str, dict[str, Any]]:
    """Id → category, sorted by id."""
    if not isinstance(rows, list) or not rows or not all(_has(row, ("id", "name")) for row in rows):
        raise DataError(f"{file} has no list of categories with id and name in each", todo=LAYOUT)
    _refuse_twice([row["id"] for row in rows], f"category ids in {file}")
    if len({type(row["id"]) for row in rows}) > 1:
        raise DataError(f"category ids in {file} are partly numbers and partly text", todo=LAYOUT)
    return {row["id"]: row for row in sorted(rows, key=lambda row: row["id"])}


def _named(
    categories: dict[int | str, dict[str, Any]], published: dict[int | str, dict[str, Any]], file: Path
) -> dict[int | str, dict[str, Any]]:
    missing = [str(key) for key in categories if key not in published]
    if missing:
        what = f"{len(missing)} of {len(categories)} categories are not in {file}"
        raise DataError(what, found=few_lines(missing), todo="get the list of 2018, or take the file away")
    return {key: one | published[key] for key, one in categories.items()}


def _levels(categories: Sequence[dict[str, Any]]) -> dict[str, Level]:
    """Those of `LEVELS` that every category has; the parent of class n is that of the n-th category."""
    numbers = [str(number) for number in range(len(categories))]
    return {
        name: level_of({number: str(one[name]) for number, one in zip(numbers, categories, strict=True)}, numbers)
        for name in LEVELS
        if all(one.get(name) for one in categories)
    }


def _split(
    root: Path,
    split: str,
    document: dict[str, list[dict[str, Any]]],
    ids: dict[int | str, int],
    classes: Sequence[str],
    levels: dict[str, Level],
) -> LabelledImages:
    file = root / f"{split}2018.json"
    images, annotations = document["images"], document["annotations"]
    _refuse_twice([row["id"] for row in images], f"image ids in {file}")
    _refuse_twice([row["image_id"] for row in annotations], f"annotated images in {file}")
    known = {row["id"] for row in images}
    labels = {row["image_id"]: row["category_id"] for row in annotations}
    for what, odd in (
        ("images without an annotation", [str(row["file_name"]) for row in images if row["id"] not in labels]),
        ("annotations of images that are not listed", [str(key) for key in labels if key not in known]),
        ("annotations of categories that are not listed", [str(key) for key in labels.values() if key not in ids]),
    ):
        if odd:
            raise DataError(f"{file} has {len(odd)} {what}", found=few_lines(odd), todo=LAYOUT)
    return listed_split(
        f"inat18_{split}",
        root,
        [str(row["file_name"]) for row in images],
        [ids[labels[row["id"]]] for row in images],
        classes,
        source=str(file),
        levels=levels,
    )


def _refuse_twice(keys: Sequence[int | str], what: str) -> None:
    twice = [str(key) for key, count in Counter(keys).items() if count > 1]
    if twice:
        raise DataError(f"{len(twice)} {what} come more than once", found=few_lines(twice), todo=LAYOUT)
