"""A user's own labelled images: folders by split and class, or a CSV file.

Split names that are found without being told: `transfer.datasets.layouts.ALIASES`, in any case.
Images for validation and none for testing: those are then the test split, as with ImageNet, and a note says so.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from transfer.datasets.image_files import ImageFiles, open_folder
from transfer.datasets.labels.labelled import ImageSplits, LabelledImages, Level
from transfer.datasets.labels.listed import checked, level_of, listed_split, noted
from transfer.datasets.layouts import ALIASES, VAL_AS_TEST, Role
from transfer.datasets.split_check import refuse_untrained
from transfer.datasets.wording import few_lines
from transfer.runtime.errors import DataError

FOLDERS = "an image folder is laid out DIR/train/<class>/<image> and DIR/test/<class>/<image>"
TABLE = "a CSV file has a first line with the names of its columns, at least path, label and split, and is UTF-8"


def read_image_folder(
    root: Path, train: str | None = None, val: str | None = None, test: str | None = None
) -> ImageSplits:
    """`root/<split>/<class>/…`: the label is the first folder below the split, however deep the image lies.

    The classes are those of the training split, sorted by name.

    Args:
        root: the folder that holds the splits.
        train, val, test: names of their folders; by default those of `ALIASES` that are there.

    Raises:
        DataError: a folder is missing or without images, two folders could be the same split, images lie outside of a
            class, or another split has a class that the training split lacks.
    """
    folders = _split_names(_folders(root), {"train": train, "val": val, "test": test}, f"folder in {root}", FOLDERS)
    named: dict[Role, LabelledImages] = {"train": folder_split(root, folders["train"])}
    for split, folder in folders.items():
        if split != "train":
            named[split] = folder_split(root, folder, named["train"].classes)
    return _splits(named)


def folder_split(
    root: Path, folder: str, classes: tuple[str, ...] | None = None, name: str | None = None
) -> LabelledImages:
    """The images in `root/folder/<class>/…`, named by their paths below `root`.

    Args:
        root, folder: where they are.
        classes: of the set; by default the subfolders that hold an image, sorted.
        name: of set and split; by default made of the folders' names.

    Raises:
        DataError: no images, images outside of a class, or of a class that is not among `classes`.
    """
    found = open_folder(root / folder, labelled=True)
    known = tuple(found.classes) if classes is None else classes
    refuse_untrained(found.classes, known, str(root / folder), "the training split", "image")
    numbers = {one: number for number, one in enumerate(known)}
    translate = np.array([numbers[one] for one in found.classes], dtype=np.int64)
    labels = translate[np.array(found.labels, dtype=np.int64)]
    return LabelledImages(name or f"{root.resolve().name}_{folder}", _SplitFiles.of(found), labels, known)


class _SplitFiles(ImageFiles):
    """Files below the folder of a split, named by their paths below the folder of the set."""

    @classmethod
    def of(cls, files: ImageFiles) -> _SplitFiles:
        return cls(files.root, files._names, None, [])

    def name(self, index: int) -> str:
        return f"{self.root.name}/{super().name(index)}"


def _folders(root: Path) -> list[str]:
    try:
        return sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"cannot list the folder {root}", found=str(error), todo=FOLDERS) from error


def _split_names(there: Sequence[str], given: Mapping[Role, str | None], what: str, todo: str) -> dict[Role, str]:
    """Split → its name among `there`; "train" and one more at least. Without a test split the val split becomes it."""
    chosen: dict[Role, str] = {}
    for split, name in given.items():
        # `--test val` says that val is not there to choose on
        free = [one for one in there if split != "val" or one not in given.values()]
        fitting = (
            [one for one in there if one == name] if name else [one for one in free if one.lower() in ALIASES[split]]
        )
        if len(fitting) > 1:
            found = ", ".join(fitting)
            raise DataError(f"more than one {what} may be the {split} split", found=found, todo=f"give --{split} NAME")
        if name and not fitting:
            found = few_lines(there) or "none"
            raise DataError(f"no {what} is called {name!r}", found=found, todo=f"give --{split} one of these")
        if fitting:
            chosen[split] = fitting[0]
    for split, others in (("train", ("train",)), ("test", ("val", "test"))):
        if not any(other in chosen for other in others):
            found = few_lines(there) or "none"
            todo = f"{todo}; or name what is there with --{split}"
            raise DataError(f"no {what} is a {split} split", found=found, todo=todo)
    return chosen


def _splits(named: Mapping[Role, LabelledImages]) -> ImageSplits:
    if "test" in named:
        splits = ImageSplits(named["train"], named.get("val"), named["test"], own=True)
    else:
        splits = ImageSplits(named["train"], None, noted(named["val"], VAL_AS_TEST), own=True)
    return checked(splits)


@dataclass(frozen=True)
class _Row:
    line: int
    path: str
    label: str
    split: str
    levels: tuple[str, ...]


def read_csv(
    file: Path,
    label: str = "label",
    path: str = "path",
    split: str = "split",
    levels: Sequence[str] = (),
    root: Path | None = None,
    *,
    train: str | None = None,
    val: str | None = None,
    test: str | None = None,
) -> ImageSplits:
    """One image a row. Labels are names, also where they look like numbers; classes are sorted by name.

    Args:
        file: CSV in UTF-8 whose first line names the columns.
        label, path, split: the columns that are read.
        levels: coarser columns; all rows of a class must have the same entry there.
        root: the folder to which paths are relative; by default that of the file.
        train, val, test: the split column's entries; by default those of `ALIASES`, and any other entry is an error.
            If one is given, rows with another entry are left out, and a note says how many.

    Raises:
        DataError: the file or a column is missing or not UTF-8, rows without label or of an unknown split, an empty
            split, images missing or named twice, a class without training images, a class in two coarser ones.
    """
    rows = _rows(file, {"path": path, "label": label, "split": split}, tuple(levels))
    there = sorted({row.split for row in rows})
    given: dict[Role, str | None] = {"train": train, "val": val, "test": test}
    chosen = _split_names(there, given, f"entry of column {split!r} of {file}", TABLE)
    left_out = [row for row in rows if row.split not in chosen.values()]
    if left_out and not any(given.values()):
        raise DataError(
            f"{len(left_out)} rows of {file} are of an unknown split",
            found=few_lines([f"line {row.line}: {row.split!r}" for row in left_out]),
            todo="write train, val or test there, or say what the entries mean with --train, --val and --test",
        )
    note = f"{len(left_out)} rows of {file.name} left out that are of other splits"
    folder = file.parent if root is None else root
    if not folder.is_dir():
        raise DataError(f"no folder {folder}, to which the paths in {file} are relative", todo="give --csv-root DIR")
    return _splits(_labelled(file, folder, rows, chosen, tuple(levels), (note,) if left_out else ()))


def _labelled(
    file: Path, root: Path, rows: list[_Row], chosen: dict[Role, str], levels: tuple[str, ...], notes: tuple[str, ...]
) -> dict[Role, LabelledImages]:
    parts = {split: [row for row in rows if row.split == entry] for split, entry in chosen.items()}
    classes = sorted({row.label for row in parts["train"]})
    numbers = {name: number for number, name in enumerate(classes)}
    for entry, part in zip(chosen.values(), parts.values(), strict=True):
        labels = [row.label for row in part]
        refuse_untrained(labels, classes, f"split {entry!r} of {file}", repr(chosen["train"]), "image")
    used = [row for part in parts.values() for row in part]
    coarse = {name: _level(name, place, used, classes, file) for place, name in enumerate(levels)}
    return {
        split: listed_split(
            f"{file.stem}_{chosen[split]}",
            root,
            [row.path for row in part],
            [numbers[row.label] for row in part],
            classes,
            source=f"split {chosen[split]!r} of {file}",
            levels=coarse,
            notes=notes,
        )
        for split, part in parts.items()
    }


def _level(name: str, place: int, rows: list[_Row], classes: list[str], file: Path) -> Level:
    parents: dict[str, str] = {}
    for row in rows:
        parent = parents.setdefault(row.label, row.levels[place])
        if parent != row.levels[place]:
            raise DataError(
                f"class {row.label!r} belongs to two entries of {name!r} in {file}",
                found=f"{parent!r}, and {row.levels[place]!r} in line {row.line}",
                todo="each class must belong to one coarser class: correct the rows or leave the level out",
            )
    return level_of(parents, classes)


def _rows(file: Path, columns: dict[str, str], levels: tuple[str, ...]) -> list[_Row]:
    wanted = (*columns.values(), *levels)
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.DictReader(opened, restval="")
            missing = [name for name in wanted if name not in (reader.fieldnames or ())]
            if missing:
                raise _no_column(file, missing, reader.fieldnames or (), columns)
            lines, longer = [], []
            for row in reader:
                lines.append((reader.line_num, [row[name].strip() for name in wanted]))
                if None in row:  # where DictReader puts what lies beyond the last column
                    longer.append(f"line {reader.line_num}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {file}", found=str(error), todo=TABLE) from error
    if longer:
        what = f"{len(longer)} of {len(lines)} rows of {file} have more fields than its first line"
        raise DataError(what, found=few_lines(longer), todo='write entries that hold a comma in quotes: "a, b"')
    if not lines:
        raise DataError(f"{file} names no image", found="a first line, and nothing below it", todo=TABLE)
    for place, name in enumerate(wanted):
        empty = [f"line {number}" for number, entries in lines if not entries[place]]
        if empty:
            raise DataError(
                f"{len(empty)} of {len(lines)} rows of {file} have nothing in column {name!r}",
                found=few_lines(empty),
                todo="complete or remove these rows",
            )
    return [_Row(line, os.path.normpath(entry[0]), entry[1], entry[2], tuple(entry[3:])) for line, entry in lines]


def _no_column(file: Path, missing: list[str], there: Sequence[str], columns: dict[str, str]) -> DataError:
    todo = TABLE
    if columns["label"] in missing:
        todo += "; --csv-label NAME chooses the column with the labels, --csv-levels NAME … coarser ones"
    return DataError(
        f"{file} has no column {', '.join(map(repr, missing))}",
        found=f"its first line reads {', '.join(map(repr, there))}" if there else "an empty file",
        todo=todo,
    )
