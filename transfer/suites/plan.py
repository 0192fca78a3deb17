"""The runs of a suite, and how each of them stands: decided by what lies on disk, so that any process can tell."""

from __future__ import annotations

import dataclasses
import fcntl
import itertools
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transfer import record
from transfer.cli import CommandLine, labels_of, same_weights, understood
from transfer.runtime.errors import UserError
from transfer.runtime.files import write_json
from transfer.suites.facts import CheckpointFacts, Facts
from transfer.suites.suite import Suite, TaskLine

State = Literal["done", "failed", "running", "queued", "waiting", "impossible"]
VERSION = 1  # of a plan's file


@dataclass(frozen=True)
class Planned:
    """One run of a suite.

    Attributes:
        task, label, seed: what it is called in tables.
        variant: what tells its line from others of the same task; "" if there are none.
        words: what would be typed after `python -m transfer run`.
        id: of the run; "" if it is impossible.
        kind: equal for runs that differ in checkpoint and seed alone, and so take about as long.
        images: equal for runs that see the same images by the same frozen weights; "" for those that train them.
        problem: why it cannot be done here, with what to type.
        work: see `Task.work`.
        frozen: what it wants of them, see `Task.frozen`; not in a plan's file.
    """

    task: str
    label: str
    seed: int
    words: tuple[str, ...]
    id: str = ""
    kind: str = ""
    images: str = ""
    problem: str = ""
    work: float | None = None
    frozen: tuple[Any, ...] = ()
    variant: str = ""

    @property
    def line(self) -> str:
        """For people: all runs of a line have this in common."""
        return f"{self.task} ({self.variant})" if self.variant else self.task

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.line}  {self.label}  seed {self.seed}"

    @property
    def stem(self) -> str:
        """A file name that no other run of the suite has."""
        label = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in self.label)
        return f"{self.task}-{label}-{self.seed}-{self.id[:8]}"


@dataclass(frozen=True)
class CommonOptions:
    """What all runs of a suite have in common.

    Attributes:
        checkpoints: as typed.
        labels: their names in tables; by default the file names.
        words: options, as typed; they win over those of a line.
        seeds: instead of the suite's and its lines'; none were typed: ().
        processes: of each run.
    """

    checkpoints: tuple[str, ...]
    labels: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    processes: int = 1


def make_plan(suite: Suite, common: CommonOptions, facts: Facts) -> list[Planned]:
    """Every line for every checkpoint and seed, in this order; a run that two lines ask for once.

    Raises:
        UserError: a line that `python -m transfer run` would refuse as well, a checkpoint that cannot be read, the same
            weights twice. Images that are missing make their runs impossible and raise nothing.
    """
    planned: dict[str, Planned] = {}
    for line in suite.lines:
        variant = _variant(line, [other for other in suite.lines if other.task == line.task])
        for run in _of_line(line, common, common.seeds or line.seeds or suite.seeds, facts):
            planned.setdefault(run.id or shlex.join(run.words), dataclasses.replace(run, variant=variant))
    return list(planned.values())


def _variant(line: TaskLine, lines: Sequence[TaskLine]) -> str:
    """The options that not all lines of a task have, of paths the ends."""
    common = set.intersection(*(set(_options(each)) for each in lines))
    own = [word for option in _options(line) if option not in common for word in option]
    return " ".join("/".join(Path(word).parts[-2:]) if "/" in word else word for word in own)


def _options(line: TaskLine) -> list[tuple[str, ...]]:
    """Each option with its values."""
    found: list[tuple[str, ...]] = []
    for word in line.words:
        if word.startswith("--") or not found:
            found.append((word,))
        else:
            found[-1] += (word,)
    return found


def _of_line(line: TaskLine, common: CommonOptions, seeds: Sequence[int], facts: Facts) -> Iterator[Planned]:
    typed = _understood(line, common)
    if not typed.task.seeded:
        seeds = seeds[:1]
    labels = labels_of(dataclasses.replace(typed.options, seeds=tuple(seeds)))
    weights = _weights(typed, facts)
    fingerprints, engine, problem = {}, "", ""
    refusals = {each.arch: typed.task.refusal(typed.recipe, each.arch) for each in weights}
    try:
        archs = {arch for arch, refusal in refusals.items() if not refusal}
        chosen, _ = typed.task.choose_engine(typed.options.engine, archs)
        engine = chosen.name if chosen else ""
        fingerprints = dict(facts.fingerprints(typed))
    except UserError as error:
        problem = str(error)
    version = typed.task.version
    whole = dataclasses.asdict(typed.recipe)
    kind = record.content_hash([line.task, version, engine, whole, fingerprints, typed.device, common.processes])
    counts = {split: int(found["images"]) for split, found in fingerprints.items()}
    seen = record.content_hash([fingerprints]) if typed.task.frozen(typed.recipe) else ""
    each = zip(common.checkpoints, labels, weights, strict=True)
    for (name, label, facts_of), seed in itertools.product(each, seeds):
        words = (line.task, name, *line.words, *common.words, "--labels", label, "--seeds", str(seed))
        if engine:  # one for all checkpoints, whichever each of them alone would get
            words += ("--engine", engine)
        if why := str(refusals[facts_of.arch] or problem):
            yield Planned(line.task, label, seed, words, problem=why)
            continue
        sha256, branch = facts_of.sha256, facts_of.branch
        suited = typed.task.suited(typed.recipe, facts_of.arch)
        recipe = dataclasses.asdict(suited)
        yield Planned(
            *(line.task, label, seed, words),
            id=record.run_id(line.task, version, sha256, branch, engine, recipe, fingerprints, seed),
            kind=f"{kind}-{facts_of.arch}",
            images=f"{seen}-{sha256}-{branch}" if seen else "",
            work=typed.task.work(suited, counts, facts_of.arch),
            frozen=typed.task.frozen(suited),
        )


def _understood(line: TaskLine, common: CommonOptions) -> CommandLine:
    labels = ("--labels", *common.labels) if common.labels else ()
    words = [line.task, *common.checkpoints, *line.words, *common.words, *labels]
    try:
        return understood(words, common.processes)
    except SystemExit:  # the parser has said what it does not know, not where
        sys.stderr.write(f"in the suite's line: {shlex.join(words)}\n")
        raise
    except UserError as error:
        raise UserError(f"{line.task}: {error.what}", found=error.found, todo=error.todo) from error


def _weights(typed: CommandLine, facts: Facts) -> list[CheckpointFacts]:
    names = typed.options.checkpoints
    found = [facts.checkpoint(name, typed.options) for name in names]
    for (one, a), (other, b) in itertools.combinations(zip(names, found, strict=True), 2):
        if (a.sha256, a.branch) == (b.sha256, b.branch):
            raise same_weights(one, other)
    return found


# -- how a run stands


@dataclass(frozen=True)
class Standing:
    """How a run stands; of a failed, impossible or queued one why."""

    state: State
    reason: str = ""


def standing(run: Planned, runs: Path) -> Standing:
    """How a run stands now, whoever is doing it or has done it.

    Args:
        runs: the folder of records and of everything else.
    """
    if run.problem:
        return Standing("impossible", run.problem)
    if is_locked(runs / "work" / run.task / run.id / "lock"):
        return Standing("running")
    again = (runs / "work" / run.task / run.id / "redo").exists()  # `--overwrite` of `run`, cut short
    file = runs / "records" / run.task / f"{run.id}.json"
    try:
        content = {} if again else json.loads(file.read_bytes())
        status, label = content.get("status"), content.get("checkpoint", {}).get("label")
        failed = str((content.get("failure") or {}).get("message", ""))
    except FileNotFoundError:
        status, label, failed = None, "", ""
    except (OSError, ValueError, AttributeError) as error:
        return Standing("failed", f"its record {file} cannot be read: {error}")
    if status == "finished":  # doing it again finds it, and gives it the name that is asked for now
        return Standing("done" if label == run.label else "waiting")
    ended = read_ended(runs, run)  # later than a failed record: it is removed when the run begins
    if ended or status == "failed":
        return Standing("failed", ended or failed)
    return Standing("waiting")


def record_time(run: Planned, runs: Path) -> int:
    """When its record was written, in nanoseconds; 0: there is none."""
    try:
        return (runs / "records" / run.task / f"{run.id}.json").stat().st_mtime_ns
    except OSError:
        return 0


def is_locked(lock: Path) -> bool:
    """Whether a process holds this lock (of `transfer.runtime.files.locked`) now."""
    try:
        with lock.open("rb") as file:  # which another user's file allows too
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is none, or this folder cannot be locked in: the run itself will say so
        return False
    return False


def _ended_file(runs: Path, run: Planned) -> Path:
    return runs / "ended" / f"{run.id}.json"


def note_ended(runs: Path, run: Planned, reason: str) -> None:
    """Keep why a run ended that could not write a record itself: killed, or over a limit."""
    write_json(_ended_file(runs, run), {"reason": reason})


def forget_ended(runs: Path, run: Planned) -> None:
    """It is tried again.

    Raises:
        UserError: the note cannot be removed.
    """
    try:
        _ended_file(runs, run).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot remove {_ended_file(runs, run)}", found=error.strerror or str(error)) from error


def read_ended(runs: Path, run: Planned) -> str:
    """Why it ended without a record; "" if it did not."""
    try:
        return str(json.loads(_ended_file(runs, run).read_bytes())["reason"])
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, LookupError, TypeError) as error:
        return f"it ended without a record ({error})"


# -- the plan as a file, for `suite status`


def plan_file(runs: Path, name: str) -> Path:
    """Where the plan of a suite is kept."""
    return runs / "suites" / name / "plan.json"


def write_plan(file: Path, title: str, planned: Sequence[Planned]) -> None:
    """Write a plan for others to look at."""
    runs = [dataclasses.asdict(dataclasses.replace(run, frozen=())) for run in planned]
    write_json(file, {"version": VERSION, "title": title, "runs": runs})


def read_plan(file: Path) -> tuple[str, list[Planned]]:
    """Title and runs.

    Raises:
        UserError: it cannot be read.
    """
    try:
        content: Any = json.loads(file.read_bytes())
        if content["version"] != VERSION:
            raise ValueError(f"version {content['version']}, this checkout reads {VERSION}")
        runs = [Planned(**{**entry, "words": tuple(entry["words"]), "frozen": ()}) for entry in content["runs"]]
        return str(content["title"]), runs
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"cannot read the plan {file}", found=str(error), todo="type the suite's command again: it plans anew"
        ) from error
