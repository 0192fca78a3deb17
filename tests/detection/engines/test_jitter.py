"""Images on a canvas or of several sizes: the same pixels, boxes and masks, moved together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from trunk_toy import TINY, VIT_FPN

from detection.engines.jitter import jittered
from transfer.datasets.boxes.detection import DetectionImage
from transfer.datasets.boxes.masks import Mask

WIDTH, HEIGHT = 120, 80


def picture(boxes, masks=None):
    """Grey values rise to the right; objects are white."""
    pixels = np.repeat(np.arange(WIDTH, dtype=np.uint8)[None, :, None], HEIGHT, 0).repeat(3, 2)
    for x1, y1, x2, y2 in boxes:
        pixels[y1:y2, x1:x2] = 255
    image = DetectionImage(
        *(1, "a", Path("a.png"), WIDTH, HEIGHT),
        np.array(boxes, np.float32).reshape(-1, 4),
        np.arange(len(boxes)),
        np.zeros(len(boxes), bool),
        masks=masks,
    )
    return image, pixels


def outline(x1, y1, x2, y2):
    return Mask(HEIGHT, WIDTH, (np.array([x1, y1, x2, y1, x2, y2, x1, y2], np.float64),))


BOXES = [(20, 30, 60, 50), (100, 10, 116, 70)]


def test_at_scale_one_the_longer_side_is_the_canvas():
    image, pixels = picture(BOXES)
    made = jittered(image, pixels, replace(TINY, scales=(1.0, 1.0), flip=0.0))
    assert made.pixels.shape == (85, 128, 3)
    np.testing.assert_allclose(made.boxes, np.array(BOXES) * np.tile([128 / 120, 85 / 80], 2), rtol=1e-6)
    assert made.labels.tolist() == [0, 1]
    assert not made.flipped


def test_a_flip_mirrors_pixels_and_boxes():
    image, pixels = picture(BOXES)
    made = jittered(image, pixels, replace(TINY, scales=(120 / 128, 120 / 128), flip=1.0))
    assert made.flipped
    assert np.array_equal(made.pixels, pixels[:, ::-1])
    assert made.boxes.tolist() == [[60, 30, 100, 50], [4, 10, 20, 70]]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", ["polygons", "run lengths"])
def test_boxes_and_masks_lie_on_their_objects(seed, kind):
    masks = tuple(outline(*box) for box in BOXES)
    if kind == "run lengths":
        masks = tuple(Mask(HEIGHT, WIDTH, counts=mask.rle()) for mask in masks)
    image, pixels = picture(BOXES, masks)
    recipe = replace(TINY, scales=(0.5, 3.0))
    np.random.seed(seed)
    plain = jittered(image, pixels, recipe)
    np.random.seed(seed)
    made = jittered(image, pixels, recipe, masks=True)
    assert np.array_equal(made.pixels, plain.pixels)
    assert max(made.pixels.shape) <= 128
    both = np.isin(plain.labels, made.labels)
    assert (plain.boxes[~both, 2:] - plain.boxes[~both, :2]).min(initial=0) < 1  # less than a pixel of it is seen
    np.testing.assert_allclose(made.boxes, plain.boxes[both], atol=1e-4 if kind == "polygons" else 1.5)
    white = np.zeros(made.pixels.shape[:2], bool)
    for mask in made.masks:
        assert (mask.height, mask.width) == made.pixels.shape[:2]
        white |= mask.pixels()
    # a border is half white where pixels were averaged
    assert np.mean(white == (made.pixels[..., 0] > 190)) > 0.97


def test_what_is_cut_away_is_no_object_any_more():
    image, pixels = picture([(0, 0, 4, 4), (116, 76, 120, 80)], (outline(0, 0, 4, 4), outline(116, 76, 120, 80)))
    recipe, seen = replace(TINY, scales=(4.0, 4.0), flip=0.0), set()
    for seed in range(20):
        np.random.seed(seed)
        made = jittered(image, pixels, recipe, masks=True)
        assert made.pixels.shape == (128, 128, 3)
        assert len(made.masks) == len(made.boxes) == len(made.labels)
        seen |= {tuple(made.labels.tolist())}
    assert () in seen
    assert (0, 1) not in seen


def test_a_concave_polygon_is_cut_to_its_parts():
    """A U whose two arms alone are left: the box is around both."""
    u = np.array([10, 10, 20, 10, 20, 60, 100, 60, 100, 10, 110, 10, 110, 70, 10, 70], np.float64)
    image, pixels = picture([(10, 10, 110, 70)], (Mask(HEIGHT, WIDTH, (u,)),))
    recipe = replace(TINY, scales=(120 / 64, 120 / 64), flip=0.0, canvas=64)
    found = set()
    for seed in range(40):
        np.random.seed(seed)
        made = jittered(image, pixels, recipe, masks=True)
        for mask, box in zip(made.masks, made.boxes, strict=True):
            rows, columns = np.nonzero(mask.pixels())
            drawn = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert np.abs(np.array(drawn) - box).max() <= 1.5
            found.add(len(mask.polygons))
    assert found == {1}


def test_without_a_crop_the_shorter_side_is_one_of_the_sizes():
    image, pixels = picture(BOXES)
    shapes = set()
    for seed in range(30):
        np.random.seed(seed)
        made = jittered(image, pixels, replace(VIT_FPN, crop_share=0.0, flip=0.0, train_sizes=(64, 72, 96)))
        height, width = made.pixels.shape[:2]
        shapes |= {(height, width)}
        np.testing.assert_allclose(made.boxes, np.array(BOXES) * np.tile([width / 120, height / 80], 2), rtol=1e-6)
    assert shapes == {(64, 96), (72, 108), (85, 128)}  # the longest side allowed is 128


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", ["polygons", "run lengths"])
def test_boxes_and_masks_lie_on_what_a_crop_leaves_of_their_objects(seed, kind):
    masks = tuple(outline(*box) for box in BOXES)
    if kind == "run lengths":
        masks = tuple(Mask(HEIGHT, WIDTH, counts=mask.rle()) for mask in masks)
    image, pixels = picture(BOXES, masks)
    recipe = replace(VIT_FPN, crop_share=1.0, crop_sizes=(70, 90), crop_range=(40, 60))
    np.random.seed(seed)
    made = jittered(image, pixels, recipe, masks=True)
    height, width = made.pixels.shape[:2]
    # the shorter side is one of the sizes, unless the longer one would be longer than allowed
    assert min(height, width) in recipe.train_sizes or max(height, width) == recipe.max_size
    white = np.zeros((height, width), bool)
    for mask, box in zip(made.masks, made.boxes, strict=True):
        assert (mask.height, mask.width) == (height, width)
        rows, columns = np.nonzero(mask.pixels())
        drawn = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert np.abs(np.array(drawn) - box).max() <= 3.0  # twice a nearest pixel, of a piece that is enlarged
        white |= mask.pixels()
    assert np.mean(white == (made.pixels[..., 0] > 190)) > 0.95


def test_a_piece_has_sides_of_the_range_and_lies_anywhere():
    from detection.engines.jitter import _at_a_size

    image, _ = picture(BOXES)
    recipe = replace(VIT_FPN, crop_share=1.0, crop_sizes=(80,), crop_range=(40, 60))
    places = []
    for seed in range(300):
        np.random.seed(seed)
        places.append(_at_a_size(image, recipe, flipped=False))
    assert {place.size for place in places} == {(80, 120)}
    pieces = np.array([place.piece for place in places])
    heights, widths = pieces[:, 2] - pieces[:, 0], pieces[:, 3] - pieces[:, 1]
    assert (heights.min(), heights.max(), widths.min(), widths.max()) == (40, 60, 40, 60)
    assert pieces.min() == 0
    assert (pieces[:, 2].max(), pieces[:, 3].max()) == (80, 120)


def test_the_share_of_images_that_are_cropped():
    image, pixels = picture(BOXES)
    np.random.seed(0)
    recipe = replace(VIT_FPN, crop_share=0.25, crop_sizes=(80,), crop_range=(40, 60), train_sizes=(64,))
    whole = sum(jittered(image, pixels, recipe).pixels.shape[:2] == (64, 96) for _ in range(300))
    assert 200 < whole < 250


def test_a_small_image_is_cropped_no_smaller_than_it_is():
    image, pixels = picture(BOXES)
    np.random.seed(3)
    made = jittered(image, pixels, replace(VIT_FPN, crop_share=1.0, crop_sizes=(30,), crop_range=(384, 600), flip=0.0))
    assert made.labels.tolist() == [0, 1]  # nothing is cut away


def test_objects_that_a_crop_leaves_nothing_of_are_gone():
    tiny = [(0, 0, 4, 4), (116, 76, 120, 80)]
    image, pixels = picture(tiny, tuple(outline(*box) for box in tiny))
    recipe, seen = replace(VIT_FPN, crop_share=1.0, crop_sizes=(80,), crop_range=(40, 50), flip=0.0), set()
    for seed in range(30):
        np.random.seed(seed)
        made = jittered(image, pixels, recipe, masks=True)
        assert len(made.masks) == len(made.boxes) == len(made.labels)
        seen |= {tuple(made.labels.tolist())}
    assert () in seen
    assert (0, 1) not in seen
