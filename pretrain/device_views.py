"""The colours of views in batches on the device of the network, with the draws that Pillow would have been given.

Formulas are Pillow's (ImageEnhance, ImageOps, the HSV conversion) in floating point; results differ from
`pretrain.views.colour_view` by its rounding to 8 bits after each operation, and by its blur, which is an approximation
of a Gaussian by three box filters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from pretrain.views import SOLARIZE_FROM, Draw

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601-2, Pillow's convert("L")
REACH = 3.0  # standard deviations on each side of the blur's kernel


def colour_batch(views: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Jitter, grey, blur and solarize, each view by its own draw.

    Args:
        views: [n, 3, H, W], uint8, of any device.
        draws: of the n views.

    Returns:
        [n, 3, H, W], float32 in 0…255.
    """
    images = views.float()
    for turn in range(4):
        for operation, apply in enumerate(OPERATIONS):
            chosen = [
                i for i, draw in enumerate(draws) if draw.jitter[turn : turn + 1] and draw.jitter[turn][0] == operation
            ]
            factors = [draws[i].jitter[turn][1] for i in chosen]
            _replace(images, chosen, factors, apply)
    _replace(images, [i for i, draw in enumerate(draws) if draw.grey], [], lambda part, _: _luma(part).expand_as(part))
    blurred = [i for i, draw in enumerate(draws) if draw.sigma]
    _replace(images, blurred, [draws[i].sigma for i in blurred], blur)
    bright = [i for i, draw in enumerate(draws) if draw.solarize]
    _replace(images, bright, [], lambda part, _: torch.where(part < SOLARIZE_FROM, part, 255 - part))
    return images


def _replace(
    images: Tensor, chosen: list[int], factors: list[float], apply: Callable[[Tensor, Tensor], Tensor]
) -> None:
    if chosen:
        index = torch.tensor(chosen, device=images.device)
        per_image = torch.tensor(factors, device=images.device).view(-1, 1, 1, 1)
        images[index] = apply(images[index], per_image)


def _luma(images: Tensor) -> Tensor:
    weights = torch.tensor(LUMA, device=images.device).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def _blend(images: Tensor, other: Tensor | float, factor: Tensor) -> Tensor:
    return (other + factor * (images - other)).clamp(0, 255)


def _brightness(images: Tensor, factor: Tensor) -> Tensor:
    return _blend(images, 0.0, factor)


def _contrast(images: Tensor, factor: Tensor) -> Tensor:
    return _blend(images, _luma(images).mean((-2, -1), keepdim=True), factor)


def _saturation(images: Tensor, factor: Tensor) -> Tensor:
    return _blend(images, _luma(images), factor)


def _hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue by `shift` of the whole circle; value and chroma stay.

    A channel is v − c·clamp(min(k, 4 − k), 0, 1) with k = (n + 6h) mod 6 and n = 5, 3, 1 for red, green, blue.
    """
    value, low = images.amax(1), images.amin(1)
    chroma = value - low
    red, green, blue = images.unbind(1)
    safe = torch.where(chroma > 0, chroma, torch.ones_like(chroma))
    sector = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    turned = sector + 6 * shift[:, 0]
    channels = []
    for start in (5, 3, 1):
        k = (start + turned) % 6
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, 1)


OPERATIONS = (_brightness, _contrast, _saturation, _hue)


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian of standard deviation `sigma` [n, 1, 1, 1] pixels, one for each of the images [n, 3, H, W]."""
    n, channels, height, width = images.shape
    reach = min(max(1, int(REACH * float(sigma.max()) + 0.5)), min(height, width) - 1)
    steps = torch.arange(-reach, reach + 1, device=images.device)
    # Each kernel ends where its own sigma says, so that a view does not depend on the others of its batch.
    kernel = torch.exp(-0.5 * (steps / sigma.view(-1, 1)) ** 2) * (steps.abs() <= (REACH * sigma.view(-1, 1) + 0.5))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    planes = images.reshape(1, n * channels, height, width)
    planes = conv2d(pad(planes, (reach, reach, 0, 0), "replicate"), kernel[:, None, None], groups=n * channels)
    planes = conv2d(pad(planes, (0, 0, reach, reach), "replicate"), kernel[:, None, :, None], groups=n * channels)
    return planes.view_as(images)
