"""Features on disk: one folder for each (checkpoint, images, view, pooling, precision), trusted only after a check.

    meta.json        what the features are of, in words; written first
    proof.json       the proofs of the networks that computed them, before they did; written before the first features
    features.npy     float32 [images, width], readable by numpy; NaN rows for images that could not be read
    digests.npy      uint8 [images, 16], BLAKE2b of each image as it is stored
    progress*.jsonl  one line per finished chunk of rows, with a checksum of its bytes in both files
    done.json        written last

Chunks have fixed boundaries. A line is written after the bytes that it vouches for, so a kill leaves whole chunks and
chunks without a line; whatever does not fit its checksum is computed again. The weights that the network was proved to
hold are part of the checksum: features of an older version, which kept no proof, or of other weights fit nothing.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from transfer.runtime.conditions import differences as other_conditions
from transfer.runtime.errors import UserError
from transfer.runtime.files import locked, write_atomically, write_json, write_text

ROWS = 1024  # of a chunk: what a kill costs at most, per process
DIGEST = 16  # bytes
LOCK = ".lock"
PATIENCE = 7 * 24 * 3600.0  # seconds to wait for another process that fills the same folder

logger = logging.getLogger(__name__)

Rows = tuple[int, int]  # first, one behind the last


@dataclass(frozen=True)
class Chunk:
    """What a line of progress says: a checksum over bytes and reasons, and row → why it could not be read."""

    checksum: str
    unreadable: Mapping[int, str]


def key(identity: Mapping[str, Any]) -> str:
    """sha256 of the identity as JSON with sorted names."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class Store:
    """The features of one pooling in their folder. Small enough to be sent to another process.

    Attributes:
        folder: made by `open`.
        rows: images.
        width: features of one image.
        weights: `Backbone.weights` of the network that must have computed them.
        finished: the chunks whose checksums fit; filled by `open` and `keep`.
        proofs: of the networks that computed them, as plain values; filled by `open` and `vouch`.
        remarks: in what the conditions of chunks that were there differ from those of now; filled by `open`.
    """

    folder: Path
    rows: int
    width: int
    weights: str
    finished: dict[Rows, Chunk] = field(default_factory=dict)
    proofs: list[dict[str, Any]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def chunks(self) -> list[Rows]:
        """All chunks, in order."""
        return [(start, min(start + ROWS, self.rows)) for start in range(0, self.rows, ROWS)]

    @property
    def features(self) -> Path:
        """See the docstring of this file."""
        return self.folder / "features.npy"

    @property
    def digests(self) -> Path:
        """See the docstring of this file."""
        return self.folder / "digests.npy"

    @property
    def done(self) -> Path:
        """See the docstring of this file."""
        return self.folder / "done.json"

    @property
    def complete(self) -> bool:
        """Whether no chunk is missing, as far as this process knows."""
        return len(self.finished) == len(self.chunks())

    def size(self) -> int:
        """Bytes of all features and digests."""
        return sum(self.rows * row for _, _, row in self._layouts())

    @contextmanager
    def alone(self, patience: float = PATIENCE) -> Iterator[None]:
        """Hold the folder, after waiting for whoever else fills it.

        Raises:
            UserError: it cannot be written, or the other process takes longer than so many seconds.
        """
        what = f"another process fills {self.folder}"
        with locked(self.folder, what, "wait for it, or end it", LOCK, patience, notice=f"{what}: waits for it"):
            yield

    def open(self, identity: Mapping[str, Any], conditions: Mapping[str, Any]) -> None:
        """Make the folder or check the one that is there; fills `finished`. Only under `alone`.

        Args:
            identity: what the features are of; another identity in the folder is an error.
            conditions: what may change their rounding (versions, threads, device, batch); a difference is logged and
                kept in `remarks`. The folder remembers the conditions of all who have written to it.

        The time of meta.json is that of the last opening: `transfer.classification.cache_command` goes by it.

        Raises:
            UserError: the folder belongs to something else, or its meta.json cannot be read.
        """
        meta = self.folder / "meta.json"
        now = json.loads(json.dumps(conditions))  # through JSON and back: tuples are lists there
        before = self._check_meta(meta, identity) if meta.exists() else []
        if not meta.exists():
            write_json(meta, {"identity": identity, "conditions": [now]})
        _touch(meta)
        for path, header, row in self._layouts():
            _prepare(path, header, self.rows * row)
        self._open_proofs()
        if damaged := self._verify():
            shown = ", ".join(f"{start}–{stop - 1}" for start, stop in damaged[:10])
            logger.warning(
                f"{self.folder}: rows {shown}{' …' if len(damaged) > 10 else ''} do not fit their checksums "
                f"({len(damaged)} of {len(self.chunks())} chunks): they are computed again"
            )
        if self.finished:
            self.remarks.extend(dict.fromkeys(line for then in before for line in other_conditions(then, now)))
        if self.remarks:
            logger.warning(f"{self.folder} was computed under other conditions: {'; '.join(self.remarks)}")
        if self.complete:
            return
        if before and now not in before:
            write_json(meta, {"identity": identity, "conditions": [*before, now]})
        self.done.unlink(missing_ok=True)
        # Lines that a kill cut in half, that are wrong, or of other processes: what fits moves into one file.
        write_text(self.folder / "progress.jsonl", "".join(_line(*kept) for kept in self.finished.items()))
        for other in self.folder.glob("progress-*.jsonl"):
            other.unlink()

    def vouch(self, proof: Mapping[str, Any], leads: bool = True) -> None:
        """Take note of the proof of a network that is about to compute features; the process that leads writes it.

        Raises:
            UserError: it is of other weights, or cannot be written.
        """
        if proof["weights"] != self.weights:
            raise UserError(
                f"the network holds other weights than those whose features {self.folder} is for",
                found=f"{proof['weights'][:12]}, wanted {self.weights[:12]}",
                todo="this is a fault of the program: please report it",
            )
        if proof not in self.proofs:
            self.proofs.append(dict(proof))
            if leads:
                write_json(self.folder / "proof.json", {"proofs": self.proofs})

    def keep(
        self,
        rows: Rows,
        features: NDArray[np.float32],
        digests: NDArray[np.uint8],
        unreadable: Mapping[int, str],
        rank: int = 0,
    ) -> None:
        """Write a chunk, and then the line that vouches for it into the progress file of this process.

        Args:
            features: [rows, width], NaN for unreadable images.
            digests: [rows, 16].
            unreadable: row of the set → reason.

        Raises:
            UserError: no space left; or a folder that only some of the processes see.
        """
        parts = (_bytes(features, "<f4"), _bytes(digests, "|u1"))
        chunk = Chunk(_checksum(self.weights, rows, parts, unreadable), dict(unreadable))
        try:
            for (path, header, row), part in zip(self._layouts(), parts, strict=True):
                with path.open("r+b") as file:
                    file.seek(len(header) + rows[0] * row)
                    file.write(part)
            name = f"progress-{rank}.jsonl" if rank else "progress.jsonl"
            with (self.folder / name).open("a", encoding="utf-8") as file:
                file.write(_line(rows, chunk))
        except OSError as error:
            raise UserError(
                f"cannot write to {self.folder}",
                found=error.strerror or str(error),
                todo="free some space, or put the cache where all processes see it; then type the same command again",
            ) from error
        self.finished[rows] = chunk

    def finish(self, names: Mapping[int, str]) -> None:
        """Write done.json, once each chunk has a line. Only under `alone`.

        Args:
            names: of the unreadable rows.

        Raises:
            UserError: chunks are missing: some process wrote them to a folder that this one does not see.
        """
        missing = set(self.chunks()) - set(self._lines())
        if missing:
            raise UserError(
                f"{len(missing)} of {len(self.chunks())} chunks did not arrive in {self.folder}",
                todo="put the cache into a folder that all processes see",
            )
        if not self.done.exists():
            write_json(self.done, {"rows": self.rows, "width": self.width, "unreadable": list(names.values())})

    def array(self) -> NDArray[np.float32]:
        """float32 [images, width], mapped and read-only."""
        found: NDArray[np.float32] = np.load(self.features, mmap_mode="r")
        return found

    def all_digests(self) -> NDArray[np.uint8]:
        """uint8 [images, 16], read-only; zeros where not even the bytes could be read."""
        found: NDArray[np.uint8] = np.load(self.digests, mmap_mode="r")
        return found

    def _layouts(self) -> list[tuple[Path, bytes, int]]:
        """File, its header and the bytes of a row, of both files."""
        return [
            (self.features, _header("<f4", (self.rows, self.width)), 4 * self.width),
            (self.digests, _header("|u1", (self.rows, DIGEST)), DIGEST),
        ]

    def _check_meta(self, meta: Path, identity: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The conditions of all who have written here, once the folder is seen to be of this identity."""
        todo = f"remove the folder {self.folder}, then type the same command again"
        try:
            found = json.loads(meta.read_text(encoding="utf-8"))
            theirs, then = found["identity"], found["conditions"]
            before = [dict(each) for each in (then if isinstance(then, list) else [then])]  # one mapping in older files
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UserError(f"cannot read {meta}", found=str(error), todo=todo) from error
        # Through JSON and back: tuples are lists there.
        if differences := _differences(theirs, json.loads(json.dumps(identity))):
            subject = "checkpoint" if any(line.startswith("checkpoint") for line in differences) else "extraction"
            raise UserError(f"{self.folder} is a cache from another {subject}", found="\n".join(differences), todo=todo)
        return before

    def _open_proofs(self) -> None:
        """Fill `proofs`; features without a proof, or with that of other weights, are given up."""
        path, why = self.folder / "proof.json", ""
        try:
            proofs = [dict(proof) for proof in json.loads(path.read_text(encoding="utf-8"))["proofs"]]
            others = sorted({str(proof["weights"]) for proof in proofs} - {self.weights})
            if others:
                why = f"their proof is of other weights ({others[0][:12]}, wanted {self.weights[:12]})"
            elif not proofs:
                why = "the list of their proofs is empty"
        except FileNotFoundError:
            proofs, why = [], "there is no proof of the network that computed them (an older version kept none)"
        except (OSError, ValueError, LookupError, TypeError) as error:
            proofs, why = [], f"their proof cannot be read ({error})"
        self.proofs[:] = [] if why else proofs
        if why:
            if self._lines():
                logger.warning(f"{self.folder}: the features are computed again: {why}")
            for stale in (*self.folder.glob("progress*.jsonl"), path):
                stale.unlink(missing_ok=True)

    def _verify(self) -> list[Rows]:
        """Fill `finished`; returns the chunks of which there are lines, but none that fits."""
        self.finished.clear()
        known = set(self.chunks())
        lines = {rows: its for rows, its in self._lines().items() if rows in known}
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashing lets go of Python's lock
            for rows, fitting in zip(lines, pool.map(self._fitting, lines.keys(), lines.values()), strict=True):
                if fitting is not None:
                    self.finished[rows] = fitting
        return sorted(set(lines) - set(self.finished))

    def _fitting(self, rows: Rows, lines: list[Chunk]) -> Chunk | None:
        parts = []
        for path, header, row in self._layouts():
            with path.open("rb") as file:
                file.seek(len(header) + rows[0] * row)
                parts.append(file.read((rows[1] - rows[0]) * row))
        return next(
            (line for line in lines if _checksum(self.weights, rows, parts, line.unreadable) == line.checksum), None
        )

    def _lines(self) -> dict[Rows, list[Chunk]]:
        """Chunk → what the progress files say of it. A kill may cut the last line in half: it counts as none."""
        found: dict[Rows, list[Chunk]] = {}
        for path in sorted(self.folder.glob("progress*.jsonl")):
            for text in path.read_bytes().splitlines():
                try:
                    line = json.loads(text)
                    start, stop = map(int, line["rows"])
                    unreadable = {int(row): str(reason) for row, reason in dict(line["unreadable"]).items()}
                    found.setdefault((start, stop), []).append(Chunk(str(line["checksum"]), unreadable))
                except (ValueError, LookupError, TypeError):
                    continue
        return found


def _touch(path: Path) -> None:
    try:
        os.utime(path)
    except PermissionError as error:  # somebody else's, who lets this user write into the folder, not to the file
        logger.debug(f"{path} keeps its time: {error}")


def _line(rows: Rows, chunk: Chunk) -> str:
    return json.dumps({"rows": rows, "checksum": chunk.checksum, "unreadable": chunk.unreadable}) + "\n"


def _bytes(part: NDArray[Any], kind: str) -> memoryview:
    return np.ascontiguousarray(part, kind).data.cast("B")


def _checksum(weights: str, rows: Rows, parts: Sequence[bytes | memoryview], unreadable: Mapping[int, str]) -> str:
    seen = hashlib.blake2b(json.dumps([weights, rows, sorted(unreadable.items())]).encode(), digest_size=32)
    for part in parts:
        seen.update(part)
    return seen.hexdigest()


def _header(kind: str, shape: tuple[int, int]) -> bytes:
    written = io.BytesIO()
    npy.write_array_header_1_0(written, {"descr": kind, "fortran_order": False, "shape": shape})
    return written.getvalue()


def _prepare(path: Path, header: bytes, size: int) -> None:
    """A file of that header and size: kept if it has them; cut or filled up; or made anew."""
    if path.exists():
        with path.open("rb") as file:
            whole = file.read(len(header)) == header
        if whole:
            if path.stat().st_size != len(header) + size:
                logger.warning(f"{path} has {path.stat().st_size} bytes, not {len(header) + size}")
                os.truncate(path, len(header) + size)
            return
        logger.warning(f"{path} has a damaged header: it is made anew")

    def write(file: Any) -> None:
        file.write(header)
        file.truncate(len(header) + size)

    write_atomically(path, write)


def _differences(theirs: Any, ours: Any, name: str = "") -> list[str]:
    """Where two JSON values differ, as "name: theirs there, ours here"."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        names = sorted(theirs.keys() | ours.keys())
        return [
            line
            for each in names
            for line in _differences(theirs.get(each), ours.get(each), f"{name}.{each}" if name else each)
        ]
    return [] if theirs == ours else [f"{name}: {theirs} there, {ours} here"]
