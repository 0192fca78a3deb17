"""Images in tar shards of the webdataset layout, any of them reached directly.

The webdataset library itself streams: where a stream stood cannot be found again without reading up to there, and its
order depends on the number of workers. Here the headers are read once and any image is then one read at a known place,
so a resumed training sees the images that the uninterrupted one would have seen.
Layout: github.com/webdataset/webdataset, README.md ("The WebDataset Format"): files of a sample lie one after the
other and share their name up to the first dot of its last part.
"""

from __future__ import annotations

import json
import logging
import os
import re
from array import array
from collections.abc import Iterator, Sequence
from itertools import groupby, product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pretrain.tar_headers import Member, members
from transfer.datasets.image_index import Names, digest, number_labels
from transfer.datasets.images import ENDINGS, is_image_name, read_image
from transfer.datasets.wording import few_lines
from transfer.runtime.errors import DataError

logger = logging.getLogger(__name__)
BRACES = re.compile(r"\{([^{}]*)\}")
MOST_SHARDS = 100_000
KEPT_OPEN = 64  # shards, below the usual limit of 1024 files per process, whatever the number of shards


class Handles:
    """Descriptors of files, opened when first read, for one process: neither pickled nor shared with a fork.

    One thread at a time.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._open: dict[Path, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"_process": None, "_open": {}}

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close all; they are opened again when needed."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open = {}

    def get(self, path: Path, state: tuple[int, int]) -> int:
        """Descriptor of `path`, whose size and time of change (ns) are still `state`.

        Raises:
            OSError: it cannot be opened.
            DataError: it is not what it was.
        """
        if self._process != os.getpid() or (path not in self._open and len(self._open) >= KEPT_OPEN):
            self.close()  # after a fork these are the child's own copies
            self._process = os.getpid()
        if path not in self._open:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            if state_of(descriptor) != state:
                os.close(descriptor)
                raise DataError(f"{path} was changed since its headers were read", todo="start again")
            self._open[path] = descriptor
        return self._open[path]


def state_of(descriptor: int) -> tuple[int, int]:
    """Size in bytes and time of change in ns."""
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns


class TarShards:
    """The images of `shards`, in the order of the shards and of their members; a `pretrain.sources.ImageSource`.

    Samples are named shard/member. Labels are the whole number in the sample's .cls or else the "label" of its .json.
    Per image about 20 bytes and its name are held in memory.

    Raises:
        DataError: a shard cannot be read or is damaged, there is no image, a sample has two or, where it is wanted, no
            label.
    """

    def __init__(self, shards: Sequence[Path], labelled: bool) -> None:
        self.shards = list(shards)
        self._states: list[tuple[int, int]] = []
        texts: list[str] = []
        known: dict[str, str] = {}  # one string for each label, not for each image
        shard_of, offsets, sizes = array("i"), array("q"), array("q")

        def index() -> Iterator[str]:
            for number, shard in enumerate(self.shards):
                for image, label in self._samples(shard, labelled):
                    shard_of.append(number)
                    offsets.append(image.offset)
                    sizes.append(image.size)
                    texts.append(known.setdefault(label, label))
                    yield image.name

        self._names = Names(index())
        self._shard, self._offset, self._size = (np.array(column) for column in (shard_of, offsets, sizes))
        if not len(self._names):
            todo = f"looked for members ending in {' '.join(ENDINGS)}"
            raise DataError(f"no images in {_these(self.shards)}", found="members ending otherwise, or none", todo=todo)
        self.labels: list[int] | None = None
        self.classes: list[str] = []
        if labelled:
            self.labels, self.classes = number_labels(texts, _these(self.shards))
        self._handles = Handles()

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        """File name of the shard / name of the member."""
        return f"{self.shards[self._shard[index]].name}/{self._names[index]}"

    def read(self, index: int) -> Image.Image:
        """The image as 8-bit RGB.

        Raises:
            DataError: it cannot be read.
        """
        number = int(self._shard[index])
        shard, name = self.shards[number], f"{self._names[index]} in {self.shards[number]}"
        try:
            descriptor = self._handles.get(shard, self._states[number])
            data = os.pread(descriptor, int(self._size[index]), int(self._offset[index]))
        except OSError as error:
            raise DataError(f"cannot read {name}", found=str(error)) from error
        return read_image(data, name)

    def fingerprint(self) -> str:
        """See `transfer.datasets.image_index.digest`."""
        return digest(map(self.name, range(len(self))), map(int, self._size), self.labels, self.classes)

    def _samples(self, shard: Path, labelled: bool) -> Iterator[tuple[Member, str]]:
        """Image and label ("" if none is wanted) of every sample that has an image."""
        try:
            with shard.open("rb") as file:
                self._states.append(state_of(file.fileno()))
                seen: set[str] = set()
                without = []
                for key, group in groupby(members(file.fileno(), shard), lambda member: sample_key(member.name)):
                    if key in seen:
                        raise DataError(
                            f"{shard} holds the sample {key} more than once, or its files apart from each other",
                            todo="write the shard again with the files of a sample next to each other",
                        )
                    seen.add(key)
                    sample = list(group)
                    image = _image(sample, key, shard)
                    if image is None:
                        without.append(key)
                    else:
                        yield image, _label(file.fileno(), sample, key, shard) if labelled else ""
        except OSError as error:
            raise DataError(f"cannot read {shard}", found=str(error)) from error
        if without:
            logger.warning("%s: %d samples without an image are left out: %s", shard, len(without), few_lines(without))


def sample_key(name: str) -> str:
    """Name of a member up to the first dot of its last part: what the files of a sample share."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _ending(member: Member, key: str) -> str:
    return member.name[len(key) :].lower()


def _image(sample: Sequence[Member], key: str, shard: Path) -> Member | None:
    """The image of a sample: the one that is called <key>.<ending>, or the only one (a mask may be <key>.mask.png)."""
    images = [member for member in sample if is_image_name(member.name)]
    images = [member for member in images if _ending(member, key) in ENDINGS] or images
    if len(images) > 1:
        raise DataError(
            f"the sample {key} in {shard} has several images",
            found=few_lines([member.name for member in images]),
            todo="what follows the first dot of a name is its kind: names of images must differ before it",
        )
    return images[0] if images else None


def _label(descriptor: int, sample: Sequence[Member], key: str, shard: Path) -> str:
    kinds = {_ending(member, key): member for member in sample}
    if ".cls" in kinds:
        text = _text(descriptor, kinds[".cls"])
    elif ".json" in kinds:
        text = _text(descriptor, kinds[".json"])
        try:
            content = json.loads(text)
        except ValueError as error:
            raise DataError(f"{key}.json in {shard} is not JSON", found=str(error)) from error
        label = content.get("label") if isinstance(content, dict) else None
        text = str(label) if isinstance(label, int) and not isinstance(label, bool) else f"label: {label!r}"
    else:
        found = "files " + ", ".join(member.name for member in sample)
        raise DataError(f"the sample {key} in {shard} has no label", found=found, todo="add a .cls or .json to each")
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        found, todo = repr(text[:80]), "write class numbers: digits in .cls, or {label: number} in .json"
        raise DataError(f"the label of {key} in {shard} is not a whole number", found=found, todo=todo)
    return str(int(text))


def _text(descriptor: int, member: Member) -> str:
    return os.pread(descriptor, member.size, member.offset).decode("utf-8", "replace").strip()


def _these(shards: Sequence[Path]) -> str:
    return str(shards[0]) if len(shards) == 1 else f"{shards[0]} … {shards[-1]} ({len(shards)} shards)"


def expand_braces(pattern: str) -> list[Path]:
    """`a-{000..146}.tar` or `{a,b}.tar` → paths, as the shell expands them (braces are not nested).

    Raises:
        DataError: neither numbers nor alternatives in a brace, or more than 100 000 paths.
    """
    pieces = BRACES.split(pattern)  # text, brace, text, …
    choices = [_choices(piece, pattern) if place % 2 else [piece] for place, piece in enumerate(pieces)]
    count = int(np.prod([len(choice) for choice in choices], dtype=float))
    if count > MOST_SHARDS:
        raise DataError(f"{pattern} stands for {count} shards", found=f"more than {MOST_SHARDS}")
    return [Path("".join(parts)) for parts in product(*choices)]


def _choices(brace: str, pattern: str) -> Sequence[str]:
    span = re.fullmatch(r"([0-9]{1,9})\.\.([0-9]{1,9})", brace)
    if not span:
        if "," in brace:
            return brace.split(",")
        raise DataError(f"cannot expand {{{brace}}} in {pattern}", todo="write {000..146} or {one,other}")
    first, last = int(span[1]), int(span[2])
    padded = any(text.startswith("0") and len(text) > 1 for text in span.groups())
    width = max(map(len, span.groups())) if padded else 0
    if abs(last - first) >= MOST_SHARDS:
        raise DataError(f"{pattern} stands for {abs(last - first) + 1} shards", found=f"more than {MOST_SHARDS}")
    return [f"{number:0{width}d}" for number in range(first, last + 1)] or [
        f"{number:0{width}d}" for number in range(first, last - 1, -1)
    ]


def open_shards(shards: Sequence[Path], labelled: bool) -> TarShards:
    """Index the shards, see `TarShards`.

    Raises:
        DataError: some are missing, or named twice.
    """
    missing = [str(shard) for shard in shards if not shard.is_file()]
    if missing:
        raise DataError(f"{len(missing)} of {len(shards)} shards are missing", found=few_lines(missing))
    if len(set(shards)) < len(shards):
        raise DataError(f"shards are named more than once among {_these(shards)}")
    return TarShards(shards, labelled)
