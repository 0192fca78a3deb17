"""What a plan has to know of checkpoints and images, remembered while their files stay as they are.

A run looks at everything itself before it computes: what is remembered here decides what is planned, never a number.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transfer.cli import CommandLine, RunOptions, read_one
from transfer.datasets.labels.catalogue import data_root
from transfer.record import content_hash
from transfer.runtime.files import write_json

logger = logging.getLogger(__name__)

VERSION = 1  # raised when what is remembered changes its meaning
DEPTH = 4  # folders below a data set's own whose times are looked at: JPEGImages, train/<class>, 2018/<group>/<species>

Fingerprints = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class CheckpointFacts:
    """What identifies a checkpoint's weights, see `Backbone.source`."""

    sha256: str
    branch: str
    arch: str


class Facts:
    """Facts by what was asked and the state of the files that they are of; kept in one JSON file.

    Args:
        path: of that file. One that cannot be read is begun anew.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, Any] = _read(path)
        self._changed = False
        self._states: dict[Path, list[list[Any]]] = {}  # looked at once: several tasks have the same images

    def checkpoint(self, name: str, options: RunOptions) -> CheckpointFacts:
        """Of a file, or of "random:ARCH:SEED".

        Raises:
            CheckpointError: it cannot be read.
        """
        import torch  # random weights are those of one version

        how = [options.format, options.branch, options.prefix, options.allow_half]
        stamp: object = torch.__version__
        if not name.startswith("random:"):
            beside = Path(name).with_name("config.json")  # which transformers' files say their heads and eps in
            stamp = self._state(Path(name)) + (self._state(beside) if beside.exists() else [])
        found = self._known.get(key := f"checkpoint {name} {how}")
        if found is None or found["stamp"] != stamp:
            backbone = read_one(name, options)
            facts = CheckpointFacts(backbone.source.sha256, backbone.source.branch, backbone.arch)
            found = self._keep(key, {"stamp": stamp, "facts": dataclasses.asdict(facts)})
        return CheckpointFacts(**found["facts"])

    def fingerprints(self, line: CommandLine) -> Fingerprints:
        """Of the images that a task reads: split → what it is called, a hash, how many.

        Raises:
            DataError: they are not there, or malformed.
        """
        stamp = content_hash([self._state(path) for path in _data_paths(line)])
        found = self._known.get(key := f"data {line.task.source!r} {line.data!r}")
        if found is None or found["stamp"] != stamp:
            logger.info("reading the images of %s", line.name)
            # through JSON: what is found again is equal
            fingerprints = json.loads(json.dumps(line.task.load(line.data).fingerprints))
            found = self._keep(key, {"stamp": stamp, "facts": fingerprints})
        facts: Fingerprints = found["facts"]
        return facts

    def forget_images(self) -> None:
        """A run has found others than these: the next plan looks at all of them again."""
        self._known = {key: value for key, value in self._known.items() if not key.startswith("data ")}
        self._changed = True

    def seconds(self, kind: str) -> float | None:
        """How long such a run took here, the last time."""
        found = self._known.get(f"seconds {kind}")
        return None if found is None else float(found)

    def took(self, kind: str, seconds: float) -> None:
        """Remember that."""
        self._keep(f"seconds {kind}", seconds)

    def save(self) -> None:
        """Write what is new.

        Raises:
            UserError: the folder cannot be written.
        """
        if self._changed:
            write_json(self.path, {"version": VERSION, "known": self._known})
            self._changed = False

    def _state(self, path: Path) -> list[list[Any]]:
        if path not in self._states:
            self._states[path] = list(_files(path))
        return self._states[path]

    def _keep(self, key: str, value: Any) -> Any:
        self._known[key] = value
        self._changed = True
        return value


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be read and is begun anew: %s", path, error)
        return {}
    known = content.get("known") if isinstance(content, dict) and content.get("version") == VERSION else None
    return known if isinstance(known, dict) else {}


def _data_paths(line: CommandLine) -> list[Path]:
    """The official files that the task needs, or those of the user's own that the options name."""
    given = {field.name: getattr(line.data, field.name) for field in dataclasses.fields(line.data)}
    named = [value for name, value in given.items() if isinstance(value, Path) and name != "data_root"]
    return named or [data_root(given.get("data_root")) / part for part in line.task.needs]


def _files(path: Path, depth: int = DEPTH) -> Iterator[list[Any]]:
    """Path, time and size of a file; of a folder those of the folders in it: theirs change with what they hold.

    A picture that is written anew under its name changes no folder's time: the run itself sees that.
    """
    folders: list[str] = []
    try:
        state = path.stat()
        if depth and path.is_dir():
            with os.scandir(path) as entries:
                folders = sorted(entry.path for entry in entries if entry.is_dir())
    except OSError:
        return  # reading it will say what is wrong, if it is read at all
    yield [str(path.resolve()), state.st_mtime_ns, state.st_size]
    for folder in folders:
        yield from _files(Path(folder), depth - 1)
