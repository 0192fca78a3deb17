"""From a file to the nested dict inside it, whatever it is packed in, without running anything of it.

What a file is, is read from its first bytes and never from its name. torch's zip files carry a checksum per tensor,
which torch itself does not look at; it is verified here, so a flipped bit on the way is found. Legacy torch files,
safetensors and plain pickles have no checksum: a flipped bit inside a tensor is a different number, and only the
file's sha256, compared with its publisher's, can tell.
"""

from __future__ import annotations

import difflib
import glob
import gzip
import hashlib
import json
import pickle
import re
import tempfile
import warnings
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError

from transfer.checkpoints.carried import CARRIED
from transfer.checkpoints.not_a_checkpoint import describe, foreign_archive, foreign_file, foreign_folder
from transfer.checkpoints.rules import key_name
from transfer.checkpoints.safetensors_files import read_safetensors
from transfer.checkpoints.unpickle import (
    MALFORMED,
    Bounded,
    ForbiddenGlobal,
    PickledArray,
    load_plain_pickle,
    refuse_bombs,
    torch_safe_globals,
    unsafe,
)
from transfer.runtime.errors import CheckpointError

# The largest published ResNet checkpoints, optimiser included, stay below 2 GB.
MAX_UNPACKED = 4 * 2**30
CHUNK = 2**20
HEAD = 4096
# State dicts are nested five deep at most (VISSL); below that lie settings.
MAX_DEPTH = 8

_TORCH_LEGACY = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # torch's magic number, as a pickled integer
_TEXT_PICKLE = re.compile(rb"\(?(?:[dl]p?\d*\n|[ci][A-Za-z_][\w.]*\n[\w.]+\n|[\]}](?:q.|\(|\.))", re.DOTALL)
# `state_dict()` keeps the versions of modules there, and converted files what tensors cannot say.
_KEPT = "_metadata"


@dataclass(frozen=True)
class Contents:
    """What was inside a file.

    Attributes:
        tree: the top-level dict; numpy arrays have become tensors.
        container: in words, for example "torch file (zip)".
        size: of the file, in bytes.
        sha256: of the file as it lies on disk, hexadecimal.
    """

    tree: Mapping[str, Any]
    container: str
    size: int
    sha256: str


def read_contents(path: Path) -> Contents:
    """Read a checkpoint file: torch (zip or legacy), safetensors, plain pickle, or one of these under gzip.

    Raises:
        CheckpointError: no such file, not a checkpoint, cut off, damaged, or a pickle that wants to run code.
    """
    check_exists(path)
    try:
        _refuse_parts(path)
        size, digest = path.stat().st_size, sha256_of(path)
        with path.open("rb") as file:
            head = file.read(HEAD)
        unpack = _unpacker(path, head)
        if unpack is None:
            value, container = _read_packed(path, path, head)
        else:
            with unpack(path) as unpacked:
                with unpacked.open("rb") as file:
                    head = file.read(HEAD)
                value, container = _read_packed(unpacked, path, head)
            container += ", gzip'd" if unpack is _gunzipped else ", in a zip archive"
    except OSError as error:
        raise CheckpointError(f"cannot read {path}", found=error.strerror or str(error)) from error
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{path} holds a {type(value).__name__}, and a checkpoint is a dict", todo="save model.state_dict() instead"
        )
    make_plain(value, path)
    arrays_to_tensors(value, path)
    return Contents(tree=value, container=container, size=size, sha256=digest)


def check_exists(path: Path) -> None:
    """Raise `CheckpointError` unless `path` is a file; the message names its neighbours."""
    if path.is_dir() and (known := foreign_folder(path)):
        raise CheckpointError(f"{path} is no checkpoint file", found=known[0], todo=known[1])
    if path.is_dir():
        inside = sorted(item.name for item in path.iterdir() if item.is_file())
        raise CheckpointError(
            f"{path} is a folder, not a checkpoint file",
            found=f"{len(inside)} files: {', '.join(inside[:6])}" if inside else "no files in it",
            todo="name one of the files in it",
        )
    if not path.exists() and path.parent.is_dir() and any(path.parent.glob(f"{glob.escape(path.name)}.index")):
        found, todo = foreign_file(b"", f"{path.name}.index") or ("", "")
        raise CheckpointError(f"{path} is no file", found=f"{path.name}.index, {found}", todo=todo)
    if not path.exists():
        names = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else None
        close = difflib.get_close_matches(path.name, names or [], n=3)
        raise CheckpointError(
            f"there is no file {path}",
            found=f"in that folder: {', '.join(close)}" if close else "" if names is not None else "nor its folder",
            todo=f"did you mean {path.parent / close[0]}?" if close else "check the path",
        )
    if not path.is_file():
        raise CheckpointError(f"{path} is a device or a pipe, not a file", todo="save it to a file first")


def _refuse_parts(path: Path) -> None:
    """Raise `CheckpointError` for parts of a torch file: unpacked ones, or an archive that torch did not write."""
    known = foreign_folder(path.parent) if path.name == "data.pkl" else None
    if _packed(path):
        try:
            with zipfile.ZipFile(path) as archive:
                infos = archive.infolist()
        except (*MALFORMED, zipfile.BadZipFile):
            return  # torch's reader will say what is wrong with it
        compressed = any(info.compress_type != zipfile.ZIP_STORED for info in infos if not info.is_dir())
        known = foreign_archive(path, [info.filename for info in infos], compressed)
    if known:
        raise CheckpointError(f"{path} is not read as it is", found=known[0], todo=known[1])


def _packed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file, read piece by piece."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _read_packed(path: Path, shown: Path, head: bytes) -> tuple[Any, str]:
    """(value, kind of container) of the unpacked file `path`; messages speak of the file `shown`."""
    kind, reader = _sniff(head, shown)
    try:
        with warnings.catch_warnings():
            # torch warns of old layouts; whether the file is good is decided here, not by a warning
            warnings.simplefilter("ignore")
            return reader(path), kind
    except CheckpointError as error:  # speaks of a temporary file, if it was unpacked into one
        raise CheckpointError(error.what.replace(str(path), str(shown)), found=error.found, todo=error.todo) from error
    except ForbiddenGlobal as error:
        raise unsafe(shown, error.name) from error
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]*\w)\s", str(error))  # a name that ends in a dot was cut off
        if wanted:
            # torch cuts "builtins." off the names in its message
            name = wanted.group(1)
            raise unsafe(shown, name if "." in name else f"builtins.{name}") from error
        operand = re.search(r"Unsupported operand (\d+)", str(error))
        if operand and int(operand.group(1)) >= pickle.SHORT_BINUNICODE[0]:  # the first one of protocol 4
            raise CheckpointError(
                f"{shown} was saved with a pickle protocol above 3, which PyTorch's safe reader does not know",
                todo="save it again without `pickle_protocol=`; if you trust its author: "
                "torch.save(torch.load(FILE, weights_only=False), 'again.pth')",
            ) from error
        raise damaged(shown, kind, error) from error
    except (*MALFORMED, SafetensorError, zipfile.BadZipFile, zlib.error) as error:
        raise damaged(shown, kind, error) from error


def _sniff(head: bytes, shown: Path) -> tuple[str, Callable[[Path], Any]]:
    kind = _kind_of(head)
    if kind is None:
        what, todo = describe(head, shown.name)
        raise CheckpointError(f"{shown} is not a checkpoint", found=what, todo=todo)
    return kind


def _kind_of(head: bytes) -> tuple[str, Callable[[Path], Any]] | None:
    """(container in words, its reader) from a file's first bytes; None if no checkpoint begins so."""
    if head.startswith(b"PK\x03\x04"):
        return "torch file (zip)", _read_torch_zip
    if _TORCH_LEGACY in head[:32]:
        return "torch file (legacy)", _read_torch_legacy
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100 * 2**20:
        return "safetensors", _read_safetensors
    if (head[:1] == b"\x80" and head[1:2] <= b"\x05" and len(head) > 1) or _TEXT_PICKLE.match(head):
        return "pickle", _read_pickle
    return None


def _unpacker(path: Path, head: bytes) -> Callable[[Path], AbstractContextManager[Path]] | None:
    """How to unpack a file in which a checkpoint was packed for its journey; None if it is none of those."""
    if head.startswith(b"\x1f\x8b"):
        return _gunzipped
    return _unzipped if head.startswith(b"PK\x03\x04") and _packed_names(path) else None


@contextmanager
def _gunzipped(path: Path) -> Iterator[Path]:
    """A temporary file with the unpacked contents; its gzip checksum has been verified."""
    with tempfile.NamedTemporaryFile(prefix="checkpoint.") as unpacked:
        try:
            with gzip.open(path) as packed:
                _copy(packed, unpacked, path, "gzip -d")
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise damaged(path, "gzip file", error) from error
        yield Path(unpacked.name)


def _packed_names(path: Path) -> list[str]:
    """Files in a zip archive that is not torch's own; OBoW's extractor was released in such a one."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
    except (*MALFORMED, zipfile.BadZipFile):
        return []  # torch's reader will say what is wrong with it
    return [] if any(name.endswith(("/data.pkl", "/constants.pkl")) for name in names) else names


@contextmanager
def _unzipped(path: Path) -> Iterator[Path]:
    """A temporary file with the only checkpoint in a zip archive; its checksum has been verified."""
    try:
        with zipfile.ZipFile(path) as archive, tempfile.NamedTemporaryFile(prefix="checkpoint.") as unpacked:
            held = [name for name in _packed_names(path) if _is_checkpoint(archive, name)]
            if len(held) != 1:
                shown = held or _packed_names(path)
                raise CheckpointError(
                    f"{path} is a zip archive that holds {'several checkpoints' if held else 'no checkpoint'}",
                    found=f"{', '.join(shown[:5])}{' …' if len(shown) > 5 else ''}",
                    todo="unpack it with `unzip` and name one file inside",
                )
            with archive.open(held[0]) as packed:
                _copy(packed, unpacked, path, "unzip")
            yield Path(unpacked.name)
    except (*MALFORMED, zipfile.BadZipFile, zlib.error) as error:
        raise damaged(path, "zip archive", error) from error


def _is_checkpoint(archive: zipfile.ZipFile, name: str) -> bool:
    with archive.open(name) as packed:
        return _kind_of(packed.read(HEAD)) is not None


def _copy(packed: IO[bytes] | gzip.GzipFile, unpacked: IO[bytes], path: Path, by_hand: str) -> None:
    total = 0
    while chunk := packed.read(CHUNK):
        if total == 0:
            _sniff(chunk[:HEAD], path)  # what is no checkpoint need not be unpacked
        total += unpacked.write(chunk)
        if total > MAX_UNPACKED:
            raise CheckpointError(
                f"{path} unpacks to more than {MAX_UNPACKED / 2**30:.3g} GiB",
                todo=f"if you trust it, unpack it yourself with `{by_hand}`",
            )
    unpacked.flush()


def _read_torch_legacy(path: Path) -> Any:
    with path.open("rb") as file:
        bounded = Bounded(file, path.stat().st_size)
        for _ in range(5):  # magic number, version, byte order, contents, names of storages
            refuse_bombs(bounded)
    return _read_torch(path)


def _read_torch(path: Path) -> Any:
    # Read into memory and not mapped: a mapped file that is replaced in place during training kills the process.
    with torch.serialization.safe_globals(torch_safe_globals()):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=False)


def _read_torch_zip(path: Path) -> Any:
    """torch's zip: verify its structure and the checksum of every record, then load."""
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        names = [info.filename for info in infos]
        if not any(name.endswith("/data.pkl") for name in names):
            raise CheckpointError(
                f"{path} is a zip archive, but not one that torch.save wrote",
                found=f"it holds {', '.join(names[:5])}{' …' if len(names) > 5 else ''}",
                todo="if a checkpoint is packed inside, unpack it with `unzip`",
            )
        if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
            raise CheckpointError(
                f"{path} is a TorchScript program, which is code", todo="save its state_dict() with torch.save"
            )
        if len(set(names)) != len(names) or sum(info.file_size for info in infos) > path.stat().st_size:
            raise zipfile.BadZipFile("the archive's table of contents contradicts itself")
        for info in infos:
            with archive.open(info) as record:
                while record.read(CHUNK):
                    pass  # reading to the end is what verifies the checksum
            if info.filename.endswith("/data.pkl"):
                with archive.open(info) as record:
                    refuse_bombs(Bounded(record, info.file_size))
    return _read_torch(path)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    tensors, metadata = read_safetensors(path)
    if CARRIED in metadata:  # a file that this project converted: where a torch file has it, too
        tensors._metadata = {CARRIED: json.loads(metadata[CARRIED])}  # type: ignore[attr-defined]
    return tensors


def _read_pickle(path: Path) -> Any:
    with path.open("rb") as file:
        refuse_bombs(Bounded(file, path.stat().st_size))
        file.seek(0)
        return load_plain_pickle(file, path.stat().st_size)


def arrays_to_tensors(tree: MutableMapping[str, Any], path: Path) -> None:
    """Replace every pickled numpy array in nested dicts by a tensor, in place and one at a time."""
    waiting: list[tuple[MutableMapping[str, Any], int]] = [(tree, 0)]
    seen = {id(tree)}
    while waiting:
        mapping, depth = waiting.pop()
        for key, value in mapping.items():
            if isinstance(value, PickledArray):
                try:
                    mapping[key] = value.tensor()
                except MALFORMED as error:
                    raise damaged(path, f"array {key_name(key)[:80]!r}", error) from error
            elif isinstance(value, dict) and id(value) not in seen and depth < MAX_DEPTH:
                seen.add(id(value))
                waiting.append((value, depth + 1))


def make_plain(tree: object, path: Path) -> None:
    """Take every attribute off every dict and tensor of nested containers, in place, `_metadata` of a dict aside.

    A pickle may give them attributes, PyTorch's safe reader included. One called `items` or `detach` hides the method
    of that name, and the file would say one thing to one reader and another to the next.

    Raises:
        CheckpointError: a tensor has no values or no shape, so that nothing could be asked of it.
    """
    waiting: list[tuple[str, Any]] = [("", tree)]
    seen = set()
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, torch.Tensor):
            _demand_values(name, value, path)
            vars(value).clear()
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, OrderedDict):
                for attribute in [key for key in vars(value) if key != _KEPT]:
                    del vars(value)[attribute]
                waiting.append((_KEPT, vars(value).get(_KEPT)))
            inside = dict.items(value) if isinstance(value, dict) else ((name, item) for item in value)
            waiting.extend((key if isinstance(key, str) else name, item) for key, item in inside)


def _demand_values(name: str, tensor: torch.Tensor, path: Path) -> None:
    kind = "nested" if tensor.is_nested else "without values" if tensor.is_meta else ""
    kind = kind or ("" if tensor.layout in (torch.strided, torch.jagged) else "sparse")
    if kind:
        raise CheckpointError(
            f"{path}: {name[:80]} is a {'tensor without values' if tensor.is_meta else f'{kind} tensor'}",
            todo="save dense float32 weights: {k: v.to_dense() for k, v in …}",
        )


def damaged(path: Path, kind: str, error: Exception) -> CheckpointError:
    """The refusal of a file that begins like `kind` and failed with `error`."""
    text = str(error).partition("Check the documentation of torch.load")[0]  # torch's advice is not for this reader
    reason = text.strip().splitlines()
    return CheckpointError(
        f"{path} begins like {'an' if kind.startswith('array') else 'a'} {kind}, but is cut off or damaged",
        found=f"{type(error).__name__}: {reason[-1][:300] if reason else 'no more data'}",
        todo="download or copy it again, and compare its size and sha256 with the original's",
    )
