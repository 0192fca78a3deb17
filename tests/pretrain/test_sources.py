"""Every kind of source gives the same images in the same order; folders and lists say what is wrong with them."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_sets import (
    CLASSES,
    ROOT,
    WRITERS,
    Files,
    contents,
    expected,
    make_files,
    png,
    refusal,
    write_folder,
)
from torch.utils.data import DataLoader, Dataset

from pretrain.sources import ImageSource, open_source
from transfer.datasets.image_index import Names, number_labels
from transfer.runtime.errors import DataError

every_kind = pytest.mark.parametrize("kind", WRITERS)


@pytest.fixture
def files() -> Files:
    return make_files()


@every_kind
def test_same_images_in_the_same_order(tmp_path: Path, files: Files, kind: str) -> None:
    source = open_source(WRITERS[kind](tmp_path, files))
    assert contents(source) == expected(files)
    assert source.labels is None
    assert source.classes == []
    assert len({source.name(index) for index in range(len(source))}) == len(files)


@every_kind
def test_labels(tmp_path: Path, files: Files, kind: str) -> None:
    source = open_source(WRITERS[kind](tmp_path, files), labelled=True)
    assert source.labels == [0] * 4 + [1] * 4 + [2] * 3
    assert source.classes == (["0", "1", "2"] if kind == "shards" else CLASSES)
    assert contents(source) == expected(files)


@every_kind
@pytest.mark.parametrize("labelled", [False, True])
def test_pickling(tmp_path: Path, files: Files, kind: str, labelled: bool) -> None:
    source = open_source(WRITERS[kind](tmp_path, files), labelled)
    source.read(3)
    again: ImageSource = pickle.loads(pickle.dumps(source))
    assert contents(again) == contents(source)
    assert again.fingerprint() == source.fingerprint()
    assert (again.labels, again.classes) == (source.labels, source.classes)


@every_kind
def test_fingerprint_follows_names_sizes_and_labels(tmp_path: Path, files: Files, kind: str) -> None:
    def fingerprint(name: str, changed: Files, labelled: bool = False) -> str:
        return open_source(WRITERS[kind](tmp_path / name, changed), labelled).fingerprint()

    first, *rest = files
    renamed = {"ape/0000.png": files[first], **{name: files[name] for name in rest}}
    resized = {**files, first: png(0, 40)}
    seen = [fingerprint("a", files), fingerprint("b", renamed), fingerprint("c", resized)]
    seen.append(fingerprint("d", {name: files[name] for name in rest}))
    seen.append(fingerprint("e", files, labelled=True))
    moved = {"bee" + name.removeprefix("ape") if name == "ape/003.png" else name: data for name, data in files.items()}
    seen.append(fingerprint("f", moved, labelled=True))
    assert len(set(seen)) == len(seen)
    assert seen[0] == fingerprint("again", files)


class Pixels(Dataset[tuple[int, bytes]]):
    def __init__(self, source: ImageSource) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[int, bytes]:
        return os.getpid(), self.source.read(index).tobytes()


def read_by_workers(source: ImageSource, start: str, files: Files) -> None:
    source.read(0)  # what is open now must not be shared with the workers
    loader = DataLoader(Pixels(source), batch_size=None, num_workers=2, multiprocessing_context=start)
    processes, seen = zip(*loader, strict=True)
    assert list(seen) == expected(files)
    assert len(set(processes)) == 2
    assert os.getpid() not in processes
    assert contents(source) == expected(files)


@every_kind
def test_forked_workers_read_the_same(tmp_path: Path, files: Files, kind: str) -> None:
    read_by_workers(open_source(WRITERS[kind](tmp_path, files)), "fork", files)


@pytest.mark.slow
@every_kind
def test_spawned_workers_read_the_same(tmp_path: Path, files: Files, kind: str) -> None:
    read_by_workers(open_source(WRITERS[kind](tmp_path, files)), "spawn", files)


IN_ANOTHER_PROCESS = """
import pickle, sys
source = pickle.load(sys.stdin.buffer)
pickle.dump([source.read(index).tobytes() for index in range(len(source))], sys.stdout.buffer)
"""


@every_kind
def test_unpickled_in_another_process(tmp_path: Path, files: Files, kind: str) -> None:
    source = open_source(WRITERS[kind](tmp_path, files))
    source.read(0)
    done = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS],
        input=pickle.dumps(source),
        capture_output=True,
        check=True,
        cwd=ROOT,
    )
    assert pickle.loads(done.stdout) == expected(files)


# Folders


def test_folder_follows_links_and_leaves_hidden_files_out(tmp_path: Path, files: Files) -> None:
    write_folder(tmp_path / "elsewhere", files)
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path / "elsewhere")
    (root / "one.png").symlink_to(tmp_path / "elsewhere" / "ape" / "001.png")
    for hidden in ("._one.png", ".thumbnails/a.png", "notes.txt"):
        (root / hidden).parent.mkdir(exist_ok=True)
        (root / hidden).write_bytes(b"no image")
    source = open_source(root)
    assert [source.name(index) for index in range(len(source))] == [*(f"link/{name}" for name in files), "one.png"]


def test_folder_loops_are_refused(tmp_path: Path, files: Files) -> None:
    root = write_folder(tmp_path / "root", files)
    (root / "ape" / "back").symlink_to(root)
    assert "ape/back" in refusal(root).what


def test_labelled_images_need_a_subfolder(tmp_path: Path, files: Files) -> None:
    root = write_folder(tmp_path, {**files, "loose.png": png(0)})
    assert "loose.png" in refusal(root, labelled=True).found
    assert len(open_source(root)) == 12


def test_a_vanished_file_is_named(tmp_path: Path, files: Files) -> None:
    source = open_source(write_folder(tmp_path, files))
    (tmp_path / "bee" / "005.png").unlink()
    for call in (source.fingerprint, lambda: source.read(5)):
        with pytest.raises(DataError, match=r"bee/005\.png"):
            call()


def test_nothing_found(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    error = refusal(tmp_path)
    assert ".parquet" in error.found
    assert ".jpeg" in error.todo
    assert "there is no" in refusal(tmp_path / "none").what
    assert "a.parquet" in refusal(tmp_path / "a.parquet").what


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    name = os.fsdecode(b"caf\xe9.png")
    (root / name).write_bytes(png(0))
    source = open_source(root)
    assert source.name(0) == name
    assert source.read(0).size == (15, 12)
    (tmp_path / "list.txt").write_bytes(b"root/caf\xe9.png\n")
    assert contents(open_source(tmp_path / "list.txt")) == contents(source)
    assert source.fingerprint() != ""


# Lists


def test_list_forms(tmp_path: Path, files: Files) -> None:
    write_folder(tmp_path / "my images", files)
    first, second, third = list(files)[:3]
    text = f"\ufeffmy images/{second}\r\n\r\n{tmp_path}/my images/{first}\tbee\r\n./my images/{third} 7\n"
    (tmp_path / "some.lst").write_text(text, newline="", encoding="utf-8")
    source = open_source(tmp_path / "some.lst")
    assert [source.name(index) for index in range(3)] == [f"my images/{name}" for name in (second, first, third)]
    assert contents(source) == [expected(files)[place] for place in (1, 0, 2)]
    assert f"line 1: my images/{second}" in refusal(tmp_path / "some.lst", labelled=True).found


def test_list_with_its_own_root_reads_as_the_folder(tmp_path: Path, files: Files) -> None:
    root = write_folder(tmp_path / "images", files)
    (tmp_path / "lists").mkdir()
    path = tmp_path / "lists" / "all.txt"
    path.write_text("\n".join(files), encoding="utf-8")
    assert open_source(path, root=root).fingerprint() == open_source(root).fingerprint()
    assert "11 of 11" in refusal(path).what
    assert "list" in refusal(root, root=root).what


def test_order_of_a_list_is_kept_and_fingerprinted(tmp_path: Path, files: Files) -> None:
    write_folder(tmp_path, files)
    (tmp_path / "a.txt").write_text("\n".join(files), encoding="utf-8")
    (tmp_path / "b.txt").write_text("\n".join(reversed(files)), encoding="utf-8")
    forth, back = open_source(tmp_path / "a.txt"), open_source(tmp_path / "b.txt")
    assert contents(forth) == contents(back)[::-1]
    assert forth.fingerprint() != back.fingerprint()


def test_imagenet_subset_lists(tmp_path: Path) -> None:
    name = "n01440764_10026.JPEG"
    write_folder(tmp_path / "train", {f"n01440764/{name}": png(1)})
    (tmp_path / "1percent.txt").write_text(name + "\n", encoding="utf-8")
    source = open_source(tmp_path / "1percent.txt", root=tmp_path / "train")
    assert source.name(0) == f"n01440764/{name}"
    assert source.read(0).size == (15, 12)


def test_missing_and_repeated_lines_are_told_together(tmp_path: Path, files: Files) -> None:
    write_folder(tmp_path, files)
    path = tmp_path / "list.txt"
    path.write_text("\n".join([*files, *(f"ape/{number}.png" for number in range(90, 99)), "ape"]), encoding="utf-8")
    error = refusal(path)
    assert "10 of 21" in error.what
    assert error.found.splitlines()[0] == "ape/90.png"
    assert error.found.splitlines()[-1] == "… and 5 more"
    path.write_text("\n".join([*files, "./bee/004.png", "ape/../bee/005.png"]), encoding="utf-8")
    assert "2 files" in refusal(path).what
    assert refusal(path).found == "bee/004.png\nbee/005.png"
    path.write_text("\n \n", encoding="utf-8")
    assert "names no image" in refusal(path).what
    path.write_bytes("ape/000.png\n".encode("utf-16"))
    assert "UTF-8" in refusal(path).what


@pytest.mark.parametrize(
    ("texts", "labels", "classes"),
    [
        (["2", "0", "2"], [2, 0, 2], ["0", "1", "2"]),
        (["b", "a", "b"], [1, 0, 1], ["a", "b"]),
        (["1", "a"], [0, 1], ["1", "a"]),
    ],
)
def test_labels_are_numbers_or_names(texts: list[str], labels: list[int], classes: list[str]) -> None:
    assert number_labels(texts, "x") == (labels, classes)


@pytest.mark.parametrize("text", ["-1", "100000", "20260101"])
def test_other_numbers_are_no_labels(text: str) -> None:
    with pytest.raises(DataError, match="not class numbers") as caught:
        number_labels(["0", text], "x")
    assert text in caught.value.found


# Memory


@given(st.lists(st.text()))
def test_names_are_kept(names: list[str]) -> None:
    packed = Names(names)
    assert list(packed) == names
    assert packed[-len(names) :] == names or not names
    with pytest.raises(IndexError):
        packed[len(names)]


def test_an_index_is_small(tmp_path: Path) -> None:
    names = [f"n{number % 1000:08d}/n{number % 1000:08d}_{number}.JPEG" for number in range(20_000)]
    per_name = len(pickle.dumps(Names(names))) / len(names)
    assert per_name < 45
