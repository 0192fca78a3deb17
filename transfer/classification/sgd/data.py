"""Which images a step of a published SGD protocol sees, and as which crops: decided by seed, epoch and image alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from transfer.classification.sgd.recipe import epoch_order
from transfer.classification.views import RandomView
from transfer.datasets.labels.labelled import Images, LabelledImages
from transfer.datasets.wording import few_lines
from transfer.runtime.errors import DataError
from transfer.runtime.loader import Loader

LISTED = 20  # unreadable images named in a message
Place = tuple[int, int, int]  # (image, epoch, part of the batch)


@dataclass(frozen=True)
class Item:
    """One image as the network will see it, or the reason why it cannot.

    Attributes:
        view: uint8 [3, side, side]; None if the image cannot be read.
        index: of the image.
        part: of the batch.
        reason: why there is no view.
    """

    view: Tensor | None
    index: int
    part: int
    reason: str = ""


@dataclass
class Batch:
    """This process's readable images of a step.

    Attributes:
        views: uint8 [n, 3, side, side].
        places: int64 [n], which images.
        parts: int64 [n], the part of the whole batch to which each belongs.
        unreadable: image → reason, left out.
    """

    views: Tensor
    places: Tensor
    parts: Tensor
    unreadable: dict[int, str] = field(default_factory=dict)

    def pin_memory(self) -> Batch:
        """The same in page-locked memory (called by the loader)."""
        return Batch(self.views.pin_memory(), self.places, self.parts, self.unreadable)


class Crops(Dataset[Item]):
    """Place → random crop, equal for equal (seed, epoch, image) in every run and in any worker."""

    def __init__(self, images: Images, view: RandomView, seed: int) -> None:
        self.images, self.view, self.seed = images, view, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: Place) -> Item:
        """The crop; raised in a worker an error would arrive as a traceback, so it comes as a value."""
        index, epoch, part = place
        return _item(self.images, lambda image: self.view(image, (self.seed, epoch, index)), index, part)


class Wholes(Dataset[Item]):
    """Number of an image → its view in evaluation."""

    def __init__(self, images: Images, view: Callable[[Image.Image], Tensor]) -> None:
        self.images, self.view = images, view

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Item:
        """The view, or the reason why there is none."""
        return _item(self.images, self.view, index, 0)


def _item(images: Images, view: Callable[[Image.Image], Tensor], index: int, part: int) -> Item:
    try:
        return Item(view(images.read(index)), index, part)
    except DataError as error:
        return Item(None, index, part, error.found or error.what)


@dataclass(frozen=True)
class Deal:
    """How a batch is dealt out, as by torch's DistributedSampler with drop_last=False.

    Attributes:
        multiple: the order of an epoch is filled up, from its own beginning, to a multiple of this.
        parts: into which a batch is cut: every `parts`-th image belongs to the same one.
        mine: of the parts, those of this process.
    """

    multiple: int
    parts: int
    mine: range


@dataclass(frozen=True)
class Order:
    """Batch sampler: the places of this process in the steps from `start` to `stop`.

    The last batch of an epoch is smaller. Starting at `start` costs nothing: earlier images are neither read nor drawn.

    Attributes:
        images: in the set.
        batch: images of a step, a multiple of `deal.multiple`.
    """

    images: int
    batch: int
    seed: int
    start: int
    stop: int
    deal: Deal

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[Place]]:
        padded = -(-self.images // self.deal.multiple) * self.deal.multiple
        per_epoch = -(-padded // self.batch)
        known, order = -1, np.empty(0, dtype=np.int64)
        for step in range(self.start, self.stop):
            epoch, number = divmod(step, per_epoch)
            if epoch != known:
                known, order = epoch, np.resize(epoch_order(self.images, self.seed, epoch), padded)
            whole = order[number * self.batch : (number + 1) * self.batch]
            yield [(int(index), epoch, part) for part in self.deal.mine for index in whole[part :: self.deal.parts]]


def collate(items: Sequence[Item]) -> Batch:
    """Readable items → batch."""
    views = [item.view for item in items if item.view is not None]
    readable = [item for item in items if item.view is not None]
    return Batch(
        torch.stack(views) if views else torch.empty(0, 3, 0, 0, dtype=torch.uint8),
        torch.tensor([item.index for item in readable], dtype=torch.int64),
        torch.tensor([item.part for item in readable], dtype=torch.int64),
        {item.index: item.reason for item in items if item.view is None},
    )


def crops(images: Images, view: RandomView, order: Order, workers: int, device: torch.device) -> Loader[Item]:
    """A batch for every step of `order`."""
    return Loader(
        Crops(images, view, order.seed),
        batch_sampler=order,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
    )


def wholes(
    images: Images,
    view: Callable[[Image.Image], Tensor],
    places: NDArray[np.int64],
    batch: int,
    workers: int,
    device: torch.device,
) -> Loader[Item]:
    """The images at `places` as evaluation sees them, `batch` at a time, in that order."""
    return Loader(
        Wholes(images, view),
        batch_sampler=[places[start : start + batch].tolist() for start in range(0, len(places), batch)],
        num_workers=workers,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
    )


def listed(images: LabelledImages, unreadable: dict[int, str]) -> str:
    """Lines "name: reason" of the first `LISTED`, by number, and how many more there are."""
    lines = [f"{images.images.name(index)}: {reason}" for index, reason in sorted(unreadable.items())]
    return few_lines(lines, LISTED)
