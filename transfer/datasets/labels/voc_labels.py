"""Image labels of data sets in VOC layout: which classes an image shows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from transfer.datasets.boxes.detection import DetectionDataset
from transfer.datasets.boxes.voc import read_voc_sets
from transfer.datasets.boxes.voc_layout import (
    ANNOTATIONS,
    IMAGES,
    LAYOUT,
    LISTS,
    Files,
    Listed,
    absolute,
    files_in,
    image_of,
    read_flags,
)
from transfer.datasets.image_files import ImageFiles
from transfer.datasets.image_index import Names
from transfer.datasets.labels.labelled import ABSENT, DIFFICULT, PRESENT, ImageSplits, LabelledImages
from transfer.datasets.labels.listed import listed_split
from transfer.runtime.errors import DataError

MEANINGS = {"1": PRESENT, "0": DIFFICULT, "-1": ABSENT}  # VOC devkit, section on the classification task


def read_voc_labels(
    root: Path,
    train: str = "trainval",
    test: str = "test",
    classes: tuple[str, ...] | None = None,
    own: bool = False,
    *,
    val: str | None = None,
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
        val: name of the split to choose on; None: there is none.

    Raises:
        DataError: folders, lists, images or annotations are missing or malformed, or the lists of a split differ.
    """
    lists = root / LISTS
    if not lists.is_dir() or not (root / IMAGES).is_dir():
        raise DataError(f"no VOC data set in {root}", found=_holds(root), todo=LAYOUT)
    files = set(os.listdir(lists))
    splits = (train, test) if val is None else (train, test, val)
    named = set.intersection(*(_named_classes(files, split) for split in splits))
    listed = classes if classes is not None else tuple(sorted(named))
    if listed and named >= set(listed):
        there = files_in(root / IMAGES, root / ANNOTATIONS if (root / ANNOTATIONS).is_dir() else None)
        parts = [_from_lists(root, split, listed, there) for split in splits]
    else:
        # Boxes do not matter here: what reaches beyond an image is clipped, not refused.
        sets = [(_name(root, split), [(root, split)]) for split in splits]
        parts = [_from_annotations(root, read) for read in read_voc_sets(sets, classes, clip_boxes=True, exif="seen")]
    return ImageSplits(parts[0], None if val is None else parts[2], parts[1], own)


def _holds(root: Path) -> str:
    if not root.is_dir():
        return "no such folder"
    return "it holds " + (", ".join(sorted(os.listdir(root))[:12]) or "nothing")


def _named_classes(files: set[str], split: str) -> set[str]:
    ending = f"_{split}.txt"
    return {file.removesuffix(ending) for file in files if file.endswith(ending)}


def _from_lists(root: Path, split: str, classes: Sequence[str], there: Files) -> LabelledImages:
    paths: list[str] = []
    columns: list[NDArray[np.int8]] = []
    for label in classes:
        file = root / LISTS / f"{label}_{split}.txt"
        rows = read_flags(file, there)
        found = [_image(one, there) for one, _ in rows]
        if columns and found != paths:
            raise DataError(
                f"{file} does not list the images of {classes[0]}_{split}.txt in the same order",
                found=f"{len(found)} and {len(paths)} images",
                todo="all classes must list the same images",
            )
        paths = found
        columns.append(np.array([MEANINGS[flag] for _, flag in rows], dtype=np.int8))
    source = f"{root / LISTS}/*_{split}.txt"
    labels = np.stack(columns, axis=1)
    return listed_split(_name(root, split), root / IMAGES, paths, labels, classes, source=source)


def _image(listed: Listed, there: Files) -> str:
    if listed.stem not in there.images:  # reported with all that are missing
        return f"{listed.stem}.jpg"
    annotations = there.annotations.get(listed.stem, [])
    return image_of(listed, there, there.annotation_folder / annotations[0] if len(annotations) == 1 else None)


def _from_annotations(root: Path, read: DetectionDataset) -> LabelledImages:
    labels = np.full((len(read.images), len(read.classes)), ABSENT, dtype=np.int8)
    for row, image in zip(labels, read.images, strict=True):
        row[image.labels[image.difficult]] = DIFFICULT
        row[image.labels[~image.difficult]] = PRESENT
    folder = root / IMAGES
    paths = (image.path.relative_to(absolute(folder)).as_posix() for image in read.images)
    images = ImageFiles(folder, Names(paths), None, [])
    note = "labels derived from the annotations: there are no files by class"
    return LabelledImages(read.name, images, labels, read.classes, notes=(note, *read.notes))


def _name(root: Path, split: str) -> str:
    return f"{root.resolve().name.lower()}_{split}"
