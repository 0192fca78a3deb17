"""Images that are files: a folder of them, or a list that names them."""

from __future__ import annotations

import os
import re
import stat
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from transfer.datasets.image_index import Names, digest, number_labels
from transfer.datasets.images import ENDINGS, is_image_name, read_image
from transfer.datasets.wording import few_lines
from transfer.runtime.errors import DataError

IMAGENET_NAME = re.compile(r"(n\d{8})_\d+\.\w+")


class ImageFiles:
    """Images named by their paths below `root`; a `pretrain.sources.ImageSource` and a `labelled.Images`.

    Nothing is kept open, so it can be pickled and forked freely.
    """

    def __init__(
        self,
        root: Path,
        names: Names,
        labels: list[int] | None,
        classes: list[str],
        sizes: Sequence[int] | None = None,
    ) -> None:
        self.root, self.labels, self.classes = root, labels, classes
        self._names, self._sizes = names, sizes

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        """Path below the root, or an absolute one if the list gave it so."""
        return self._names[index]

    def read(self, index: int) -> Image.Image:
        """The image as 8-bit RGB.

        Raises:
            DataError: it cannot be read.
        """
        path = self.root / self._names[index]
        return read_image(path, str(path))

    def fingerprint(self) -> str:
        """See `transfer.datasets.image_index.digest`.

        Raises:
            DataError: a file is gone.
        """
        return digest(self._names, map(self.size, range(len(self))), self.labels, self.classes)

    def size(self, index: int) -> int:
        """Bytes of the file.

        Raises:
            DataError: it is gone.
        """
        if self._sizes is not None:
            return self._sizes[index]
        path = self.root / self._names[index]
        try:
            return path.stat().st_size
        except OSError as error:
            raise DataError(
                f"no file {path}", found=str(error), todo="put it back or take it out of the set"
            ) from error

    def content(self, index: int) -> bytes:
        """The file's bytes.

        Raises:
            DataError: it cannot be read.
        """
        path = self.root / self._names[index]
        try:
            return path.read_bytes()
        except OSError as error:
            todo = "put it back or take it out of the set"
            raise DataError(f"cannot read {path}", found=str(error), todo=todo) from error


def open_folder(root: Path, labelled: bool) -> ImageFiles:
    """All images below `root`, sorted by path; links are followed, hidden files and folders left out.

    Labels are the first-level subfolders, numbered in sorted order; those without an image are no classes.

    Raises:
        DataError: no image, a folder that cannot be listed, or unlabelled images where labels are wanted.
    """
    endings: Counter[str] = Counter()
    names = sorted(walk(root, endings))
    if not names:
        seen = ", ".join(f"{count} × {ending or 'no ending'}" for ending, count in endings.most_common(5))
        raise DataError(
            f"no images in {root}",
            found=f"files ending otherwise: {seen}" if seen else "no files",
            todo=f"looked for {' '.join(ENDINGS)} in all subfolders, *.tar, and state.json of a Hugging Face data set",
        )
    if not labelled:
        return ImageFiles(root, Names(names), None, [])
    loose = [name for name in names if "/" not in name]
    if loose:
        raise DataError(
            f"{len(loose)} images lie directly in {root}, without a label",
            found=few_lines(loose),
            todo="put each into a subfolder named after its class",
        )
    labels, classes = _folder_labels(names)
    return ImageFiles(root, Names(names), labels, classes)


def _folder_labels(names: Sequence[str]) -> tuple[list[int], list[str]]:
    classes = sorted({name.partition("/")[0] for name in names})
    numbers = {name: number for number, name in enumerate(classes)}
    return [numbers[name.partition("/")[0]] for name in names], classes


def walk(
    root: Path, endings: Counter[str] | None = None, wanted: Callable[[str], bool] = is_image_name
) -> Iterator[str]:
    """Paths below `root` of all `wanted` names, in no order; endings of other files are counted in `endings`.

    Links are followed; names that begin with a dot are left out.

    Raises:
        DataError: a folder cannot be listed, or a link leads back to a folder above it.
    """
    # Folder below the root ("" or "a/b/") and what identifies those above it.
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while waiting:
        folder, above = waiting.pop()
        try:
            status = os.stat(root / folder)
            entries = list(os.scandir(root / folder))
        except OSError as error:
            raise DataError(f"cannot list the folder {root / folder}", found=str(error)) from error
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            todo = "remove the link, or name the folders one by one in a list file"
            raise DataError(f"the link {root / folder} leads back to a folder above it", todo=todo)
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                waiting.append((f"{folder}{entry.name}/", above | {identity}))
            elif wanted(entry.name):
                yield folder + entry.name
            elif endings is not None:
                endings[os.path.splitext(entry.name)[1].lower()] += 1


def open_list(file: Path, labelled: bool, root: Path | None = None) -> ImageFiles:
    """Images in the order of a text file: a path a line, then (after white space) a label, if any.

    Paths are relative to `root` (default: the folder of the list) or absolute, and may hold spaces. A line that ends
    like an image, or names a file as it stands, is all path. Bare names of ImageNet, as in google-research/simclr,
    imagenet_subsets/*.txt, are also found where ImageNet keeps them (n01440764_10026.JPEG in n01440764/). Labels are
    class numbers from 0 if all are whole numbers, otherwise names of classes; without `labelled` they are not read.

    Raises:
        DataError: no line, files that are missing or named twice, or lines without a label where it is wanted.
    """
    root = root if root is not None else file.parent
    if not root.is_dir():
        raise DataError(f"no folder {root}, to which the paths in {file} are relative")
    paths, texts = _lines(file, labelled, root)
    if not paths:
        raise DataError(f"{file} names no image", found="no line with a path", todo="write one path a line")
    sizes = array("q")
    missing = []
    for place, name in enumerate(paths):
        found = _place(root, name)
        if found is None:
            missing.append(name)
        else:
            paths[place], size = found
            sizes.append(size)
    if missing:
        raise DataError(
            f"{len(missing)} of {len(paths)} files named by {file} are missing in {root}",
            found=few_lines(missing),
            todo="give the folder to which the paths are relative, or correct the list",
        )
    if len(set(paths)) < len(paths):
        twice = sorted(name for name, count in Counter(paths).items() if count > 1)
        raise DataError(f"{len(twice)} files are named more than once by {file}", found=few_lines(twice))
    labels, classes = number_labels(texts, str(file)) if labelled else (None, [])
    return ImageFiles(root, Names(paths), labels, classes, sizes)


def _lines(file: Path, labelled: bool, root: Path) -> tuple[list[str], list[str]]:
    """Paths, and, if `labelled`, as many labels."""
    paths, texts, bare = [], [], []
    seen: dict[str, str] = {}
    try:
        lines = file.read_text("utf-8-sig", errors="surrogateescape").split("\n")
    except OSError as error:
        raise DataError(f"cannot read the list {file}", found=str(error)) from error
    for number, line in enumerate(lines, 1):
        if "\0" in line:
            raise DataError(f"{file} is not text in UTF-8", found=f"a zero byte in line {number}")
        path, label = _parts(line.strip())
        # "IMG 1" may be a name. After what ends like an image it is a label: no look at a million files for that.
        if label and not is_image_name(path) and _place(root, line.strip()) is not None:
            path, label = line.strip(), ""
        if not path:
            continue
        paths.append(path)
        if label:
            texts.append(seen.setdefault(label, label))
        else:
            bare.append(f"line {number}: {path}")
    if labelled and bare:
        todo = "write path, space and class (number or name) on each line"
        raise DataError(f"{len(bare)} of {len(paths)} lines of {file} have no label", found=few_lines(bare), todo=todo)
    return paths, texts if labelled else []


def _parts(line: str) -> tuple[str, str]:
    """Path and label, "" if there is none."""
    parts = line.rsplit(maxsplit=1)
    if len(parts) < 2 or is_image_name(line):
        return line, ""
    return parts[0], parts[1]


def _place(root: Path, name: str) -> tuple[str, int] | None:
    """Path below `root` (absolute if it lies elsewhere) and size in bytes, None if there is no such file."""
    imagenet = IMAGENET_NAME.fullmatch(name)
    for candidate in [name, f"{imagenet[1]}/{name}"] if imagenet else [name]:
        path = os.path.normpath(root / candidate)
        try:
            status = os.stat(path)
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode):
            return path.removeprefix(os.path.normpath(root).rstrip("/") + "/"), status.st_size
    return None
