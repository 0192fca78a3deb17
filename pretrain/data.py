"""A folder of images, and which of them is seen when: decided by the seed and the step alone."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS

from pretrain.views import Views
from transfer.errors import DataError, UserError

Draw = tuple[int, int]  # (index of the image, number of the draw: 0, 1, 2, … over the whole training)


def list_images(root: Path) -> list[Path]:
    """All image files under `root`, relative to it and sorted; links to folders are followed, labels not needed.

    Raises:
        DataError: no such folder, or no image in it.
    """
    if not root.is_dir():
        raise DataError(f"no folder {root}", todo="name a folder of images; they may lie in subfolders")
    found = [
        Path(folder, name).relative_to(root)
        for folder, _, names in os.walk(root, followlinks=True)
        for name in names
        if name.lower().endswith(IMG_EXTENSIONS)
    ]
    if not found:
        raise DataError(
            f"no images in {root}",
            found="files ending otherwise, or none",
            todo="looked for: " + " ".join(IMG_EXTENSIONS),
        )
    return sorted(found)


def fingerprint(root: Path, images: Sequence[Path]) -> str:
    """SHA-256 over the sorted names and file sizes: tells one set of images from another without reading them."""
    lines = (f"{name.as_posix()}\t{(root / name).stat().st_size}\n" for name in images)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_image(path: Path) -> Image.Image:
    """The image as 8-bit RGB.

    Raises:
        DataError: the file is not a whole image; names it.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # Pillow reports a broken PNG as SyntaxError and some broken headers as ValueError.
        raise DataError(
            f"cannot read the image {path}", found=str(error), todo="replace it or take it out of the folder"
        ) from error


class DrawnViews(Dataset["Tensor | UserError"]):
    """Draw → uint8 views [K, 3, H, W], the same for a given (seed, draw) in every run and in any worker."""

    def __init__(self, root: Path, images: Sequence[Path], views: Views, seed: int) -> None:
        self.root, self.images, self.views, self.seed = root, images, views, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: Draw) -> Tensor | UserError:
        """An unreadable image is returned as the error: raised in a worker it would arrive as a traceback."""
        index, number = draw
        try:
            image = read_image(self.root / self.images[index])
        except UserError as error:
            return error
        state = torch.get_rng_state()
        seeds = np.random.SeedSequence([self.seed, 0x51EE, number]).generate_state(1, np.uint64)
        torch.default_generator.manual_seed(int(seeds[0]))
        views = self.views(image)
        # Without workers this runs in the training process, whose own stream must not notice.
        torch.set_rng_state(state)
        return views


class EndlessShuffle:
    """Batch sampler: one seeded permutation after another, batches of `batch` draws; the remainder is dropped.

    Starting at step `start` costs nothing: earlier images are neither read nor drawn.
    """

    def __init__(self, images: int, batch: int, seed: int, start: int, stop: int) -> None:
        self.images, self.batch, self.seed, self.start, self.stop = images, batch, seed, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[Draw]]:
        per_epoch = self.images // self.batch
        epoch, order = -1, np.empty(0, dtype=np.int64)
        for step in range(self.start, self.stop):
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                order = np.random.default_rng([self.seed, 0x0DE4, epoch]).permutation(self.images)
            first = step % per_epoch * self.batch
            row = order[first : first + self.batch].tolist()
            yield [(index, step * self.batch + position) for position, index in enumerate(row)]


def _collate(items: Sequence[Tensor | UserError]) -> Tensor | UserError:
    for item in items:
        if isinstance(item, UserError):
            return item
    return torch.stack([item for item in items if isinstance(item, Tensor)], dim=1)


def batches(dataset: DrawnViews, sampler: EndlessShuffle, workers: int, pin: bool) -> Iterator[Tensor]:
    """uint8 [K, n, 3, H, W] for every step of `sampler`.

    Raises:
        DataError: an image cannot be read.
    """
    loader: DataLoader[Tensor | UserError] = DataLoader(
        dataset, batch_sampler=sampler, num_workers=workers, collate_fn=_collate, pin_memory=pin
    )
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield batch
