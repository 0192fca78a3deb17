"""Places205: the official lists and folders, or train/ and val/ by class."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path

import numpy as np

from transfer.datasets.labels.labelled import ImageSplits
from transfer.datasets.labels.listed import listed_split
from transfer.datasets.labels.own_images import folder_split
from transfer.datasets.lists import read_lines
from transfer.datasets.wording import few_lines
from transfer.runtime.errors import DataError

LAYOUT = (
    "unpack imagesPlaces205_resize.tar.gz and trainvalsplit_places205.tar.gz here, or sort the images into "
    "train/<class>/ and val/<class>/"
)
CLASS_NUMBER = re.compile(r"[0-9]{1,9}")
IMAGES = "data/vision/torralba/deeplearning/images256"  # as packed in imagesPlaces205_resize.tar.gz


def read_places205(root: Path) -> ImageSplits:
    """Places205; its validation images are the test split, as in all published results.

    Official form: lines "a/abbey/gsun_x.jpg 0" in trainvalsplit_places205/train_places205.csv and val_places205.csv,
    images below data/vision/torralba/deeplearning/images256; a class is called by its folder there. Without the lists,
    train/<class>/… and val/<class>/….

    Raises:
        DataError: lists or images are missing, a line has no class number, or a class number stands for nothing.
    """
    lists = root / "trainvalsplit_places205"
    if not lists.is_dir():
        if not (root / "train").is_dir():
            raise DataError(f"no Places205 in {root}", found="neither trainvalsplit_places205/ nor train/", todo=LAYOUT)
        train = folder_split(root, "train", name="places205_train")
        return ImageSplits(train, None, folder_split(root, "val", train.classes, "places205_val"))
    listed = {split: _listed(lists / f"{split}_places205.csv") for split in ("train", "val")}
    classes = _classes(*listed["train"], lists)
    parts = {}
    for split, (paths, labels) in listed.items():
        source = str(lists / f"{split}_places205.csv")
        numbers = np.array(labels, dtype=np.int64)
        parts[split] = listed_split(f"places205_{split}", root / IMAGES, paths, numbers, classes, source=source)
    return ImageSplits(parts["train"], None, parts["val"])


def _listed(file: Path) -> tuple[list[str], list[int]]:
    paths, labels, odd = [], [], []
    for line in read_lines(file, LAYOUT):
        path, _, label = line.rpartition(" ")
        if path and CLASS_NUMBER.fullmatch(label):
            paths.append(path)
            labels.append(int(label))
        else:
            odd.append(line)
    if odd:
        raise DataError(f"{len(odd)} lines of {file} are no path and class number", found=few_lines(odd), todo=LAYOUT)
    return paths, labels


def _classes(paths: list[str], labels: list[int], lists: Path) -> list[str]:
    """Names of the classes: the folder that holds all images of each."""
    folders = defaultdict(set)
    for path, label in zip(paths, labels, strict=True):
        folders[label].add(os.path.dirname(path))
    if max(folders) + 1 != len(folders):
        raise DataError(
            f"class numbers in {lists / 'train_places205.csv'} have gaps",
            found=f"{len(folders)} classes, numbers up to {max(folders)}",
            todo=LAYOUT,
        )
    return [os.path.commonpath(sorted(folders[label])) for label in sorted(folders)]
