"""Checkpoint formats: one module each, found by looking into this folder, exactly one of which must fit a file."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache

from transfer.errors import CheckpointError
from transfer.layout import Format, Match, Mismatch, Tree, key_name


@cache
def all_formats() -> Mapping[str, Format]:
    """Name → format, one per module of this package, in alphabetical order."""
    modules = sorted(info.name for info in pkgutil.iter_modules(__path__))
    found: dict[str, Format] = {}
    for module in modules:
        form: Format = importlib.import_module(f"{__name__}.{module}").FORMAT
        if form.name != module:
            raise ValueError(f"transfer/formats/{module}.py declares a format called {form.name!r}, not {module!r}")
        found[module] = form
    return found


def title_of(name: str) -> str:
    """What a format reads, in a line: the first sentence of its module."""
    documentation = importlib.import_module(f"{__name__}.{name}").__doc__ or ""
    return " ".join(documentation.split("\n\n")[0].split())


def opinions(tree: Tree) -> dict[str, Match | Mismatch]:
    """What every format says about a file."""
    return {name: form.matches(tree) for name, form in all_formats().items()}


def choose(tree: Tree, forced: str | None = None) -> Format:
    """The one format that recognises `tree`, or the one that was asked for.

    Raises:
        CheckpointError: no format or more than one recognises it, or there is none called `forced`. The message
            shows the first keys and why each format declined.
    """
    formats = all_formats()
    if forced is not None:
        if forced not in formats:
            raise CheckpointError(f"unknown format {forced!r}", todo=f"choose one of {', '.join(formats)}")
        return formats[forced]
    views = opinions(tree)
    fitting = [name for name, view in views.items() if isinstance(view, Match)]
    if len(fitting) == 1:
        return formats[fitting[0]]
    if fitting:
        raise CheckpointError(
            f"fits {len(fitting)} formats: {', '.join(fitting)}",
            found=first_keys(tree),
            todo=f"say which one it is with --format {' or --format '.join(fitting)}",
        )
    reasons = [f"not {name}: {view.reason}" for name, view in views.items() if isinstance(view, Mismatch)]
    raise CheckpointError(
        "is in none of the known checkpoint formats",
        found="\n".join([first_keys(tree), *reasons]),
        todo="if you know what it is, force it with --format NAME; otherwise save the backbone alone under "
        "torchvision's names",
    )


def first_keys(tree: Tree, count: int = 6) -> str:
    """Two levels of keys: what a person needs to see to recognise a file."""
    lines = [f"top-level keys: {_some(tree, count)}"]
    lines += [
        f"{key_name(key)[:80]} holds: {_some(inside, count)}"
        for key, inside in list(tree.items())[:count]
        if _is_dict(inside)
    ]
    return "\n".join(lines)


def _is_dict(value: object) -> bool:
    return isinstance(value, Mapping) and len(value) > 0


def _some(mapping: Mapping[str, object], count: int) -> str:
    names = ", ".join(key_name(name)[:80] for name in list(mapping)[:count])
    return f"{names}, … ({len(mapping)} in all)" if len(mapping) > count else names or "(none)"


__all__ = ["all_formats", "choose", "first_keys", "opinions", "title_of"]
