"""A published protocol: the values of a recipe, each on one line with the place where it was read.

    VICREG = MOCO.but("VICReg, arXiv 2105.04906, app. C.3", lr=0.1, warmup_iterations=1_000, warmup_factor=0.333)

reads: as MOCO, but with these values, which that paper states.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Generic, TypeVar, get_type_hints

from tyro.conf import Fixed, Suppress

from transfer.runtime.provenance import Difference

R = TypeVar("R")
S = TypeVar("S")
V = TypeVar("V")
Decided = Annotated[V, Fixed, Suppress]
ABSENT = "none"  # instead of a value that a recipe of another kind does not have
OURS = "ours"  # what a source begins with where no publication states the value


def stated(value: V, source: str) -> V:
    """A field of a recipe whose default is a published value."""
    found: V = dataclasses.field(default=value, metadata={"source": source})
    return found


def fixed(value: Any) -> Any:
    """A field of a recipe that its class decides: part of every record, and nothing that can be typed.

    Its annotation is to be `Decided[...]`, which keeps it off the command line.
    """
    return dataclasses.field(default=value, init=False, metadata={"source": "the task"})


class Protocol(Generic[R]):
    """What is known of a recipe of class `kind`; begin with `Protocol(kind)`, go on with `but`.

    A field's default counts where it has a source of its own (`stated`) or is not spoken of; a protocol that leaves a
    value without a source is incomplete, which a test looks for.

    Attributes:
        kind: frozen dataclass, perhaps of dataclasses.
        parts: field of `kind` → the class of dataclass that it holds here, where that is not the one it names.
    """

    def __init__(
        self,
        kind: type[R],
        parts: Mapping[str, type] | None = None,
        lines: Mapping[str, tuple[Any, str]] | None = None,
    ) -> None:
        self.kind, self.parts = kind, dict(parts or {})
        self._lines = dict(lines or {})

    def but(self, source: str, values: Mapping[str, Any] | None = None, **more: Any) -> Protocol[R]:
        """The protocol with other values, or the same ones from another source.

        Args:
            source: paper and table, or repository and file; where nobody published it, `OURS` and why.
            values: by the name in the recipe, "view.crop".
            more: the same by the last word of the name, which must be the only one of the recipe: `crop=224`.

        Raises:
            TypeError: the recipe has no such value, or several.
        """
        named = {self._place(name): value for name, value in {**(values or {}), **more}.items()}
        return Protocol(self.kind, self.parts, self._lines | {name: (value, source) for name, value in named.items()})

    def of(self, kind: type[S], parts: Mapping[str, type] | None = None, shared: bool = False) -> Protocol[S]:
        """What is known so far, of another recipe that has all these values and perhaps more.

        Args:
            kind, parts: of that recipe.
            shared: it may have less: values that it has no place for are left behind.

        Raises:
            TypeError: it lacks one.
        """
        known = _names(kind, parts or {})
        lacking = sorted(self._lines.keys() - known.keys())
        if lacking and not shared:
            raise TypeError(f"{kind.__name__} has no {', '.join(lacking)}")
        return Protocol(kind, parts, {name: line for name, line in self._lines.items() if name in known})

    def _place(self, name: str) -> str:
        known = _names(self.kind, self.parts)
        found = [each for each in known if name in (each, each.rpartition(".")[2])]
        if name in known:
            return name
        if len(found) != 1:
            which = f"several {name}" if found else f"no {name}"
            raise TypeError(f"{self.kind.__name__} has {which}: {', '.join(found or known)}")
        return found[0]

    @cached_property
    def recipe(self) -> R:
        """The values.

        Raises:
            TypeError: a value that has no default was never stated.
        """
        made: R = _made(self.kind, {name: value for name, (value, _) in self._lines.items()}, "", self.parts)
        return made

    @cached_property
    def sources(self) -> dict[str, str]:
        """Where each value was read, by its name, in the recipe's order; "" where nobody said."""
        defaults = _names(self.kind, self.parts)
        return {name: self._lines[name][1] if name in self._lines else source for name, source in defaults.items()}

    @cached_property
    def origins(self) -> dict[str, int]:
        """What its sources name before a colon → values from there: of more than a twelfth of all, most first."""
        found = Counter(source.partition(":")[0] for source in self.sources.values())
        return {name: count for name, count in found.most_common() if count > found.total() / 12}


_known: dict[Any, dict[str, str]] = {}  # evaluating a recipe's hints again for every line takes a second in all


def _names(kind: Any, parts: Mapping[str, type]) -> dict[str, str]:
    """All values, "sgd.lr" and so on, each with the source of its default."""
    key = (kind, *parts.items())
    if key not in _known:
        hints = get_type_hints(kind) | dict(parts)
        found: dict[str, str] = {}
        for entry in dataclasses.fields(kind):
            inner = hints[entry.name]
            if dataclasses.is_dataclass(inner):
                found |= {f"{entry.name}.{name}": source for name, source in _names(inner, {}).items()}
            else:
                found[entry.name] = entry.metadata.get("source", "")
        _known[key] = found
    return _known[key]


def _made(kind: Any, values: Mapping[str, Any], prefix: str, parts: Mapping[str, type]) -> Any:
    """The dataclass with its defaults, and `values` by name in their places."""
    hints, arguments = get_type_hints(kind) | dict(parts), {}
    for entry in dataclasses.fields(kind):
        name = prefix + entry.name
        if not entry.init:
            continue
        if name in values:
            arguments[entry.name] = values[name]
        elif entry.name in parts:
            arguments[entry.name] = _made(hints[entry.name], values, f"{name}.", {})
        elif dataclasses.is_dataclass(hints[entry.name]) and any(each.startswith(f"{name}.") for each in values):
            arguments[entry.name] = _made(hints[entry.name], _default(entry, name) | dict(values), f"{name}.", {})
    return kind(**arguments)


def _default(entry: dataclasses.Field[Any], name: str) -> dict[str, Any]:
    """The values of a default that is a dataclass itself, by name."""
    if entry.default is not dataclasses.MISSING:
        inner = entry.default
    elif entry.default_factory is not dataclasses.MISSING:
        inner = entry.default_factory()
    else:
        return {}
    return flatten(inner, f"{name}.")


def flatten(recipe: Any, prefix: str = "") -> dict[str, Any]:
    """Nested frozen dataclass → {"detector.lr": 0.02, …}, for comparison and for people."""
    flat: dict[str, Any] = {}
    for entry in dataclasses.fields(recipe):
        value = getattr(recipe, entry.name)
        if dataclasses.is_dataclass(value):
            flat.update(flatten(value, f"{prefix}{entry.name}."))
        else:
            flat[prefix + entry.name] = value
    return flat


def recipe_differences(published: Any, used: Any) -> tuple[Difference, ...]:
    """Every value that differs from the published recipe, in the recipe's order; "none" where one has no such value."""
    theirs, ours = flatten(published), flatten(used)
    pairs = {name: (theirs.get(name, ABSENT), ours.get(name, ABSENT)) for name in {**ours, **theirs}}
    return tuple((name, str(one), str(other)) for name, (one, other) in pairs.items() if one != other)
