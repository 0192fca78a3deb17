from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.data import DrawnViews, EndlessShuffle, batches, fingerprint, list_images, read_image
from pretrain.views import Views
from transfer.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    for index in range(7):
        path = root / f"class{index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    (root / "notes.txt").write_text("not an image")
    return root


def dataset(root: Path, seed: int = 0) -> DrawnViews:
    return DrawnViews(root, list_images(root), Views(2, 32), seed)


def test_images_are_found_in_subfolders_and_behind_links(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "view").mkdir()
    (tmp_path / "view" / "link").symlink_to(folder)
    assert len(list_images(folder)) == 7
    assert [str(p) for p in list_images(tmp_path / "view")] == [f"link/{p}" for p in list_images(folder)]


def test_missing_and_empty_folders_are_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError, match=path.name):
            list_images(path)


def test_fingerprint_changes_with_names_and_sizes(folder: Path) -> None:
    images = list_images(folder)
    before = fingerprint(folder, images)
    assert before == fingerprint(folder, images)
    assert before != fingerprint(folder, images[:-1])
    with (folder / images[0]).open("ab") as file:
        file.write(b"x")
    assert before != fingerprint(folder, images)


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"\x89PNG\r\n\x1a\nrubbish", b"cut"])
@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named_in_any_process(folder: Path, content: bytes, workers: int) -> None:
    victim = folder / "class1" / "3.png"
    victim.write_bytes(victim.read_bytes()[:200] if content == b"cut" else content)
    with pytest.raises(DataError, match=r"cannot read the image .*class1/3\.png") as caught:
        list(batches(dataset(folder), EndlessShuffle(7, 7, 0, 0, 1), workers, pin=False))
    assert "Traceback" not in str(caught.value)


def test_grey_palette_and_alpha_become_rgb(tmp_path: Path) -> None:
    for mode in ("L", "P", "RGBA", "CMYK", "1"):
        path = tmp_path / f"{mode}.{'tif' if mode == 'CMYK' else 'png'}"
        Image.new(mode, (8, 8)).save(path)
        assert read_image(path).mode == "RGB"


def test_every_image_once_an_epoch_in_changing_order() -> None:
    draws = list(EndlessShuffle(images=12, batch=4, seed=5, start=0, stop=6))
    first = [index for row in draws[:3] for index, _ in row]
    second = [index for row in draws[3:] for index, _ in row]
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second
    assert [number for row in draws for _, number in row] == list(range(24))


@pytest.mark.parametrize("start", [1, 3, 4, 6])
def test_a_late_start_sees_the_same_rows(start: int) -> None:
    whole = list(EndlessShuffle(10, 3, 1, 0, 7))
    assert list(EndlessShuffle(10, 3, 1, start, 7)) == whole[start:]


def test_views_depend_on_seed_and_draw_alone(folder: Path) -> None:
    alone = list(batches(dataset(folder), EndlessShuffle(7, 3, 0, 0, 3), workers=0, pin=False))
    torch.manual_seed(99)
    state = torch.get_rng_state()
    apart = list(batches(dataset(folder), EndlessShuffle(7, 3, 0, 1, 3), workers=2, pin=False))
    assert alone[0].shape == (2, 3, 3, 32, 32)
    assert all(torch.equal(a, b) for a, b in zip(alone[1:], apart, strict=True))
    one = dataset(folder)[(0, 0)]
    assert isinstance(one, torch.Tensor)
    other = dataset(folder, seed=1)[(0, 0)]
    assert isinstance(other, torch.Tensor)
    assert not torch.equal(one, other)
    # In the training process the views leave the global stream as it was.
    torch.set_rng_state(state)
    _ = dataset(folder)[(1, 1)]
    assert torch.equal(torch.get_rng_state(), state)


def test_errors_survive_the_way_out_of_a_worker() -> None:
    error = pickle.loads(pickle.dumps(DataError("what", found="found", todo="todo")))
    assert (error.what, error.found, error.todo) == ("what", "found", "todo")
