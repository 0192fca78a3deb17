"""Saved Hugging Face data sets that hold several splits, no images, no labels, or are damaged."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from image_sets import (
    Files,
    contents,
    expected,
    make_files,
    png,
    refusal,
    write_arrow,
    write_folder,
)

from pretrain.sources import open_source
from transfer.runtime.errors import DataError


@pytest.fixture
def files() -> Files:
    return make_files()


def test_splits_are_refused_by_name(tmp_path: Path, files: Files) -> None:
    hub = pytest.importorskip("datasets")
    one = hub.load_from_disk(str(write_arrow(tmp_path, files)))
    hub.DatasetDict({"train": one, "test": one}).save_to_disk(str(tmp_path / "both"))
    error = refusal(tmp_path / "both")
    assert error.found == "train, test"
    assert str(tmp_path / "both" / "train") in error.todo
    assert contents(open_source(tmp_path / "both" / "test")) == expected(files)


def test_images_from_files(tmp_path: Path, files: Files) -> None:
    """save_to_disk puts files into the set; sets of before it did so name them by path."""
    hub = pytest.importorskip("datasets")
    folder = write_folder(tmp_path / "images", files)
    paths = [str(folder / name) for name in files]
    rows = hub.Dataset.from_dict({"image": paths}).cast_column("image", hub.Image())
    rows.select([4, 0, 9]).save_to_disk(str(tmp_path / "new"))
    named = hub.Features({"image": {"bytes": hub.Value("binary"), "path": hub.Value("string")}})
    cells = [{"bytes": None, "path": paths[place]} for place in (4, 0, 9)]
    hub.Dataset.from_dict({"image": cells}, features=named).save_to_disk(str(tmp_path / "old"))
    info = json.loads((tmp_path / "old" / "dataset_info.json").read_text(encoding="utf-8"))
    info["features"] = json.loads((tmp_path / "new" / "dataset_info.json").read_text(encoding="utf-8"))["features"]
    (tmp_path / "old" / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    for name in ("new", "old"):
        assert contents(open_source(tmp_path / name)) == [expected(files)[place] for place in (4, 0, 9)]
    source = open_source(tmp_path / "old")
    before = source.fingerprint()
    (folder / "bee" / "004.png").write_bytes(png(5, 50))
    assert source.fingerprint() != before
    (folder / "bee" / "004.png").unlink()
    with pytest.raises(DataError, match=r"bee/004\.png"):
        source.fingerprint()


def test_rows_without_image_or_label(tmp_path: Path) -> None:
    hub = pytest.importorskip("datasets")
    features = hub.Features({"image": hub.Image(), "label": hub.ClassLabel(names=["a", "b"])})
    rows = {
        "image": [{"bytes": png(0), "path": None}, None, {"bytes": b"rubbish", "path": "c.png"}],
        "label": [1, -1, None],
    }
    hub.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "set"))
    source = open_source(tmp_path / "set")
    assert source.read(0).size == (15, 12)
    for row in (1, 2):
        with pytest.raises(DataError, match=f"row {row}"):
            source.read(row)
    assert len(source.fingerprint()) == 64
    assert refusal(tmp_path / "set", labelled=True).found == "row 1: -1\nrow 2: None"


def test_columns_that_are_not_there(tmp_path: Path) -> None:
    hub = pytest.importorskip("datasets")
    cell = {"bytes": png(0), "path": None}
    features = hub.Features({"left": hub.Image(), "right": hub.Image(), "label": hub.Value("int64")})
    pairs = hub.Dataset.from_dict({"left": [cell], "right": [cell], "label": [1]}, features=features)
    pairs.save_to_disk(str(tmp_path / "pairs"))
    assert "2 columns of the type Image" in refusal(tmp_path / "pairs").what
    pairs.rename_column("left", "image").save_to_disk(str(tmp_path / "named"))
    assert len(open_source(tmp_path / "named")) == 1
    assert "no columns of the type ClassLabel" in refusal(tmp_path / "named", labelled=True).what
    pairs.select([]).save_to_disk(str(tmp_path / "empty"))
    assert str(tmp_path / "empty") in refusal(tmp_path / "empty").what


def test_a_damaged_saved_set(tmp_path: Path, files: Files) -> None:
    folder = write_arrow(tmp_path, files)
    arrow = sorted(folder.glob("*.arrow"))[-1]
    whole = arrow.read_bytes()
    for change in (
        lambda: arrow.write_bytes(whole[:100]),
        lambda: (folder / "state.json").write_text("{", encoding="utf-8"),
        arrow.unlink,
    ):
        change()
        assert str(folder) in refusal(folder).what


def test_the_library_is_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "state.json").write_text("{}", encoding="utf-8")
    monkeypatch.setitem(sys.modules, "datasets", None)
    error = refusal(tmp_path)
    assert "datasets library" in error.what
    assert ".[hf]" in error.todo
