"""CUB-200-2011 and Birdsnap in the layouts of their archives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transfer.datasets.labels.labelled import ImageSplits
from transfer.datasets.labels.listed import listed_split, noted
from transfer.datasets.lists import absent, read_columns, read_lines
from transfer.datasets.wording import few_lines
from transfer.runtime.errors import DataError

CUB_LAYOUT = "unpack CUB_200_2011.tgz: images/, images.txt, image_class_labels.txt, train_test_split.txt, classes.txt"
BIRDSNAP_LAYOUT = "unpack birdsnap.tgz (species.txt, images.txt, test_images.txt) and run its get_birdsnap.py there"


def read_cub200(root: Path) -> ImageSplits:
    """CUB-200-2011: `root` holds images/, images.txt, image_class_labels.txt, train_test_split.txt and classes.txt.

    Lines are (README of the archive): image id and path; image id and class id; image id and 1 for training, 0 for
    testing; class id and name.

    Raises:
        DataError: a file is missing or malformed, or two of them do not name the same images.
    """
    classes = _numbered(root / "classes.txt", CUB_LAYOUT)
    numbers = {key: number for number, key in enumerate(classes)}
    paths = _numbered(root / "images.txt", CUB_LAYOUT)
    labels = _numbered(root / "image_class_labels.txt", CUB_LAYOUT)
    training = _numbered(root / "train_test_split.txt", CUB_LAYOUT)
    for file, found, known in (("image_class_labels.txt", labels, numbers), ("train_test_split.txt", training, "01")):
        _refuse_other_ids(root / file, found, paths)
        odd = [f"image {key}: {entry}" for key, entry in found.items() if entry not in known]
        if odd:
            what = f"{len(odd)} lines of {root / file} are not understood"
            raise DataError(what, found=few_lines(odd), todo=CUB_LAYOUT)
    train, test = (
        listed_split(
            f"cub200_{split}",
            root / "images",
            [paths[key] for key in paths if training[key] == flag],
            [numbers[labels[key]] for key in paths if training[key] == flag],
            list(classes.values()),
            source=str(root / "images.txt"),
        )
        for split, flag in (("train", "1"), ("test", "0"))
    )
    return ImageSplits(train, None, test)


def _numbered(file: Path, todo: str) -> dict[str, str]:
    """Identifier → entry, in the order of the file."""
    rows = read_columns(file, 2, todo)
    found = dict(rows)
    if len(found) < len(rows):
        raise DataError(f"{len(rows) - len(found)} numbers come twice in {file}", todo=todo)
    return found


def _refuse_other_ids(file: Path, found: dict[str, str], paths: dict[str, str]) -> None:
    odd = sorted(set(found) ^ set(paths))
    if odd:
        raise DataError(
            f"{file} and images.txt do not name the same images",
            found=f"{len(odd)} are in one of them only, for example {', '.join(odd[:5])}",
            todo=CUB_LAYOUT,
        )


def read_birdsnap(root: Path) -> ImageSplits:
    """Birdsnap 1.1: species.txt, images.txt, test_images.txt, and what get_birdsnap.py could fetch.

    Tab-separated with a first line of column names (readme.txt of the archive); images are looked for in
    `root/download/images`, where the script puts them, else in `root/images`. Many have gone from where they lay: those
    without a file are left out, and a note on each split says how many.

    Raises:
        DataError: a file or a column is missing, a species or a test image is unknown, or no image is there.
    """
    species = _table(root / "species.txt", ("id", "common"))
    rows = _table(root / "images.txt", ("path", "species_id"))
    testing = {row[0] for row in _table(root / "test_images.txt", ("path",))}
    numbers = {row[0]: number for number, row in enumerate(species)}
    odd = sorted({f"species {row[1]}" for row in rows if row[1] not in numbers} | testing - {row[0] for row in rows})
    if odd:
        what = f"the lists in {root} do not fit together"
        raise DataError(what, found="unknown: " + few_lines(odd), todo=BIRDSNAP_LAYOUT)
    folder = root / "download" / "images" if (root / "download" / "images").is_dir() else root / "images"
    gone = set(absent(folder, [row[0] for row in rows]))
    parts = []
    for split, wanted in (("train", False), ("test", True)):
        listed = [row for row in rows if (row[0] in testing) == wanted]
        there = [row for row in listed if row[0] not in gone]
        if not there:
            raise DataError(f"no {split} image of Birdsnap is in {folder}", todo=BIRDSNAP_LAYOUT)
        part = listed_split(
            f"birdsnap_{split}",
            folder,
            [row[0] for row in there],
            [numbers[row[1]] for row in there],
            [row[1] for row in species],
            source=str(root / "images.txt"),
        )
        missing = len(listed) - len(there)
        parts.append(
            noted(part, f"{missing} of {len(listed)} images left out, they could not be had") if missing else part
        )
    return ImageSplits(parts[0], None, parts[1])


def _table(file: Path, columns: Sequence[str]) -> list[list[str]]:
    """The named columns of a tab-separated file."""
    head, *lines = read_lines(file, BIRDSNAP_LAYOUT)
    names = head.split("\t")
    missing = [name for name in columns if name not in names]
    if missing:
        found = f"its first line reads {head[:200]!r}"
        raise DataError(f"{file} has no column {', '.join(missing)}", found=found, todo=BIRDSNAP_LAYOUT)
    places = [names.index(name) for name in columns]
    rows = [line.split("\t") for line in lines]
    short = [row[0] for row in rows if len(row) <= max(places)]
    if short:
        what = f"{len(short)} of {len(rows)} lines of {file} are cut short"
        raise DataError(what, found=few_lines(short), todo=BIRDSNAP_LAYOUT)
    return [[row[place] for place in places] for row in rows]
