"""What every source of images keeps: names packed tightly, labels checked, one fingerprint."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import overload

import numpy as np

from transfer.runtime.errors import DataError

MOST_CLASSES = 100_000  # above, the numbers are identifiers rather than classes
WHOLE = re.compile(r"-?[0-9]{1,18}")


class Names(Sequence[str]):
    """Strings in one block of memory: a sixth of a list's, and not copied into each forked worker when read.

    Bytes of file names that are not UTF-8 go through as Python's surrogates (PEP 383).
    """

    def __init__(self, names: Iterable[str]) -> None:
        block, ends = bytearray(), array("q", [0])
        for name in names:
            block += name.encode("utf-8", "surrogateescape")
            ends.append(len(block))
        self._block, self._ends = bytes(block), np.array(ends, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        return self._block[self._ends[place] : self._ends[place + 1]].decode("utf-8", "surrogateescape")


def digest(names: Iterable[str], sizes: Iterable[int], labels: Sequence[int] | None, classes: Sequence[str]) -> str:
    """SHA-256 (hex) over names, sizes in bytes and labels in the source's order, and the names of the classes.

    The order counts: it decides which image a step of the training sees.
    """
    sha = hashlib.sha256("".join(f"{name}\0" for name in classes).encode("utf-8", "surrogateescape"))
    for name, size, label in zip(names, sizes, labels if labels is not None else repeat(""), strict=False):
        sha.update(f"\n{name}\0{size}\0{label}".encode("utf-8", "surrogateescape"))
    return sha.hexdigest()


def number_labels(texts: Sequence[str], where: str) -> tuple[list[int], list[str]]:
    """Labels as written → class numbers and names of the classes.

    Whole numbers, all of them: they are the class numbers, 0 to the largest. Otherwise names, numbered in sorted order.

    Raises:
        DataError: a number that is no class number.
    """
    kinds = set(texts)
    if all(WHOLE.fullmatch(text) for text in kinds):
        values = {text: int(text) for text in kinds}
        classes = number_names(values.values(), where)
    else:
        classes = sorted(kinds)
        values = {text: number for number, text in enumerate(classes)}
    # The same few integers over and over: a list of a million labels is a list of pointers to them.
    return [values[text] for text in texts], classes


def number_names(labels: Iterable[int], where: str) -> list[str]:
    """Names "0", "1", … for class numbers that came without names.

    Raises:
        DataError: a label is negative or too large for a class number.
    """
    kinds = set(labels)
    low, high = min(kinds), max(kinds)
    if low < 0 or high >= MOST_CLASSES:
        raise DataError(
            f"labels of {where} are not class numbers",
            found=f"values from {low} to {high}",
            todo=f"number the classes from 0 (below {MOST_CLASSES})",
        )
    return [str(number) for number in range(high + 1)]
