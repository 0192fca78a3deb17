"""Checkpoint formats: one module each, found by looking into this folder; the most specific that fits reads a file.

The order is written in the formats themselves (`Format.general`), so a new one changes no other. Two equally specific
ones that fit are an error.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache

import torch

from transfer.checkpoints.formats.prefix import NAME as ANY
from transfer.checkpoints.formats.prefix import options
from transfer.checkpoints.not_a_checkpoint import refuse_without_network
from transfer.checkpoints.rules import TRAINING_STATE, Format, Match, Mismatch, Tree, key_name
from transfer.checkpoints.wrappers import unwrapped
from transfer.runtime.errors import CheckpointError


@cache
def all_formats() -> Mapping[str, Format]:
    """Name → format, one per module of this package, in alphabetical order."""
    modules = sorted(info.name for info in pkgutil.iter_modules(__path__))
    found: dict[str, Format] = {}
    for module in modules:
        form: Format = importlib.import_module(f"{__name__}.{module}").FORMAT
        if form.name != module:
            raise ValueError(f"formats/{module}.py declares a format called {form.name!r}, not {module!r}")
        found[module] = form
    return found


def title_of(name: str) -> str:
    """What a format reads, in a line: the first sentence of its module."""
    documentation = importlib.import_module(f"{__name__}.{name}").__doc__ or ""
    return " ".join(documentation.split("\n\n")[0].split())


def opinions(tree: Tree) -> dict[str, Match | Mismatch]:
    """What every format says about a file; general ones only where no more specific one recognises it."""
    tree = unwrapped(tree).tree
    views: dict[str, Match | Mismatch] = {}
    for rank in sorted({form.general for form in all_formats().values()}):
        fitting = [name for name, view in views.items() if isinstance(view, Match)]
        known = Mismatch(
            f"asked only where no more specific format recognises the file, and {' and '.join(fitting)} does"
        )
        equals = [form for form in all_formats().values() if form.general == rank]
        views |= {form.name: known if fitting else form.recognise(tree) for form in equals}
    return {name: views[name] for name in all_formats()}


def recognised(tree: Tree) -> list[str]:
    """The formats that recognise a file."""
    return [name for name, view in opinions(tree).items() if isinstance(view, Match)]


def choose(tree: Tree, forced: str | None = None) -> Format:
    """The one format that recognises `tree`, or the one that was asked for.

    Raises:
        CheckpointError: no format or more than one recognises it, or there is none called `forced`. The message
            shows the first keys and, of the formats that come nearest, why they declined.
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
    refuse_without_network(tree)
    raise CheckpointError(
        "is in none of the known checkpoint formats",
        found="\n".join([first_keys(tree), *_nearest(tree, views)]),
        todo=options(tree)
        or "if you know what it is, force it with --format NAME (`inspect FILE --all` says why each one declined); "
        "otherwise save the backbone alone under torchvision's names: torch.save(resnet.state_dict(), 'backbone.pth')",
    )


def reasons(tree: Tree) -> list[str]:
    """Why each format declines, a line each."""
    return [f"not {name}: {view.reason}" for name, view in opinions(tree).items() if isinstance(view, Mismatch)]


def _nearest(tree: Tree, views: Mapping[str, Match | Mismatch]) -> list[str]:
    """The three formats whose rules speak of most of the file's tensors, and what each of them missed."""
    total = _tensors_in(tree)
    shares = {name: form.explained(tree) for name, form in all_formats().items()}
    nearest = sorted((name for name, count in shares.items() if count), key=lambda name: -shares[name])[:3]
    why = {name: view.reason for name, view in views.items() if isinstance(view, Mismatch)}
    lines = [f"not {ANY}: {why[ANY]}"] if options(tree) else []
    lines += [f"not {name}, which knows {shares[name]} of the {total} tensors: {why[name]}" for name in nearest]
    return lines or [f"no format knows a single one of the {total} tensors by name"]


def first_keys(tree: Tree, count: int = 6) -> str:
    """Two levels of keys: what a person needs to see to recognise a file."""
    lines = [f"top-level keys: {_some(tree, count)}"]
    lines += [
        f"{key_name(key)[:80]} holds: {_some(inside, count)}"
        for key, inside in list(tree.items())[:count]
        if _is_dict(inside)
    ]
    return "\n".join(lines)


def _tensors_in(tree: Tree) -> int:
    """How many tensors lie in nested dicts, training state aside."""
    count, waiting, seen = 0, [value for key, value in tree.items() if key not in TRAINING_STATE], set()
    while waiting:
        value = waiting.pop()
        count += isinstance(value, torch.Tensor)
        if isinstance(value, Mapping) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values())
    return count


def _is_dict(value: object) -> bool:
    return isinstance(value, Mapping) and len(value) > 0


def _some(mapping: Mapping[str, object], count: int) -> str:
    names = ", ".join(key_name(name)[:80] for name in list(mapping)[:count])
    return f"{names}, … ({len(mapping)} in all)" if len(mapping) > count else names or "(none)"
