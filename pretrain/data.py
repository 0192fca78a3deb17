"""Which image is seen when, and as which views: decided by the seed and the step alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pretrain.sources import ImageSource
from pretrain.views import Draw, Views
from transfer.runtime.errors import DataError
from transfer.runtime.loader import Loader

Place = tuple[int, int]  # (index of the image, number of the draw: 0, 1, 2, … over the whole training)
TRIES = 20  # other images tried in the place of an unreadable one


@dataclass
class DrawnImage:
    """One image as the network will see it.

    Attributes:
        views: uint8 [3, side, side] each.
        draws: of each view, where the colours are done later.
        label: -1 without labels.
        unreadable: name and reason of every image that could not be read, before this one was taken instead.
    """

    views: list[Tensor]
    draws: list[Draw]
    label: int
    unreadable: dict[str, str] = field(default_factory=dict)


@dataclass
class DrawnBatch:
    """This process's share of a step's images.

    Attributes:
        views: for each view uint8 [n, 3, side, side].
        draws: for each view those of its n images, or nothing where the colours are done.
        labels: [n].
        unreadable: name → reason.
    """

    views: list[Tensor]
    draws: list[list[Draw]]
    labels: Tensor
    unreadable: dict[str, str]

    def pin_memory(self) -> DrawnBatch:
        """The same in page-locked memory (called by the loader)."""
        return DrawnBatch([view.pin_memory() for view in self.views], self.draws, self.labels, self.unreadable)


class DrawnViews(Dataset[DrawnImage]):
    """Place → views, the same for a given (seed, draw) in every run and in any worker."""

    def __init__(self, source: ImageSource, views: Views, seed: int) -> None:
        self.source, self.views, self.seed = source, views, seed

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, place: Place) -> DrawnImage:
        """An unreadable image is replaced by one that depends on the place alone; without views if none can be read."""
        index, number = place
        random = np.random.default_rng([self.seed, 0x51EE, number])
        unreadable: dict[str, str] = {}
        for _ in range(TRIES):
            try:
                image = self.source.read(index)
            except DataError as error:
                unreadable[self.source.name(index)] = error.found or error.what
                index = int(random.integers(len(self.source)))
                continue
            views, draws = self.views(image, random)
            label = self.source.labels[index] if self.source.labels is not None else -1
            return DrawnImage(views, [] if self.views.colours else draws, label, unreadable)
        # Raised in a worker it would arrive as a traceback: the batch carries it to the training process.
        return DrawnImage([], [], -1, unreadable)


class EndlessShuffle:
    """Batch sampler: one seeded permutation after another, batches of `batch` places; the remainder is dropped.

    Starting at step `start` costs nothing: earlier images are neither read nor drawn. Of every batch, process `rank`
    of `size` gets the consecutive share that is its own, so that the batches of all of them are those of one.
    """

    def __init__(self, images: int, batch: int, seed: int, start: int, stop: int, rank: int = 0, size: int = 1) -> None:
        self.images, self.batch, self.seed, self.start, self.stop = images, batch, seed, start, stop
        self.share = slice(rank * batch // size, (rank + 1) * batch // size)

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[Place]]:
        per_epoch = self.images // self.batch
        epoch, order = -1, np.empty(0, dtype=np.int64)
        for step in range(self.start, self.stop):
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                order = np.random.default_rng([self.seed, 0x0DE4, epoch]).permutation(self.images)
            first = step % per_epoch * self.batch
            row = order[first : first + self.batch].tolist()
            places = [(index, step * self.batch + position) for position, index in enumerate(row)]
            yield places[self.share]


def collate(items: Sequence[DrawnImage]) -> DrawnBatch:
    """Items → batch; views is empty if an item could not be replaced."""
    unreadable = {name: reason for item in items for name, reason in item.unreadable.items()}
    labels = torch.tensor([item.label for item in items])
    if not all(item.views for item in items):
        return DrawnBatch([], [], labels, unreadable)
    views = [torch.stack(list(of_one_kind)) for of_one_kind in zip(*(item.views for item in items), strict=True)]
    draws = [list(of_one_kind) for of_one_kind in zip(*(item.draws for item in items), strict=True)]
    return DrawnBatch(views, draws, labels, unreadable)


def batches(dataset: DrawnViews, sampler: EndlessShuffle, workers: int, pin: bool) -> Iterator[DrawnBatch]:
    """A batch for every step of `sampler`."""
    loader: Loader[DrawnImage] = Loader(
        dataset, batch_sampler=sampler, num_workers=workers, collate_fn=collate, pin_memory=pin
    )
    yield from loader
