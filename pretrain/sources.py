"""Sources of images: a folder, a list, tar shards or a saved Hugging Face data set, all read alike.

Each gives its images in an order that depends on its contents alone, and any of them at once, so that a training is
resumed exactly.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from PIL import Image

from pretrain.arrow_sets import ArrowSet, is_saved_set
from pretrain.tar_shards import expand_braces, open_shards
from transfer.datasets.image_files import open_folder, open_list, walk
from transfer.runtime.errors import DataError

LISTS = (".txt", ".lst")
KINDS = (
    "a folder of images, a list (.txt, .lst), tar shards (.tar, a folder of them, a-{000..146}.tar), a saved data set"
)


class ImageSource(Protocol):
    """Images by number. Can be pickled and forked; files are opened by the process that reads them.

    Attributes:
        labels: the class of each image, 0 to len(classes) - 1; None if none were asked for.
        classes: their names; "0", "1", … where labels came as numbers; empty without labels.
    """

    labels: list[int] | None
    classes: list[str]

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Name of the image for messages and lists."""

    def read(self, index: int) -> Image.Image:
        """The image as 8-bit RGB, see `transfer.datasets.images.read_image`.

        Raises:
            DataError: it cannot be read; names it.
        """

    def fingerprint(self) -> str:
        """SHA-256 (hex) over names, sizes, labels and classes, without decoding.

        See `transfer.datasets.image_index.digest`.

        Raises:
            DataError: an image is gone.
        """


def open_source(path: Path, labelled: bool = False, root: Path | None = None) -> ImageSource:
    """The images at `path`; of what kind they are is seen from what lies there.

    - A folder of images, at any depth (`transfer.datasets.image_files.open_folder`). Labels: its subfolders.
    - A list, .txt or .lst, of paths below `root` and, if any, labels (`transfer.datasets.image_files.open_list`).
    - Tar shards as webdataset writes them: one .tar, a folder with *.tar (in sorted order), or a pattern like
      train-{000000..000146}.tar (`pretrain.tar_shards`). Labels: .cls or .json.
    - A folder written by save_to_disk of Hugging Face's datasets (`pretrain.arrow_sets`). Labels: a ClassLabel column.

    Args:
        path: folder, file or pattern.
        labelled: labels are needed; without them nothing of the labels is read.
        root: folder to which the paths in a list are relative; default: the list's own.

    Raises:
        DataError: nothing there, of no known kind or of two, no images, or labels that are wanted and missing.
    """
    if root is not None and not (path.is_file() and path.suffix.lower() in LISTS):
        raise DataError(f"a root ({root}) goes with a list of images only", found=str(path))
    if path.is_dir():
        return _open_folder(path, labelled)
    if path.is_file():
        if path.suffix.lower() in LISTS:
            return open_list(path, labelled, root)
        if ".tar" in path.suffixes or path.suffix == ".tgz":
            return open_shards([path], labelled)
        raise DataError(f"{path} is no set of images that is known here", todo=f"give {KINDS}")
    if "{" in str(path):
        return open_shards(expand_braces(str(path)), labelled)
    raise DataError(f"there is no {path}", todo=f"give {KINDS}")


def _open_folder(folder: Path, labelled: bool) -> ImageSource:
    if is_saved_set(folder):
        return ArrowSet(folder, labelled)
    shards = sorted(path for path in folder.glob("*.tar") if not path.name.startswith("."))
    if not shards:
        return open_folder(folder, labelled)
    image = next(walk(folder), None)
    if image is not None:
        raise DataError(
            f"{folder} holds both tar shards and images",
            found=f"{shards[0].name} and {image}",
            todo="move either elsewhere, or name the shards by a pattern like a-{000..146}.tar",
        )
    return open_shards(shards, labelled)
