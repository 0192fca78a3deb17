"""The catalogue of classification sets: counts, roots, options, and a user's own images in a set's place."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from official_layouts import (
    VOC_LABELS,
    write_cub200,
    write_dtd,
    write_folders,
    write_pets,
    write_text,
    write_voc_labels,
)

from transfer.datasets.labels.catalogue import CATALOGUE, ClassificationData, data_differences, entry_of, load, read_set
from transfer.runtime.errors import DataError


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        act()
    assert caught.value.todo, "says nothing about what to do"
    return str(caught.value)


def test_other_counts_are_noted_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_pets(tmp_path)
    with caplog.at_level(logging.WARNING):
        found = load("pets", ClassificationData(data_root=tmp_path))
    assert "6 images here, the official split has 3,680" in found.train.notes
    assert "3 classes here, the official split has 37" in found.test.notes
    assert "6 images here" in caplog.text
    assert not found.own


def test_a_set_that_is_missing_says_where_it_was_looked_for_and_how_to_get_it(tmp_path: Path) -> None:
    for name, entry in CATALOGUE.items():
        message = refusal(lambda name=name: read_set(name, tmp_path))  # type: ignore[misc]
        assert str(tmp_path) in message
        assert entry.needs[0] in message
        assert ("--download" in message) == entry.download
    assert "pets" in refusal(lambda: entry_of("cats"))


def test_the_root_comes_from_the_environment_unless_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pets(tmp_path / "a")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "a"))
    assert len(load("pets", ClassificationData()).train) == 6
    assert "is not in" in refusal(lambda: load("pets", ClassificationData(data_root=tmp_path)))


def test_what_torchvision_stumbles_over_is_an_error_for_people(tmp_path: Path) -> None:
    write_dtd(tmp_path)
    (tmp_path / "dtd/dtd/labels/val1.txt").unlink()
    assert "val1.txt" in refusal(lambda: load("dtd", ClassificationData(data_root=tmp_path)))
    (tmp_path / "dtd/dtd/labels/val1.txt").write_text("a line without a slash\n", encoding="utf-8")
    assert "DTD" in refusal(lambda: load("dtd", ClassificationData(data_root=tmp_path)))


def test_a_class_without_training_images_is_refused_and_without_test_images_noted(tmp_path: Path) -> None:
    write_cub200(tmp_path)
    base = tmp_path / "CUB_200_2011"
    flags = (base / "train_test_split.txt").read_text(encoding="utf-8").splitlines()
    write_text(
        base / "train_test_split.txt", [f"{line.split()[0]} 1" if i > 4 else line for i, line in enumerate(flags)]
    )
    found = load("cub200", ClassificationData(data_root=tmp_path))
    assert any("002.Laysan_Albatross" in note for note in found.test.notes)
    write_text(
        base / "train_test_split.txt", [f"{line.split()[0]} 0" if i > 4 else line for i, line in enumerate(flags)]
    )
    assert "002.Laysan_Albatross" in refusal(lambda: load("cub200", ClassificationData(data_root=tmp_path)))


@pytest.mark.parametrize(
    "options",
    [
        ClassificationData(image_folder=Path("a"), csv=Path("b")),
        ClassificationData(image_folder=Path("a"), data_root=Path("b")),
        ClassificationData(train="x"),
        ClassificationData(csv_levels=("genus",)),
        ClassificationData(image_folder=Path("a"), csv_label="genus"),
        ClassificationData(unreadable=-1),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: ClassificationData) -> None:
    refusal(lambda: load("pets", options))


def test_own_images_take_the_place_of_a_set(tmp_path: Path) -> None:
    write_folders(tmp_path / "mine", ("a", "b"))
    write_voc_labels(tmp_path / "voc")
    own = ClassificationData(image_folder=tmp_path / "mine")
    found = load("pets", own)
    assert found.own
    assert found.train.classes == ("a", "b")
    assert data_differences("pets", own) == (("data", "Oxford-IIIT Pets", "own images: mine"),)
    assert data_differences("pets", ClassificationData()) == ()
    assert "--val" in refusal(lambda: load("voc07", ClassificationData(image_folder=tmp_path / "voc", val="val")))
    voc = load("voc07", ClassificationData(image_folder=tmp_path / "voc"))
    assert voc.own
    assert voc.train.labels.tolist() == VOC_LABELS["trainval"]


def test_download_is_refused_where_torchvision_cannot(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot fetch Stanford Cars"):
        load("cars196", ClassificationData(data_root=tmp_path, download=True))


def test_a_task_without_a_set_of_its_own_wants_own_images(tmp_path: Path) -> None:
    assert "--image-folder" in refusal(lambda: load(None, ClassificationData(data_root=tmp_path)))
    refusal(lambda: load(None, ClassificationData(image_folder=tmp_path, download=True)))
    write_folders(tmp_path / "mine", ("a", "b"))
    own = ClassificationData(image_folder=tmp_path / "mine")
    assert len(load(None, own).train) == 6
    assert data_differences(None, own)[0][2] == "own images: mine"
