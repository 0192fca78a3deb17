"""`python -m transfer run TASK …`: from the command line to runs. Options come from the task's own dataclasses."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import Positional, arg

from transfer.authors import AUTO, advice, protocol_of_all
from transfer.checkpoints.families import families, family_of, offered
from transfer.protocol import flatten, recipe_differences
from transfer.runtime.command import Debug
from transfer.runtime.conditions import THREADS, settle
from transfer.runtime.errors import CheckpointError, UserError
from transfer.runtime.files import ROOT
from transfer.runtime.logs import say_from
from transfer.task import Engine, Hardware, Run, Task, load_task

if TYPE_CHECKING:
    from transfer.checkpoints.backbone import Backbone
    from transfer.record import Record
    from transfer.runtime.world import World

logger = logging.getLogger(__name__)

CPU, GPU = "cpu", "cuda"  # what --device takes
GPU_GIGABYTES = "MSBREG_GPU_GB"  # in the environment of a suite's runs


@dataclass(frozen=True)
class RunOptions(Debug):
    """Options that every task has.

    Attributes:
        checkpoints: files, or random:ARCH[:SEED] for a randomly initialised backbone.
        engine: detectron2, mmdet, or auto (the first of these that is installed).
        protocol: which protocol to follow; the task's first one by default. auto: that of the checkpoints' own authors,
            to reproduce their number; tables mark such a run and compare it with no other.
        preset: a recipe for smaller hardware instead of the published one; shown as a difference from it.
        seeds: one run and one record for each.
        labels: names of the checkpoints in tables; by default the file names.
        device: cuda or cpu; by default cuda where there is one.
        workers: data-loading processes; does not change any number.
        threads: of PyTorch on the CPU, the same on every machine unless given; more are faster and move numbers by
            rounding, so they stand in the record.
        recompute: detectors only: a block of the backbone keeps its input alone and is computed again in the backward
            pass: less memory, more time, the same numbers to rounding.
        format: force a checkpoint format instead of recognising it.
        branch: which network of the checkpoint, for example query/key or online/target.
        prefix: take the network of the checkpoint whose names begin with this, and drop everything else.
        allow_half: accept weights stored in half precision and widen them.
        allow_slow: train on a CPU however long it takes.
        runs: where records and everything else are written.
        overwrite: do runs again that are finished.
    """

    checkpoints: Positional[tuple[str, ...]]
    engine: str = "auto"
    protocol: str | None = None
    preset: str | None = None
    seeds: tuple[int, ...] = (0,)
    labels: tuple[str, ...] = ()
    device: str | None = None
    workers: int = 0
    threads: int = THREADS
    recompute: bool = False
    format: str | None = None
    branch: str | None = None
    prefix: str | None = None
    allow_half: bool = False
    allow_slow: bool = False
    runs: Path = ROOT / "runs"
    overwrite: bool = False


def run_command(arguments: Sequence[str], beside: tuple[Any, ...] = ()) -> int:
    """Parse `TASK CHECKPOINT … [options]`, do the runs, return the exit status (1 if any run failed).

    Args:
        beside: see `Run`; of all of them.
    """
    typed = understood(arguments)
    check_machine(typed.device, typed.options.workers)
    import torch

    from transfer.runtime.world import world

    with world(torch.device(typed.device)) as (together, _):
        return _run_all(typed, together, beside)


def understood(arguments: Sequence[str], processes: int | None = None) -> CommandLine:
    """What `TASK CHECKPOINT … [options]` says, before anything is read.

    Args:
        processes: that will train together, if it is not for these that started this one.

    Raises:
        UserError: no task, or no such task, protocol or preset.
    """
    if not arguments or arguments[0].startswith("-"):
        raise UserError(
            "which task?", todo="python -m transfer run TASK CHECKPOINT; `python -m transfer tasks` lists them"
        )
    name, rest = arguments[0], list(arguments[1:])
    task = load_task(name)
    for option, instead in task.retired.items():
        if _peek(rest, option) is not None:
            raise UserError(f"--{option} is no option any more", todo=instead)
    device, these = _hardware(rest)
    protocol = _protocol(name, task, rest)
    preset = _peek(rest, "preset")
    batch = _peek(rest, task.batch_option) if task.batch_option else None
    typed_batch = (
        int(batch) if batch and batch.isdecimal() and int(batch) else None
    )  # else the parser or a check says so
    starting = starting_recipe(task, protocol, preset, device, processes or these, typed_batch)
    options, data_options, recipe = _parse(name, task, starting, rest)
    if options.recompute and not task.engines:
        raise UserError(f"--recompute is for detectors, and {name} trains none", todo="leave it out")
    words, auto = shlex.join(arguments), _peek(rest, "protocol") == AUTO
    return CommandLine(name, task, protocol, options, data_options, recipe, device, words, auto)


def _protocol(name: str, task: Task, rest: list[str]) -> str:
    """The protocol that was typed, the task's first, or for "auto" the one of the checkpoints' authors."""
    first = next(iter(task.protocols))
    typed = _peek(rest, "protocol") or first
    if typed != AUTO or {"-h", "--help"} & set(rest):
        return first if typed == AUTO else typed
    # The recipe's defaults depend on the protocol, and the protocol on the checkpoints: they are looked at beforehand.
    options, _, _ = _parse(name, task, task.protocols[first], rest)
    backbones = {label: backbone for backbone, label in read_backbones(options)}
    formats = {label: backbone.source.format for label, backbone in backbones.items()}
    return protocol_of_all(formats, task.protocols, {label: backbone.arch for label, backbone in backbones.items()})


@dataclass(frozen=True, eq=False)
class CommandLine:
    """What was typed: `Run`s are made of it, one for each checkpoint and seed.

    Attributes:
        name, task: which task.
        protocol: the one that was typed, the task's first, or that of the checkpoints' own authors.
        options: those that every task has.
        data: those of the task that say where its images lie.
        recipe: protocol or preset, rescaled for this machine, with the values that were typed.
        device: "cpu" or "cuda".
        words: the line itself.
        auto: whether the protocol was left to the checkpoints.
    """

    name: str
    task: Task
    protocol: str
    options: RunOptions
    data: Any
    recipe: Any
    device: str
    words: str
    auto: bool

    def run(self, backbone: Backbone, label: str, engine: Engine | None, world: World) -> Run:
        """The run of a checkpoint, before its data are read; of the first seed."""
        return Run(
            task_name=self.name,
            task=self.task,
            protocol=self.protocol,
            recipe=self.task.suited(self.recipe, backbone.arch),
            backbone=backbone,
            label=label,
            engine=engine,
            seed=self.options.seeds[0],
            device=self.device,
            workers=self.options.workers,
            threads=self.options.threads,
            recompute=self.options.recompute,
            allow_slow=self.options.allow_slow,
            authors_own=self.auto,
            command=f"python -m transfer run {self.words}",
            runs=self.options.runs,
            world=world,
        )


def _hardware(arguments: Sequence[str]) -> tuple[str, int]:
    """The device and how many processes there are; help is given without asking torch, whose import takes seconds."""
    typed = _peek(arguments, "device")
    if {"-h", "--help"} & set(arguments):
        return typed or "cpu", 1
    import torch

    from transfer.runtime.world import world_size

    return typed or ("cuda" if torch.cuda.is_available() else "cpu"), world_size()


def _run_all(line: CommandLine, world: World, beside: tuple[Any, ...]) -> int:
    """Read checkpoints and data, do every run."""
    from transfer.runner import do

    task, options = line.task, line.options
    if not world.leads:
        say_from(logging.ERROR)
    logger.info("computes with: %s", settle(line.device, options.threads).line())
    backbones = read_backbones(options)
    for backbone, _ in backbones:
        if refusal := task.refusal(line.recipe, backbone.arch):
            raise refusal
    engine, why = task.choose_engine(options.engine, {backbone.arch for backbone, _ in backbones})
    if engine:
        logger.info("engine: %s (%s)", engine.name, why)
    runs = [line.run(backbone, label, engine, world) for backbone, label in backbones]
    for run in runs:
        for value, typed, taken in recipe_differences(line.recipe, run.recipe):
            logger.info("%s: %s %s stands for %s on a %s", run.label, value, typed, taken, run.backbone.arch)
        hint = advice(run.backbone.source.format, line.protocol, task.protocols, run.backbone.arch)
        if hint:
            logger.info("%s: %s", run.label, hint)
        task.check(run)
    # the leader first: what it downloads is there for the others
    data = world.together(lambda: task.load(line.data) if world.leads else None)
    if data is None:
        data = task.load(line.data)
    runs = [dataclasses.replace(run, data=data, beside=beside) for run in runs]
    for run in runs:
        task.check(run)
    _log_differences(runs[0])
    made: list[Record] = []
    for run in (dataclasses.replace(run, seed=seed) for run in runs for seed in options.seeds):
        logger.info("%s: %s, seed %d", run.task_name, run.label, run.seed)
        record = do(run, options.overwrite)
        made.append(record)
        logger.info("%s", _summary(record, options.runs))
    return int(any(record.status != "finished" for record in made))


def starting_recipe(
    task: Task, protocol: str, preset: str | None, device: str, processes: int = 1, batch: int | None = None
) -> Any:
    """The preset as it is, or the published protocol adapted to this device, so many processes and a typed batch.

    Raises:
        UserError: no such protocol or preset.
    """
    if protocol not in task.protocols:
        raise UserError(f"no protocol is called {protocol!r}", todo=f"choose one of {', '.join(task.protocols)}")
    if preset is None:
        memory = gpu_gigabytes() if device == "cuda" and task.batch_option else None
        scaled, why = task.scale(task.protocols[protocol], Hardware(device, processes, memory, task.usual), batch)
        if why:
            logger.info("%s", why)
        return scaled
    if preset not in task.presets:
        lines = "\n".join(f"{name}: {line}" for name, (line, _) in task.presets.items())
        raise UserError(
            f"no preset is called {preset!r}", found=lines or "this task has none", todo="choose one of these"
        )
    return task.presets[preset][1]


def _parse(name: str, task: Task, recipe: Any, rest: list[str]) -> tuple[RunOptions, Any, Any]:
    """Parse with tyro; the recipe's fields show the preset's or protocol's values as their defaults."""
    command = dataclasses.make_dataclass(
        "Command",
        [
            ("options", Annotated[RunOptions, arg(name="")]),
            ("data", Annotated[task.data_options, arg(name="")]),
            ("recipe", Annotated[type(recipe), arg(name="")], dataclasses.field(default=recipe)),
        ],
        frozen=True,
    )
    parsed: Any = tyro.cli(
        command, args=rest, prog=f"python -m transfer run {name}", description=_description(name, task)
    )
    return parsed.options, parsed.data, parsed.recipe


def _description(name: str, task: Task) -> str:
    if not task.batch_option:
        return task.title
    return (
        f"{task.title}\n\nDefaults are those of the protocol as published, or of the preset. On fewer GPUs than "
        f"published, learning rate and schedule are rescaled; `python -m transfer recipe {name} --gpus N` shows how."
    )


def _peek(arguments: Sequence[str], option: str) -> str | None:
    """The value of `--option VALUE` or `--option=VALUE`; needed before the parser can be built."""
    value = None
    for position, argument in enumerate(arguments):
        if argument.startswith(f"--{option}="):
            value = argument.split("=", 1)[1]
        if argument == f"--{option}" and position + 1 < len(arguments):
            value = arguments[position + 1]
    return value  # the last one counts, as with the parser


def labels_of(options: RunOptions) -> tuple[str, ...]:
    """The checkpoints' names in tables.

    Raises:
        UserError: none, or two of one name; a seed that is none.
    """
    if not options.checkpoints:
        raise UserError("which checkpoint?", todo="name one or more files, or random:resnet50")
    if options.labels and len(options.labels) != len(options.checkpoints):
        raise UserError(f"{len(options.labels)} labels for {len(options.checkpoints)} checkpoints")
    labels = options.labels or tuple(_default_label(name) for name in options.checkpoints)
    repeated = {label for label in labels if labels.count(label) > 1}
    if repeated:
        raise UserError(
            f"two checkpoints would be called {', '.join(repeated)} in tables", todo="name them with --labels"
        )
    if min(options.seeds, default=-1) < 0:
        raise UserError("--seeds " + " ".join(map(str, options.seeds)), todo="seeds are 0 or more")
    return labels


def read_backbones(options: RunOptions) -> list[tuple[Backbone, str]]:
    """The checkpoints, each with its name in tables.

    Raises:
        UserError: see `labels_of`; two of the same weights, or one that cannot be read.
    """
    labels = labels_of(options)
    read = [read_one(name, options) for name in options.checkpoints]
    for first, second in itertools.combinations(read, 2):
        if (first.source.sha256, first.source.branch) == (second.source.sha256, second.source.branch):
            raise same_weights(first.source.path, second.source.path)
    return list(zip(read, labels, strict=True))


def same_weights(one: str, other: str) -> UserError:
    """Two checkpoints that are one."""
    what = f"{one} and {other} hold the same weights"
    return UserError(what, todo="name each checkpoint once: its run is found again whatever it is called")


def read_one(name: str, options: RunOptions) -> Backbone:
    """A checkpoint as the options say, or the random backbone of that name."""
    from transfer.checkpoints.backbone import random_backbone
    from transfer.checkpoints.read import read_backbone

    if not name.startswith("random:"):
        return read_backbone(
            name,
            format=options.format,
            branch=options.branch,
            prefix=options.prefix,
            allow_half=options.allow_half,
        )
    _, arch, *seed = name.split(":")
    known = any(family.knows(arch) for family in families().values())
    if not known or len(seed) > 1 or not all(part.isdecimal() for part in seed):
        raise CheckpointError(
            f"{name!r} is no random backbone",
            todo=f"random:ARCH or random:ARCH:SEED, ARCH one of {', '.join(offered())}",
        )
    return random_backbone(arch, int(seed[0]) if seed else 0)


def _default_label(name: str) -> str:
    """File name without suffix; a file called checkpoint takes its folder's name."""
    if name.startswith("random:"):
        return name
    path = Path(name)
    return path.resolve().parent.name if path.stem == "checkpoint" else path.stem


def gpu_gigabytes() -> float | None:
    """Memory of the first GPU in GB, or what of it a suite leaves to a run; None where there is none."""
    import torch

    if GPU_GIGABYTES in os.environ:
        return float(os.environ[GPU_GIGABYTES])
    return torch.cuda.get_device_properties(0).total_memory / 1e9 if torch.cuda.is_available() else None


def check_machine(device: str, workers: int) -> None:
    """Raise `UserError` for a device that is not there, or too little shared memory for so many workers."""
    import torch

    from transfer.runtime.shared_memory import demand_shared_memory

    if device not in (CPU, GPU):
        raise UserError(f"--device {device} is not known", todo="cpu or cuda")
    if workers < 0:
        raise UserError(f"--workers {workers}", todo="give 0 or more")
    demand_shared_memory(workers)
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda, but PyTorch sees no GPU", todo="check nvidia-smi, or use --device cpu")


def _log_differences(run: Run) -> None:
    if not run.differences:
        logger.info("recipe: the published protocol %r, unchanged", run.protocol)
        return
    lines = "".join(f"\n    {what}: {ours}  (protocol: {theirs})" for what, theirs, ours in run.differences)
    logger.info("recipe: differs from the published protocol %r in%s", run.protocol, lines)


def _summary(record: Record, runs: Path) -> str:
    where = runs / "records" / record.task / f"{record.run_id}.json"
    shown = where.relative_to(Path.cwd()) if where.is_relative_to(Path.cwd()) else where
    if record.status != "finished":
        return f"FAILED: {record.failure['kind']} (record: {shown})"
    numbers = "  ".join(f"{name} {value:.2f}" for name, value in record.metrics.items())
    return f"{record.checkpoint['label']}: {numbers}   (record: {shown})"


@dataclass(frozen=True)
class RecipeOptions(Debug):
    """Print the values of a task's protocol and their sources, or in what a preset differs from it.

    Attributes:
        task: its name, for example transfer.knn.
        protocol: which published protocol; the task's first one by default.
        preset: print the preset's differences from the protocol instead.
        gpus: print the protocol rescaled to this many GPUs, what it takes and in what it is not as published.
        batch: with --gpus: images per iteration over all of them; by default as many on each as published.
        memory: with --gpus: GB of each; the published batch is kept where it fits.
        arch: with --gpus: the backbone, for the hours and the memory; by default that of the published numbers.
    """

    task: Positional[str]
    protocol: str | None = None
    preset: str | None = None
    gpus: int | None = None
    batch: int | None = None
    memory: float | None = None
    arch: str | None = None


def recipe_command(arguments: Sequence[str]) -> str:
    """Parse `TASK [options]` and return the listing.

    Raises:
        UserError: no such task, protocol or preset.
    """
    options = tyro.cli(RecipeOptions, args=arguments, prog="python -m transfer recipe")
    task = load_task(options.task)
    protocol = options.protocol or next(iter(task.protocols))
    starting_recipe(task, protocol, options.preset, "cpu")  # refuses names that there are not
    if options.preset:
        return _of_preset(task, protocol, options.preset)
    if options.gpus is not None or options.batch is not None:
        return _rescaled(task, protocol, options)
    return _of_protocol(options.task, task, protocol)


def _of_protocol(name: str, task: Task, protocol: str) -> str:
    values, sources = flatten(task.protocols[protocol]), task.published[protocol].sources
    lines = [f"{name}, protocol {protocol}  (there are: {', '.join(task.protocols)})"]
    width = max(map(len, values))
    for key, value in values.items():
        shown = as_text(value)
        if key in sources:
            shown = f"{shown:<24}  {sources[key]}"
        lines.append(f"  {key:<{width}}  {shown}")
    if not sources:
        lines.append("  sources: in the comments of the task's file")
    return "\n".join(lines)


def _of_preset(task: Task, protocol: str, preset: str) -> str:
    line, recipe = task.presets[preset]
    rows = recipe_differences(task.protocols[protocol], recipe)
    lines = [f"preset {preset}: {line}", f"differs from protocol {protocol} in"]
    width = max((len(key) for key, _, _ in rows), default=0)
    return "\n".join([*lines, *(f"  {key:<{width}}  {ours}  (protocol: {theirs})" for key, theirs, ours in rows)])


def _rescaled(task: Task, protocol: str, options: RecipeOptions) -> str:
    if not task.batch_option:
        raise UserError(f"{options.task} does not depend on the number of GPUs", todo="leave --gpus and --batch out")
    gpus = 1 if options.gpus is None else options.gpus
    if gpus < 1 or (options.batch is not None and options.batch < 1):
        raise UserError(f"--gpus {gpus} --batch {options.batch}", todo="give 1 or more")
    if options.memory is not None and options.memory <= 0:
        raise UserError(f"--memory {options.memory:g}", todo="give the GB of a GPU")
    arch = options.arch or task.usual
    family_of(arch)
    published = task.protocols[protocol]
    hardware = Hardware("cuda", gpus, options.memory, arch)
    recipe, why = task.scale(published, hardware, options.batch)
    lines = [*([why] if why else []), *task.account(published, recipe, hardware)]
    rows = _changed(published, recipe)
    width = max((len(key) for key, _, _ in rows), default=0)
    typed = [_script(options.task)]
    if protocol != next(iter(task.protocols)):
        typed.append(f"--protocol {protocol}")
    if options.batch is not None:
        typed.append(f"--{task.batch_option} {options.batch}")
    machine = f"{gpus} GPU{'s' if gpus > 1 else ''}"
    return "\n".join(
        [
            f"{options.task}, protocol {protocol}, on {machine}" + ("" if rows else ": as published"),
            *(f"  {key:<{width}}  {as_text(ours)}  (published: {as_text(theirs)})" for key, theirs, ours in rows),
            *(f"  {line}" for line in lines),
            f"  to run it: TORCHRUN={gpus} bash {' '.join(typed)}",
        ]
    )


def _script(name: str) -> str:
    """What a user types for the task: its script, the word that chooses among several, and a checkpoint."""
    room, ending = name.split(".")
    if (ROOT / room / "run.sh").exists():  # one script, whose first word is the set
        return f"{room}/run.sh {' '.join(ending.rsplit('_', 1))} CKPT"
    stems = [file.stem.removeprefix("run_") for file in (ROOT / room).glob("run_*.sh")]
    stem = max((stem for stem in stems if f"{ending}_".startswith(f"{stem}_")), key=len)
    word = ending.removeprefix(stem).removeprefix("_")
    return " ".join([f"{room}/run_{stem}.sh", *([word] if word else []), "CKPT"])


def _changed(published: Any, recipe: Any) -> list[tuple[str, Any, Any]]:
    theirs, ours = flatten(published), flatten(recipe)
    return [(key, theirs[key], value) for key, value in ours.items() if theirs[key] != value]  # of one kind both


def as_text(value: Any) -> str:
    """A value of a recipe as people read it."""
    if isinstance(value, tuple) and len(value) > 12:
        return f"{len(value)} values, {as_text(value[0])} … {as_text(value[-1])}"
    if isinstance(value, tuple):
        return " ".join(map(as_text, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
