"""`python -m transfer cache`: what it lists, and what it removes and leaves."""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from transfer.__main__ import main
from transfer.classification.feature_cache import Store, key
from transfer.classification.features import Kind, of_kind
from transfer.classification.views import WholeView

ROWS, WIDTH, WEIGHTS = 4_000, 100, "ab" * 32
VIEW, SQUASHED = WholeView(), WholeView(0, 128, squash=True, interpolation="bicubic")


def write(
    runs: Path, sha256: str, images: str, kind: Kind = (VIEW, "avg"), days: float = 0, whole: bool = True
) -> Path:
    """Features as an extraction leaves them, last opened so many days ago."""
    checkpoint = {"sha256": sha256 * 32, "arch": "resnet18"}
    identity = {"checkpoint": checkpoint, "images": {"name": images}, "precision": "fp32"} | of_kind(kind)
    store = Store(runs / "features" / key(identity), ROWS, WIDTH, WEIGHTS)
    with store.alone():
        store.open(identity, {})
        store.vouch({"weights": WEIGHTS})
        for start, stop in store.chunks() if whole else store.chunks()[:1]:
            rows = stop - start
            features = np.random.default_rng(start).standard_normal((rows, WIDTH), np.float32)
            store.keep((start, stop), features, np.ones((rows, 16), np.uint8), {})
        if whole:
            store.finish({})
    opened = time.time() - days * 24 * 3600
    os.utime(store.folder / "meta.json", (opened, opened))
    return store.folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    write(tmp_path, "aa", "pets_test", days=10)
    write(tmp_path, "aa", "pets_train", (SQUASHED, "max"), days=30, whole=False)
    write(tmp_path, "bb", "pets_test", days=20)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], runs: Path, *words: str) -> list[str]:
    assert main(["cache", *words, "--runs", str(runs)]) == 0
    return capsys.readouterr().out.splitlines()


def there(runs: Path) -> int:
    return len(list(runs.glob("features/*/meta.json")))


def test_the_listing_has_a_line_for_each_folder_and_their_sum(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, third, total = said(capsys, runs)  # the least recently used first
    when = r"\d{4}-\d\d-\d\d \d\d:\d\d"
    of = "a{12} resnet18 +pets_train +0/128 squashed bicubic max"
    assert re.fullmatch(rf"{of} +0\.[45] MB  unfinished +{when}  [0-9a-f]{{12}}", first)
    assert second.startswith("b" * 12)
    # 4,000 rows of 100 float32 and 16 bytes, in blocks of the disk, and some small files
    assert re.search(r"pets_test +256/224 bilinear avg +1\.[67] MB  whole ", third)
    assert re.fullmatch(rf"3 folders, 0\.00 GB in {runs}/features", total)


def test_opening_features_is_using_them(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(runs, "bb", "pets_test")
    assert said(capsys, runs)[2].startswith("b" * 12)
    folder = write(runs, "bb", "pets_test", days=9)
    before = (folder / "meta.json").stat().st_mtime
    store = Store(folder, ROWS, WIDTH, WEIGHTS)
    identity = {"checkpoint": {"sha256": "bb" * 32, "arch": "resnet18"}, "images": {"name": "pets_test"}}
    with store.alone():
        store.open(identity | {"precision": "fp32"} | of_kind((VIEW, "avg")), {})
    assert (folder / "meta.json").stat().st_mtime > before + 8 * 24 * 3600


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (["--checkpoint", "AAA"], ["bb"]),
        (["--checkpoint", "aa", "--images", "pets_test"], ["aa", "bb"]),
        (["--older-than", "15"], ["aa"]),
        (["--unfinished"], ["bb", "aa"]),
        (["--keep-gb", "0.002"], ["aa"]),
        (["--keep-gb", "1"], ["aa", "bb", "aa"]),
        (["--keep-gb", "0"], []),
    ],
    ids=" ".join,
)
def test_prune_removes_what_fits_every_condition_and_only_with_yes(
    runs: Path, capsys: pytest.CaptureFixture[str], words: list[str], left: list[str]
) -> None:
    *shown, total = said(capsys, runs, "prune", *words)
    assert len(shown) == 3 - len(left)
    assert total.endswith("would go; --yes removes them")
    assert there(runs) == 3
    *again, total = said(capsys, runs, "prune", *words, "--yes")
    assert again == shown
    assert total.endswith("removed")
    assert [line[:2] for line in said(capsys, runs)[:-1]] == left


def test_prune_wants_a_condition(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "prune", "--yes", "--runs", str(runs)]) == 2
    assert main(["cache", "prune", "--keep-gb", "-1", "--yes", "--runs", str(runs)]) == 2
    assert "which features" in capsys.readouterr().err
    assert there(runs) == 3


def test_what_a_run_fills_and_what_is_not_ours_stays(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features = runs / "features"
    busy = write(runs, "cc", "pets_test", days=99, whole=False)
    damaged = write(runs, "dd", "pets_test", days=99)
    (damaged / "meta.json").write_text("{", encoding="utf-8")
    other = features / ("0" * 64)  # named alike, but somebody keeps something there
    shutil.copytree(write(runs, "ee", "pets_test"), other)
    (other / "notes.txt").write_text("mine", encoding="utf-8")
    linked = features / ("1" * 64)
    linked.symlink_to(damaged)
    elsewhere = features / "old"
    shutil.copytree(damaged, elsewhere)
    with Store(busy, ROWS, WIDTH, WEIGHTS).alone():
        lines = said(capsys, runs, "prune", "--keep-gb", "0", "--yes")
    (stays,) = [line for line in lines if "stays" in line]
    assert stays.startswith("c" * 12)
    assert "in use by a run" in stays
    assert sum(" unreadable " in line for line in lines) == 1
    kept = {path.name for path in features.iterdir() if {file.name for file in path.iterdir()} - {".lock"}}
    assert kept == {busy.name, other.name, elsewhere.name}
    assert {path.name for path in other.iterdir()} >= {"features.npy", "notes.txt"}
    assert [line[:2] for line in said(capsys, runs)[:-1]] == ["cc"]


def test_features_that_were_removed_are_made_again_in_the_same_folder(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, runs, "prune", "--checkpoint", "bb", "--yes")
    write(runs, "bb", "pets_test")
    assert there(runs) == 3


def test_there_may_be_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, tmp_path) == [f"0 folders, 0.00 GB in {tmp_path}/features"]
