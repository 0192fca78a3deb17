"""Features for several runs out of one pass over the images: what each gets, and what stands back for none."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from test_features import BESIDE, CPU, OTHER, THIRD, VIEW, Pictures, labelled

from transfer.checkpoints.backbone import Backbone, random_backbone
from transfer.classification import feature_cache, features
from transfer.classification.feature_cache import Store
from transfer.classification.features import Features, Kind, extract
from transfer.classification.trunk import Trunk
from transfer.classification.views import WholeView
from transfer.runtime.errors import UserError

ROWS, BATCH, COUNT = 3, 2, 11
OWN: Kind = (VIEW, "avg")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return random_backbone("resnet18", 1)


@pytest.fixture(scope="module")
def trunk(backbone: Backbone) -> Trunk:
    """Built and proved once for all."""
    return Trunk(backbone, ("avg",), CPU)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_cache, "ROWS", ROWS)


def extracted(trunk: Any, cache: Path, kind: Kind = OWN, pictures: Pictures | None = None, **options: Any) -> Features:
    (view, pooling), images = kind, labelled(pictures or Pictures(COUNT))
    options = {"network": lambda: trunk, "batch": BATCH} | options
    return extract(trunk.backbone, images, view, (pooling,), cache=cache, device=CPU, **options)


def alone(trunk: Trunk, cache: Path, kinds: list[Kind], bad: tuple[int, ...] = ()) -> None:
    """Each in a pass of its own."""
    for kind in kinds:
        extracted(trunk, cache, kind, Pictures(COUNT, bad), unreadable=len(bad))


def kept(cache: Path) -> dict[str, bytes]:
    """Path → content of all that is in the cache."""
    paths = [path for path in cache.glob("*/*") if path.is_file()]
    return {str(path.relative_to(cache)): path.read_bytes() for path in paths}


def folder(cache: Path, view: WholeView, pooling: str) -> Path:
    """Where features lie that are in the cache."""
    shown = {"kind": "WholeView"} | vars(view)
    for path in cache.glob("*/meta.json"):
        found = json.loads(path.read_text(encoding="utf-8"))["identity"]
        if (found["view"], found["pooling"]) == (shown, pooling):
            return path.parent
    raise AssertionError(f"no features of {view}, {pooling}")


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_views_side_by_side_are_what_they_are_alone_and_an_image_is_decoded_once(
    trunk: Trunk, tmp_path: Path, workers: int
) -> None:
    bad = (1, 7)
    pictures = Pictures(COUNT, bad)
    found = extracted(trunk, tmp_path / "one", OWN, pictures, unreadable=2, beside=BESIDE, workers=workers)
    if not workers:  # else others have decoded them
        assert pictures.seen == list(range(COUNT))
    assert list(found.arrays) == ["avg"]
    assert found.origin == "computed"
    alone(trunk, tmp_path / "each", [OWN, *BESIDE], bad)
    assert kept(tmp_path / "one") == kept(tmp_path / "each")
    again = Pictures(COUNT, bad)
    for kind in BESIDE:
        later = extracted(trunk, tmp_path / "one", kind, again, unreadable=2)
        assert later.origin == "cached"
        assert later.unreadable == ("001.png", "007.png")
    assert not again.seen


def test_only_the_chunks_that_some_view_lacks_are_read(trunk: Trunk, tmp_path: Path) -> None:
    alone(trunk, tmp_path, [OWN, *BESIDE])
    whole = kept(tmp_path)
    for lost, kind in ((0, OWN), (0, (OTHER, "avg")), (3, (THIRD, "max"))):
        its = folder(tmp_path, *kind)
        written = (its / "progress.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (its / "progress.jsonl").write_text("".join(written[:lost] + written[lost + 1 :]), encoding="utf-8")
        with (its / "features.npy").open("r+b") as file:  # nor are there features
            file.seek(128 + lost * ROWS * 2048)
            file.write(bytes(1024))
        (its / "done.json").unlink()
    pictures = Pictures(COUNT)
    found = extracted(trunk, tmp_path, OWN, pictures, beside=BESIDE)
    assert found.origin == "partly cached"
    assert pictures.seen == [0, 1, 2, 9, 10]
    again = kept(tmp_path)
    assert again.keys() == whole.keys()
    assert {name for name in whole if again[name] != whole[name] and not name.endswith("progress.jsonl")} == set()


def test_what_stands_beside_is_extracted_even_if_the_own_is_there(trunk: Trunk, tmp_path: Path) -> None:
    extracted(trunk, tmp_path)
    found = extracted(trunk, tmp_path, beside=BESIDE)
    assert found.origin == "cached"  # its own
    assert len(list(tmp_path.glob("*/done.json"))) == 5


class Fussy:
    """A network that has no memory for crops of 40 pixels."""

    def __init__(self, trunk: Trunk) -> None:
        self.trunk, self.backbone, self.device, self.proof = trunk, trunk.backbone, trunk.device, trunk.proof
        self.seen_at = trunk.seen_at

    def __call__(self, pixels: torch.Tensor, poolings: list[str]) -> dict[str, torch.Tensor]:
        if pixels.shape[-1] == 40:
            raise torch.OutOfMemoryError
        found: dict[str, torch.Tensor] = self.trunk(pixels, poolings)
        return found


def test_what_cannot_stand_beside_is_left_to_the_run_that_wants_it(
    trunk: Trunk, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    filling: list[Kind] = [(WholeView(28, 28), "avg"), (VIEW, "max"), (THIRD, "max")]
    alone(trunk, tmp_path, filling)
    for kind in filling:
        (folder(tmp_path, *kind) / "done.json").unlink()
        (folder(tmp_path, *kind) / "progress.jsonl").unlink()
    full, busy, damaged = (folder(tmp_path, *kind) for kind in filling)
    (damaged / "meta.json").write_text("{", encoding="utf-8")
    keep = Store.keep

    def fills(store: Store, rows: tuple[int, int], *rest: Any) -> None:
        if store.folder == full and rows[0]:
            raise UserError("no space left")
        keep(store, rows, *rest)

    monkeypatch.setattr(Store, "keep", fills)
    wrong: list[Kind] = [(THIRD, "grid"), (WholeView(24, 32), "avg"), (VIEW, "mean"), (OTHER, "avg")]
    with Store(busy, COUNT, 512, "").alone(), caplog.at_level(logging.DEBUG):
        found = extracted(Fussy(trunk), tmp_path, beside=[*wrong, *filling, (THIRD, "avg")])
    assert found.origin == "computed"
    left = [line for line in caplog.messages if line.startswith("left to the run that wants it")]
    assert len(left) == 7
    for reason in ("7 × 7", "the crop must lie", "unknown pooling", "another process fills", "cannot read", "no space"):
        assert reason in "".join(left)
    assert not [entry for entry in caplog.records if entry.levelno > logging.INFO]
    alone(trunk, tmp_path / "each", [OWN, (THIRD, "avg")])
    wanted = {path.name for path in (tmp_path / "each").iterdir()}
    assert {path.parent.name for path in tmp_path.glob("*/done.json")} == wanted
    for path in (tmp_path / "each").glob("*/features.npy"):
        assert (tmp_path / path.relative_to(tmp_path / "each")).read_bytes() == path.read_bytes()
    assert len((full / "progress.jsonl").read_bytes().splitlines()) == 1  # the run that wants it goes on from there


def test_images_that_have_gone_do_not_touch_a_run_whose_features_are_there(trunk: Trunk, tmp_path: Path) -> None:
    before = extracted(trunk, tmp_path)
    gone = Pictures(COUNT, bad=(0, 1, 2, 3))
    after = extracted(trunk, tmp_path, OWN, gone, beside=[(VIEW, "max"), (OTHER, "avg")], unreadable=3)
    assert (after.origin, after.unreadable) == ("cached", ())
    assert np.array_equal(before.arrays["avg"], after.arrays["avg"])
    assert len(list(tmp_path.glob("*/done.json"))) == 1  # four are more than the three that may be left out
    for kind in ((VIEW, "max"), (OTHER, "avg")):  # and the chunk of the fourth is not kept
        assert len((folder(tmp_path, *kind) / "progress.jsonl").read_bytes().splitlines()) == 1


def test_no_network_no_features_beside_and_no_failure(trunk: Trunk, tmp_path: Path) -> None:
    extracted(trunk, tmp_path)

    def broken() -> Trunk:
        raise UserError("no network")

    assert extracted(trunk, tmp_path, beside=BESIDE, network=broken).origin == "cached"
    with pytest.raises(UserError, match="no network"):
        extracted(trunk, tmp_path / "new", beside=BESIDE, network=broken)


def test_a_full_disk_is_kept_for_the_own_features(
    trunk: Trunk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = COUNT * (512 * 4 + 16)
    monkeypatch.setattr(features, "disk_usage", lambda _: SimpleNamespace(free=3 * each - 1))
    extracted(trunk, tmp_path, beside=BESIDE)
    assert len(list(tmp_path.glob("*/done.json"))) == 2
