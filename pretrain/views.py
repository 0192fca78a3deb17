"""Random views of an image: what is drawn, and how the draws are applied by Pillow in the workers.

The draws of a view depend on a seed and the size of the image alone, so they are the same in every run, in any worker,
on any number of processes, and whether the colours are done here or in batches on a GPU (`pretrain.device_views`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torchvision.transforms import functional as pillow

from pretrain.recipe import AugmentationName, Recipe
from transfer.datasets.images import as_tensor

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
ATTEMPTS = 10  # at a crop that fits, as in torchvision's RandomResizedCrop
SOLARIZE_FROM = 128


@dataclass(frozen=True)
class Kind:
    """The distribution of one kind of view; chances are between 0 and 1.

    Attributes:
        scale: least and largest share of the image's area; the aspect ratio is log-uniform in 3/4 to 4/3.
        jitter: strengths of brightness, contrast, saturation and hue, done in random order; chance `jitter_chance`.
        grey, blur, solarize: chances; blur has a Gaussian of standard deviation `sigma`, in pixels for crops of 224.
        bilinear: how the crop is resized; bicubic otherwise.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    flip: float = 0.5
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    jitter_chance: float = 0.8
    grey: float = 0.2
    blur: float = 0.5
    sigma: tuple[float, float] = (0.1, 2.0)
    solarize: float = 0.0
    bilinear: bool = False


STRONG = (0.8, 0.8, 0.8, 0.2)  # SimCLR's jitter at strength 1
# Views are of these kinds in turn.
AUGMENTATIONS: dict[AugmentationName, tuple[Kind, ...]] = {
    # Bardes et al., VICReg (ICLR 2022), appendix C.1: BYOL's, made symmetric.
    "vicreg": (Kind(solarize=0.1),),
    # Grill et al. 2020, table 6; Barlow Twins has the same.
    "byol": (Kind(blur=1.0), Kind(blur=0.1, solarize=0.2)),
    # facebookresearch/moco, main_moco.py (--aug-plus); facebookresearch/simsiam, main_simsiam.py: the same.
    "moco": (Kind(scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), bilinear=True),),
    # Chen et al., SimCLR (2020), appendix A.
    "simclr": (Kind(jitter=STRONG),),
    # facebookresearch/swav, src/multicropdataset.py and the README's command of 2x224 + 6x96.
    "swav": (Kind(scale=(0.14, 1.0), jitter=STRONG, bilinear=True),),
    # htdt/self-supervised, datasets/transforms.py, for CIFAR (there jitter and grey come before the crop).
    "wmse": (Kind(scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), grey=0.1, blur=0.0),),
    # Supervised training (He et al. 2016; pytorch/examples, imagenet/main.py): crop and flip.
    "crop": (Kind(jitter_chance=0.0, grey=0.0, blur=0.0, bilinear=True),),
    # facebookresearch/dino, main_dino.py: DataAugmentationDINO and --global_crops_scale.
    "dino": (Kind(scale=(0.4, 1.0), blur=1.0), Kind(scale=(0.4, 1.0), blur=0.1, solarize=0.2)),
}
# Small views of multi-crop: the same, of smaller parts of the image (facebookresearch/swav, --min_scale_crops) …
SMALL_SCALE = (0.05, 0.14)
# … or of kinds of their own (facebookresearch/dino, main_dino.py: --local_crops_scale).
SMALL: dict[AugmentationName, tuple[Kind, ...]] = {"dino": (Kind(scale=(0.05, 0.4)),)}


@dataclass(frozen=True)
class Draw:
    """What was drawn for one view.

    Attributes:
        box: left, top, right, lower in pixels of the image.
        flip: mirror left and right.
        jitter: (operation, factor) in the order they are done: 0 brightness, 1 contrast, 2 saturation, 3 hue.
        grey: take the colours out.
        sigma: of the blur in pixels of the view; 0: none.
        solarize: invert values from 128 up.
        bilinear: how the crop is resized.
    """

    box: tuple[int, int, int, int]
    flip: bool
    jitter: tuple[tuple[int, float], ...]
    grey: bool
    sigma: float
    solarize: bool
    bilinear: bool = False


def draw_view(kind: Kind, size: tuple[int, int], crop: int, random: np.random.Generator) -> Draw:
    """Draw a view of an image of `size` (width, height); `crop` is the side of the large views, in pixels.

    Blur shrinks with it from the published 224 on. Small views are blurred as many pixels as large ones, as in SwAV.
    """
    box = draw_box(kind.scale, size, random)
    # Always the same number of draws, so that one chance does not shift the others.
    flip, jitter, grey, blur, solarize = (random.random(5) < np.array(_chances(kind))).tolist()
    order = random.permutation(4).tolist()
    factors = [random.uniform(max(0.0, 1 - strength), 1 + strength) for strength in kind.jitter[:3]]
    factors.append(random.uniform(-kind.jitter[3], kind.jitter[3]))
    sigma = random.uniform(*kind.sigma) * crop / 224
    return Draw(
        box,
        flip,
        tuple((op, factors[op]) for op in order) if jitter else (),
        grey,
        sigma if blur else 0.0,
        solarize,
        kind.bilinear,
    )


def _chances(kind: Kind) -> tuple[float, ...]:
    return kind.flip, kind.jitter_chance, kind.grey, kind.blur, kind.solarize


def draw_box(
    scale: tuple[float, float], size: tuple[int, int], random: np.random.Generator
) -> tuple[int, int, int, int]:
    """A random part of an image of `size` (width, height), as torchvision's RandomResizedCrop draws it.

    Area uniform in `scale`, aspect ratio log-uniform in [3/4, 4/3]; where ten attempts do not fit, the largest centred
    part of an allowed ratio.
    """
    width, height = size
    areas = width * height * random.uniform(*scale, ATTEMPTS)
    ratios = np.exp(random.uniform(math.log(3 / 4), math.log(4 / 3), ATTEMPTS))
    corners = random.random((ATTEMPTS, 2))
    for area, ratio, (right, down) in zip(areas.tolist(), ratios.tolist(), corners.tolist(), strict=True):
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(right * (width - w + 1)), int(down * (height - h + 1))
            return left, top, left + w, top + h
    w, h = width, height
    if width / height < 3 / 4:
        h = max(1, round(width * 4 / 3))
    elif width / height > 4 / 3:
        w = max(1, round(height * 4 / 3))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def crop_view(image: Image.Image, draw: Draw, side: int) -> Image.Image:
    """The part of the image at the size of a view, mirrored or not."""
    resample = Image.Resampling.BILINEAR if draw.bilinear else Image.Resampling.BICUBIC
    view = image.crop(draw.box).resize((side, side), resample)
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if draw.flip else view


def colour_view(view: Image.Image, draw: Draw) -> Image.Image:
    """Jitter, grey, blur and solarize, as the published codes do them: with Pillow's filters."""
    operations = (pillow.adjust_brightness, pillow.adjust_contrast, pillow.adjust_saturation, pillow.adjust_hue)
    for operation, factor in draw.jitter:
        view = operations[operation](view, factor)
    if draw.grey:
        view = view.convert("L").convert("RGB")
    if draw.sigma:
        view = view.filter(ImageFilter.GaussianBlur(draw.sigma))
    return ImageOps.solarize(view, SOLARIZE_FROM) if draw.solarize else view


@dataclass(frozen=True)
class Views:
    """Which views an image gives.

    Attributes:
        count: K, large views of `crop` pixels.
        crop: their side.
        augmentation: a name in `AUGMENTATIONS`.
        small: number of small views, of `small_crop` pixels (multi-crop).
        colours: do the colours here; otherwise the views are only cropped and the draws go with them.
    """

    count: int
    crop: int
    augmentation: AugmentationName = "vicreg"
    small: int = 0
    small_crop: int = 96
    colours: bool = True

    @classmethod
    def of(cls, recipe: Recipe, settings: Any) -> Views:
        """Those of a recipe and a method's settings (`views`; with multi-crop also `small_views`, `small_crop`)."""
        small = getattr(settings, "small_views", 0)
        side = getattr(settings, "small_crop", recipe.crop)
        return cls(settings.views, recipe.crop, recipe.augmentation, small, side, recipe.views_on == "workers")

    def __call__(self, image: Image.Image, random: np.random.Generator) -> tuple[list[Tensor], list[Draw]]:
        """RGB image → views, uint8 [3, side, side], and their draws."""
        views, draws = [], []
        for kind, side in self.kinds():
            draw = draw_view(kind, image.size, self.crop, random)
            view = crop_view(image, draw, side)
            views.append(as_tensor(colour_view(view, draw) if self.colours else view))
            draws.append(draw)
        return views, draws

    def kinds(self) -> list[tuple[Kind, int]]:
        """Kind and side of every view, the large ones first."""
        kinds = AUGMENTATIONS[self.augmentation]
        large = [(kinds[k % len(kinds)], self.crop) for k in range(self.count)]
        smaller = SMALL.get(self.augmentation) or tuple(replace(kind, scale=SMALL_SCALE) for kind in kinds)
        small = [(smaller[k % len(smaller)], self.small_crop) for k in range(self.small)]
        return large + small


def to_network(
    views: Sequence[Tensor], device: torch.device, memory_format: torch.memory_format = torch.channels_last
) -> list[Tensor]:
    """Views uint8 [n, 3, H, W] → normalised float32 on `device`."""
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) * 255 for values in (MEAN, STD))
    moved = (view.to(device, non_blocking=True, memory_format=memory_format) for view in views)
    return [((view - mean) / std).contiguous(memory_format=memory_format) for view in moved]
