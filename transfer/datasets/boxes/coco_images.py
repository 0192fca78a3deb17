"""Where the images of a COCO file lie: `file_name` leads to one file or to none, and what was read into it is said."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from transfer.datasets.boxes.coco_records import CocoRecords, sorted_by_name
from transfer.datasets.wording import counted, few
from transfer.runtime.errors import DataError


@dataclass(frozen=True)
class _Place:
    """A file that a name may mean; `below` is its name in the folder that it is looked for in."""

    path: Path
    below: PurePosixPath
    slashed: bool = False
    beside: bool = False
    shortened: bool = False


@dataclass
class _Folders:
    """The folder of the images and that of the JSON, each folder listed once: not one look-up a file."""

    images: Path
    json: Path
    listed: dict[Path, frozenset[str]] = field(default_factory=dict)

    def holds(self, path: Path) -> bool:
        names = self.listed.get(path.parent)
        if names is None:
            names = frozenset(os.listdir(path.parent)) if path.parent.is_dir() else frozenset()
            self.listed[path.parent] = names
        return path.name in names

    def places(self, text: str) -> list[_Place]:
        """What `text` may mean, files only.

        A file of the images folder that is called so is it. Otherwise backslashes are slashes, the name is one of the
        JSON's folder, or begins with the last folders of the images folder's own path.
        """
        written = _Place(self.images / text, PurePosixPath(text))
        if self.holds(written.path):
            return [written]
        name = PurePosixPath(text.replace("\\", "/"))
        slashed = "\\" in text
        found = [_Place(self.images / name, name, slashed)]
        for length in range(1, len(name.parts)):
            if name.parts[:length] == self.images.parts[-length:]:
                rest = PurePosixPath(*name.parts[length:])
                found.append(_Place(self.images / rest, rest, slashed, shortened=True))
        found.append(_Place(self.json / text, PurePosixPath(text), beside=True))
        found.append(_Place(self.json / name, name, slashed, beside=True))
        places: dict[str, _Place] = {}
        for place in found:
            if self.holds(place.path):
                places.setdefault(os.path.realpath(place.path), place)
        return list(places.values())


def locate(folder: Path, records: CocoRecords) -> tuple[CocoRecords, dict[int, Path], list[str]]:
    """The file of every image.

    Returns:
        the records, their images called by where they were found; image id → file; notes on the names that were not
        taken as they are written.

    Raises:
        DataError: there is no such folder, an image has no file, two files could be meant, or one file would be two
            images.
    """
    folder = Path(os.path.abspath(folder))
    if not folder.is_dir():
        raise DataError(f"no folder of images {folder}", todo=f"name the folder of the images of {records.path}")
    folders = _Folders(folder, Path(os.path.abspath(records.path)).parent)
    places = {image.source_id: folders.places(image.file_name) for image in records.images}
    missing = [image.file_name for image in records.images if not places[image.source_id]]
    if missing:
        raise DataError(
            f"{len(missing):,} of {len(places):,} images of {records.path} are missing in {folder}",
            found=f"no file for {few(missing)}\n{folder} holds {few(sorted(os.listdir(folder))) or 'nothing'}",
            todo="complete the folder, or name the one that `file_name` is relative to",
        )
    unclear = [image for image in records.images if len(places[image.source_id]) > 1]
    if unclear:
        lines = [
            f"{image.file_name} (image {image.source_id}): {' or '.join(str(p.path) for p in places[image.source_id])}"
            for image in unclear[:5]
        ]
        raise DataError(
            f"the file names of {counted(len(unclear), 'image', 'images')} of {records.path} can mean two files",
            found="\n".join(lines),
            todo=f"write names relative to {folder}, or move the files that are not meant",
        )
    one = {image.source_id: places[image.source_id][0] for image in records.images}
    notes = _notes(records, one, folder)
    if notes:
        records = _renamed(records, one)
    return records, {number: place.path for number, place in one.items()}, notes


def _renamed(records: CocoRecords, places: dict[int, _Place]) -> CocoRecords:
    """Two entries that are one file as written have one name, which the records refuse; so must those found so."""
    ids: dict[Path, list[int]] = {}
    for number, place in places.items():
        ids.setdefault(place.path, []).append(number)
    twice = {path: own for path, own in ids.items() if len(own) > 1}
    if twice:
        raise DataError(
            f"{counted(len(twice), 'file is', 'files are')} more than one image of {records.path}",
            found="\n".join(f"{path}: images {few([str(i) for i in own])}" for path, own in list(twice.items())[:5]),
            todo="name every image once",
        )
    images = [
        dataclasses.replace(image, name=str(places[image.source_id].below.with_suffix(""))) for image in records.images
    ]
    return dataclasses.replace(records, images=sorted_by_name(images, records.path))


def _notes(records: CocoRecords, places: dict[int, _Place], folder: Path) -> list[str]:
    kinds = {
        "slashed": "with backslashes, read as slashes",
        "beside": f"read from the folder of {records.path.name}",
        "shortened": f"without the folders that they begin with, the images being in {folder.name}",
    }
    notes = []
    for kind, text in kinds.items():
        found = [
            f"{image.file_name} is {places[image.source_id].below}"
            for image in records.images
            if getattr(places[image.source_id], kind)
        ]
        if found:
            notes.append(f"{counted(len(found), 'file name', 'file names')} {text}: {few(found, 3)}")
    return notes
