"""`python -m transfer run TASK …`: from the command line to runs. Options come from the task's own dataclasses."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import Positional, arg

from transfer.authors import AUTO, advice, protocol_of_all
from transfer.checkpoints.architectures import ARCHITECTURES
from transfer.protocol import recipe_differences
from transfer.runtime.conditions import THREADS, settle
from transfer.runtime.errors import CheckpointError, UserError
from transfer.task import ROOT, Task, load_task

if TYPE_CHECKING:
    from transfer.checkpoints.backbone import Backbone
    from transfer.record import Record
    from transfer.runtime.world import World

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunOptions:
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
        recompute: detectors only: a block of the ResNet keeps its input alone and is computed again in the backward
            pass: less memory, more time, the same numbers to rounding.
        format: force a checkpoint format instead of recognising it.
        branch: which network of the checkpoint, for example query/key or online/target.
        prefix: take the network of the checkpoint whose names begin with this, and drop everything else.
        allow_half: accept weights stored in half precision and widen them.
        allow_slow: train on a CPU however long it takes.
        runs: where records and everything else are written.
        overwrite: do runs again that are finished.
        debug: show tracebacks.
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
    debug: bool = False


def run_command(arguments: Sequence[str]) -> int:
    """Parse `TASK CHECKPOINT … [options]`, do the runs, return the exit status (1 if any run failed)."""
    typed = understood(arguments)
    _check_machine(typed.device, typed.options.workers)
    import torch

    from transfer.runtime.world import world

    with world(torch.device(typed.device)) as (together, _):
        return _run_all(typed, together)


def understood(arguments: Sequence[str]) -> Typed:
    """What `TASK CHECKPOINT … [options]` says, before anything is read.

    Raises:
        UserError: no task, or no such task, protocol or preset.
    """
    if not arguments or arguments[0].startswith("-"):
        raise UserError(
            "which task?", todo="python -m transfer run TASK CHECKPOINT; `python -m transfer tasks` lists them"
        )
    name, rest = arguments[0], list(arguments[1:])
    task = load_task(name)
    device, processes = _hardware(rest)
    protocol = _protocol(name, task, rest)
    preset = _peek(rest, "preset")
    batch = _peek(rest, task.batch_option) if task.batch_option else None
    typed_batch = (
        int(batch) if batch and batch.isdecimal() and int(batch) else None
    )  # else the parser or a check says so
    starting = starting_recipe(task, protocol, preset, device, processes, typed_batch)
    options, data_options, recipe = _parse(name, task, starting, rest)
    if options.recompute and not task.engines:
        raise UserError(f"--recompute is for detectors, and {name} trains none", todo="leave it out")
    words, auto = shlex.join(arguments), _peek(rest, "protocol") == AUTO
    return Typed(name, task, protocol, options, data_options, recipe, device, words, auto)


def _protocol(name: str, task: Task, rest: list[str]) -> str:
    """The protocol that was typed, the task's first, or for "auto" the one of the checkpoints' authors."""
    first = next(iter(task.protocols))
    typed = _peek(rest, "protocol") or first
    if typed != AUTO or {"-h", "--help"} & set(rest):
        return first if typed == AUTO else typed
    # The recipe's defaults depend on the protocol, and the protocol on the checkpoints: they are looked at beforehand.
    options, _, _ = _parse(name, task, task.protocols[first], rest)
    formats = {label: backbone.source.format for backbone, label in read_backbones(options)}
    return protocol_of_all(formats, task.protocols)


@dataclass(frozen=True, eq=False)
class Typed:
    """What the command line says."""

    name: str
    task: Task
    protocol: str
    options: RunOptions
    data: Any
    recipe: Any
    device: str
    words: str
    auto: bool


def _hardware(arguments: Sequence[str]) -> tuple[str, int]:
    """The device and how many processes there are; help is given without asking torch, whose import takes seconds."""
    typed = _peek(arguments, "device")
    if {"-h", "--help"} & set(arguments):
        return typed or "cpu", 1
    import torch

    from transfer.runtime.world import world_size

    return typed or ("cuda" if torch.cuda.is_available() else "cpu"), world_size()


def _run_all(typed: Typed, processes: World) -> int:
    """Read checkpoints and data, do every run."""
    from detection.engines.choose import choose_engine
    from transfer.runner import Plan, run

    task, options = typed.task, typed.options
    if not processes.leads:
        logging.getLogger("transfer").setLevel(logging.ERROR)
    logger.info("computes with: %s", settle(typed.device, options.threads).line())
    backbones = read_backbones(options)
    archs = {backbone.arch for backbone, _ in backbones}
    engine, why = choose_engine(options.engine, task.engines, archs) if task.engines else ("", "")
    if engine:
        logger.info("engine: %s (%s)", engine, why)
    for backbone, label in backbones:
        line = advice(backbone.source.format, typed.protocol, task.protocols)
        if line:
            logger.info("%s: %s", label, line)
        task.check(typed.recipe, backbone, typed.device, options.allow_slow)
    # the leader first: what it downloads is there for the others
    data = processes.together(lambda: task.load_data(typed.data) if processes.leads else None)
    if not processes.leads:
        data = task.load_data(typed.data)
    for backbone, _ in backbones:
        task.check_data(typed.recipe, backbone, data, typed.device, options.allow_slow)
    published = task.protocols[typed.protocol]
    _log_differences(typed.protocol, task, published, typed.recipe, typed.data)
    fingerprints = task.fingerprints(data)
    made: list[Record] = []
    for backbone, label in backbones:
        for seed in options.seeds:
            logger.info("%s: %s, seed %d", typed.name, label, seed)
            plan = Plan(
                task_name=typed.name,
                task=task,
                backbone=backbone,
                label=label,
                protocol=typed.protocol,
                published=published,
                recipe=typed.recipe,
                data=data,
                fingerprints=fingerprints,
                data_differences=task.data_differences(typed.data),
                engine=engine,
                seed=seed,
                device=typed.device,
                workers=options.workers,
                command=f"python -m transfer run {typed.words}",
                threads=options.threads,
                authors_own=typed.auto,
                recompute=options.recompute,
            )
            record = run(plan, options.runs, options.overwrite, processes)
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
        return task.adapt(task.protocols[protocol], device, processes, batch)
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
    if task.scale is None:
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


def read_backbones(options: RunOptions) -> list[tuple[Backbone, str]]:
    """The checkpoints, each with its name in tables.

    Raises:
        UserError: none, two of one name or of the same weights, or one that cannot be read.
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
    if min(options.seeds, default=0) < 0:
        raise UserError(f"--seeds {min(options.seeds)}", todo="seeds are 0 or more")
    read = [_read_one(name, options) for name in options.checkpoints]
    for first, second in itertools.combinations(read, 2):
        if (first.source.sha256, first.source.branch) == (second.source.sha256, second.source.branch):
            what = f"{first.source.path} and {second.source.path} hold the same weights"
            raise UserError(what, todo="name each checkpoint once: its run is found again whatever it is called")
    return list(zip(read, labels, strict=True))


def _read_one(name: str, options: RunOptions) -> Backbone:
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
    if arch not in ARCHITECTURES or len(seed) > 1 or not all(part.isdecimal() for part in seed):
        raise CheckpointError(
            f"{name!r} is no random backbone",
            todo=f"random:ARCH or random:ARCH:SEED, ARCH one of {', '.join(ARCHITECTURES)}",
        )
    return random_backbone(arch, int(seed[0]) if seed else 0)


def _default_label(name: str) -> str:
    """File name without suffix; a file called checkpoint takes its folder's name."""
    if name.startswith("random:"):
        return name
    path = Path(name)
    return path.resolve().parent.name if path.stem == "checkpoint" else path.stem


def _check_machine(device: str, workers: int) -> None:
    import torch

    from transfer.runtime.shared_memory import demand_shared_memory

    if device not in ("cpu", "cuda"):
        raise UserError(f"--device {device} is not known", todo="cpu or cuda")
    if workers < 0:
        raise UserError(f"--workers {workers}", todo="give 0 or more")
    demand_shared_memory(workers)
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda, but PyTorch sees no GPU", todo="check nvidia-smi, or use --device cpu")


def _log_differences(protocol: str, task: Task, published: Any, recipe: Any, data_options: Any) -> None:
    differences = (*task.data_differences(data_options), *recipe_differences(published, recipe))
    if not differences:
        logger.info("recipe: the published protocol %r, unchanged", protocol)
        return
    lines = "".join(f"\n    {what}: {ours}  (protocol: {theirs})" for what, theirs, ours in differences)
    logger.info("recipe: differs from the published protocol %r in%s", protocol, lines)


def _summary(record: Record, runs: Path) -> str:
    where = runs / "records" / record.task / f"{record.run_id}.json"
    shown = where.relative_to(Path.cwd()) if where.is_relative_to(Path.cwd()) else where
    if record.status != "finished":
        return f"FAILED: {record.failure['kind']} (record: {shown})"
    numbers = "  ".join(f"{name} {value:.2f}" for name, value in record.metrics.items())
    return f"{record.checkpoint['label']}: {numbers}   (record: {shown})"
