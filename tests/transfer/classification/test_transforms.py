"""What a network sees of an image, against torchvision's own transforms and by hand."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as T
from torchvision.transforms import InterpolationMode

from transfer.checkpoints.backbone import InputSpec
from transfer.classification.views import RandomView, WholeView, to_network
from transfer.datasets.images import as_tensor
from transfer.runtime.errors import DataError


def picture(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (50, 50), (224, 500)])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_whole_views_are_torchvisions(size, mode):
    image = picture(*size)
    theirs = T.Compose([T.Resize(256, InterpolationMode(mode)), T.CenterCrop(224), T.PILToTensor()])(image)
    assert torch.equal(WholeView(interpolation=mode)(image), theirs)


def test_squashed_views_lose_the_aspect_ratio_after_shrinking():
    image = picture(400, 300)
    theirs = T.Compose([T.Resize(256), T.Resize([224, 224]), T.PILToTensor()])(image)
    assert torch.equal(WholeView(squash=True)(image), theirs)


def test_views_squashed_at_once_are_torchvisions_resize_of_both_sides():
    image = picture(400, 300)
    theirs = T.Compose([T.Resize([224, 224]), T.PILToTensor()])(image)
    assert torch.equal(WholeView(resize=0, squash=True)(image), theirs)
    assert not torch.equal(WholeView(squash=True)(image), theirs)


def test_random_views_depend_on_their_draw_alone():
    image, view = picture(300, 200), RandomView(crop=64)
    torch.manual_seed(0)
    first = view(image, (3, 1, 7))
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), after)  # the process's own generator is left alone
    torch.manual_seed(99)
    assert torch.equal(view(image, (3, 1, 7)), first)
    assert not torch.equal(view(image, (3, 2, 7)), first)


def test_random_views_mirror_half_of_the_time_and_crop_within_their_range():
    ramp = np.broadcast_to(np.arange(100, dtype=np.uint8), (100, 100))
    image = Image.fromarray(np.stack([ramp] * 3, axis=-1))
    mirrored, widths = 0, []
    for draw in range(300):
        row = RandomView(crop=50, smallest=0.5)(image, (0, draw))[0, 25].int()
        mirrored += bool(row[0] > row[-1])
        widths.append(abs(int(row[-1]) - int(row[0])))
    assert 120 < mirrored < 180
    assert min(widths) > 100 * (0.5 * 3 / 4) ** 0.5 - 8  # the narrowest: half the area at 3:4


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
@pytest.mark.parametrize("high", [1.0, 255.0])
def test_pixels_are_normalised_as_the_weights_expect(channels, high):
    spec = InputSpec(channels, high, (0.1 * high, 0.2 * high, 0.3 * high), (0.5 * high, 0.4 * high, 0.25 * high))
    pixels = as_tensor(picture(5, 4))
    seen = to_network(pixels[None], spec, torch.device("cpu"))[0].numpy()
    planes = pixels.numpy().astype(float) / 255
    planes = planes[::-1] if channels == "BGR" else planes
    expected = (planes - np.array([0.1, 0.2, 0.3])[:, None, None]) / np.array([0.5, 0.4, 0.25])[:, None, None]
    np.testing.assert_allclose(seen, expected, atol=1e-5)


def test_an_image_that_would_fill_the_memory_is_refused():
    with pytest.raises(DataError, match="elongated"):
        WholeView()(picture(2001, 10))
