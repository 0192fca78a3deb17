"""`python -m transfer cache`: which features lie below a folder of runs, and how to get rid of some of them."""

from __future__ import annotations

import json
import os
import re
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from transfer.classification.feature_cache import LOCK, key
from transfer.runtime.command import Debug
from transfer.runtime.errors import UserError
from transfer.runtime.files import ROOT, locked

NAME = re.compile("[0-9a-f]{64}")  # of a folder: see `feature_cache.key`
# What a folder of ours may hold, in the order in which it is removed: after a kill the rest is still known for what it
# is. The lock stays, or a process that waits for it would hold the lock of a file that is gone.
FILES = (
    *(r"done\.json", r"progress(-\d+)?\.jsonl", r"\..+\.part", r"features\.npy", r"digests\.npy"),
    *(r"proof\.json", r"meta\.json"),
)
DAY = 24 * 3600.0
GB, MB = 1e9, 1e6


@dataclass(frozen=True)
class CacheOptions(Debug):
    """List the features that are kept, the least recently used first; `… cache prune` removes some.

    Attributes:
        runs: the folder given to runs as --runs.
    """

    runs: Path = ROOT / "runs"


@dataclass(frozen=True)
class Prune(Debug):
    """Say which features would be removed; with --yes remove them. They are computed again when a run wants them.

    Of several conditions all must hold.

    Attributes:
        runs: the folder given to runs as --runs.
        checkpoint: of the checkpoint whose sha256 begins like this.
        images: of the images of this name.
        older_than: that no run has opened for so many days.
        unfinished: that are not whole, or of which cannot be read what they are.
        keep_gb: the least recently used, until all features together take no more than so many GB.
        yes: do it.
    """

    runs: Path = ROOT / "runs"
    checkpoint: str | None = None
    images: str | None = None
    older_than: float | None = None
    unfinished: bool = False
    keep_gb: float | None = None
    yes: bool = False


@dataclass(frozen=True)
class Kept:
    """A folder of features, as far as its meta.json tells.

    Attributes:
        sha256, arch: of the checkpoint.
        images: name of set and split.
        view: resized to, cropped to, and what is unusual; then the pooling.
        size: bytes on the disk; files that are being filled take less than their length.
        state: whole: all chunks are there (whether they are sound is looked at when a run opens them).
        used: when a run last opened it, in seconds since 1970.
    """

    folder: Path
    sha256: str
    arch: str
    images: str
    view: str
    size: int
    state: Literal["whole", "unfinished", "unreadable"]
    used: float

    def line(self) -> str:
        """For people."""
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.used))
        what = f"{self.sha256[:12]:<13}{self.arch:<12}{self.images:<26}{self.view:<28}"
        return f"{what}{self.size / MB:>10,.1f} MB  {self.state:<11} {when}  {self.folder.name[:12]}"


def cache_command(arguments: Sequence[str]) -> str:
    """Parse `[prune] [options]`, do it, and return what is to be said.

    Raises:
        UserError: nothing says which features to remove, or they cannot be removed.
    """
    if arguments[:1] == ["prune"]:
        return prune(tyro.cli(Prune, args=arguments[1:], prog="python -m transfer cache prune"))
    options = tyro.cli(CacheOptions, args=arguments, prog="python -m transfer cache")
    found = kept(options.runs)
    return "\n".join([*(each.line() for each in found), f"{_sum(found)} in {options.runs / 'features'}"])


def kept(runs: Path) -> list[Kept]:
    """All folders of features, the least recently used first; what else lies there is passed over."""
    folders = [folder for folder in (runs / "features").glob("*") if _files(folder)]
    return sorted((_described(folder) for folder in folders), key=lambda each: (each.used, each.folder))


def prune(options: Prune) -> str:
    """See `Prune`. What a run is filling stays, and so does what was opened in the meantime."""
    chosen = _chosen(options, kept(options.runs))
    if not options.yes:
        return "\n".join([*(each.line() for each in chosen), f"{_sum(chosen)} would go; --yes removes them"])
    said, gone = [], []
    for each in chosen:
        try:
            with locked(each.folder, "in use by a run", "", LOCK):
                if _described(each.folder) != each:
                    said.append(f"{each.line()}  stays: it has changed meanwhile")
                    continue
                for file in _files(each.folder):
                    file.unlink()
        except (UserError, OSError) as error:
            said.append(f"{each.line()}  stays: {error}")
            continue
        gone.append(each)
        said.append(each.line())
    return "\n".join([*said, f"{_sum(gone)} removed"])


def _chosen(options: Prune, found: list[Kept]) -> list[Kept]:
    given = (options.checkpoint, options.images, options.older_than, options.keep_gb)
    if not options.unfinished and all(value is None for value in given):
        raise UserError(
            "which features are to go?",
            todo="--checkpoint SHA, --images NAME, --older-than DAYS, --unfinished or --keep-gb N; "
            "`python -m transfer cache` lists them",
        )
    for name, value in (("--older-than", options.older_than), ("--keep-gb", options.keep_gb)):
        if value is not None and not value >= 0:
            raise UserError(f"{name} {value:g}", todo="give 0 or more")
    chosen = [
        each
        for each in found
        if options.checkpoint is None or (options.checkpoint and each.sha256.startswith(options.checkpoint.lower()))
        if options.images in (None, each.images)
        if options.older_than is None or each.used <= time.time() - options.older_than * DAY
        if not options.unfinished or each.state != "whole"
    ]
    if options.keep_gb is None:
        return chosen
    left, some = sum(each.size for each in found), []
    for each in chosen:
        if left > options.keep_gb * GB:
            some.append(each)
            left -= each.size
    return some


def _files(folder: Path) -> dict[Path, os.stat_result]:
    """The files of a folder of features but its lock, as they are to be removed; none if it is not one of ours."""
    if not NAME.fullmatch(folder.name) or folder.is_symlink() or not folder.is_dir():
        return {}
    found: list[tuple[int, Path, os.stat_result]] = []
    for path in folder.iterdir():
        try:
            status = path.lstat()
        except FileNotFoundError:  # a run has renamed it
            continue
        rank = next((place for place, name in enumerate(FILES) if re.fullmatch(name, path.name)), None)
        if path.name != LOCK and (rank is None or not stat.S_ISREG(status.st_mode)):
            return {}
        if rank is not None:
            found.append((rank, path, status))
    return {path: status for _, path, status in sorted(found, key=lambda each: each[:2])}


def _described(folder: Path) -> Kept:
    files, meta = _files(folder), folder / "meta.json"
    size = sum(status.st_blocks * 512 for status in files.values())
    opened = [files[meta]] if meta in files else files.values()
    used = max((status.st_mtime for status in opened), default=0.0)
    try:
        identity = json.loads(meta.read_text(encoding="utf-8"))["identity"]
        if key(identity) != folder.name:
            raise ValueError("of another folder")
        checkpoint = identity["checkpoint"]
        sha256, arch, images = (str(x) for x in (checkpoint["sha256"], checkpoint["arch"], identity["images"]["name"]))
        view = _view(identity)
    except (OSError, ValueError, LookupError, TypeError):
        return Kept(folder, "?", "?", "?", "?", size, "unreadable", used)
    state: Literal["whole", "unfinished"] = "whole" if folder / "done.json" in files else "unfinished"
    return Kept(folder, sha256, arch, images, view, size, state, used)


def _view(identity: Mapping[str, Any]) -> str:
    view = identity["view"]
    words = [f"{view['resize']}/{view['crop']}", *(["squashed"] if view["squash"] else []), view["interpolation"]]
    precision = [identity["precision"]] if identity["precision"] != "fp32" else []
    return " ".join(map(str, [*words, identity["pooling"], *precision]))


def _sum(found: Sequence[Kept]) -> str:
    return f"{len(found)} folders, {sum(each.size for each in found) / GB:,.2f} GB"
