"""A suite: lines of tasks, each as it would be typed after `python -m transfer run`, from a file or as typed."""

from __future__ import annotations

import os
import re
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transfer.record import content_hash
from transfer.runtime.errors import UserError

HERE = Path(__file__).parent
# What a line has no say in → what to type.
KEPT = {
    "seeds": "give --seeds to the suite; in a file: seeds = [0, 1]",
    "labels": "give --labels to the suite",
    "device": "give --device to the suite",
    "runs": "give --runs to the suite",
    "overwrite": "a suite finishes what is not done; `python -m transfer run … --overwrite` does a run again",
}
_EXAMPLE = "see transfer/suites/quick.toml"
_VARIABLE = re.compile(r"\$(\w+|\{\w+\})")


@dataclass(frozen=True)
class TaskLine:
    """One task of a suite.

    Attributes:
        task: its name.
        words: its options as they would be typed.
        seeds: of its own; none: those of the suite.
    """

    task: str
    words: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Suite:
    """Tasks that belong together.

    Attributes:
        name: of its folder below `runs/suites/`.
        title: one line for people.
        lines: its tasks, in the order in which they are begun.
        seeds: of the tasks that name none; typed ones replace both.
    """

    name: str
    title: str
    lines: tuple[TaskLine, ...]
    seeds: tuple[int, ...] = (0,)


def names() -> list[str]:
    """The suites that come with the project."""
    return sorted(file.stem for file in HERE.glob("*.toml"))


def read_suite(name: str) -> Suite:
    """The suite of that name, or of that TOML file.

    A file has a `title`, perhaps `seeds` and a table `options` for all tasks, and a table `[[runs]]` for each task:
    `task`, perhaps `seeds`, and options by their names on the command line. `$NAME` in a value is the environment's.

    Raises:
        UserError: there is none, or it says something that no suite says.
    """
    path = Path(name) if name.endswith(".toml") else HERE / f"{name}.toml"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        todo = f"choose one of {', '.join(names())}, or give a .toml file"
        raise UserError(f"no suite is called {name!r}", todo=todo) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the suite {path}", found=str(error)) from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is no TOML", found=str(error), todo=_EXAMPLE) from error
    _demand_keys(path, "the file", content, {"title", "seeds", "options", "runs"})
    if not isinstance(content.get("title"), str) or not isinstance(content.get("runs"), list) or not content["runs"]:
        raise UserError(f"{path} needs a title and a table [[runs]] for each task", todo=_EXAMPLE)
    shared = _table(path, "options", content.get("options", {}))
    lines = tuple(_line(path, number, entry, shared) for number, entry in enumerate(content["runs"], 1))
    return Suite(path.stem, content["title"], lines, _seeds(path, content.get("seeds", [0])) or (0,))


def typed_suite(lines: Sequence[str]) -> Suite:
    """The suite of tasks that were typed, each with its options in one word: `--tasks transfer.knn "detection.voc …"`.

    Raises:
        UserError: a line without a task, or with quotes that do not close.
    """
    read = tuple(_typed_line(line) for line in lines)
    return Suite(f"typed-{content_hash([[line.task, *line.words] for line in read])[:8]}", "tasks as typed", read)


def _typed_line(line: str) -> TaskLine:
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise UserError(f"cannot read the task {line!r}", found=str(error)) from error
    if not words or words[0].startswith("-"):
        raise UserError(f"{line!r} names no task", todo='--tasks transfer.knn "detection.voc --preset smoke"')
    refuse_kept(f"the task {line!r}", words[1:])
    return TaskLine(words[0], tuple(words[1:]))


def _line(path: Path, number: int, entry: Any, shared: Mapping[str, Any]) -> TaskLine:
    where = f"run {number}"
    own = dict(_table(path, where, entry))
    task = own.pop("task", None)
    if not isinstance(task, str):
        raise UserError(f"{path}: {where} names no task", todo='task = "transfer.knn"')
    seeds = _seeds(path, own.pop("seeds", []))
    refuse_kept(f"{path}: {where}", [*shared, *own])
    words = [word for name, value in {**shared, **own}.items() for word in _words(path, name, value)]
    return TaskLine(task, tuple(words), seeds)


def refuse_kept(where: str, options: Sequence[str]) -> None:
    """Raise `UserError` if options, with or without their dashes and values, are the suite's own business."""
    names = [option.removeprefix("--").partition("=")[0].replace("_", "-") for option in options]
    kept = [name for name in names if name in KEPT]
    if kept:
        raise UserError(f"{where} gives --{kept[0]}, which is the suite's own", todo=KEPT[kept[0]])


def _words(path: Path, name: str, value: Any) -> list[str]:
    """An option as it would be typed."""
    option = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return [option if value else f"--no-{option[2:]}"]
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(each, str | int | float) for each in values):
        raise UserError(f"{path}: {name} = {value!r} is no option's value", todo="give text, a number, true or a list")
    return [option, *(_expanded(path, each) if isinstance(each, str) else str(each) for each in values)]


def _expanded(path: Path, text: str) -> str:
    for found in _VARIABLE.finditer(text):
        name = found[1].strip("{}")
        if name not in os.environ:
            raise UserError(f"{path} wants ${name}, which is not set", found=text, todo=f"export {name}=…")
    return os.path.expandvars(text)


def _table(path: Path, where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{path}: {where} is no table", found=repr(value))
    return value


def _seeds(path: Path, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(seed) is int and seed >= 0 for seed in value):
        raise UserError(f"{path}: seeds = {value!r}", todo="give a list of whole numbers from 0, such as [0, 1, 2]")
    return tuple(value)


def _demand_keys(path: Path, where: str, table: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(table.keys() - known)
    if unknown:
        raise UserError(f"{path}: {where} has {', '.join(unknown)}", todo=f"what there is: {', '.join(sorted(known))}")
