"""What a labelled set says about the encoder: kNN and linear probes on its frozen features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from pretrain.distributed import World
from pretrain.sources import Source, open_source
from pretrain.views import as_tensor, to_network
from transfer.errors import DataError
from transfer.probes import accuracy, knn, linear_probe

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


class WholeImages(Dataset[Tensor]):
    """Image `places[i]` of a source as uint8 [3, side, side]."""

    def __init__(self, source: Source, side: int, places: Sequence[int]) -> None:
        self.source, self.side, self.places = source, side, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Tensor:
        """Raises DataError for an unreadable image."""
        return as_tensor(whole_view(self.source.read(self.places[index]), self.side))


@torch.no_grad()
def features(
    encoder: nn.Module, source: Source, side: int, device: torch.device, world: World | None = None, workers: int = 0
) -> Tensor:
    """Pooled features [images, features] of the encoder in evaluation mode, float32, on the CPU.

    Processes share the work, and all get the whole.

    Raises:
        DataError: an image cannot be read.
    """
    world = world or World()
    share = -(-len(source) // world.size)
    places = [min(world.rank * share + i, len(source) - 1) for i in range(share)]
    loader: DataLoader[Tensor] = DataLoader(WholeImages(source, side, places), batch_size=BATCH, num_workers=workers)
    training = encoder.training
    encoder.eval()
    try:
        parts = [encoder(to_network([images], device)[0]).float() for images in loader]
    finally:
        encoder.train(training)
    return world.gather(torch.cat(parts)[None])[0, : len(source)].cpu()


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
        """Accuracy in percent: `knn` (20 neighbours, temperature 0.07) and `linear` (logistic regression)."""
        before = features(encoder, self.train, self.side, self.device, self.world, self.workers)
        after = features(encoder, self.test, self.side, self.device, self.world, self.workers)
        if not self.world.leads:
            return {}
        known, wanted = torch.tensor(self.train.labels), torch.tensor(self.test.labels)
        classes = len(self.train.classes)
        neighbours = min(NEIGHBOURS, len(known))
        near = knn(before, known, after, classes=classes, k=neighbours)[neighbours]
        linear = linear_probe(before, known, after, classes=classes, strengths=STRENGTHS)
        return {"knn": accuracy(near, wanted), "linear": accuracy(linear.predicted, wanted)}
