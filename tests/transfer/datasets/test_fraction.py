"""Parts of a training set: nested, repeatable, and said."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.datasets.boxes.detection import DetectionDataset, DetectionImage
from transfer.datasets.boxes.fraction import part_of
from transfer.runtime.errors import UserError


def image(place: int, labels: list[int], crowd: list[bool] | None = None) -> DetectionImage:
    count = len(labels)
    return DetectionImage(
        image_id=place,
        name=f"image{place:04d}",
        path=Path(f"{place}.jpg"),
        width=10,
        height=10,
        boxes=np.tile(np.float32([1, 1, 5, 5]), (count, 1)),
        labels=np.array(labels, np.int64),
        difficult=np.zeros(count, bool),
        crowd=np.array(crowd if crowd is not None else [False] * count),
        source_id=1000 + place,
    )


def dataset(count: int) -> DetectionDataset:
    """`count` annotated images with one "a" each, one with nothing, one with a crowd only, one "b" on the first."""
    rows = [image(place, [0, 1] if place == 1 else [0]) for place in range(1, count + 1)]
    rows += [image(count + 1, []), image(count + 2, [0], [True])]
    return DetectionDataset("set", ("a", "b", "c"), tuple(rows), notes=("a note",))


def names(part: DetectionDataset) -> list[str]:
    return [row.name for row in part.images]


@given(
    count=st.integers(1, 60),
    seed=st.integers(0, 1000),
    fractions=st.tuples(st.floats(1e-6, 1), st.floats(1e-6, 1)),
)
def test_parts_are_nested_sorted_numbered_and_as_large_as_asked(
    count: int, seed: int, fractions: tuple[float, float]
) -> None:
    whole = dataset(count)
    small, large = (part_of(whole, fraction, seed) for fraction in sorted(fractions))
    assert set(names(small)) <= set(names(large)) <= set(names(whole)[:count])
    for part, fraction in ((small, min(fractions)), (large, max(fractions))):
        assert len(part) >= 1
        assert abs(len(part) - fraction * count) <= 0.5 or len(part) == 1
        assert names(part) == sorted(names(part))
        assert [row.image_id for row in part.images] == list(range(1, len(part) + 1))
        assert all(row.source_id == 1000 + int(row.name[-4:]) for row in part.images)


@given(seed=st.integers(0, 1000), order=st.permutations(range(22)))
def test_the_order_of_the_images_does_not_matter(seed: int, order: list[int]) -> None:
    whole = dataset(20)
    mixed = dataclasses.replace(whole, images=tuple(whole.images[place] for place in order))
    assert names(part_of(whole, 0.3, seed)) == names(part_of(mixed, 0.3, seed))


def test_every_image_is_drawn_about_equally_often() -> None:
    whole, times = dataset(40), np.zeros(40)
    for seed in range(400):
        times[[int(name[-4:]) - 1 for name in names(part_of(whole, 0.25, seed))]] += 1
    # Binomial(400, 1/4): mean 100, standard deviation 8.7.
    assert times.sum() == 400 * 10
    assert np.abs(times - 100).max() < 5 * 8.7


def test_this_draw_never_changes() -> None:
    """The three smallest sha256 of "0 image0001" to "0 image0030"; another draw would make old records incomparable."""
    assert names(part_of(dataset(30), 0.1, 0)) == ["image0002", "image0023", "image0030"]


def test_name_and_notes_say_what_is_left() -> None:
    whole = dataset(20)
    seed = next(seed for seed in range(50) if "image0001" not in names(part_of(whole, 0.1, seed)))
    part = part_of(whole, 0.1, seed)
    assert part.name == f"set_10percent_seed{seed}"
    assert part.notes == (
        "a note",
        f"10 % of the annotated images, seed {seed}: 2 of 20 images, 2 of 21 boxes; 1 class has no box left: b",
    )
    assert part_of(whole, 1.0, 0).notes[-1].endswith("20 of 20 images, 21 of 21 boxes; all classes")
    assert part_of(whole, 0.015, 0).name == "set_1.5percent_seed0"


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, float("nan")])
def test_impossible_fractions(fraction: float) -> None:
    with pytest.raises(UserError, match="no such part") as caught:
        part_of(dataset(3), fraction, 0)
    assert caught.value.todo


def test_nothing_annotated() -> None:
    with pytest.raises(UserError, match="nothing to draw"):
        part_of(dataset(0), 0.1, 0)
