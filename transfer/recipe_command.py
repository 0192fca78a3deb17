"""`python -m transfer recipe TASK`: every value of a protocol, and where it was read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tyro
from tyro.conf import Positional

from transfer.commands import starting_recipe
from transfer.task import Task, flatten, load_task, recipe_differences


@dataclass(frozen=True)
class RecipeOptions:
    """Print the values of a task's protocol and their sources, or in what a preset differs from it.

    Attributes:
        task: its name, for example transfer.knn.
        protocol: which published protocol; the task's first one by default.
        preset: print the preset's differences from the protocol instead.
        debug: show tracebacks.
    """

    task: Positional[str]
    protocol: str | None = None
    preset: str | None = None
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
    return _of_protocol(options.task, task, protocol)


def _of_protocol(name: str, task: Task, protocol: str) -> str:
    values, sources = flatten(task.protocols[protocol]), task.sources.get(protocol, {})
    lines = [f"{name}, protocol {protocol}  (there are: {', '.join(task.protocols)})"]
    width = max(map(len, values))
    for key, value in values.items():
        shown = _text(value)
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


def _text(value: Any) -> str:
    if isinstance(value, tuple) and len(value) > 12:
        return f"{len(value)} values, {_text(value[0])} … {_text(value[-1])}"
    if isinstance(value, tuple):
        return " ".join(map(_text, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
