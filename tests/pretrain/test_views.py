"""What is drawn, and that Pillow in the workers and batches on the device make the same views of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from pretrain.device_views import blur, colour_batch
from pretrain.recipe import Recipe
from pretrain.views import (
    AUGMENTATIONS,
    Draw,
    Kind,
    Views,
    colour_view,
    crop_view,
    draw_box,
    draw_view,
    to_network,
)
from transfer.datasets.images import as_tensor

PLAIN = Draw(box=(0, 0, 40, 40), flip=False, jitter=(), grey=False, sigma=0.0, solarize=False)


def picture(width: int = 80, height: int = 60, seed: int = 0) -> Image.Image:
    """Smooth colours with some noise, like a photograph more than like noise."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((width, height))
    noise = random.integers(-9, 10, (height, width, 3))
    return Image.fromarray((np.asarray(coarse).astype(int) + noise).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("augmentation", sorted(AUGMENTATIONS))
def test_views_have_their_shape_differ_and_repeat_by_seed(augmentation: str) -> None:
    views = Views(4, 32, augmentation, small=2, small_crop=16)  # type: ignore[arg-type]
    first, _ = views(picture(), np.random.default_rng(1))
    again, _ = views(picture(), np.random.default_rng(1))
    assert [tuple(view.shape) for view in first] == [(3, 32, 32)] * 4 + [(3, 16, 16)] * 2
    assert all(view.dtype == torch.uint8 for view in first)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(not torch.equal(first[0], other) for other in first[1:4])


def test_small_views_are_those_of_their_authors() -> None:
    """facebookresearch/dino: --local_crops_scale, blur 0.5, not solarized; swav: smaller parts, else the same."""
    large, *_, small = (kind for kind, _ in Views(2, 64, "dino", small=3, small_crop=32).kinds())
    assert (large.scale, small.scale, small.blur, small.solarize) == ((0.4, 1.0), (0.05, 0.4), 0.5, 0.0)
    large, *_, small = (kind for kind, _ in Views(2, 64, "swav", small=3, small_crop=32).kinds())
    assert small == replace(large, scale=(0.05, 0.14))


def test_byol_views_are_asymmetric_and_vicreg_views_alike() -> None:
    draws = {
        name: [Views(2, 32, name)(picture(), np.random.default_rng(i))[1] for i in range(300)]
        for name in ("byol", "vicreg")
    }  # type: ignore[arg-type]
    share = {
        (name, view, what): np.mean([bool(getattr(pair[view], what)) for pair in rows])
        for name, rows in draws.items()
        for view in (0, 1)
        for what in ("sigma", "solarize")
    }
    assert share["byol", 0, "sigma"] == 1
    assert share["byol", 0, "solarize"] == 0
    assert share["byol", 1, "sigma"] == pytest.approx(0.1, abs=0.06)
    assert share["byol", 1, "solarize"] == pytest.approx(0.2, abs=0.08)
    for view in (0, 1):
        assert share["vicreg", view, "sigma"] == pytest.approx(0.5, abs=0.1)
        assert share["vicreg", view, "solarize"] == pytest.approx(0.1, abs=0.06)


def test_chances_and_strengths_are_those_of_the_kind() -> None:
    kind = Kind(jitter=(0.4, 0.3, 0.2, 0.1))
    draws = [draw_view(kind, (80, 60), 112, np.random.default_rng(seed)) for seed in range(2000)]
    assert np.mean([draw.flip for draw in draws]) == pytest.approx(0.5, abs=0.04)
    assert np.mean([bool(draw.jitter) for draw in draws]) == pytest.approx(0.8, abs=0.03)
    assert np.mean([draw.grey for draw in draws]) == pytest.approx(0.2, abs=0.03)
    factors = {op: np.array([dict(draw.jitter)[op] for draw in draws if draw.jitter]) for op in range(4)}
    for op, (low, high) in enumerate([(0.6, 1.4), (0.7, 1.3), (0.8, 1.2), (-0.1, 0.1)]):
        assert low <= factors[op].min() < low + 0.01
        assert high - 0.01 < factors[op].max() <= high
    orders = {tuple(op for op, _ in draw.jitter) for draw in draws if draw.jitter}
    assert len(orders) == 24
    sigmas = np.array([draw.sigma for draw in draws if draw.sigma])
    # 0.1 … 2 pixels at 224, half of that at 112
    assert sigmas.min() >= 0.05
    assert 0.97 < sigmas.max() <= 1.0


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**31))
def test_boxes_lie_in_the_image(width: int, height: int, seed: int) -> None:
    left, top, right, lower = draw_box((0.08, 1.0), (width, height), np.random.default_rng(seed))
    assert 0 <= left < right <= width
    assert 0 <= top < lower <= height


def test_areas_are_uniform_and_ratios_bounded() -> None:
    boxes = [draw_box((0.2, 0.4), (1000, 1000), np.random.default_rng(seed)) for seed in range(2000)]
    areas = np.array([(right - left) * (lower - top) for left, top, right, lower in boxes]) / 1e6
    ratios = np.array([(right - left) / (lower - top) for left, top, right, lower in boxes])
    assert np.quantile(areas, [0.0, 0.25, 0.5, 0.75, 1.0]) == pytest.approx([0.2, 0.25, 0.3, 0.35, 0.4], abs=0.01)
    assert 0.74 < ratios.min() < 0.78
    assert 1.28 < ratios.max() < 1.35
    assert np.median(np.log(ratios)) == pytest.approx(0, abs=0.03)


def test_device_views_equal_pillows() -> None:
    """To the rounding of Pillow, which keeps 8 bits after every operation (and 8 bits of hue)."""
    for operation, factor in ((0, 1.3), (0, 0.7), (1, 1.35), (1, 0.65), (2, 1.4), (2, 0.6)):
        _assert_close([Draw(PLAIN.box, False, ((operation, factor),), False, 0.0, False)], mean=1.0, most=3.0)
    for shift in (0.09, -0.2):
        _assert_close([Draw(PLAIN.box, False, ((3, shift),), False, 0.0, False)], mean=1.5, most=12.0)
    _assert_close([Draw(PLAIN.box, True, (), True, 0.0, False)], mean=0.6, most=1.0)
    _assert_close([Draw(PLAIN.box, False, (), False, 0.0, True)], mean=0.0, most=0.0)
    drawn = [
        draw_view(kind, (80, 60), 40, np.random.default_rng(i)) for i, kind in enumerate(AUGMENTATIONS["byol"] * 9)
    ]
    _assert_close(drawn, mean=1.5, most=20.0)


def _assert_close(draws: list[Draw], mean: float, most: float) -> None:
    crops = [crop_view(picture(seed=i), draw, 40) for i, draw in enumerate(draws)]
    wanted = torch.stack([as_tensor(colour_view(crop, draw)) for crop, draw in zip(crops, draws, strict=True)]).float()
    got = colour_batch(torch.stack([as_tensor(crop) for crop in crops]), draws)
    error = (wanted - got).abs()
    assert error.mean() <= mean
    assert error.max() <= most


def test_blur_is_gaussian() -> None:
    point = torch.zeros(2, 3, 31, 31)
    point[:, :, 15, 15] = 1.0
    sigma = torch.tensor([1.5, 3.0]).view(2, 1, 1, 1)
    got = blur(point, sigma)
    steps = torch.arange(-15.0, 16.0)
    for index, s in enumerate((1.5, 3.0)):
        line = torch.exp(-0.5 * (steps / s) ** 2)
        line = torch.where(steps.abs() <= 3 * s + 0.5, line, 0.0)
        line = line / line.sum()
        torch.testing.assert_close(got[index, 1], line[:, None] * line[None], atol=1e-6, rtol=1e-4)
    pillow = np.asarray(picture().filter(ImageFilter.GaussianBlur(2.0)), dtype=float)
    ours = blur(as_tensor(picture())[None].float(), torch.full((1, 1, 1, 1), 2.0))[0].permute(1, 2, 0).numpy()
    assert np.abs(pillow - ours).mean() < 1.5


def test_the_views_of_a_recipe() -> None:
    class Settings:
        views, small_views, small_crop = 2, 6, 96

    views = Views.of(Recipe(augmentation="swav", views_on="device"), Settings())
    assert (views.count, views.small, views.small_crop, views.colours) == (2, 6, 96, False)
    kinds = views.kinds()
    assert [side for _, side in kinds] == [224, 224] + [96] * 6
    assert [kind.scale for kind, _ in kinds] == [(0.14, 1.0)] * 2 + [(0.05, 0.14)] * 6


def test_network_input_is_normalised() -> None:
    black, white = to_network(
        [torch.zeros(3, 3, 8, 8, dtype=torch.uint8), torch.full((3, 3, 8, 8), 255, dtype=torch.uint8)],
        torch.device("cpu"),
    )
    assert black.is_contiguous(memory_format=torch.channels_last)
    # The constants every ImageNet model uses, written out again
    torch.testing.assert_close(black[0, :, 0, 0], torch.tensor([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225]))
    torch.testing.assert_close(white[2, :, 5, 1], torch.tensor([0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225]))
