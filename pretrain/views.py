"""Random views of an image, on the CPU, with torchvision's transforms."""

from __future__ import annotations

from typing import Literal

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

Augmentation = Literal["vicreg", "byol"]
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def blur_kernel(crop: int) -> int:
    """Width of the Gaussian blur: 23 pixels for crops of 224, in proportion for others; odd, at least 3."""
    return max(3, round((crop * 23 / 224 - 1) / 2) * 2 + 1)


def view_transform(crop: int, blur: float, solarize: float) -> v2.Compose:
    """PIL image → one random view, uint8 [3, crop, crop]. The probabilities of blur and solarize are arguments.

    Source: Bardes, Ponce, LeCun, "VICReg" (ICLR 2022), appendix C.1, after Grill et al. 2020, appendix B.
    """
    return v2.Compose(
        [
            v2.RandomResizedCrop(crop, scale=(0.08, 1.0), interpolation=InterpolationMode.BICUBIC),
            v2.RandomHorizontalFlip(0.5),
            v2.RandomApply([v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(blur_kernel(crop), sigma=(0.1, 2.0))], p=blur),
            v2.RandomSolarize(threshold=128, p=solarize),
            v2.PILToTensor(),
        ]
    )


class Views:
    """PIL image → K random views, uint8 [K, 3, crop, crop].

    Args:
        count: K.
        crop: side of a view in pixels.
        augmentation: "vicreg" treats all views alike (blur .5, solarize .1); "byol" alternates between
            BYOL's two asymmetric recipes (blur 1 and solarize 0, then blur .1 and solarize .2).
    """

    def __init__(self, count: int, crop: int, augmentation: Augmentation = "vicreg") -> None:
        self.count = count
        chances = [(0.5, 0.1)] if augmentation == "vicreg" else [(1.0, 0.0), (0.1, 0.2)]
        self.transforms = [view_transform(crop, blur, solarize) for blur, solarize in chances]

    def __call__(self, image: Image.Image) -> Tensor:
        """Draws from torch's global CPU generator only."""
        return torch.stack([self.transforms[k % len(self.transforms)](image) for k in range(self.count)])


def to_network(views: Tensor, device: torch.device, memory_format: torch.memory_format) -> list[Tensor]:
    """uint8 [K, n, 3, H, W] → K normalised float32 [n, 3, H, W] on `device`."""
    views = views.to(device, non_blocking=True)
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) * 255 for values in (MEAN, STD))
    return [((view - mean) / std).contiguous(memory_format=memory_format) for view in views]
