"""Tar shards: what is read of them, and that damage never loses an image in silence."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_sets import (
    CLASSES,
    Files,
    contents,
    expected,
    make_files,
    png,
    refusal,
    write_folder,
    write_shards,
    write_tar,
)
from PIL import Image

from pretrain.sources import ImageSource, open_source
from pretrain.tar_headers import members
from pretrain.tar_shards import expand_braces, sample_key
from transfer.runtime.errors import DataError


@pytest.fixture
def files() -> Files:
    return make_files()


def test_shards_written_by_webdataset(tmp_path: Path, files: Files) -> None:
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "a.tar"), encoder=False) as writer:
        for number, (name, data) in enumerate(files.items()):
            kind, stem = name.removesuffix(".png").split("/")
            label = {"label": CLASSES.index(kind), "text": "…"}
            writer.write(
                {"__key__": f"{kind}/{stem}{'x' * number * 20}", "png": data, "json": json.dumps(label).encode()}
            )
    source = open_source(tmp_path / "a.tar", labelled=True)
    assert contents(source) == expected(files)
    assert source.labels == [0] * 4 + [1] * 4 + [2] * 3
    streamed = webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False)
    assert [sample["png"] for sample in streamed] == list(files.values())


def test_one_shard_a_folder_and_a_pattern_are_the_same(tmp_path: Path, files: Files) -> None:
    folder = write_shards(tmp_path / "shards", files)
    pattern = tmp_path / "shards" / "train-{00..02}.tar"
    assert open_source(folder).fingerprint() == open_source(pattern).fingerprint()
    single = open_source(tmp_path / "shards" / "train-00.tar")
    assert contents(single) == expected(files)[:5]
    assert single.name(0) == "train-00.tar/ape/000.png"
    error = refusal(tmp_path / "shards" / "train-{00..09}.tar")
    assert "7 of 10 shards" in error.what
    assert "train-03.tar" in error.found


def test_braces() -> None:
    assert [str(path) for path in expand_braces("a/{x,y}-{08..10}.tar")] == [
        f"a/{letter}-{number}.tar" for letter in "xy" for number in ("08", "09", "10")
    ]
    assert [str(path) for path in expand_braces("{2..0}.tar")] == ["2.tar", "1.tar", "0.tar"]
    assert [str(path) for path in expand_braces("{9..10}.tar")] == ["9.tar", "10.tar"]
    for pattern in ("{}.tar", "{a..b}.tar", "{0..999999999}.tar", "{0..9999}{0..9999}.tar"):
        with pytest.raises(DataError):
            expand_braces(pattern)


@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_of_the_standard_library(tmp_path: Path, layout: int) -> None:
    path = tmp_path / "a.tar"
    names = ["./a.png", "b/", "b/" + "c" * 90 + ".png", "d" * 90 + "/" + "e" * 60 + ".png", "ü.png", "empty.png"]
    if layout != tarfile.USTAR_FORMAT:
        names.append("f/" + "g" * 400 + ".png")
    with tarfile.open(path, "w", format=layout) as archive:
        for number, name in enumerate(names):
            member = tarfile.TarInfo(name)
            member.mtime = 1.5 if layout == tarfile.PAX_FORMAT else 1
            member.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            member.size = 0 if name.endswith("/") or name == "empty.png" else 511 + number
            archive.addfile(member, io.BytesIO(bytes([number + 1]) * member.size))
    with tarfile.open(path) as archive, path.open("rb") as file:
        plain = [(m.name.removeprefix("./"), m.offset_data, m.size) for m in archive if m.isreg()]
        assert [tuple(member) for member in members(file.fileno(), path)] == plain
    assert len(plain) == len(names) - 1


def test_sample_keys() -> None:
    assert sample_key("a.b/c.seg.png") == "a.b/c"
    assert sample_key("n01440764_10026.JPEG") == "n01440764_10026"


def test_which_member_is_the_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image, mask = png(0), png(1)
    entries = {"a.mask.png": mask, "a.png": image, "b.photo.JPG": image, "c.txt": b"no image", "._d.png": b"rubbish"}
    source = open_source(write_tar(tmp_path / "a.tar", entries))
    assert [source.name(index) for index in range(len(source))] == ["a.tar/a.png", "a.tar/b.photo.JPG"]
    assert contents(source) == expected({"x": image}) * 2
    assert "2 samples without an image" in caplog.text
    twice = write_tar(tmp_path / "twice.tar", {"a.png": image, "a.jpg": image})
    dotted = write_tar(tmp_path / "dotted.tar", {"a.1.png": image, "a.2.png": image})
    for path in (twice, dotted):
        assert "several images" in refusal(path).what
    apart = write_tar(tmp_path / "apart.tar", {"a.png": image, "b.png": image, "a.cls": b"0"})
    assert "sample a " in refusal(apart).what
    assert "no images" in refusal(write_tar(tmp_path / "none.tar", {"a.txt": b""})).what


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({}, "has no label"),
        ({"a.cls": b"dog"}, "not a whole number"),
        ({"a.cls": b""}, "not a whole number"),
        ({"a.json": b"{"}, "not JSON"),
        ({"a.json": b'{"class": 1}'}, "not a whole number"),
        ({"a.json": b'{"label": true}'}, "not a whole number"),
        ({"a.json": b"[1]"}, "not a whole number"),
        ({"a.cls": b"-1"}, "not class numbers"),
    ],
)
def test_labels_of_shards_that_are_none(tmp_path: Path, extra: Files, reason: str) -> None:
    path = write_tar(tmp_path / "a.tar", {"a.png": png(0), **extra})
    assert reason in refusal(path, labelled=True).what
    assert len(open_source(path)) == 1


def test_tar_files_that_would_lose_images_are_refused(tmp_path: Path, files: Files) -> None:
    whole = write_tar(tmp_path / "a.tar", files).read_bytes()
    broken = tmp_path / "broken.tar"

    def reason(data: bytes) -> str:
        broken.write_bytes(data)
        error = refusal(broken)
        assert "broken.tar" in error.what
        return f"{error.what}; {error.found}"

    with tarfile.open(tmp_path / "a.tar") as archive:
        last = archive.getmembers()[-1]
    data_end = last.offset_data + (last.size + 511) // 512 * 512
    assert f"byte {last.offset};" in reason(whole[: last.offset_data + 100])
    assert f"byte {last.offset};" in reason(whole[: last.offset + 100])
    assert f"byte {data_end};" in reason(whole[:data_end])  # cut between two members
    damaged = bytearray(whole)
    damaged[last.offset + 3] ^= 1
    assert f"byte {last.offset};" in reason(bytes(damaged))
    assert "goes on after its end mark" in reason(whole + whole)
    assert "cut off" in reason(b"")
    assert "not a tar file" in reason(b"x" * 2000)


@pytest.mark.parametrize("mode", ["gz", "bz2", "xz"])
def test_compressed_shards_are_refused(tmp_path: Path, files: Files, mode: str) -> None:
    path = tmp_path / f"a.tar.{mode}"
    with tarfile.open(path, f"w:{mode}") as archive:
        archive.add(write_folder(tmp_path / "images", files), "images")
    assert "compressed" in refusal(path).what
    path.rename(tmp_path / "a.tar")
    assert "compressed" in refusal(tmp_path / "a.tar").what


def test_links_and_sparse_files_in_shards_are_refused(tmp_path: Path) -> None:
    for kind, reason in [(tarfile.SYMTYPE, "link"), (tarfile.LNKTYPE, "link"), (tarfile.GNUTYPE_SPARSE, "sparse")]:
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            member = tarfile.TarInfo("b.png")
            member.type, member.linkname = kind, "" if kind == tarfile.GNUTYPE_SPARSE else "a.png"
            archive.addfile(member)
        assert reason in refusal(tmp_path / "a.tar").what
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("b.png")
        member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
        archive.addfile(member)
    assert "sparse" in refusal(tmp_path / "a.tar").what


def test_a_shard_that_changes_while_it_is_used(tmp_path: Path, files: Files) -> None:
    path = write_tar(tmp_path / "a.tar", files)
    source = open_source(path)
    write_tar(path, {**files, "zzz.png": png(0)})
    with pytest.raises(DataError, match="changed"):
        source.read(0)
    path.unlink()
    with pytest.raises(DataError, match=r"ape/000\.png"):
        source.read(0)


def test_more_shards_than_stay_open(tmp_path: Path) -> None:
    for number in range(70):
        write_tar(tmp_path / f"{number:02d}.tar", {"a.png": png(number)})
    source = open_source(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    places = [*range(70), *range(69, -1, -1)]
    assert [source.read(place).tobytes() for place in places] == [
        Image.open(io.BytesIO(png(place))).tobytes() for place in places
    ]
    assert len(os.listdir("/proc/self/fd")) <= before + 64
    del source
    assert len(os.listdir("/proc/self/fd")) <= before


def test_tar_beside_images_is_ambiguous(tmp_path: Path, files: Files) -> None:
    write_tar(tmp_path / "n01440764.tar", files)
    write_folder(tmp_path, files)
    assert "both" in refusal(tmp_path).what


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_damaged_shard_keeps_its_images_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / f"damaged-{os.getpid()}.tar"
    with tarfile.open(
        path, "w", format=data.draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    ) as archive:
        for number, name in enumerate(["a.png", "b" * 120 + ".png", "ü.png"]):
            member = tarfile.TarInfo(name)
            member.size = 600 + number
            archive.addfile(member, io.BytesIO(bytes([number + 1]) * member.size))
    broken = bytearray(path.read_bytes())
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, 8000), st.integers(0, 255)), max_size=3)):
        broken[place] = value
    path.write_bytes(broken[: data.draw(st.one_of(st.just(len(broken)), st.integers(0, len(broken))))])
    source, error = outcome(path)
    assert error is not None or (source is not None and len(source) >= 2)
    if error is not None:
        assert str(path) in error.what


def outcome(path: Path) -> tuple[ImageSource | None, DataError | None]:
    try:
        return open_source(path), None
    except DataError as error:
        return None, error
