"""Which image is seen when, and what happens to one that cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pretrain.data import TRIES, DrawnBatch, DrawnViews, EndlessShuffle, batches
from pretrain.sources import open_source
from pretrain.views import Views


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    for index in range(7):
        path = root / f"class{index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return root


def dataset(root: Path, seed: int = 0, colours: bool = True, labelled: bool = False) -> DrawnViews:
    return DrawnViews(open_source(root, labelled=labelled), Views(2, 32, colours=colours), seed)


def equal(one: DrawnBatch, other: DrawnBatch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.views, other.views, strict=True)) and one.draws == other.draws


def test_every_image_once_an_epoch_in_changing_order() -> None:
    places = list(EndlessShuffle(images=12, batch=4, seed=5, start=0, stop=6))
    first = [index for row in places[:3] for index, _ in row]
    second = [index for row in places[3:] for index, _ in row]
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second
    assert [number for row in places for _, number in row] == list(range(24))


@pytest.mark.parametrize("start", [1, 3, 4, 6])
def test_a_late_start_sees_the_same_rows(start: int) -> None:
    whole = list(EndlessShuffle(10, 3, 1, 0, 7))
    assert list(EndlessShuffle(10, 3, 1, start, 7)) == whole[start:]


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([1, 2, 3, 4, 6]), st.integers(0, 5), st.integers(0, 2**31))
def test_processes_together_see_the_batches_of_one(size: int, start: int, seed: int) -> None:
    whole = list(EndlessShuffle(40, 12, seed, start, 7))
    shares = [list(EndlessShuffle(40, 12, seed, start, 7, rank, size)) for rank in range(size)]
    for step, row in enumerate(whole):
        assert [place for share in shares for place in share[step]] == row


@pytest.mark.parametrize("colours", [True, False])
def test_views_depend_on_seed_and_draw_alone(folder: Path, colours: bool) -> None:
    alone = list(batches(dataset(folder, colours=colours), EndlessShuffle(7, 3, 0, 0, 3), workers=0, pin=False))
    torch.manual_seed(99)
    apart = list(batches(dataset(folder, colours=colours), EndlessShuffle(7, 3, 0, 1, 3), workers=2, pin=False))
    assert [tuple(view.shape) for view in alone[0].views] == [(3, 3, 32, 32)] * 2
    assert all(equal(a, b) for a, b in zip(alone[1:], apart, strict=True))
    assert bool(alone[0].draws) is not colours
    one, other = (dataset(folder, seed)[(0, 0)] for seed in (0, 1))
    assert not torch.equal(one.views[0], other.views[0])


def test_labels_go_with_their_images(folder: Path) -> None:
    (batch,) = batches(dataset(folder, labelled=True), EndlessShuffle(7, 7, 0, 0, 1), workers=0, pin=False)
    ((places),) = EndlessShuffle(7, 7, 0, 0, 1)
    source = open_source(folder, labelled=True)
    assert source.labels is not None
    assert batch.labels.tolist() == [source.labels[index] for index, _ in places]


@pytest.mark.parametrize("workers", [0, 1])
def test_another_image_stands_in_for_an_unreadable_one(folder: Path, workers: int) -> None:
    (folder / "class1" / "3.png").write_bytes(b"<html>404</html>")
    (batch,) = batches(dataset(folder), EndlessShuffle(7, 7, 0, 0, 1), workers, pin=False)
    (again,) = batches(dataset(folder), EndlessShuffle(7, 7, 0, 0, 1), 0, pin=False)
    assert [len(view) for view in batch.views] == [7, 7]
    assert equal(batch, again)
    ((name, reason),) = batch.unreadable.items()
    assert name.endswith("class1/3.png")
    assert "Traceback" not in reason


def test_a_folder_of_rubbish_ends(folder: Path) -> None:
    for path in folder.rglob("*.png"):
        path.write_bytes(b"")
    item = dataset(folder)[(0, 0)]
    assert not item.views
    assert 1 <= len(item.unreadable) <= TRIES
