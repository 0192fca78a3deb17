"""From an image to what a network sees: the published resizes and crops, and the normalisation of the checkpoint.

Views are values of recipes, which are read and shown without torch: it is imported where a view is applied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from transfer.datasets.images import as_tensor
from transfer.runtime.errors import DataError, UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from transfer.checkpoints.backbone import InputSpec

LONGEST = 200  # times the shorter side
Interpolation = Literal["bilinear", "bicubic"]
Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class WholeView:
    """The image as evaluation shows it. The defaults are those of most protocols: 256, then the 224 in the middle.

    Attributes:
        resize: length of the shorter side after resizing, in pixels; 0, with `squash`: both sides at once.
        crop: side of the square that the network sees.
        squash: instead of cropping, resize both sides to `crop` and give up the aspect ratio (VISSL's VOC07).
        interpolation: of resizing.
    """

    resize: int = 256
    crop: int = 224
    squash: bool = False
    interpolation: Interpolation = "bilinear"

    def check(self) -> None:
        """Raise `UserError` for a view that would show black borders, or nothing."""
        if self.crop < 1 or (self.crop > self.resize and not self.squash):
            raise UserError(
                "the crop must lie within the resized image",
                found=f"crop {self.crop}, resize {self.resize}",
                todo="give a crop from 1 to the length of the resized shorter side",
            )

    def __call__(self, image: Image.Image) -> Tensor:
        """RGB image → uint8 [3, crop, crop].

        Raises:
            DataError: one side is more than `LONGEST` times the other; resized, it would fill the memory.
        """
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms import functional as F

        if max(image.size) > LONGEST * min(image.size):
            raise DataError("too elongated to be resized", found="{} × {} pixels".format(*image.size))
        mode = InterpolationMode(self.interpolation)
        if self.resize:
            image = F.resize(image, self.resize, mode)
        if self.squash:
            return as_tensor(F.resize(image, [self.crop, self.crop], mode))
        return as_tensor(F.center_crop(image, [self.crop, self.crop]))


@dataclass(frozen=True)
class Frozen:
    """Features that a run takes from the frozen backbone, of every image of its set.

    Attributes:
        view: what the network sees of an image.
        poolings: names of `Family.poolings`.
        precision: of the backbone's arithmetic.
        val: whether those of the validation split are wanted too, where there is one.
    """

    view: WholeView
    poolings: tuple[str, ...]
    precision: Precision = "fp32"
    val: bool = True


@dataclass(frozen=True)
class RandomView:
    """A random crop, resized, and perhaps mirrored: what most protocols train on (torchvision's RandomResizedCrop).

    Attributes:
        crop: side of the square that the network sees, in pixels.
        smallest: smallest area of the crop, as a share of the image's; the largest is the whole image. 0: no share, but
            a square of `crop` pixels of the image whose shorter side was resized to `resize` (OBoW's Places205).
        resize: see there.
        flip: probability of mirroring.
        interpolation: of resizing.
    """

    crop: int = 224
    smallest: float = 0.08
    flip: float = 0.5
    interpolation: Interpolation = "bilinear"
    resize: int = 0

    def __call__(self, image: Image.Image, draw: tuple[int, ...]) -> Tensor:
        """RGB image → uint8 [3, crop, crop]. Equal `draw` (seed, epoch, image) give equal crops, whoever draws."""
        import torch
        from torchvision import transforms as T

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence(draw).generate_state(1, np.uint64)[0] >> 1))
            mode = T.InterpolationMode(self.interpolation)
            if self.smallest:
                image = T.RandomResizedCrop(self.crop, (self.smallest, 1.0), interpolation=mode)(image)
            else:
                image = T.RandomCrop(self.crop)(T.functional.resize(image, self.resize, mode))
            return as_tensor(self.after(T.RandomHorizontalFlip(self.flip)(image), draw))

    def after(self, image: Image.Image, draw: tuple[int, ...]) -> Image.Image:
        """What is done to the crop before the network sees it: nothing."""
        return image


def to_network(images: Tensor, spec: InputSpec, device: torch.device) -> Tensor:
    """uint8 RGB [n, 3, h, w] → what the weights expect, float32 channels-last on the device."""
    import torch

    images = images.to(device, non_blocking=True)
    if spec.channels == "BGR":
        images = images.flip(1)
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in spec.in_255())
    normal: Tensor = (images.float() - mean) / std
    return normal.contiguous(memory_format=torch.channels_last)
