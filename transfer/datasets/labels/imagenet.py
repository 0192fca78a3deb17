"""ImageNet-1k in folders by class, whole or by the published 1 % and 10 % lists."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from transfer.datasets.image_files import IMAGENET_NAME
from transfer.datasets.images import is_image_name
from transfer.datasets.labels.labelled import ImageSplits, LabelledImages
from transfer.datasets.labels.listed import listed_split, noted
from transfer.datasets.labels.own_images import folder_split
from transfer.datasets.lists import read_lines
from transfer.datasets.wording import few_lines
from transfer.runtime.errors import DataError

LAYOUT = "ImageNet is laid out train/<wnid>/*.JPEG and val/<wnid>/*.JPEG"
SORTING = (
    "sort them into val/<wnid>/: run extract_ILSVRC.sh of github.com/pytorch/examples (imagenet/), or put the archives "
    'and the devkit into one folder and type python -c "from torchvision.datasets import ImageNet; '
    "ImageNet('THAT FOLDER', split='val')\""
)
# Of google-research/simclr, imagenet_subsets/1percent.txt and 10percent.txt: lines, and sha256 of the file.
SUBSETS = {
    1: (12_811, "71e82a48ba78252683ae334c4d019ebd5c6e855b9599c1389fbe83eb9549cf17"),
    10: (128_116, "6d09de11e7bdaf5b1f3b1f249b6183695f97310cdd20f0c03e7235b6b9392091"),
}


def read_imagenet(root: Path, subset: int | None = None) -> ImageSplits:
    """ImageNet-1k; the validation images are the test split, as in all published results. Classes are WordNet ids.

    Args:
        root: holds train/ and val/, and imagenet_subsets/ for a subset.
        subset: 1 or 10: only the images that SimCLR's list of this percentage names (google-research/simclr:
            imagenet_subsets); one bare file name a line. None: all.

    Raises:
        DataError: folders, images or the list are missing; validation images lie directly in val/.
    """
    _refuse_flat(root / "val")
    if subset is None:
        train = folder_split(root, "train", name="imagenet_train")
        return ImageSplits(train, None, folder_split(root, "val", train.classes, "imagenet_val"))
    # The classes come from val/: in train/ only the folders that the list names need be looked into.
    test = folder_split(root, "val", name="imagenet_val")
    return ImageSplits(_subset(root, subset, test.classes), None, test)


def _refuse_flat(folder: Path) -> None:
    """Unsorted validation images are the classic mistake: as unpacked, the archive has no folders."""
    try:
        with os.scandir(folder) as entries:
            flat = next((entry.name for entry in entries if is_image_name(entry.name)), None)
    except OSError as error:
        raise DataError(f"cannot list the folder {folder}", found=str(error), todo=LAYOUT) from error
    if flat is not None:
        raise DataError(f"images lie directly in {folder}, so their classes are unknown", found=flat, todo=SORTING)


def _subset(root: Path, percent: int, classes: tuple[str, ...]) -> LabelledImages:
    file = root / "imagenet_subsets" / f"{percent}percent.txt"
    todo = f"get imagenet_subsets/{file.name} from github.com/google-research/simclr and put it there"
    names = read_lines(file, todo)
    numbers = {name: number for number, name in enumerate(classes)}
    found = [(IMAGENET_NAME.fullmatch(name), name) for name in names]
    odd = [name for match, name in found if match is None or match[1] not in numbers]
    if odd:
        what = f"{len(odd)} of {len(names)} lines of {file} name no image of a class in val/"
        raise DataError(what, found=few_lines(odd), todo=todo)
    wnids = [match[1] for match, _ in found if match is not None]
    paths = [f"train/{wnid}/{name}" for wnid, name in zip(wnids, names, strict=True)]
    labels = [numbers[wnid] for wnid in wnids]
    split = listed_split(f"imagenet_train{percent}", root, paths, labels, classes, source=str(file))
    if hashlib.sha256(file.read_bytes()).hexdigest() != SUBSETS[percent][1]:
        official = f"that has {SUBSETS[percent][0]:,} images"
        split = noted(split, f"{file.name} is not the published list, {official}; this one has {len(split):,}")
    return split
