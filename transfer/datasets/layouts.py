"""Which layout a folder with a data set of one's own is in, and which of its splits are which."""

from __future__ import annotations

import csv
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from transfer.datasets.boxes.coco_layout import coco_splits, other_json, without_images
from transfer.datasets.boxes.voc_layout import has_lists, voc_splits
from transfer.datasets.image_files import walk
from transfer.datasets.wording import few
from transfer.runtime.errors import DataError

VAL_AS_TEST = "results are on the validation images: there is no test split, as with ImageNet"
Kind = Literal["voc", "coco", "folders", "csv"]
Role = Literal["train", "val", "test"]

# How splits are called, in any case and whatever year follows ("train2017").
ALIASES: dict[Role, tuple[str, ...]] = {
    "train": ("train", "training", "trainval"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
COLUMNS = {"path", "split"}  # of a CSV file that lists images
NO_CLASSES = {"images", "labels", "annotations", "data", "jpegimages"}  # folders that hold files of all classes
KNOWN: dict[Kind, str] = {
    "voc": "VOC: Annotations, ImageSets/Main and JPEGImages, or XML beside the images in a folder for each split",
    "coco": "COCO: JSON files in annotations/ with folders of images, or a JSON beside the images in a folder for each "
    "split",
    "folders": "folders by class: <split>/<class>/<image>",
    "csv": "a CSV file with the columns path, split and a label",
}


@dataclass(frozen=True)
class Layout:
    """A layout that a folder is in.

    Attributes:
        kind: of those in `KNOWN`.
        title: for people.
        root: the folder.
        splits: names of what is there.
        coco: split → (annotations, folder of images), of COCO's layout.
        csv: the file of the layout that is one.
    """

    kind: Kind
    title: str
    root: Path
    splits: tuple[str, ...]
    coco: Mapping[str, tuple[Path, Path]] = field(default_factory=dict)
    csv: Path | None = None

    def options(self, train: str | None, test: str | None) -> str:
        """What to type instead of --dataset."""
        if self.kind == "folders":
            return f"--image-folder {_quoted(self.root)}"
        if self.csv is not None:
            return f"--csv {_quoted(self.csv)}"
        try:
            first, second = chosen(self, train, test)
        except DataError:
            first, second = "SPLIT", "SPLIT"
        if self.kind == "voc":
            return f"--voc-root {_quoted(self.root)} --train {_quoted(first)} --test {_quoted(second)}"
        places = [self.coco.get(name, ("FILE", "DIR")) for name in (first, second)]
        return " ".join(
            f"--{side}-json {_quoted(file)} --{side}-images {_quoted(folder)}"
            for side, (file, folder) in zip(("train", "test"), places, strict=True)
        )


def _quoted(text: Path | str) -> str:
    return shlex.quote(str(text))


def recognise(
    root: Path, wanted: Sequence[Kind], instead: str, train: str | None = None, test: str | None = None
) -> Layout:
    """The one layout among `wanted` that a folder is in.

    Args:
        root: the folder.
        wanted: kinds that the task reads.
        instead: options that name data in another way, for messages.
        train, test: names of splits, if they were given.

    Raises:
        DataError: it is in none of them, or in several.
    """
    if not root.is_dir():
        raise DataError(
            f"--dataset {root} is no folder",
            found="a file" if root.exists() else "nothing of that name",
            todo=f"name the folder that holds the data set, or say where its files are: {instead}",
        )
    there = layouts(root)
    fitting = [layout for layout in there if layout.kind in wanted]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise DataError(
            f"{root} can be read in {len(fitting)} ways",
            found="\n".join(f"{layout.title}: {few(layout.splits, 10)}" for layout in fitting),
            todo="\n".join(f"{layout.options(train, test)}" for layout in fitting)
            + "\ntype one of these lines instead of --dataset",
        )
    deeper = {child.name: layouts(child) for child in _folders(root)} if not there else {}
    inside = [f"{name}: {one.title}" for name, found in deeper.items() for one in found if one.kind in wanted]
    others = [f"it is {layout.title}, which this task does not read" for layout in there]
    names = sorted(path.name for path in root.iterdir())
    found = [
        f"it holds {few(names, 12) or 'nothing'}",
        *others,
        *unread(root),
        *(f"in its folder {line}" for line in inside),
    ]
    known = "\n".join(f"- {KNOWN[kind]}" for kind in wanted)
    raise DataError(
        f"{root} is no data set in a layout that this task reads",
        found="\n".join(found),
        todo=("name that folder, or lay" if inside else "lay")
        + f" the set out as one of\n{known}\nor say where its files are: {instead}",
    )


def layouts(root: Path) -> list[Layout]:
    """All layouts that a folder is in.

    Raises:
        DataError: a folder or a file in it cannot be read, or a COCO set has two files for one split.
    """
    found = []
    voc, coco, by_class = voc_splits(root), coco_splits(root), _class_folders(root)
    if voc:
        how = "its own folders" if has_lists(root) else "XML beside images in a folder for each split"
        found.append(Layout("voc", f"VOC layout ({how})", root, tuple(voc)))
    if coco:
        beside = all(os.path.samefile(file.parent, folder) for file, folder in coco.values())
        how = "JSON beside images in a folder for each split" if beside else "JSON files and folders of images"
        found.append(Layout("coco", f"COCO layout ({how})", root, tuple(coco), coco))
    if by_class:
        found.append(Layout("folders", "folders by class", root, by_class))
    found += [
        Layout("csv", f"a CSV file of images ({file.name})", root, splits, csv=file) for file, splits in _tables(root)
    ]
    return found


def chosen(layout: Layout, train: str | None, test: str | None) -> tuple[str, str]:
    """Names of the splits to train on and to report on: as given, else those that can be no others.

    That is one that is called after training, and one after testing; where none is, one after validation.

    Raises:
        DataError: none or several could be meant; lists them.
    """
    by_role = {
        role: [name for name in layout.splits if _role(name) == role and name not in (train, test)] for role in ALIASES
    }
    first = [train] if train else by_role["train"]
    second = [test] if test else by_role["test"] or by_role["val"]
    if len(first) != 1 or len(second) != 1:
        unclear = " and ".join(
            f"{len(names) or 'none'} to {what}" for names, what in ((first, "train on"), (second, "report on"))
            if len(names) != 1
        )  # fmt: skip
        raise DataError(
            f"which splits of {layout.root}? By their names there is {unclear}",
            found="\n".join([f"splits there: {few(layout.splits, 20)}", *unread(layout.root)]),
            todo="give --train SPLIT --test SPLIT",
        )
    return first[0], second[0]


def unread(root: Path) -> list[str]:
    """Lines on COCO annotations whose images are all missing, and on JSON files that are no whole ones, if any."""
    files = other_json(root)
    lines = [
        f"the split {name} has annotations ({file.relative_to(root).as_posix()}), but no image lies in any folder "
        "where they could be: copy them beside it"
        for name, file in without_images(root).items()
    ]
    return lines + ([f"JSON files that hold no whole COCO annotations: {few(files, 10)}"] if files else [])


def chosen_test(layout: Layout, test: str | None) -> str:
    """Name of the split to report on, where there is none to train on: as `chosen`.

    Raises:
        DataError: there is no such split, or none or several could be meant.
    """
    by_role = {role: [name for name in layout.splits if _role(name) == role] for role in ALIASES}
    fitting = [test] if test else by_role["test"] or by_role["val"]
    if len(fitting) == 1 and (fitting[0] in layout.splits or not layout.splits):
        return fitting[0]
    if test:
        raise no_split(layout, test, "give --test SPLIT")
    raise DataError(
        f"which split of {layout.root}?",
        found="\n".join([f"splits there: {few(layout.splits, 20)}", *unread(layout.root)]),
        todo="give --test SPLIT",
    )


def no_split(layout: Layout, name: str, todo: str) -> DataError:
    """The error for a split that was asked for and is not there, or not whole."""
    there = f"splits there: {few(layout.splits, 20)}"
    file = without_images(layout.root).get(name)
    if file is not None:
        return DataError(
            f"the split {name!r} of {layout.root} has annotations, but no images",
            found=f"{file}, and no image in any folder where they could be\n{there}",
            todo=f"copy the images beside it, into {file.parent}, or say where they are: --train-json, --train-images, "
            "--test-json, --test-images",
        )
    return DataError(f"no split {name!r} in {layout.root}", found="\n".join([there, *unread(layout.root)]), todo=todo)


def is_validation(name: str) -> bool:
    """Whether a split is called after validation."""
    return _role(name) == "val"


def _role(name: str) -> Role | None:
    plain = re.sub(r"[\s_-]*\d*$", "", name.casefold())
    return next((role for role, aliases in ALIASES.items() if plain in aliases), None)


def _folders(root: Path) -> list[Path]:
    try:
        return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"cannot list the folder {root}", found=str(error), todo="make it readable") from error


def _class_folders(root: Path) -> tuple[str, ...]:
    """Split folders with a folder for each class; none if no split is called after training or testing."""
    splits = [folder.name for folder in _folders(root) if _has_classes(folder)]
    return tuple(splits) if any(_role(name) for name in splits) else ()


def _has_classes(folder: Path) -> bool:
    classes = [child for child in _folders(folder) if child.name.casefold() not in NO_CLASSES]
    return any(next(walk(child), None) is not None for child in classes)


def _tables(root: Path) -> list[tuple[Path, tuple[str, ...]]]:
    """CSV files that list images, with their splits."""
    found = []
    for file in sorted(path for path in root.iterdir() if path.suffix.lower() == ".csv" and path.is_file()):
        try:
            with file.open(encoding="utf-8-sig", newline="") as opened:
                rows = csv.DictReader(opened)
                if set(rows.fieldnames or ()) >= COLUMNS:
                    found.append((file, tuple(sorted({row["split"] or "" for row in rows}))))
        except (OSError, UnicodeDecodeError, csv.Error):  # any other file may end so; --csv says what is wrong with it
            continue
    return found
