"""`Record`: one run's outcome with everything needed to believe it. Standard library only.

A record is one small JSON file, `<folder>/<task>/<run id>.json`, written whole or not at all and read strictly: what
is not exactly a record of this schema is reported, never guessed at.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from transfer.runtime import conditions as computing
from transfer.runtime.errors import UserError
from transfer.runtime.files import write_json
from transfer.runtime.provenance import device_name, git_state, package_versions, utc_now

logger = logging.getLogger(__name__)

__all__ = [
    "SCHEMA",
    "Record",
    "RecordError",
    "begins_run_id",
    "content_hash",
    "device_name",
    "differences_on_reuse",
    "files_of_run",
    "git_state",
    "leaves",
    "package_versions",
    "parse_record",
    "read_record",
    "run_id",
    "utc_now",
    "write_record",
]

SCHEMA = 3
# What records of earlier schemas do not say, and what that means.
UNSAID: Mapping[int, Mapping[str, Any]] = {
    1: {"conditions": {}, "authors_own": False},
    2: {"authors_own": False},
}

_CHECKPOINT_KEYS = {"path", "sha256", "format", "branch", "arch", "label"}
_DIFFERENCE_KEYS = {"what", "protocol", "run"}
_FAILURE_KEYS = {"kind", "message", "traceback"}
_TASK_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class RecordError(UserError):
    """A record file that is not exactly a record of this schema, or must not be replaced."""


@dataclass(frozen=True)
class Record:
    """One run, finished or failed.

    Attributes:
        run_id: 16 hexadecimal characters, `run_id(...)` of the fields below; checked.
        task: name, for example "detection.voc".
        task_version: raised by the task whenever the same options would give other numbers.
        checkpoint: path (as typed), sha256, format, branch, arch, label (the name in tables).
        engine: its name; "" for tasks without engines.
        recipe: every value that moves the number, nested plain containers.
        protocol: name of the published protocol that the recipe is measured against.
        differences: what this run does otherwise than the protocol: {what, protocol, run} each.
        data: split → fingerprint {name, sha256, images, boxes, …}.
        seed: of everything random.
        status: "finished" or "failed"; there is nothing in between on disk.
        primary_metric: the metric that tables show first.
        metrics: name → value in percent; empty for a failed run.
        details: per-class numbers and other things worth keeping.
        verification: the proof that the weights arrived in the engine.
        notes: what a reader should know about checkpoint and data.
        failure: {kind, message, traceback} of a failed run, otherwise empty.
        command: as typed.
        git_commit: "unknown" outside a repository.
        git_dirty: True if files differ from that commit, or nothing vouches for them.
        versions: package → version.
        conditions: with what it was computed, see `transfer.runtime.conditions`; empty if that was not recorded.
        device: for people, with the model's name.
        seconds: wall-clock duration.
        utc: end of the run, "2026-01-31T12:00:00Z".
        authors_own: the protocol was chosen as that of the checkpoint's authors (`--protocol auto`), to reproduce their
            number: tables mark the run, and it is compared with no other.

    Raises:
        ValueError: the parts contradict each other, or a number is not finite.
        TypeError: a value is not plain JSON (numpy scalars and tensors are not).
    """

    run_id: str
    task: str
    task_version: int
    checkpoint: dict[str, str]
    engine: str
    recipe: dict[str, Any]
    protocol: str
    differences: list[dict[str, str]]
    data: dict[str, dict[str, Any]]
    seed: int
    status: Literal["finished", "failed"]
    primary_metric: str
    metrics: dict[str, float]
    details: dict[str, Any]
    verification: dict[str, Any]
    notes: list[str]
    failure: dict[str, str]
    command: str
    git_commit: str
    git_dirty: bool
    versions: dict[str, str]
    conditions: dict[str, Any]
    device: str
    seconds: float
    utc: str
    authors_own: bool = False

    def __post_init__(self) -> None:
        # Plain copies: equal to what a reader of the file gets, and out of reach of the caller's later changes.
        for entry in dataclasses.fields(self):
            plain = _plain(getattr(self, entry.name), entry.name)
            object.__setattr__(self, entry.name, _checked(_FIELDS[entry.name], plain, entry.name))
        _check_keys(self)
        _check_consistent(self)

    @property
    def label(self) -> str:
        """The checkpoint's name in tables."""
        return self.checkpoint["label"]


_FIELDS = get_type_hints(Record)


def run_id(
    task: str,
    task_version: int,
    sha256: str,
    branch: str,
    engine: str,
    recipe: Mapping[str, Any],
    data_fingerprints: Mapping[str, Mapping[str, Any]],
    seed: int,
) -> str:
    """16 hexadecimal characters that name a run: a hash of all that decides its number.

    Taken over canonical JSON: keys sorted, floats by `repr`, tuples and lists alike.
    """
    decisive = [task, task_version, sha256, branch, engine, recipe, data_fingerprints, seed]
    return content_hash(decisive)


def content_hash(value: Any) -> str:
    """First 16 hexadecimal characters of the sha256 of `value` in canonical JSON."""
    text = json.dumps(_plain(value, "value"), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_record(record: Record, folder: Path, overwrite: bool = False) -> Path:
    """Write `<folder>/<task>/<run id>.json` whole or not at all, and return its path.

    A file in its place that cannot be read is kept beside it as `….json.unreadable`, so no result is lost to it.

    Raises:
        RecordError: a failed run would replace a finished one, and `overwrite` was not asked for.
        UserError: the disk is full or the folder cannot be written.
    """
    path = Path(folder) / record.task / f"{record.run_id}.json"
    if path.exists() and not overwrite:
        try:
            found = read_record(path)
        except RecordError as error:
            aside = path.with_name(path.name + ".unreadable")
            os.replace(path, aside)
            logger.warning("%s\nkept as %s; a new record takes its place", error, aside.name)
        else:
            if found.status == "finished" and record.status == "failed":
                raise RecordError(
                    f"{path} holds a finished run and is not replaced by a failed one",
                    found=record.failure["message"],
                    todo="nothing is lost; --overwrite does the run again and replaces the record",
                )
    write_json(path, {"schema": SCHEMA, **dataclasses.asdict(record)})
    return path


def read_record(path: Path) -> Record:
    """Read one record file.

    Raises:
        RecordError: the file cannot be read, is cut short, was written under another schema, has unknown or missing
            keys or values of the wrong type, or its run id does not follow from its contents.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecordError(f"cannot read the record {path}", found=error.strerror or str(error)) from error
    return parse_record(content, path)


def parse_record(text: bytes, path: Path) -> Record:
    """A record from what its file holds; `path` is for the message.

    Raises:
        RecordError: as `read_record`.
    """
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RecordError(
            f"{path} is not a whole JSON file",
            found=str(error),
            todo="remove it and repeat the run; the run's checkpoints are used if they are still there",
        ) from error
    if not isinstance(content, dict) or "schema" not in content:
        raise RecordError(
            f"{path} is not a record", found="no key 'schema'", todo="records folders hold nothing but records"
        )
    schema = content.pop("schema")
    unsaid = UNSAID.get(schema, {}) if type(schema) is int else {}
    if unsaid and not unsaid.keys() & content.keys():
        content |= unsaid
    elif type(schema) is not int or schema != SCHEMA:
        raise RecordError(
            f"{path} was written under another schema",
            found=f"schema {schema!r}, this checkout reads schema {SCHEMA}",
            todo="read it with the checkout that wrote it (its git_commit says which), or repeat the run",
        )
    return _from_content(path, content)


def begins_run_id(name: str) -> bool:
    """Whether a run may be meant: an id, or at least 4 characters of its beginning."""
    return re.fullmatch("[0-9a-f]{4,16}", name) is not None


def files_of_run(name: str, folders: Sequence[Path]) -> list[Path]:
    """Records below `folders` whose id begins with `name`, in the folders' order; none if it is no beginning."""
    if not begins_run_id(name):
        return []
    return [file for folder in folders for file in sorted(folder.glob(f"*/{name}*.json"))]


def leaves(recipe: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a recorded recipe by their dotted name, as `transfer.protocol.flatten` names them."""
    for name, value in recipe.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def differences_on_reuse(
    record: Record, commit: str, dirty: bool, versions: Mapping[str, str], conditions: Mapping[str, Any]
) -> list[str]:
    """What has changed since a run that is about to be reused: one plain sentence each, none if nothing has.

    Args:
        record: the finished run.
        commit, dirty: `git_state` now.
        versions: packages now.
        conditions: `Conditions.plain()` now.
    """
    said = []
    if record.git_commit != commit:
        said.append(f"the code was at commit {record.git_commit[:12]} and is now at {commit[:12]}")
    if record.git_dirty:
        said.append(f"the code had changes that no commit holds (on top of {record.git_commit[:12]})")
    if dirty:
        said.append(f"the code has changes now that no commit holds (on top of {commit[:12]})")
    for name in sorted(record.versions.keys() | versions.keys()):
        then, now = record.versions.get(name, "absent"), versions.get(name, "absent")
        if then != now:
            said.append(f"{name} was {then} and is now {now}")
    return [*said, *computing.differences(record.conditions, conditions)]


# -- strictness


def _from_content(path: Path, content: dict[str, Any]) -> Record:
    missing = [name for name in _FIELDS if name not in content]
    unknown = [name for name in content if name not in _FIELDS]
    if missing or unknown:
        said = [
            f"{label}: {', '.join(names)}" for label, names in (("missing", missing), ("unknown", unknown)) if names
        ]
        raise RecordError(
            f"{path} does not have the keys of a record",
            found="\n".join(said),
            todo="a record is never edited by hand: remove it and repeat the run",
        )
    try:
        return Record(**content)
    except (TypeError, ValueError, RecursionError) as error:
        raise RecordError(
            f"{path} is not a valid record",
            found=str(error),
            todo="a record is never edited by hand: remove it and repeat the run",
        ) from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number that a record may hold")


def _plain(value: Any, where: str) -> Any:
    """A copy made of dict, list, str, int, finite float, bool and None alone."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, float):  # also numpy.float64, which is one
        if not math.isfinite(value):
            raise ValueError(f"{where} is {float(value)}: a record holds finite numbers only")
        return float(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{where} has the key {key!r}; keys are text")
        return {key: _plain(item, f"{where}.{key}") for key, item in value.items()}
    raise TypeError(f"{where} is a {type(value).__name__}; a record holds plain JSON values only")


def _checked(kind: Any, value: Any, where: str) -> Any:
    """`value` if it is of the type that the field declares (integers are widened to float), otherwise TypeError."""
    if kind is Any:
        return value
    origin = get_origin(kind)
    if origin is Literal:
        if value not in get_args(kind):
            raise ValueError(f"{where} is {value!r}, not one of {', '.join(map(repr, get_args(kind)))}")
        return value
    if kind is float and type(value) is int:
        return float(value)
    expected = origin or kind
    if type(value) is not expected:
        raise TypeError(f"{where} is {_named(value)}, not {expected.__name__}")
    if origin is list:
        return [_checked(get_args(kind)[0], item, f"{where}[{index}]") for index, item in enumerate(value)]
    if origin is dict:
        return {key: _checked(get_args(kind)[1], item, f"{where}.{key}") for key, item in value.items()}
    return value


def _named(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '…'}"


def _check_keys(record: Record) -> None:
    _exactly("checkpoint", record.checkpoint, _CHECKPOINT_KEYS)
    for index, difference in enumerate(record.differences):
        _exactly(f"differences[{index}]", difference, _DIFFERENCE_KEYS)
    if record.failure:
        _exactly("failure", record.failure, _FAILURE_KEYS)
    for split, fingerprint in record.data.items():
        if not {"name", "sha256"} <= fingerprint.keys():
            raise ValueError(f"data.{split} has no name and sha256: {', '.join(fingerprint) or 'it is empty'}")


def _exactly(where: str, value: Mapping[str, str], keys: set[str]) -> None:
    if value.keys() != keys:
        raise ValueError(f"{where} has the keys {', '.join(sorted(value))} instead of {', '.join(sorted(keys))}")


def _check_consistent(record: Record) -> None:
    if not _TASK_NAME.fullmatch(record.task):
        raise ValueError(f"{record.task!r} is no name of a task")
    if not record.checkpoint["label"]:
        raise ValueError("checkpoint.label is empty; tables need a name for the checkpoint")
    if (record.status == "failed") != bool(record.failure):
        raise ValueError(f"the run is {record.status}, its failure is {'given' if record.failure else 'not given'}")
    if record.status == "failed" and record.metrics:
        raise ValueError("the run failed, yet it has metrics")
    if record.status == "finished" and record.primary_metric not in record.metrics:
        raise ValueError(
            f"the primary metric {record.primary_metric!r} is not among {', '.join(record.metrics) or 'no metrics'}"
        )
    sha256, branch = record.checkpoint["sha256"], record.checkpoint["branch"]
    derived = run_id(
        record.task, record.task_version, sha256, branch, record.engine, record.recipe, record.data, record.seed
    )
    if record.run_id != derived:
        raise ValueError(f"run_id is {record.run_id}, its contents give {derived}")
