"""The one dataset object for classification: images in a fixed order, their labels, and how the labels nest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from transfer.runtime.errors import DataError

PRESENT, DIFFICULT, ABSENT = 1, 0, -1  # of multi-label sets


class Images(Protocol):
    """Images by number. Can be pickled and forked; files are opened by the process that reads them."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Name of the image: the same on every machine, so a path below the set's root and not an absolute one."""

    def size(self, index: int) -> int:
        """Bytes of the image as it is stored.

        Raises:
            DataError: it is gone.
        """

    def content(self, index: int) -> bytes:
        """The image as it is stored: equal for duplicates and, but for accidents, for nothing else.

        Raises:
            DataError: it cannot be read.
        """

    def read(self, index: int) -> Image.Image:
        """The image as 8-bit RGB, see `transfer.datasets.images.read_image`.

        Raises:
            DataError: it cannot be decoded; names it.
        """


@dataclass(frozen=True, eq=False)
class Level:
    """A coarser level of a label hierarchy: genus above species.

    Attributes:
        classes: names at this level.
        parent: int64 [fine classes], the class at this level to which each fine class belongs.
    """

    classes: tuple[str, ...]
    parent: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """One split of a classification set.

    Attributes:
        name: of set and split, for example "pets_trainval".
        images: where pixels come from.
        labels: int64 [n], class numbers; or int8 [n, classes] of `PRESENT`, `DIFFICULT`, `ABSENT` for multi-label sets.
        classes: their names, in the order of the class numbers; the same in every split of a set.
        levels: name → coarser level.
        notes: what a reader of the record must know: a count that is not the official one, files left out.

    Raises:
        DataError: no image, labels that do not fit the images or the classes.
    """

    name: str
    images: Images
    labels: NDArray[np.int64] | NDArray[np.int8]
    classes: tuple[str, ...]
    levels: Mapping[str, Level] = field(default_factory=lambda: MappingProxyType({}))
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.images):
            raise DataError(f"{self.name} has no images", todo="check the folder, the list or the name of the split")
        wanted = (len(self.images),) if self.labels.ndim == 1 else (len(self.images), len(self.classes))
        if self.labels.shape != wanted:
            raise DataError(
                f"labels of {self.name} do not fit its images",
                found=f"labels {list(self.labels.shape)}, {len(self.images)} images, {len(self.classes)} classes",
            )
        low, high = (0, len(self.classes) - 1) if self.labels.ndim == 1 else (ABSENT, PRESENT)
        if int(self.labels.min()) < low or int(self.labels.max()) > high:
            raise DataError(
                f"labels of {self.name} are no classes of it",
                found=f"labels {int(self.labels.min())} … {int(self.labels.max())}, {len(self.classes)} classes",
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def multilabel(self) -> bool:
        """Whether an image may show several classes."""
        return self.labels.ndim == 2

    def counts(self) -> NDArray[np.int64]:
        """Images of each class, int64 [classes]; of multi-label sets those in which it is present."""
        if self.multilabel:
            present: NDArray[np.int64] = (self.labels == PRESENT).sum(0)
            return present
        return np.bincount(self.labels, minlength=len(self.classes))

    def fingerprint(self) -> dict[str, object]:
        """Name, sha256 over sorted image names with sizes and labels, over classes and levels; and counts."""
        sha = hashlib.sha256(repr((self.classes, [(k, v.classes, v.parent.tolist()) for k, v in self.levels.items()]))
                             .encode("utf-8", "surrogateescape"))  # fmt: skip
        for line in sorted(
            f"\n{self.images.name(i)}\0{self.images.size(i)}\0{self.labels[i].tolist()}" for i in range(len(self))
        ):
            sha.update(line.encode("utf-8", "surrogateescape"))
        return {"name": self.name, "sha256": sha.hexdigest(), "images": len(self), "classes": len(self.classes)}

    def subset(self, places: Sequence[int] | NDArray[np.int64], name: str) -> LabelledImages:
        """The images at `places`, in that order, as a split of its own."""
        chosen = np.asarray(places, dtype=np.int64)
        return LabelledImages(
            name, Chosen(self.images, chosen), self.labels[chosen], self.classes, self.levels, self.notes
        )

    def joined(self, other: LabelledImages, name: str) -> LabelledImages:
        """These images and then those of `other`, a split of the same set.

        Raises:
            DataError: the two have different classes.
        """
        if self.classes != other.classes:
            raise different_classes(self, other)
        labels = np.concatenate([self.labels, other.labels])
        notes = tuple(dict.fromkeys((*self.notes, *other.notes)))
        return LabelledImages(name, Joined(self.images, other.images), labels, self.classes, self.levels, notes)


def different_classes(first: LabelledImages, second: LabelledImages) -> DataError:
    """The error of two splits whose classes differ."""
    odd = sorted(set(first.classes) ^ set(second.classes))
    return DataError(
        f"the classes of {first.name} and {second.name} differ",
        found=", ".join(odd[:10]) or "another order",
        todo="give two splits of one set, with the same classes",
    )


@dataclass(frozen=True, eq=False)
class Chosen:
    """Some of another set's images; an `Images`."""

    images: Images
    places: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.places)

    def name(self, index: int) -> str:
        """See `Images`."""
        return self.images.name(int(self.places[index]))

    def size(self, index: int) -> int:
        """See `Images`."""
        return self.images.size(int(self.places[index]))

    def content(self, index: int) -> bytes:
        """See `Images`."""
        return self.images.content(int(self.places[index]))

    def read(self, index: int) -> Image.Image:
        """See `Images`."""
        return self.images.read(int(self.places[index]))


@dataclass(frozen=True, eq=False)
class Joined:
    """One set's images and then another's; an `Images`."""

    first: Images
    second: Images

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def _at(self, index: int) -> tuple[Images, int]:
        split = len(self.first)
        return (self.first, index) if index < split else (self.second, index - split)

    def name(self, index: int) -> str:
        """See `Images`."""
        images, place = self._at(index)
        return images.name(place)

    def size(self, index: int) -> int:
        """See `Images`."""
        images, place = self._at(index)
        return images.size(place)

    def content(self, index: int) -> bytes:
        """See `Images`."""
        images, place = self._at(index)
        return images.content(place)

    def read(self, index: int) -> Image.Image:
        """See `Images`."""
        images, place = self._at(index)
        return images.read(place)


@dataclass(frozen=True, eq=False)
class ImageSplits:
    """A classification set.

    Attributes:
        train: to fit on.
        val: an official split to choose on; None where a set has none, and a recipe holds out a part of `train`.
        test: to report on, and for nothing else.
        own: whether these are a user's own images and not the set of the task.

    Raises:
        DataError: the splits have different classes, or only one class to tell apart.
    """

    train: LabelledImages
    val: LabelledImages | None
    test: LabelledImages
    own: bool = False

    def __post_init__(self) -> None:
        for other in self.others():
            if other.classes != self.train.classes:
                raise different_classes(self.train, other)
        if len(self.train.classes) < 2:
            raise DataError(
                f"{self.train.name} has a single class, there is nothing to tell apart",
                found=", ".join(self.train.classes),
                todo="give images of at least two classes",
            )

    def others(self) -> tuple[LabelledImages, ...]:
        """The splits besides `train`."""
        return (self.test,) if self.val is None else (self.val, self.test)

    def fingerprints(self) -> dict[str, dict[str, object]]:
        """One fingerprint per split."""
        found = {"train": self.train.fingerprint(), "test": self.test.fingerprint()}
        return found | ({"val": self.val.fingerprint()} if self.val is not None else {})
