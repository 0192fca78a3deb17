"""The same few images written as a folder, a list, tar shards and a saved data set."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.sources import ImageSource, open_source
from transfer.runtime.errors import DataError

ROOT = Path(__file__).parents[2]
CLASSES = ["ape", "bee", "cow"]
Files = dict[str, bytes]  # class/name.png → contents


def png(seed: int, side: int = 12) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side + 3, 3), dtype=np.uint8)).save(
        buffer, "PNG"
    )
    return buffer.getvalue()


def make_files() -> Files:
    names = [f"{CLASSES[number // 4]}/{number:03d}.png" for number in range(11)]
    return {name: png(number, 12 + number) for number, name in enumerate(names)}


def write_folder(root: Path, files: Files) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_list(root: Path, files: Files) -> Path:
    write_folder(root / "images", files)
    path = root / "train.txt"
    path.write_text("".join(f"images/{name} {name.partition('/')[0]}\n" for name in files), encoding="utf-8")
    return path


def write_tar(path: Path, entries: Files) -> Path:
    """As webdataset's TarWriter does: GNU tar members of regular files, one after the other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in entries.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def samples(files: Files) -> Files:
    """The files of labelled samples, by name."""
    entries: Files = {}
    for name, data in files.items():
        stem = name.removesuffix(".png")
        entries |= {name: data, f"{stem}.cls": str(CLASSES.index(name.partition("/")[0])).encode()}
    return entries


def write_shards(root: Path, files: Files) -> Path:
    names = list(files)
    for number, part in enumerate((names[:5], names[5:6], names[6:])):
        write_tar(root / f"train-{number:02d}.tar", samples({name: files[name] for name in part}))
    return root


def write_arrow(root: Path, files: Files) -> Path:
    hub = pytest.importorskip("datasets")
    labels = [CLASSES.index(name.partition("/")[0]) for name in files]
    features = hub.Features({"photo": hub.Image(), "kind": hub.ClassLabel(names=CLASSES), "note": hub.Value("string")})
    cells = [{"bytes": data, "path": os.path.basename(name)} for name, data in files.items()]
    rows = {"photo": cells, "kind": labels, "note": ["-"] * len(labels)}
    hub.Dataset.from_dict(rows, features=features).save_to_disk(str(root / "set"), num_shards=2)
    return root / "set"


WRITERS: dict[str, Callable[[Path, Files], Path]] = {
    "folder": write_folder,
    "list": write_list,
    "shards": write_shards,
    "arrow": write_arrow,
}


def contents(source: ImageSource) -> list[bytes]:
    return [source.read(index).tobytes() for index in range(len(source))]


def expected(files: Files) -> list[bytes]:
    return [Image.open(io.BytesIO(data)).convert("RGB").tobytes() for data in files.values()]


def refusal(path: Path, labelled: bool = False, root: Path | None = None) -> DataError:
    with pytest.raises(DataError) as caught:
        open_source(path, labelled, root)
    return caught.value
