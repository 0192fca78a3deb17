"""`python -m transfer reproduce RUN`: the one line that repeats a run, refused where what decides its number differs.

Code, data and checkpoint must be those of the record: the commit, every fingerprint, the file's sha256, and in the end
the run id, which is a hash of all of them but the code. Packages and conditions move the last digits: they are named.
"""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from transfer import record as records
from transfer.cli import CommandLine, read_backbones, understood
from transfer.protocol import flatten
from transfer.record import Record, read_record
from transfer.runtime.command import Debug
from transfer.runtime.errors import UserError
from transfer.runtime.files import ROOT

logger = logging.getLogger(__name__)

FOLDERS = (ROOT / "runs" / "records", ROOT / "results" / "records")
RUNS = ROOT / "runs" / "again"
_ONE_RUN = ("--labels", "--seeds", "--runs")  # of the command, which may have made many
_SWITCHES = ("--overwrite", "--debug")


@dataclass(frozen=True)
class Reproduce(Debug):
    """Print the line that repeats a run, or repeat it.

    What stands behind -- is added to the line and counts before what was typed then: where the data lie here, or the
    device.

    Attributes:
        run: a run id or its beginning (four characters or more), or a record file.
        checkpoint: where the checkpoint lies here, if not where it lay then.
        records: folders with records; by default runs/records and results/records of this checkout.
        into: where the repetition is written.
        go: do it, and say how far its numbers are from the record's.
    """

    run: Positional[str]
    checkpoint: str | None = None
    records: Annotated[tuple[Path, ...], tyro.conf.arg(help_behavior_hint="")] = ()
    into: Annotated[Path, tyro.conf.arg(help_behavior_hint="(default: runs/again)")] = RUNS
    go: Annotated[bool, tyro.conf.arg(name="run-it")] = False


@dataclass(frozen=True, eq=False)
class Repetition:
    """A run that can be repeated here.

    Attributes:
        record: of the run.
        words: behind `python -m transfer run`.
        go: whether it was asked to be done.
        path: where its record will lie.
    """

    record: Record
    words: tuple[str, ...]
    go: bool
    path: Path

    @property
    def line(self) -> str:
        """As it is typed."""
        return f"python -m transfer run {shlex.join(self.words)}"


def reproduce_command(arguments: Sequence[str]) -> Repetition:
    """Parse `RUN [options] [-- words of the run's command]`, and compare what decides the number with the record.

    Raises:
        UserError: no such run, or code, data or checkpoint differ.
    """
    own, more = list(arguments), []
    if "--" in own:
        own, more = own[: own.index("--")], own[own.index("--") + 1 :]
    options = tyro.cli(Reproduce, args=own, prog="python -m transfer reproduce", config=(tyro.conf.FlagCreatePairsOff,))
    found = find(options.run, options.records or FOLDERS)
    words = line_of(found, options.checkpoint, more, options.into)
    demand_the_same(found, words)
    path = options.into / "records" / found.task / f"{found.run_id}.json"
    return Repetition(found, tuple(words), options.go, path)


def find(name: str, folders: Sequence[Path]) -> Record:
    """The record of a run.

    Raises:
        UserError: there is none of that id, or several.
    """
    if name.endswith(".json"):
        return read_record(Path(name))
    files = records.files_of_run(name, folders)
    named = {file.stem: file for file in reversed(files)}
    if len(named) != 1:
        raise UserError(
            f"{name} is not the id of one run",
            found="\n".join(map(str, named.values())) or "nothing in " + " or ".join(map(str, folders)),
            todo="give at least 4 characters of a run id, or the path of a record; `python -m results explain TASK` "
            "lists the ids",
        )
    return read_record(next(iter(named.values())))


def line_of(record: Record, checkpoint: str | None, more: Sequence[str], runs: Path) -> list[str]:
    """The words behind `python -m transfer run` that do this run alone: one checkpoint, one seed, its name in tables.

    Raises:
        UserError: the record's command is not one of this program.
    """
    try:
        words = shlex.split(record.command)
    except ValueError:
        words = []
    if words[:4] != ["python", "-m", "transfer", "run"] or len(words) < 6 or words[4] != record.task:
        raise UserError(
            f"run {record.run_id} was not made by a command that can be repeated",
            found=record.command,
            todo="its recipe stands in the record: python -m results explain " + record.run_id,
        )
    rest = words[5:]
    place = 0
    kept: list[str] = []
    while place < len(rest):
        word = rest[place]
        place += 1
        if word.partition("=")[0] in _ONE_RUN:
            while "=" not in word and place < len(rest) and not rest[place].startswith("--"):
                place += 1
        elif word not in _SWITCHES:
            kept.append(word)
    first = next((place for place, word in enumerate(kept) if word.startswith("--")), len(kept))
    file = checkpoint or record.checkpoint["path"]
    return [
        record.task, file, *kept[first:], "--labels", record.label, "--seeds", str(record.seed), *more,
        "--runs", str(runs.relative_to(Path.cwd()) if runs.is_relative_to(Path.cwd()) else runs),
    ]  # fmt: skip


def demand_the_same(record: Record, words: Sequence[str]) -> None:
    """Compare code, checkpoint, data and recipe of this line, here and now, with the record.

    Raises:
        UserError: something differs; all of it is named.
    """
    commit, dirty = records.git_state(Path(__file__).parent)
    differing = []
    if record.git_dirty:
        differing.append(f"code: the run's had changes that no commit holds, on top of {record.git_commit[:12]}")
    elif record.git_commit != commit:
        differing.append(f"code: commit {record.git_commit[:12]}, here {commit[:12]}")
    if dirty:
        differing.append("code: changes here that no commit holds")
    typed = _understood(record, words)
    differing += _checkpoint(record, typed)
    differing += _recipe(record, typed)
    differing += _data(record, typed)
    if differing:
        raise UserError(
            f"run {record.run_id} cannot be repeated here: what decides its number differs",
            found="\n".join(differing),
            todo=f"git checkout {record.git_commit[:12]} brings its code; --checkpoint FILE names its checkpoint, "
            "and words behind -- say where its data lie, for example -- --voc-root DIR\n"
            f"the line would be: python -m transfer run {shlex.join(words)}",
        )
    versions = records.package_versions(record.versions)
    for name in sorted(record.versions.keys() & versions.keys()):
        if record.versions[name].partition("+")[0] != versions[name].partition("+")[0]:
            logger.warning("%s was %s and is now %s: last digits may move", name, record.versions[name], versions[name])


def _understood(record: Record, words: Sequence[str]) -> CommandLine:
    """The line, parsed; the parser would end the program, so what it did not understand is told here."""
    try:
        return understood(words)
    except SystemExit as error:
        raise UserError(
            f"this checkout does not understand the command of run {record.run_id}; what it found stands above",
            found=record.command,
            todo=f"git checkout {record.git_commit[:12]} brings the code that does",
        ) from error


def _checkpoint(record: Record, typed: CommandLine) -> Iterator[str]:
    theirs = record.checkpoint
    try:
        ((backbone, _),) = read_backbones(typed.options)
    except UserError as error:
        yield f"checkpoint: {error.what}"
        return
    source = backbone.source
    if source.sha256 != theirs["sha256"]:
        yield f"checkpoint: sha256 {theirs['sha256'][:16]}…, here {source.sha256[:16]}… ({source.path})"
    elif source.branch != theirs["branch"]:
        yield f"checkpoint: branch {theirs['branch']}, here {source.branch}"


def _recipe(record: Record, typed: CommandLine) -> Iterator[str]:
    if typed.task.version != record.task_version:
        yield f"code: version {record.task_version} of {record.task}, here {typed.task.version}"
    ours = plain(flatten(typed.recipe))
    theirs = dict(records.leaves(record.recipe))
    names = [name for name in dict.fromkeys((*theirs, *ours)) if theirs.get(name, _NONE) != ours.get(name, _NONE)]
    for name in names[:8]:
        yield f"recipe: {name} {theirs.get(name, _NONE)}, here {ours.get(name, _NONE)}"
    if len(names) > 8:
        yield f"recipe: {len(names) - 8} more values"


_NONE = "absent"


def plain(value: Any) -> Any:
    """As a record's file gives it back: lists for tuples."""
    return json.loads(json.dumps(value))


def _data(record: Record, typed: CommandLine) -> Iterator[str]:
    try:
        fingerprints = plain(typed.task.load(typed.data).fingerprints)
    except UserError as error:
        yield f"data: {error.what}"
        return
    for split in dict.fromkeys((*record.data, *fingerprints)):
        theirs, ours = record.data.get(split, {}), fingerprints.get(split, {})
        names = [name for name in dict.fromkeys((*theirs, *ours)) if theirs.get(name) != ours.get(name)]
        shown = (f"{name} {_short(theirs.get(name))}, here {_short(ours.get(name))}" for name in names)
        if names:
            yield f"data: {split}: {'; '.join(shown)}"


def _short(value: Any) -> str:
    return _NONE if value is None else f"{str(value)[:24]}{'…' if len(str(value)) > 24 else ''}"


def compared(then: Record, now: Record) -> Iterator[str]:
    """How far the numbers of a repetition are from the record's: one line a metric."""
    if now.status != "finished" or then.status != "finished":
        yield f"the run of the record {then.status}, the repetition {now.status}"
        return
    for name, value in then.metrics.items():
        again = now.metrics.get(name)
        if again is None:
            yield f"{name}: {value:.4f}, not in the repetition"
        else:
            told = "equal to every digit" if again == value else f"{again - value:+.4f}"
            yield f"{name}: {value:.4f}, again {again:.4f}: {told}"
