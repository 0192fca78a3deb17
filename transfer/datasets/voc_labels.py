"""Image labels of data sets in VOC layout: which classes an image shows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from transfer.datasets.image_files import ImageFiles
from transfer.datasets.image_index import Names, some
from transfer.datasets.labelled import ABSENT, DIFFICULT, PRESENT, ImageSplits, LabelledImages
from transfer.datasets.listed import listed_split, read_columns
from transfer.datasets.voc import IMAGE_SUFFIXES, LAYOUT, read_voc, voc_classes
from transfer.errors import DataError

MEANINGS = {"1": PRESENT, "0": DIFFICULT, "-1": ABSENT}  # VOC devkit, section on the classification task


def read_voc_labels(
    root: Path, train: str = "trainval", test: str = "test", classes: tuple[str, ...] | None = None, own: bool = False
) -> ImageSplits:
    """Multi-label sets from one VOC folder.

    Labels are read from `ImageSets/Main/<class>_<split>.txt` where these files are there for every class; a line is an
    image's name and 1 (present), 0 (only difficult objects) or −1. Otherwise they are derived from the annotations, by
    the same rule: present if any object of the class is not difficult, difficult if all are.

    Args:
        root: a folder with ImageSets/Main and JPEGImages, and Annotations if there are no files by class.
        train, test: names of the splits.
        classes: their names in order; None takes those for which there are files, else those that are annotated,
            sorted.
        own: see `ImageSplits`.

    Raises:
        DataError: folders, lists, images or annotations are missing or malformed, or the lists of a split differ.
    """
    lists = root / "ImageSets" / "Main"
    if not lists.is_dir() or not (root / "JPEGImages").is_dir():
        raise DataError(f"no VOC data set in {root}", found=_holds(root), todo=LAYOUT)
    files = set(os.listdir(lists))
    named = _named_classes(files, train) & _named_classes(files, test)
    listed = classes if classes is not None else tuple(sorted(named))
    if listed and named >= set(listed):
        train_part, test_part = (_from_lists(root, split, listed) for split in (train, test))
    else:
        annotated = classes if classes is not None else voc_classes([(root, train), (root, test)])
        train_part, test_part = (_from_annotations(root, split, annotated) for split in (train, test))
    return ImageSplits(train_part, None, test_part, own)


def _holds(root: Path) -> str:
    if not root.is_dir():
        return "no such folder"
    return "it holds " + (", ".join(sorted(os.listdir(root))[:12]) or "nothing")


def _named_classes(files: set[str], split: str) -> set[str]:
    ending = f"_{split}.txt"
    return {file.removesuffix(ending) for file in files if file.endswith(ending)}


def _from_lists(root: Path, split: str, classes: Sequence[str]) -> LabelledImages:
    names: list[str] = []
    columns: list[NDArray[np.int8]] = []
    for label in classes:
        file = root / "ImageSets" / "Main" / f"{label}_{split}.txt"
        rows = read_columns(file, 2, "a name and 1, 0 or -1 a line")
        odd = [" ".join(row) for row in rows if row[1] not in MEANINGS]
        if odd:
            what = f"{len(odd)} of {len(rows)} lines of {file} do not end in 1, 0 or -1"
            raise DataError(what, found=some(odd), todo="a name and 1, 0 or -1 a line")
        found = [row[0] for row in rows]
        if columns and found != names:
            raise DataError(
                f"{file} does not list the images of {classes[0]}_{split}.txt in the same order",
                found=f"{len(found)} and {len(names)} images",
                todo="all classes must list the same images",
            )
        names = found
        columns.append(np.array([MEANINGS[row[1]] for row in rows], dtype=np.int8))
    source = f"{root / 'ImageSets' / 'Main'}/*_{split}.txt"
    paths = _with_suffixes(root / "JPEGImages", names)
    labels = np.stack(columns, axis=1)
    return listed_split(_name(root, split), root / "JPEGImages", paths, labels, classes, source=source)


def _with_suffixes(folder: Path, names: Sequence[str]) -> list[str]:
    """File names; ".jpg" for images that are not there, whose absence the caller reports."""
    there = set(os.listdir(folder))
    return [next((name + end for end in IMAGE_SUFFIXES if name + end in there), name + ".jpg") for name in names]


def _from_annotations(root: Path, split: str, classes: tuple[str, ...]) -> LabelledImages:
    name = _name(root, split)
    # Boxes do not matter here: what reaches beyond an image is clipped, not refused.
    found = read_voc([(root, split)], name, classes, clip_boxes=True)
    labels = np.full((len(found.images), len(classes)), ABSENT, dtype=np.int8)
    for row, image in zip(labels, found.images, strict=True):
        row[image.labels[image.difficult]] = DIFFICULT
        row[image.labels[~image.difficult]] = PRESENT
    folder = root / "JPEGImages"
    images = ImageFiles(folder, Names(image.path.name for image in found.images), None, [])
    note = "labels derived from the annotations: there are no files by class"
    return LabelledImages(name, images, labels, classes, notes=(note, *found.notes))


def _name(root: Path, split: str) -> str:
    return f"{root.resolve().name.lower()}_{split}"
