"""Which COCO files and folders of images lie under one root, told from names and keys; nothing is parsed."""

from __future__ import annotations

import itertools
import json
import mmap
import os
import re
from collections.abc import Iterator
from pathlib import Path

from transfer.datasets.image_files import walk
from transfer.datasets.images import is_image_name
from transfer.runtime.errors import DataError

# Beside the annotations, where the images have no folder of the split's name: CVAT and MMDetection, FiftyOne, labelme.
IMAGE_FOLDERS = ("images", "data", "JPEGImages")
# Of the official archives, for other tasks (cocodataset.org: download).
OTHER_FILES = ("captions_", "image_info_", "panoptic_", "person_keypoints_", "stuff_")
# What a file is called that is its folder's only one: Roboflow, labelme and CVAT, FiftyOne.
UNNAMED = ("_annotations.coco", "annotations", "labels", "instances", "coco")
KEYS = ("images", "annotations", "categories")
HEAD = 1 << 16  # bytes: `info`, `licenses` and the beginning of the first list are shorter


def coco_splits(root: Path) -> dict[str, tuple[Path, Path]]:
    """The splits of a data set in COCO layout: name → (annotations, folder of images), sorted by name.

    Two layouts are known. A folder per split, with one instances file and its images (or a folder `images`) in it, as
    Roboflow writes; the split is called as the folder. Files in `annotations/` or in the root, one per split, called
    as the file without `instances_`: `instances_train2017.json` with its images in `train2017/` or
    `images/train2017/`, or with those of all splits in `images/`.

    Args:
        root: any folder; one that holds no such set gives no splits.

    Raises:
        DataError: one split has two files of annotations or two folders of images, or a folder cannot be read.
    """
    found: dict[str, list[tuple[Path, Path]]] = {}
    for name, file, folders in (*_folder_per_split(root), *_files_of_splits(root)):
        for folder in folders:
            found.setdefault(name, []).append((file, folder))
    for name, places in found.items():
        if len(places) > 1:
            raise DataError(
                f"the split {name} of {root} can be read in {len(places)} ways",
                found="\n".join(f"{file} with the images of {folder}" for file, folder in places),
                todo="leave one of them in the folder, or name the files: --train-json, --train-images, --test-json, "
                "--test-images",
            )
    return {name: found[name][0] for name in sorted(found)}


def without_images(root: Path) -> dict[str, Path]:
    """Splits that are no splits for want of images: name → annotations for which no folder holds an image.

    Raises:
        DataError: a folder cannot be read.
    """
    places: dict[str, tuple[Path, bool]] = {}
    for name, file, folders in (*_folder_per_split(root), *_files_of_splits(root)):
        places[name] = file, bool(folders) or (name in places and places[name][1])
    return {name: file for name, (file, seen) in sorted(places.items()) if not seen}


def other_json(root: Path) -> list[str]:
    """JSON files in the root and its folders that were not taken for annotations: other ones, and broken ones.

    Raises:
        DataError: a folder cannot be read.
    """
    files = [file for folder in (root, *_entries(root)) for file in _entries(folder) if file.suffix.lower() == ".json"]
    taken = {file for folder in (root, *_entries(root)) for file in _instances(folder)}
    return [file.relative_to(root).as_posix() for file in files if file.is_file() and file not in taken]


Candidate = tuple[str, Path, list[Path]]  # the split's name, its file, the folders that may hold its images


def _folder_per_split(root: Path) -> Iterator[Candidate]:
    for folder in _entries(root):
        if folder.name.lower() == "annotations" or not folder.is_dir():
            continue
        for file in _instances(folder):
            inside = [folder / name for name in IMAGE_FOLDERS]
            yield folder.name, file, _with_images(inside) or _with_images([folder])


def _files_of_splits(root: Path) -> Iterator[Candidate]:
    for folder in (*(entry for entry in _entries(root) if entry.name.lower() == "annotations"), root):
        for file in _instances(folder):
            name = file.stem.removeprefix("instances_")
            own = [root / name, *(root / shared / name for shared in IMAGE_FOLDERS)]
            shared = [root / shared for shared in IMAGE_FOLDERS]
            if name in UNNAMED:
                name = root.resolve().name
            yield name, file, _with_images(own) or _with_images(shared) or ([root] if _images_in(root) else [])


def _with_images(folders: list[Path]) -> list[Path]:
    """Those that hold images, in them or further down; of several names of one folder the first."""
    places: dict[str, Path] = {}
    for folder in folders:
        if folder.is_dir() and next(walk(folder), None) is not None:
            places.setdefault(os.path.realpath(folder), folder)
    return list(places.values())


def _entries(folder: Path) -> list[Path]:
    """Sorted, without hidden ones; none where there is no such folder."""
    if not folder.is_dir():
        return []
    try:
        return sorted(folder / name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise DataError(f"cannot list the folder {folder}", found=str(error), todo="make it readable") from error


def _images_in(folder: Path) -> bool:
    return any(is_image_name(path.name) for path in _entries(folder))


def _instances(folder: Path) -> list[Path]:
    files = (path for path in _entries(folder) if path.suffix.lower() == ".json" and path.is_file())
    return [path for path in files if not path.name.startswith(OTHER_FILES) and _like_instances(path)]


def _like_instances(path: Path) -> bool:
    """Whether it is a JSON object with at least two of COCO's three lists."""
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
            encoding: str = json.detect_encoding(head)
            if head.decode(encoding, "ignore").lstrip("\ufeff \t\r\n")[:1] != "{":
                return False
            # With a mark before the text; Python would write one before each key too.
            encoding = {"utf-16": "utf-16-le", "utf-32": "utf-32-le", "utf-8-sig": "utf-8"}.get(encoding, encoding)
            if head.startswith((b"\xfe\xff", b"\x00\x00\xfe\xff")):
                encoding = encoding.replace("-le", "-be")
            keys = [_key(key, encoding) for key in KEYS]
            if not any(key.search(head) for key in keys):  # which spares searching most other files
                return False
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return len(list(itertools.islice((key for key in keys if key.search(content)), 2))) == 2
    except OSError as error:
        raise DataError(f"cannot read {path}", found=str(error), todo="make it readable") from error


def _key(key: str, encoding: str) -> re.Pattern[bytes]:
    """Finds `"key": [` in that encoding."""
    quoted, colon, bracket = (re.escape(text.encode(encoding)) for text in (f'"{key}"', ":", "["))
    space = b"(?:" + b"|".join(re.escape(char.encode(encoding)) for char in " \t\r\n") + b")*"
    return re.compile(quoted + space + colon + space + bracket)
