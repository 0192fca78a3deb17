"""Images in a data set that Hugging Face's `datasets` library saved with save_to_disk.

The library is optional (extra `hf`). It maps the Arrow files into memory, so images are read from disk when asked for.
Documentation: huggingface.co/docs/datasets, "Process" (save) and "Dataset features" (Image, ClassLabel).
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from transfer.datasets.image_index import digest
from transfer.datasets.images import read_image
from transfer.datasets.wording import few_lines
from transfer.runtime.errors import DataError

STATE, SPLITS = "state.json", "dataset_dict.json"
ROWS = 1000  # per read of names, sizes and labels


def is_saved_set(folder: Path) -> bool:
    """Whether `folder` was written by save_to_disk, as one data set or as several splits."""
    return (folder / STATE).is_file() or (folder / SPLITS).is_file()


class ArrowSet:
    """The rows of a saved data set in their order; a `pretrain.sources.ImageSource`.

    Images are the column of the feature type Image (called "image" if there are several), labels that of the type
    ClassLabel (called "label" if there are several). After unpickling the files are mapped anew.

    Raises:
        DataError: the library is missing, the folder holds several splits or cannot be read, it has no row, no column
            of images, or, where they are wanted, rows without a label.
    """

    def __init__(self, folder: Path, labelled: bool) -> None:
        self.folder = folder
        _refuse_splits(folder)
        self._rows = self._load()
        if not len(self._rows):
            raise DataError(f"the data set {folder} has no rows")
        self._image = self._column("Image", "image")
        self.labels: list[int] | None = None
        self.classes: list[str] = []
        if labelled:
            column = self._column("ClassLabel", "label")
            self.classes = list(self._rows.features[column].names)
            self.labels = self._read_labels(column)

    def __len__(self) -> int:
        return len(self._rows)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rows": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._rows = self._load()

    def name(self, index: int) -> str:
        """Number of the row from 0, and the name of the image file if the data set keeps it."""
        return _row_name(index, self._cell(index)["path"])

    def read(self, index: int) -> Image.Image:
        """The image as 8-bit RGB.

        Raises:
            DataError: it cannot be read, or the row has none.
        """
        cell = self._cell(index)
        name = f"{_row_name(index, cell['path'])} of {self.folder}"
        if cell["bytes"] is None and cell["path"] is None:
            raise DataError(f"cannot read the image {name}", found="an empty cell")
        return read_image(cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]), name)

    def fingerprint(self) -> str:
        """See `transfer.datasets.image_index.digest`; of an image that is only named its file's size is taken.

        Raises:
            DataError: such a file is gone.
        """
        pairs = list(self._names_and_sizes())
        names, sizes = (name for name, _ in pairs), (size for _, size in pairs)
        return digest(names, sizes, self.labels, self.classes)

    def _cell(self, index: int) -> dict[str, Any]:
        table = self._rows.select_columns([self._image]).with_format("arrow")[range(len(self))[index]]
        return table.column(0)[0].as_py() or {"bytes": None, "path": None}

    def _chunks(self, column: str) -> Iterator[Any]:
        """Arrow arrays of at most `ROWS` rows, that lie in the mapped files: only what is looked at is read."""
        rows = self._rows.select_columns([column]).with_format("arrow")
        for start in range(0, len(rows), ROWS):
            yield from rows[start : start + ROWS].column(0).chunks

    def _names_and_sizes(self) -> Iterator[tuple[str, int]]:
        compute = importlib.import_module("pyarrow.compute")
        index = 0
        for chunk in self._chunks(self._image):
            paths = compute.struct_field(chunk, "path").to_pylist()
            sizes = compute.binary_length(compute.struct_field(chunk, "bytes")).to_pylist()
            for path, size in zip(paths, sizes, strict=True):
                yield _row_name(index, path), size if size is not None else _file_size(path)
                index += 1

    def _read_labels(self, column: str) -> list[int]:
        numbers = list(range(len(self.classes)))  # shared by all rows
        labels: list[int] = []
        without: list[str] = []
        for chunk in self._chunks(column):
            for label in chunk.to_pylist():
                known = label is not None and 0 <= label < len(numbers)
                if not known:
                    without.append(f"row {len(labels)}: {label}")
                labels.append(numbers[label] if known else -1)
        if without:
            todo = "take a split that has labels (-1 stands for none), or filter these rows out"
            raise DataError(f"{len(without)} rows of {self.folder} have no label", found=few_lines(without), todo=todo)
        return labels

    def _column(self, kind: str, usual: str) -> str:
        """The column of a feature type, known by the name of its class."""
        features = self._rows.features
        fitting: list[str] = [name for name, feature in features.items() if type(feature).__name__ == kind]
        if len(fitting) > 1 and usual in fitting:
            return usual
        if len(fitting) != 1:
            raise DataError(
                f"{len(fitting) or 'no'} columns of the type {kind} in {self.folder}",
                found="\n".join(f"{name}: {feature}" for name, feature in features.items()),
                todo=f'save it with one, or with one called "{usual}" (datasets: cast_column, rename_column)',
            )
        return fitting[0]

    def _load(self) -> Any:
        try:
            library = importlib.import_module("datasets")
        except ImportError as error:
            raise DataError(
                f"{self.folder} was saved by Hugging Face's datasets library, which is needed to read it",
                found=str(error),
                todo="in this repository: pip install -c constraints.txt '.[hf]'",
            ) from error
        try:
            return library.load_from_disk(str(self.folder))
        except (OSError, ValueError, LookupError, TypeError) as error:  # pyarrow's errors are of these kinds
            raise DataError(
                f"cannot read the data set {self.folder}",
                found=f"{type(error).__name__}: {error}",
                todo="save it again with save_to_disk",
            ) from error


def _refuse_splits(folder: Path) -> None:
    if not (folder / SPLITS).is_file():
        return
    try:
        content = json.loads((folder / SPLITS).read_text("utf-8"))
        splits = [str(name) for name in content["splits"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"cannot read {folder / SPLITS}", found=str(error)) from error
    todo = f"name one: {folder / splits[0]}" if splits else ""
    raise DataError(f"{folder} holds several splits", found=", ".join(splits) or "none", todo=todo)


def _row_name(index: int, path: str | None) -> str:
    return f"row {index}" + (f" ({path})" if path else "")


def _file_size(path: str | None) -> int:
    if path is None:
        return -1  # an empty cell: reading it says so
    try:
        return Path(path).stat().st_size
    except OSError as error:
        raise DataError(f"no file {path}", found=str(error)) from error
