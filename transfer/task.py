"""What a task is, and how tasks are found: by looking in the task folders. Adding a task is adding one file."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.protocol import Protocol
from transfer.runtime.errors import UserError
from transfer.runtime.files import ROOT
from transfer.runtime.provenance import Difference

if TYPE_CHECKING:
    from transfer.checkpoints.backbone import Backbone
    from transfer.runtime.world import World

TASK_FOLDERS = ("detection", "segmentation", "finegrained", "transfer/tasks")
_DECLARES = re.compile(r"^TASKS? = ", re.MULTILINE)


@dataclass(frozen=True, eq=False)
class RunContext:
    """Everything a task's `run` is given.

    Attributes:
        backbone: the checkpoint's weights.
        recipe: what to do, an instance of the task's recipe class.
        data: what the task's `load_data` returned.
        engine: name of the engine, already known to be usable; "" for tasks without engines.
        seed: of everything random.
        workdir: the run's own folder; an unfinished run found there is resumed.
        device: "cpu" or "cuda".
        workers: data-loading processes.
        cache: folder that all runs share, for what several of them need (features of a checkpoint).
        world: this process among those that `torchrun` started.
        recompute: whether a detector's blocks are computed again in the backward pass (`detection.engines.recompute`).
    """

    backbone: Backbone
    recipe: Any
    data: Any
    engine: str
    seed: int
    workdir: Path
    device: str
    workers: int
    cache: Path
    world: World
    recompute: bool = False


@dataclass(frozen=True, eq=False)
class TaskOutcome:
    """What `run` returns: numbers in percent by name, and what a reader needs to believe them."""

    metrics: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)
    verification: dict[str, Any] = field(default_factory=dict)
    differences: tuple[Difference, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Task:
    """What a task file declares as `TASK`.

    Attributes:
        title: one line for `python -m transfer tasks`.
        version: raised whenever the same options would give other numbers; part of the run id.
        primary: the metric that tables and plots show first.
        published: name → protocol; the first is the default.
        presets: name → (one line of description, recipe) for smaller hardware; never the published protocol.
        engines: names of usable engines, preferred first; empty if the task needs none.
        data_options: frozen dataclass of the task's data options, read by tyro.
        load_data: options → data object; raises `DataError`.
        fingerprints: data object → one fingerprint dict per split.
        data_differences: options → differences from the published data.
        adapt: (published recipe, device, processes, batch) → the recipe as this machine starts from it, rescaled for
            fewer processes than published or for the batch that was typed (None if none was); what else is typed is
            applied after that and never rescaled.
        batch_option: name of the option that is the batch, if the recipe is rescaled by it.
        check: (recipe, backbone, device, allow_slow) raises `UserError` if the recipe cannot sensibly run here; asked
            before the data are read.
        check_data: (recipe, backbone, data, device, allow_slow) does the same once they are.
        run: does the work.
        scale: (published recipe, GPUs, batch or None, architecture, GB of memory of each GPU or None) → the recipe on
            such hardware, and lines that say what it takes and what is not as published; None where nothing is
            rescaled.
    """

    title: str
    version: int
    primary: str
    published: Mapping[str, Protocol[Any]]
    presets: Mapping[str, tuple[str, Any]]
    engines: tuple[str, ...]
    data_options: type
    load_data: Callable[[Any], Any]
    fingerprints: Callable[[Any], dict[str, dict[str, object]]]
    data_differences: Callable[[Any], tuple[Difference, ...]]
    adapt: Callable[[Any, str, int, int | None], Any]
    check: Callable[[Any, Backbone, str, bool], None]
    run: Callable[[RunContext], TaskOutcome]
    check_data: Callable[[Any, Backbone, Any, str, bool], None] = lambda *_: None
    batch_option: str = ""
    scale: Callable[[Any, int, int | None, str, float | None], tuple[Any, list[str]]] | None = None

    @cached_property
    def protocols(self) -> dict[str, Any]:
        """Name → recipe as published; the first is the default."""
        return {name: protocol.recipe for name, protocol in self.published.items()}


def task_names() -> list[str]:
    """Names of all tasks, in the order of their files.

    A file declares one as `TASK` (`detection/voc.py`: "detection.voc", `transfer/tasks/knn.py`: "transfer.knn") or
    several as `TASKS` by the ends of their names (`finegrained/pets.py`: "finegrained.pets_linear", …), of which
    one may be empty (`detection/voc.py`: "detection.voc", "detection.voc_07").
    """
    return [name for file in _task_files() for name in _tasks_in(file)]


def load_task(name: str) -> Task:
    """Import the file of task `name` and return what it declares.

    Raises:
        UserError: no such task; the message lists those there are.
    """
    for file in _task_files():
        if f"{name}_".startswith(f"{_prefix(file)}_"):
            found = _tasks_in(file)
            if name in found:
                return found[name]
    close = difflib.get_close_matches(name, names := task_names(), 5)
    raise UserError(
        f"no task is called {name!r}",
        found="there are " + ", ".join(names),
        todo=f"perhaps {' or '.join(close)}" if close else "choose one of these",
    )


def _task_files() -> list[Path]:
    files = [file for folder in TASK_FOLDERS for file in sorted((ROOT / folder).glob("*.py"))]
    return [
        file for file in files if not file.name.startswith("_") and _DECLARES.search(file.read_text(encoding="utf-8"))
    ]


def _prefix(file: Path) -> str:
    return f"{file.relative_to(ROOT).parts[0]}.{file.stem}"


def _tasks_in(file: Path) -> dict[str, Task]:
    module = importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
    if hasattr(module, "TASK"):
        declared = {_prefix(file): module.TASK}
    else:
        declared = {f"{_prefix(file)}_{end}".removesuffix("_"): task for end, task in module.TASKS.items()}
    for name, task in declared.items():
        if not isinstance(task, Task):
            raise TypeError(f"{file}: {name} is a {type(task).__name__}, not a Task")
    return declared
