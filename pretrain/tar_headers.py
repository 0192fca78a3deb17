"""The members of a tar file, read from its headers alone, with every way in which some would be lost refused.

The standard library's reader takes a damaged header, or the end of the file, for the end of the archive, and keeps
every member in memory; only its parser of single headers is used here. Layout: POSIX.1-2008, pax, "ustar Interchange
Format" and "pax Interchange Format"; GNU tar manual, "Basic Tar Format" (long names).
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from transfer.runtime.errors import DataError

BLOCK = tarfile.BLOCKSIZE  # 512 bytes
CHUNK = 1 << 20
LONGEST_HEADER = 1 << 20  # bytes of a long name or of extended attributes
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
WITHOUT_IMAGES = (tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)


class Member(NamedTuple):
    """A regular file in a tar file: name, place of its first byte, size in bytes."""

    name: str
    offset: int
    size: int


def members(descriptor: int, path: Path) -> Iterator[Member]:
    """Regular files of the tar file open as `descriptor`, in their order; leading "./" is taken off names.

    Raises:
        DataError: not a tar file, compressed, cut off, damaged, or with members that are no plain files (links, sparse
            ones): names the file and the place.
    """
    end = os.fstat(descriptor).st_size
    place = 0
    extended: dict[str, str] = {}
    while True:
        block = os.pread(descriptor, BLOCK, place)
        if len(block) < BLOCK:
            raise _cut_off(path, place, end, "there is no end mark")
        if not any(block):
            _check_rest(descriptor, path, place, end)
            return
        info = _header(block, path, place)
        size = _size(extended, info) if info.type in (*tarfile.REGULAR_TYPES, tarfile.GNUTYPE_SPARSE) else info.size
        if info.type in WITHOUT_IMAGES:
            size = 0
        name = extended.get("path", info.name)
        data = place + BLOCK
        if size < 0 or data + size > end:
            raise _cut_off(path, place, end, f"its member {name} needs {size} bytes more")
        if info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            extended |= _extension(info, os.pread(descriptor, min(size, LONGEST_HEADER + 1), data), path, place)
        elif info.type != tarfile.XGLTYPE:
            if info.type not in WITHOUT_IMAGES:
                _check_plain(info, name, extended, path)
                yield Member(name.removeprefix("./"), data, size)
            extended = {}
        place = data + (size + BLOCK - 1) // BLOCK * BLOCK


def _header(block: bytes, path: Path, place: int) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError) as error:
        if place:
            raise _damaged(path, place, str(error)) from error
        for magic, kind in COMPRESSED.items():
            if block.startswith(magic):
                raise DataError(
                    f"{path} is compressed",
                    found=f"{kind}; images inside could only be reached by unpacking all before them",
                    todo="unpack it to a plain .tar (images are compressed already)",
                ) from error
        raise DataError(f"{path} is not a tar file", found=f"it begins with {block[:16]!r}") from error


def _size(extended: dict[str, str], info: tarfile.TarInfo) -> int:
    text = extended.get("size", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else info.size


def _extension(info: tarfile.TarInfo, data: bytes, path: Path, place: int) -> dict[str, str]:
    """What an extra header says of the member after it."""
    if len(data) > LONGEST_HEADER:
        raise _damaged(path, place, f"a header of {info.size} bytes")
    if info.type == tarfile.GNUTYPE_LONGLINK:
        return {}
    if info.type == tarfile.GNUTYPE_LONGNAME:
        return {"path": data.partition(b"\0")[0].decode("utf-8", "surrogateescape")}
    records: dict[str, str] = {}
    while data.strip(b"\0"):
        # "<length of the record in decimal> <keyword>=<value>\n"
        number, blank, _ = data.partition(b" ")
        length = int(number) if number.isdigit() and len(number) < 8 else 0
        keyword, equals, value = data[len(number) + 1 : length].partition(b"=")
        if not blank or not equals or not value.endswith(b"\n"):
            raise _damaged(path, place, "extended attributes that cannot be read")
        records[keyword.decode("utf-8", "surrogateescape")] = value[:-1].decode("utf-8", "surrogateescape")
        data = data[length:]
    return records


def _check_plain(info: tarfile.TarInfo, name: str, extended: dict[str, str], path: Path) -> None:
    if info.type in (tarfile.LNKTYPE, tarfile.SYMTYPE):
        todo = "pack the files again with: tar --dereference --hard-dereference"
        raise DataError(f"{path} holds a link", found=f"{name} → {info.linkname}", todo=todo)
    if info.type == tarfile.GNUTYPE_SPARSE or any(keyword.startswith("GNU.sparse") for keyword in extended):
        raise DataError(f"{path} holds a sparse file", found=name, todo="pack the files again without --sparse")
    if info.type not in tarfile.REGULAR_TYPES:
        raise DataError(f"{path} holds a member of the unknown type {info.type!r}", found=name)


def _check_rest(descriptor: int, path: Path, place: int, end: int) -> None:
    """After the end mark there may be zeros alone."""
    for start in range(place, end, CHUNK):
        if any(os.pread(descriptor, CHUNK, start)):
            raise DataError(
                f"{path} goes on after its end mark at byte {place}",
                found="tar files that were joined by cat, or a damaged header",
                todo="keep them as separate shards, or join them with: tar --concatenate",
            )


def _cut_off(path: Path, place: int, end: int, found: str) -> DataError:
    return DataError(
        f"{path} is cut off or damaged at byte {place}",
        found=f"{found}; the file ends at byte {end}",
        todo="fetch or write it again",
    )


def _damaged(path: Path, place: int, found: str) -> DataError:
    return DataError(f"{path} is damaged at byte {place}", found=found, todo="fetch or write it again")
