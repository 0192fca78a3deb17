from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.views import Views, blur_kernel, to_network


def picture(side: int = 60) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side + 20, 3), dtype=np.uint8))


@pytest.mark.parametrize(("crop", "kernel"), [(224, 23), (96, 9), (64, 7), (32, 3)])
def test_blur_kernel_scales_with_the_crop_and_is_odd(crop: int, kernel: int) -> None:
    assert blur_kernel(crop) == kernel
    assert all(blur_kernel(size) % 2 == 1 for size in range(32, 300))


@pytest.mark.parametrize("augmentation", ["vicreg", "byol"])
def test_views_have_their_shape_differ_and_repeat_by_seed(augmentation: str) -> None:
    views = Views(4, 32, augmentation)  # type: ignore[arg-type]
    torch.manual_seed(1)
    first = views(picture())
    torch.manual_seed(1)
    again = views(picture())
    assert first.shape == (4, 3, 32, 32)
    assert first.dtype == torch.uint8
    assert torch.equal(first, again)
    assert all(not torch.equal(first[0], other) for other in first[1:])


def test_byol_views_are_asymmetric() -> None:
    blurred, solarized = (transform.transforms for transform in Views(2, 224, "byol").transforms)
    assert (blurred[4].p, blurred[5].p) == (1.0, 0.0)
    assert (solarized[4].p, solarized[5].p) == (0.1, 0.2)


def test_network_input_is_normalised() -> None:
    views = torch.zeros(2, 3, 3, 8, 8, dtype=torch.uint8)
    views[1] = 255
    black, white = to_network(views, torch.device("cpu"), torch.channels_last)
    assert black.is_contiguous(memory_format=torch.channels_last)
    # The constants every ImageNet model uses, written out again
    torch.testing.assert_close(black[0, :, 0, 0], torch.tensor([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225]))
    torch.testing.assert_close(white[2, :, 5, 1], torch.tensor([0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225]))
