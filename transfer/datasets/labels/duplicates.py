"""Images that two splits share: the same files, or files with the same bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from transfer.datasets.labels.labelled import LabelledImages
from transfer.datasets.wording import few
from transfer.runtime.errors import DataError

READERS = 8  # threads: reading and hashing both leave Python's lock
SHOWN = 3  # pairs in a note


def refuse_shared(train: LabelledImages, test: LabelledImages) -> None:
    """Two splits must not hold the same files, by name.

    Raises:
        DataError: they do; names some.
    """
    names = set(_names(test))
    shared = sorted(name for name in _names(train) if name in names)
    if shared:
        raise DataError(
            f"{train.name} and {test.name} share images: the results would be on training data",
            found=f"{len(shared)} shared, for example {', '.join(shared[:SHOWN])}",
            todo="choose splits that have no image in common",
        )


def duplicates(train: LabelledImages, test: LabelledImages) -> list[tuple[str, str]]:
    """Byte-identical images in two splits: (first of them in `train`, image of `test`), in the order of `test`.

    Sizes are compared first; only contents whose size occurs in both splits are read (sha256).

    Raises:
        DataError: an image is gone or cannot be read.
    """
    with ThreadPoolExecutor(READERS) as pool:
        sizes = [list(pool.map(split.images.size, range(len(split)))) for split in (train, test)]
        common = set(sizes[0]) & set(sizes[1])
        places = [[place for place, size in enumerate(one) if size in common] for one in sizes]
        first: dict[bytes, int] = {}
        for place, digest in zip(places[0], _digests(pool, train, places[0]), strict=True):
            first.setdefault(digest, place)
        return [
            (train.images.name(first[digest]), test.images.name(place))
            for place, digest in zip(places[1], _digests(pool, test, places[1]), strict=True)
            if digest in first
        ]


def note(pairs: list[tuple[str, str]], train: LabelledImages, test: LabelledImages) -> str:
    """A sentence on `duplicates` for the record; "" if there are none."""
    if not pairs:
        return ""
    shown = few([f"{theirs} = {ours}" for ours, theirs in pairs], SHOWN)
    return f"{len(pairs)} of {len(test)} images of {test.name} are also in {train.name}, byte for byte: {shown}"


def _names(split: LabelledImages) -> Iterable[str]:
    return (split.images.name(place) for place in range(len(split)))


def _digests(pool: ThreadPoolExecutor, split: LabelledImages, places: list[int]) -> Iterable[bytes]:
    return pool.map(lambda place: hashlib.sha256(split.images.content(place)).digest(), places)
