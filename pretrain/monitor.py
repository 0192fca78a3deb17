"""What a labelled set says about the encoder: kNN and linear probes on its frozen features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from pretrain.sources import ImageSource, open_source
from pretrain.views import to_network
from transfer.classification.probes.knn import accuracy, knn, linear_probe, standard_error
from transfer.datasets.images import as_tensor
from transfer.runtime.errors import DataError
from transfer.runtime.loader import Loader
from transfer.runtime.world import World

NEIGHBOURS = 20
STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # of the linear probe's regulariser; the best on held-out images is taken
BATCH = 256


def whole_view(image: Image.Image, side: int) -> Image.Image:
    """The image for evaluation: shorter side `side`, the square in its middle.

    No protocol: protocols that resize to 256/224 of the crop belong to the classification tasks.
    """
    width, height = image.size
    scale = side / min(width, height)
    image = image.resize((max(side, round(width * scale)), max(side, round(height * scale))), Image.Resampling.BICUBIC)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


class WholeImages(Dataset["Tensor | DataError"]):
    """Image `places[i]` of a source as uint8 [3, side, side]; the error of one that cannot be read."""

    def __init__(self, source: ImageSource, side: int, places: Sequence[int]) -> None:
        self.source, self.side, self.places = source, side, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Tensor | DataError:
        """Raised in a worker, an error would arrive as a traceback."""
        try:
            return as_tensor(whole_view(self.source.read(self.places[index]), self.side))
        except DataError as error:
            return error


def _joined(items: Sequence[Tensor | DataError]) -> Tensor | DataError:
    for item in items:
        if isinstance(item, DataError):
            return item
    return torch.stack([item for item in items if isinstance(item, Tensor)])


@torch.no_grad()
def features(
    encoder: nn.Module,
    source: ImageSource,
    side: int,
    device: torch.device,
    world: World | None = None,
    workers: int = 0,
) -> Tensor:
    """Pooled features [images, features] of the encoder in evaluation mode, float32, on the device.

    Processes share the work, and all get the whole.

    Raises:
        DataError: an image cannot be read.
    """
    world = world or World()
    share = -(-len(source) // world.size)
    places = [min(world.rank * share + i, len(source) - 1) for i in range(share)]
    mine = world.together(lambda: _extract(encoder, WholeImages(source, side, places), device, workers))
    return world.gather(mine[None])[0, : len(source)]


def _extract(encoder: nn.Module, images: WholeImages, device: torch.device, workers: int) -> Tensor:
    loader: Loader[Any] = Loader(images, batch_size=BATCH, num_workers=workers, collate_fn=_joined)
    training, parts = encoder.training, []
    encoder.eval()
    try:
        for batch in loader:
            if isinstance(batch, DataError):
                raise batch
            parts.append(encoder(to_network([batch], device)[0]).float())
    finally:
        encoder.train(training)
    return torch.cat(parts)


class Monitor:
    """Probes of one encoder on a labelled set.

    Args:
        train, test: labelled images.
        side: of the square that the encoder sees.

    Raises:
        DataError: the two sets have different classes.
    """

    def __init__(
        self, train: Path, test: Path, side: int, device: torch.device, world: World | None = None, workers: int = 0
    ) -> None:
        self.train, self.test = open_source(train, labelled=True), open_source(test, labelled=True)
        if self.train.classes != self.test.classes:
            odd = sorted(set(self.train.classes) ^ set(self.test.classes))
            raise DataError(
                f"the classes of {train} and {test} differ",
                found=", ".join(odd[:10]) or "another order",
                todo="give two sets with the same classes",
            )
        self.side, self.device, self.world, self.workers = side, device, world or World(), workers

    def __call__(self, encoder: nn.Module) -> dict[str, float]:
        """Accuracy in percent, on the process that leads: `knn` (20 neighbours, temperature 0.07) and `linear`; and the
        standard error of each over the test images, `knn_error` and `linear_error`.

        Raises:
            DataError: an image cannot be read.
        """
        # Without SyncBatchNorm every process has running statistics of its own; those of the leader are saved.
        self.world.copy_from_leader(encoder.buffers())
        before, after = (
            features(encoder, source, self.side, self.device, self.world, self.workers)
            for source in (self.train, self.test)
        )
        return self.world.together(lambda: self._probes(before, after) if self.world.leads else {})

    def _probes(self, before: Tensor, after: Tensor) -> dict[str, float]:
        known, wanted = (torch.tensor(source.labels, device=self.device) for source in (self.train, self.test))
        classes, neighbours = len(self.train.classes), min(NEIGHBOURS, len(before))
        near = knn(before, known, after, classes=classes, k=neighbours)[neighbours]
        linear = linear_probe(before, known, after, classes=classes, strengths=STRENGTHS)
        found = {"knn": accuracy(near, wanted), "linear": accuracy(linear.predicted, wanted)}
        # What another draw of test images would move them by: a smaller gap says nothing.
        return found | {f"{name}_error": standard_error(percent, len(wanted)) for name, percent in found.items()}
