"""What readers of classification sets share: text files, images named by annotations, coarser levels, checks."""

from __future__ import annotations

import dataclasses
import io
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from transfer.datasets.image_files import ImageFiles
from transfer.datasets.image_index import Names
from transfer.datasets.images import FAULTS, FORMATS
from transfer.datasets.labels.duplicates import refuse_shared
from transfer.datasets.labels.labelled import ABSENT, DIFFICULT, PRESENT, ImageSplits, LabelledImages, Level
from transfer.datasets.lists import absent
from transfer.datasets.split_check import SplitSummary, compare, spelled
from transfer.datasets.wording import few_lines
from transfer.runtime.errors import DataError

logger = logging.getLogger(__name__)

SAMPLED = 200  # images of a split whose size is looked at


def listed_split(
    name: str,
    root: Path,
    paths: Sequence[str],
    labels: Sequence[int] | NDArray[np.int64] | NDArray[np.int8],
    classes: Sequence[str],
    *,
    source: str,
    levels: Mapping[str, Level] | None = None,
    notes: tuple[str, ...] = (),
) -> LabelledImages:
    """A split whose images are named, and labelled, by an annotation file.

    Args:
        name: of set and split.
        root: the folder to which `paths` are relative.
        paths: with "/"; absolute ones stay as they are.
        labels: class number of each path; or int8 [n, classes] for multi-label sets.
        classes: names, in the order of the numbers.
        source: what named the images, for messages.
        levels: coarser levels.
        notes: see `LabelledImages`.

    Raises:
        DataError: no path, images that are missing or named twice, labels that are no classes.
    """
    missing = absent(root, paths)
    if missing:
        raise DataError(
            f"{len(missing)} of {len(paths)} images named by {source} are missing in {root}",
            found=few_lines(missing),
            todo="complete the folder, or take them out of the list",
        )
    if len(set(paths)) < len(paths):
        twice = sorted(path for path, count in Counter(paths).items() if count > 1)
        raise DataError(
            f"{len(twice)} images are named more than once by {source}",
            found=few_lines(twice),
            todo="name each image once",
        )
    numbers = labels if isinstance(labels, np.ndarray) else np.array(labels, dtype=np.int64)
    images = ImageFiles(root, Names(paths), None, [])
    return LabelledImages(name, images, numbers, tuple(classes), dict(levels or {}), notes)


def level_of(pairs: Mapping[str, str], classes: Sequence[str]) -> Level:
    """The level at which class c belongs to `pairs[c]`; names sorted.

    Raises:
        DataError: a class belongs to nothing.
    """
    alone = [name for name in classes if name not in pairs]
    if alone:
        what = f"{len(alone)} of {len(classes)} classes belong to no coarser class"
        raise DataError(what, found=few_lines(alone), todo="complete the annotations")
    names = sorted(set(pairs.values()))
    numbers = {name: number for number, name in enumerate(names)}
    return Level(tuple(names), np.array([numbers[pairs[name]] for name in classes], dtype=np.int64))


def noted(split: LabelledImages, note: str) -> LabelledImages:
    """The split with one more note, which is also logged as a warning."""
    logger.warning("%s: %s", split.name, note)
    return dataclasses.replace(split, notes=(*split.notes, note))


def checked(splits: ImageSplits) -> ImageSplits:
    """What every set must pass; what is odd about its splits beside each other is noted on the test split.

    Raises:
        DataError: `train` has no image of some class, so nothing could be learnt of it; or shares files with another.
    """
    train, others = _summary(splits.train), [_summary(split) for split in splits.others()]
    present = train.present()
    bare = [name for name in splits.train.classes if not train.classes[name]]
    if bare:
        raise DataError(
            f"{len(bare)} of {len(splits.train.classes)} classes have no image in {splits.train.name}",
            found=few_lines(spelled(bare, present)),
            todo="add training images of these classes, or take the classes out of every split",
        )
    for other in splits.others():
        refuse_shared(splits.train, other)
    if splits.val is not None:
        refuse_shared(splits.val, splits.test)
    notes = compare(train, others)
    return dataclasses.replace(
        splits, test=dataclasses.replace(splits.test, notes=tuple(dict.fromkeys((*splits.test.notes, *notes))))
    )


def _summary(split: LabelledImages) -> SplitSummary:
    """Sizes are those of a sample, from the images' headers: a look at all of ImageNet's would take an hour."""
    places = np.linspace(0, len(split) - 1, min(SAMPLED, len(split))).astype(np.int64).tolist()
    sizes = [size for place in places if (size := _pixels(split, place)) is not None]
    values = {"sides of images": np.sqrt(np.array(sizes, dtype=np.float64))}
    shares = {}
    if split.multilabel:
        values["labels per image"] = (split.labels == PRESENT).sum(1).astype(np.float64)
        shares["labels that are difficult"] = (
            int((split.labels == DIFFICULT).sum()),
            int((split.labels != ABSENT).sum()),
        )
    classes = dict(zip(split.classes, split.counts().tolist(), strict=True))
    return SplitSummary(split.name, "image", len(split), classes, values, shares)


def _pixels(split: LabelledImages, place: int) -> int | None:
    """Width × height; None for an image that is no file of its own, or that its reader will refuse."""
    try:
        with Image.open(io.BytesIO(split.images.content(place)), formats=FORMATS) as image:
            return image.width * image.height
    except (*FAULTS, DataError):  # said, or counted, where its pixels are read
        return None
