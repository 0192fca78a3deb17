"""A user's own images: folders by class and CSV files, what is read and what is refused."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from official_layouts import picture, write_folders

from transfer.datasets.labels.labelled import LabelledImages
from transfer.datasets.labels.own_images import read_csv, read_image_folder
from transfer.runtime.errors import DataError

HEAD = ("path", "label", "split")
GOOD = (("a/1.jpg", "x", "train"), ("a/2.jpg", "y", "train"), ("a/3.jpg", "x", "test"), ("a/4.jpg", "y", "test"))


def rows(split: LabelledImages) -> list[tuple[str, str]]:
    return [(split.images.name(i), split.classes[split.labels[i]]) for i in range(len(split))]


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        act()
    assert caught.value.todo, "says nothing about what to do"
    return str(caught.value)


def table(file: Path, lines: Sequence[Sequence[str]], head: Sequence[str] = HEAD, encoding: str = "utf-8") -> Path:
    """A CSV file, and an image for every path in it."""
    with file.open("w", encoding=encoding, newline="") as opened:
        csv.writer(opened).writerows([head, *lines])
    for number, line in enumerate(lines):
        if not (file.parent / line[0]).exists():
            picture(file.parent / line[0], number)
    return file


# -- folders -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", ["train test", "Training Testing", "TRAIN Test"])
def test_folders_are_found_by_their_usual_names(names: str, tmp_path: Path) -> None:
    expected = write_folders(tmp_path, ("ant", "bee"), names=names)
    found = read_image_folder(tmp_path)
    assert sorted(rows(found.train)) == sorted(expected["train"])
    assert sorted(rows(found.test)) == sorted(expected["test"])
    assert found.val is None
    assert found.own
    assert found.train.images.read(0).size == (8, 8)
    assert found.train.images.content(0) == (tmp_path / found.train.images.name(0)).read_bytes()


def test_folders_of_other_names_must_be_named(tmp_path: Path) -> None:
    write_folders(tmp_path, ("ant", "bee"), names="one two")
    assert "one" in refusal(lambda: read_image_folder(tmp_path))
    found = read_image_folder(tmp_path, train="two", test="one")
    assert (len(found.train), len(found.test)) == (4, 6)
    assert "three" in refusal(lambda: read_image_folder(tmp_path, train="two", test="three"))


def test_val_named_as_the_test_split_is_not_chosen_on(tmp_path: Path) -> None:
    expected = write_folders(tmp_path, ("ant", "bee"), names="train val")
    found = read_image_folder(tmp_path, test="val")
    assert found.val is None
    assert sorted(rows(found.test)) == sorted(expected["test"])


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_validation_images_are_the_test_split_where_there_is_no_other(name: str, tmp_path: Path) -> None:
    write_folders(tmp_path, ("ant", "bee"), names=f"train {name}")
    found = read_image_folder(tmp_path)
    assert found.val is None
    assert "validation images" in found.test.notes[0]
    picture(tmp_path / "test/ant/x.jpg", 100)
    picture(tmp_path / "test/bee/x.jpg", 101)
    found = read_image_folder(tmp_path)
    assert found.val is not None
    assert (len(found.val), len(found.test), found.test.notes) == (4, 2, ())


def test_the_label_is_the_first_folder_however_deep_the_image_lies(tmp_path: Path) -> None:
    for number, path in enumerate(("train/Apple/Apple 10/r0.jpg", "train/Pear/x/y/r0.jpg", "test/Pear/r1.jpg")):
        picture(tmp_path / path, number)
    found = read_image_folder(tmp_path)
    assert found.train.classes == ("Apple", "Pear")
    assert rows(found.test) == [("test/Pear/r1.jpg", "Pear")]
    assert found.test.notes == (f"1 of 2 classes with training images has no image in {found.test.name}: Apple",)


def test_folders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    assert "cannot list" in refusal(lambda: read_image_folder(tmp_path / "nowhere"))
    assert "no folder" in refusal(lambda: read_image_folder(tmp_path))
    write_folders(tmp_path, ("ant",))
    assert "single class" in refusal(lambda: read_image_folder(tmp_path))
    picture(tmp_path / "train/bee/x.jpg", 7)
    picture(tmp_path / "test/cow/x.jpg", 8)
    assert "cow" in refusal(lambda: read_image_folder(tmp_path))
    (tmp_path / "test/cow/x.jpg").unlink()
    picture(tmp_path / "test/loose.jpg", 9)
    assert "loose.jpg" in refusal(lambda: read_image_folder(tmp_path))
    (tmp_path / "test/loose.jpg").unlink()
    (tmp_path / "testing").mkdir()
    assert "testing" in refusal(lambda: read_image_folder(tmp_path))
    assert "no images" in refusal(lambda: read_image_folder(tmp_path, test="testing"))
    assert "share images" in refusal(lambda: read_image_folder(tmp_path, test="train"))


# -- CSV ---------------------------------------------------------------------------------------------------------


def test_a_table_is_read_in_its_order(tmp_path: Path) -> None:
    found = read_csv(table(tmp_path / "list.csv", GOOD))
    assert rows(found.train) == [("a/1.jpg", "x"), ("a/2.jpg", "y")]
    assert rows(found.test) == [("a/3.jpg", "x"), ("a/4.jpg", "y")]
    assert found.own
    assert found.train.images.read(1).size == (8, 8)


def test_numbers_are_names_and_a_byte_order_mark_is_none(tmp_path: Path) -> None:
    lines = [(path, {"x": "10", "y": "9"}[label], split) for path, label, split in GOOD]
    found = read_csv(table(tmp_path / "list.csv", lines, encoding="utf-8-sig"))
    assert found.train.classes == ("10", "9")


def test_columns_levels_and_root_can_be_chosen(tmp_path: Path) -> None:
    lines = [(*line, {"x": "low", "y": "high"}[line[1]], "0") for line in GOOD]
    table(tmp_path / "list.csv", lines, ("path", "name", "split", "rank", "same"))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "list.csv").rename(tmp_path / "elsewhere/list.csv")
    file = tmp_path / "elsewhere/list.csv"
    found = read_csv(file, "name", levels=("rank", "same"), root=tmp_path)
    assert found.train.levels["rank"].classes == ("high", "low")
    assert found.train.levels["rank"].parent.tolist() == [1, 0]
    assert found.test.levels["same"].parent.tolist() == [0, 0]
    assert "missing" in refusal(lambda: read_csv(file, "name"))
    assert "--csv-root" in refusal(lambda: read_csv(file, "name", root=tmp_path / "nowhere"))
    assert "--csv-label" in refusal(lambda: read_csv(file))


def test_splits_of_other_names(tmp_path: Path) -> None:
    lines = [(f"{split}{i}.jpg", label, split) for split in "abc" for i, label in enumerate("xy")]
    file = table(tmp_path / "list.csv", lines)
    assert "no entry of column 'split'" in refusal(lambda: read_csv(file))
    found = read_csv(file, train="c", test="a")
    assert rows(found.train) == [("c0.jpg", "x"), ("c1.jpg", "y")]
    assert found.test.notes == ("2 rows of list.csv left out that are of other splits",)


LONG = ("a/5.jpg", "x", "train", "more")
BAD = {
    "no label": ([*GOOD, ("a/5.jpg", "", "train")], "line 6"),
    "no path": ([*GOOD, ("b/../", "x", "train")], "missing"),
    "unknown split": ([*GOOD, ("a/5.jpg", "x", "tset")], "line 6: 'tset'"),
    "named twice": ([*GOOD, GOOD[0]], "more than once"),
    "named twice, written differently": ([*GOOD, ("a/./1.jpg", "x", "train")], "more than once"),
    "in both splits": ([*GOOD, ("a/1.jpg", "x", "test")], "share images"),
    "a test class that is not trained": ([*GOOD, ("a/5.jpg", "z", "test")], "z"),
    "a single class": ([line for line in GOOD if line[1] == "x"], "single class"),
    "no test split": (GOOD[:2], "test split"),
    "no training split": (GOOD[2:], "train split"),
    "a comma without quotes": ([*GOOD, LONG], "more fields"),
    "two names of one split": ([*GOOD, ("a/5.jpg", "x", "training")], "more than one"),
    "no rows": ([], "names no image"),
}


@pytest.mark.parametrize("name", BAD)
def test_tables_that_do_not_fit_are_refused(name: str, tmp_path: Path) -> None:
    lines, expected = BAD[name]
    file = tmp_path / "list.csv"
    with file.open("w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows([HEAD, *lines])
    for number, line in enumerate(lines):
        if line[0].endswith(".jpg"):
            picture(tmp_path / line[0], number)
    assert expected in refusal(lambda: read_csv(file))


def test_missing_images_are_counted_and_named(tmp_path: Path) -> None:
    file = table(tmp_path / "list.csv", GOOD)
    (tmp_path / "a/3.jpg").unlink()
    message = refusal(lambda: read_csv(file))
    assert "1 of 2 images" in message
    assert "a/3.jpg" in message


def test_a_class_in_two_coarser_ones_is_named(tmp_path: Path) -> None:
    lines = [(*line, "A" if number < 2 else "B") for number, line in enumerate(GOOD)]
    file = table(tmp_path / "list.csv", lines, (*HEAD, "genus"))
    message = refusal(lambda: read_csv(file, levels=("genus",)))
    assert "'x'" in message
    assert "line 4" in message


@pytest.mark.parametrize(
    "contents", [b"", b"a/1.jpg,x,train\n", "path,label,split\nä.jpg,x,train\n".encode("latin-1"), b"\x00\x01"]
)
def test_files_that_are_no_tables_are_refused(contents: bytes, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(contents)
    assert "list.csv" in refusal(lambda: read_csv(tmp_path / "list.csv"))
    assert "nowhere.csv" in refusal(lambda: read_csv(tmp_path / "nowhere.csv"))


names = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "Zs")), min_size=1, max_size=8).map(str.strip)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(labels=st.lists(names.filter(bool), min_size=2, max_size=5, unique=True), data=st.data())
def test_labels_survive_the_table(labels: list[str], data: st.DataObject, tmp_path: Path) -> None:
    order = data.draw(st.permutations(labels))
    lines = [(f"{split}{i}.jpg", label, split) for split in ("train", "test") for i, label in enumerate(order)]
    found = read_csv(table(tmp_path / "list.csv", lines))
    assert found.train.classes == tuple(sorted(labels))
    assert [label for _, label in rows(found.test)] == order


@pytest.mark.data
def test_fruits_read_with_two_levels(test_data: Path, tmp_path: Path) -> None:
    import tarfile

    with tarfile.open(test_data / "fruits360" / "fruits360_varieties.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    file = next(tmp_path.rglob("split.csv"))
    found = read_csv(file, "variety", levels=("genus",))
    assert (len(found.train), len(found.test), len(found.train.classes)) == (2048, 1024, 64)
    assert found.train.levels["genus"].classes == ("Apple", "Cherry", "Tomato")
    assert set(found.train.counts().tolist()) == {32}
