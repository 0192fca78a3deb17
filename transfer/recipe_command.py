"""`python -m transfer recipe TASK`: every value of a protocol, and where it was read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tyro
from tyro.conf import Positional

from transfer.checkpoints.architectures import architecture
from transfer.cli import starting_recipe
from transfer.protocol import flatten, recipe_differences
from transfer.runtime.errors import UserError
from transfer.task import ROOT, Task, load_task


@dataclass(frozen=True)
class RecipeOptions:
    """Print the values of a task's protocol and their sources, or in what a preset differs from it.

    Attributes:
        task: its name, for example transfer.knn.
        protocol: which published protocol; the task's first one by default.
        preset: print the preset's differences from the protocol instead.
        gpus: print the protocol rescaled to this many GPUs, what it takes and in what it is not as published.
        batch: with --gpus: images per iteration over all of them; by default as many on each as published.
        memory: with --gpus: GB of each; the published batch is kept where it fits.
        arch: with --gpus: the backbone, for the hours and the memory.
        debug: show tracebacks.
    """

    task: Positional[str]
    protocol: str | None = None
    preset: str | None = None
    gpus: int | None = None
    batch: int | None = None
    memory: float | None = None
    arch: str = "resnet50"
    debug: bool = False


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
    if task.scale is None:
        raise UserError(f"{options.task} does not depend on the number of GPUs", todo="leave --gpus and --batch out")
    gpus = 1 if options.gpus is None else options.gpus
    if gpus < 1 or (options.batch is not None and options.batch < 1):
        raise UserError(f"--gpus {gpus} --batch {options.batch}", todo="give 1 or more")
    if options.memory is not None and options.memory <= 0:
        raise UserError(f"--memory {options.memory:g}", todo="give the GB of a GPU")
    architecture(options.arch)
    published = task.protocols[protocol]
    recipe, lines = task.scale(published, gpus, options.batch, options.arch, options.memory)
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
    stems = [file.stem.removeprefix("run_") for file in (ROOT / room).glob("run_*.sh")]
    stem = max((stem for stem in stems if f"{ending}_".startswith(f"{stem}_")), key=len)
    word = ending.removeprefix(stem).removeprefix("_")
    return " ".join([f"{room}/run_{stem}.sh", *([word] if word else []), "CKPT"])


def _changed(published: Any, recipe: Any) -> list[tuple[str, Any, Any]]:
    theirs, ours = flatten(published), flatten(recipe)
    return [(key, theirs[key], value) for key, value in ours.items() if theirs[key] != value]


def as_text(value: Any) -> str:
    """A value of a recipe as people read it."""
    if isinstance(value, tuple) and len(value) > 12:
        return f"{len(value)} values, {as_text(value[0])} … {as_text(value[-1])}"
    if isinstance(value, tuple):
        return " ".join(map(as_text, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
