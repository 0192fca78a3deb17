"""What a task is, what a run of it is given, and how tasks are found: adding a task is adding one file."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from typing import Protocol as Interface

from transfer import record
from transfer.protocol import Protocol, recipe_differences
from transfer.runtime.conditions import THREADS
from transfer.runtime.errors import UserError
from transfer.runtime.files import ROOT
from transfer.runtime.provenance import Difference

if TYPE_CHECKING:
    from transfer.checkpoints.backbone import Backbone
    from transfer.runtime.world import World

TASK_FOLDERS = ("detection", "segmentation", "finegrained", "transfer/tasks")
_DECLARES = re.compile(r"^TASKS?(: .+)? = ", re.MULTILINE)


class Data(Interface):
    """What a task has read."""

    @property
    def differences(self) -> tuple[Difference, ...]:
        """In what it is not the published data."""
        ...

    @property
    def fingerprints(self) -> dict[str, dict[str, object]]:
        """One for each split: what it is called, how many images, and a hash of them all."""
        ...


class Engine(Interface):
    """Whose library trains; only detectors have one."""

    name: str

    def versions(self) -> dict[str, str]:
        """Package → version of what decides this engine's numbers."""
        ...


@dataclass(frozen=True)
class Hardware:
    """What a recipe is rescaled to.

    Attributes:
        device: "cpu" or "cuda".
        processes: that train together, one a GPU.
        memory: GB of each GPU; None: not known.
        arch: of the backbone.
    """

    device: str = "cuda"
    processes: int = 1
    memory: float | None = None
    arch: str = "resnet50"


@dataclass(frozen=True, eq=False)
class TaskOutcome:
    """What `Task.run` returns: numbers in percent by name, and what a reader needs to believe them."""

    metrics: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)
    verification: dict[str, Any] = field(default_factory=dict)
    differences: tuple[Difference, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class Task(ABC):
    """What a task file declares as `TASK`: its values here, its life in `load`, `check`, `run` and `scale`.

    Attributes:
        title: one line for `python -m transfer tasks`.
        families: protocol → families of backbones that it was published for; ResNets where nothing is said.
        version: raised whenever the same options would give other numbers; part of the run id.
        primary: the metric that tables and plots show first.
        published: name → protocol; the first is the default.
        presets: name → (one line of description, recipe) for smaller hardware; never the published protocol.
        data_options: frozen dataclass of the task's data options, read by tyro.
        engines: names of usable engines, preferred first; empty if the task needs none.
        batch_option: name of the option that is the batch, if the recipe is rescaled by it.
        seeded: whether a seed changes anything.
        retired: options that there were once → what to type instead.
    """

    title: str
    primary: str
    published: Mapping[str, Protocol[Any]]
    presets: Mapping[str, tuple[str, Any]] = field(default_factory=dict)
    families: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    version: int = 1

    data_options: ClassVar[type]
    engines: ClassVar[tuple[str, ...]] = ()
    batch_option: ClassVar[str] = ""
    seeded: ClassVar[bool] = True
    retired: ClassVar[Mapping[str, str]] = {}

    @cached_property
    def protocols(self) -> dict[str, Any]:
        """Name → recipe as published; the first is the default."""
        return {name: protocol.recipe for name, protocol in self.published.items()}

    @property
    def usual(self) -> str:
        """The architecture that its published numbers are of."""
        return "resnet50"

    @property
    def needs(self) -> tuple[str, ...]:
        """Files and folders below the data root that the published data consist of; empty if there are none."""
        return ()

    @property
    def how(self) -> str:
        """Where those are had."""
        return ""

    @property
    def source(self) -> tuple[str | bool | None, ...]:
        """Which images `load` reads, its options apart: tasks of equal source and options read the same."""
        return (self.title,)

    @abstractmethod
    def load(self, options: Any) -> Data:
        """Read the images that the data options name.

        Raises:
            DataError: something is missing or malformed; the message says what and where.
        """

    @abstractmethod
    def check(self, run: Run) -> None:
        """Refuse what makes no sense or would not end here: asked with the checkpoint alone, and again with the data.

        Raises:
            UserError: says what and what to type instead.
        """

    @abstractmethod
    def run(self, run: Run) -> TaskOutcome:
        """Do the work; every process of `run.world` calls it."""

    def refusal(self, recipe: Any, arch: str) -> UserError | None:
        """Why it cannot be carried out on this architecture, with what to type; asked before anything else is read."""
        return None

    def frozen(self, recipe: Any) -> tuple[Any, ...]:
        """What it takes from the frozen backbone, `transfer.classification.views.Frozen` each; none if that learns."""
        return ()

    def scale(self, recipe: Any, hardware: Hardware, batch: int | None) -> tuple[Any, str]:
        """The published recipe on such hardware, and why it is as it is in a line; most tasks need no change.

        Args:
            recipe: as published.
            hardware: where it is to run.
            batch: that was typed, if one was; what else is typed is applied afterwards and never rescaled.
        """
        return recipe, ""

    def suited(self, recipe: Any, arch: str) -> Any:
        """The recipe as it is carried out on a backbone of this architecture; on ResNets always as it is.

        Protocols name features of ResNets. Of another family those that stand for them are taken; where the protocol
        was not published for it, that is a departure that the record shows.
        """
        return recipe

    def data_differences(self, run: Run) -> tuple[Difference, ...]:
        """In what data and procedure are not the published ones."""
        found: tuple[Difference, ...] = run.data.differences
        return found

    def covers(self, protocol: str, arch: str) -> bool:
        """Whether the protocol was published for the family of this architecture."""
        from transfer.checkpoints.families import family_of

        return family_of(arch).name in self.families.get(protocol, ("resnet",))

    def work(self, recipe: Any, images: Mapping[str, int], arch: str) -> float | None:
        """10⁹ multiply–accumulates of the networks in a whole run; None: not known.

        A forward pass counts once and a backward pass as two; fits on finished features count nothing.

        Args:
            recipe: that makes sense.
            images: of each split, by the names in `Data.fingerprints`, without "val" where there is none.
            arch: of the backbone.
        """
        return None

    def expected(self, recipe: Any) -> str:
        """Hours and GPUs of a published recipe, by which source; empty where no source tells."""
        return ""

    def account(self, recipe: Any, scaled: Any, hardware: Hardware) -> list[str]:
        """Lines for `python -m transfer recipe --gpus`: what the scaled recipe takes, and what is not as published."""
        return []

    def choose_engine(self, wanted: str, archs: Collection[str]) -> tuple[Engine | None, str]:
        """The engine that will run, and why this one; none for a task that trains no detector.

        Args:
            wanted: a name, or "auto".
            archs: architectures that it must be able to build.
        """
        return None, ""


def _alone() -> World:
    from transfer.runtime.world import World  # needs torch, which help does not

    return World()


@dataclass(frozen=True, eq=False, kw_only=True)
class Run:
    """One run, from the command line to the engine: all that decides its number, and how it is presented.

    Attributes:
        task_name, task: what is run.
        protocol: name of the published protocol that `recipe` is measured against.
        recipe: what to do, an instance of the task's recipe class.
        backbone: the checkpoint's weights.
        label: the checkpoint's name in tables.
        data: what `task.load` returned; None until it has.
        engine: already known to be usable here; None for tasks without engines.
        seed: of everything random.
        device: "cpu" or "cuda".
        workers: data-loading processes; they change no number.
        threads: of PyTorch on the CPU; in the record and not in the run id, see `transfer.runtime.conditions`.
        recompute: whether a detector's blocks are computed again in the backward pass; not in the run id, because it
            moves no number beyond rounding (`detection.engines.recompute`).
        allow_slow: train on a CPU however long it takes.
        authors_own: see `Record`; not in the run id.
        beside: what other runs on these images and this checkpoint will take from the frozen backbone (`Task.frozen`):
            extracted in the same pass where it can be. Not in the run id; changes no number, and fails no run.
        command: as typed.
        runs: the folder of records and of everything else.
        world: this process among those that `torchrun` started.
    """

    task_name: str
    task: Task
    protocol: str
    recipe: Any
    backbone: Backbone
    label: str
    data: Any = None
    engine: Engine | None = None
    seed: int = 0
    device: str = "cpu"
    workers: int = 0
    threads: int = THREADS
    recompute: bool = False
    allow_slow: bool = False
    authors_own: bool = False
    beside: tuple[Any, ...] = ()
    command: str = ""
    runs: Path = ROOT / "runs"
    world: World = field(default_factory=_alone)

    @cached_property
    def id(self) -> str:
        """Hash of what decides the number: task + version, checkpoint, engine, recipe, data, seed."""
        source = self.backbone.source
        return record.run_id(
            task=self.task_name,
            task_version=self.task.version,
            sha256=source.sha256,
            branch=source.branch,
            engine=self.engine.name if self.engine else "",
            recipe=dataclasses.asdict(self.recipe),
            data_fingerprints=self.data.fingerprints,
            seed=self.seed,
        )

    @cached_property
    def workdir(self) -> Path:
        """The run's own folder; an unfinished run found there is resumed."""
        return self.runs / "work" / self.task_name / self.id

    @property
    def record_file(self) -> Path:
        """Where its record is, or will be."""
        return self.runs / "records" / self.task_name / f"{self.id}.json"

    @property
    def cache(self) -> Path:
        """Folder that all runs share, for what several of them need: features of a checkpoint."""
        return self.runs / "features"

    @property
    def differences(self) -> tuple[Difference, ...]:
        """From what was published: of the data, then of the recipe."""
        published = self.task.protocols[self.protocol]
        if self.task.covers(self.protocol, self.backbone.arch):
            published = self.task.suited(published, self.backbone.arch)
        return (*self.task.data_differences(self), *recipe_differences(published, self.recipe))


def task_names() -> list[str]:
    """Names of all tasks, in the order of their files.

    A file declares one as `TASK` (`detection/voc.py`: "detection.voc", `transfer/tasks/knn.py`: "transfer.knn") or
    several as `TASKS` by the ends of their names, of which one may be empty (`detection/voc.py`: "detection.voc",
    "detection.voc_07"). A table of many sets has their whole names (`finegrained/sets.py`: "finegrained.pets_linear").
    """
    return [name for file in _task_files() for name in _tasks_in(file)]


def load_task(name: str) -> Task:
    """Import files of the task's room until one declares it, and return it.

    Raises:
        UserError: no such task; the message lists those there are.
    """
    for file in _task_files():
        if name.startswith(f"{_room(file)}.") and name in (found := _tasks_in(file)):
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


def _room(file: Path) -> str:
    return file.relative_to(ROOT).parts[0]


def _tasks_in(file: Path) -> dict[str, Task]:
    module = importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
    name = f"{_room(file)}.{file.stem}"
    if hasattr(module, "TASK"):
        declared = {name: module.TASK}
    else:
        declared = {
            end if "." in end else f"{name}_{end}".removesuffix("_"): task for end, task in module.TASKS.items()
        }
    for name, task in declared.items():
        if not isinstance(task, Task):
            raise TypeError(f"{file}: {name} is a {type(task).__name__}, not a Task")
    return declared
