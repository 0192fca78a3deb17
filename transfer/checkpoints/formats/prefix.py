"""One complete network behind any prefix, in a file that no other format recognises; --prefix chooses one of several.

Layout: anybody's: `model.`, `net.`, `resnet.`, `module.module.`, a key of a dict, or several of these. The names behind
the prefix are torchvision's, or those of `nn.Sequential(*resnet.children())`, or transformers' of a ResNet, or timm's
of another family. This is the general rule, asked last. By itself it takes a network only if there is one, with its
classifier at most and no other tensor in the file; of several, it takes the one that is the average of another
(`AveragedModel`). Otherwise `--prefix` has to say which, and everything else is listed as dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from transfer.checkpoints.backbone import Dropped
from transfer.checkpoints.carried import TIMMS_RULE, assumed
from transfer.checkpoints.declared import CLASSIFIERS, LIGHTNING, USUAL_HEADS, renamed, sequential
from transfer.checkpoints.families import families
from transfer.checkpoints.formats.huggingface import torchvision_name as huggingface_name
from transfer.checkpoints.rules import (
    TRAINING_STATE,
    Drop,
    Extracted,
    Format,
    Match,
    Mismatch,
    Tree,
    as_dropped,
    beside,
    holds_tensors,
    key_name,
    separate,
)
from transfer.checkpoints.wrappers import MAX_DEPTH, Averaged
from transfer.runtime.errors import CheckpointError

NAME = "prefix"
TIMMS = tuple(marker for family in families().values() if family.name != "resnet" for marker in family.markers)
# How a network's first block is called, and what makes its family's name of a name.
_SPELLINGS: tuple[tuple[re.Pattern[str], Callable[[str], str | None] | None], ...] = (
    (re.compile(r"((?:.*\.)?)layer1\.0\.(?:conv1|bn1)\."), None),
    (re.compile(r"((?:.*\.)?)4\.0\.(?:conv1|bn1)\."), sequential),
    (re.compile(r"((?:.*\.)?)encoder\.stages\.0\.layers\.0\.layer\."), huggingface_name),
    *((re.compile(rf"((?:.*\.)?)(?<!\d\.){re.escape(marker)}"), None) for marker in TIMMS),
)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A network in a file: the keys above its state dict, the prefix in that, and how its names are spelt."""

    path: tuple[str, ...]
    weights: Mapping[str, Any]
    prefix: str
    rename: Callable[[str], str | None] | None

    @property
    def whole(self) -> str:
        """Keys and prefix in one: `ema.net.`."""
        return "".join(f"{key}." for key in self.path) + self.prefix

    @property
    def shown(self) -> str:
        """What --prefix calls it."""
        return self.prefix if self.prefix and self.path in ((), ("state_dict",)) else self.whole


def candidates(tree: Tree) -> list[Candidate]:
    """Every network whose first block is there, in the order of the file."""
    found: dict[tuple[tuple[str, ...], str], Candidate] = {}
    for path, weights in _mappings(tree, ()):
        for name in weights:
            for start, rename in _SPELLINGS if isinstance(name, str) else ():
                if match := start.match(name):
                    found.setdefault((path, match[1]), Candidate(path, weights, match[1], rename))
    return list(found.values())


def take(tree: Tree, prefix: str) -> Extracted:
    """The network under `prefix`, everything else listed as dropped: whoever typed it took the responsibility.

    Raises:
        CheckpointError: there is no network under this prefix.
    """
    found = candidates(tree)
    asked = prefix if prefix.endswith(".") or not prefix else f"{prefix}."
    fitting = [one for one in found if one.whole == asked] or [one for one in found if one.prefix == asked]
    if len(fitting) != 1:
        raise CheckpointError(
            f"has {'several networks' if fitting else 'no network'} under the prefix {prefix!r}",
            found=f"{_listed(fitting or found)}" if found else "no names of a known network anywhere in the file",
            todo=_options(fitting or found) if found else "leave out --prefix to see what the file holds",
        )
    one = fitting[0]
    rules = [Drop(one.prefix + head, reason) for head, reason in USUAL_HEADS.items()]
    rules += [
        Drop(other.prefix, f"another network, {other.shown}")
        for other in found
        if other.weights is one.weights and other.prefix != one.prefix and other.prefix.startswith(one.prefix)
    ]
    under = {name: value for name, value in one.weights.items() if key_name(name).startswith(one.prefix)}
    state, dropped = separate(under, one.prefix, rules)
    rest = [name for name in _leaves(tree, one) if not name.startswith(one.whole)]
    return _extracted(one, state, dropped + as_dropped({f"not under --prefix {one.shown}": rest}))


def recognise(tree: Tree) -> Match | Mismatch:
    """One network and nothing beside it that could be another."""
    found = candidates(tree)
    one = _only(found)
    if one is None:
        if found:
            return Mismatch(f"several networks: {_listed(found)}; {_options(found)}")
        return Mismatch("no name that ends as those of a first block (layer1.0.conv1.weight, blocks.0.norm1.weight)")
    try:
        _extract(tree, one, found)
    except CheckpointError as error:
        return Mismatch(f"a network under {one.shown}, but the file {error.what} ({error.found}); {_options([one])}")
    return Match(f"a network under `{one.shown}`, nothing else in the file")


def read(tree: Tree, branch: str | None) -> Extracted:
    """The only network."""
    found = candidates(tree)
    one = _only(found)
    if one is None:
        raise CheckpointError(
            "has several networks" if found else "has no tensors that are named as a known network's",
            found=_listed(found) if found else "no name that ends as layer1.0.conv1.weight does",
            todo=_options(found) if found else "leave out --format to have the format recognised",
        )
    return _extract(tree, one, found)


def _only(found: list[Candidate]) -> Candidate | None:
    averages = [one for one in found if isinstance(one.weights, Averaged)]
    return found[0] if len(found) == 1 else averages[0] if len(averages) == 1 else None


def _extract(tree: Tree, one: Candidate, found: list[Candidate]) -> Extracted:
    where = "".join(f"{key}." for key in one.path)
    others = [other for other in found if other is not one]
    state, dropped = separate(
        one.weights,
        one.prefix,
        [
            *(Drop(one.prefix + start, reason) for start, reason in CLASSIFIERS.items()),
            *(Drop(other.prefix, _other(one)) for other in others if other.weights is one.weights),
        ],
        where=where,
    )
    node: Any = tree
    for depth, key in enumerate(one.path):
        level = one.path[:depth]
        alone = [other for other in others if other.path[:depth] == level and other.path[depth : depth + 1] != (key,)]
        keys = {other.path[depth] for other in alone if len(other.path) > depth and not _more(other)}
        dropped += as_dropped({_other(one): [".".join((*level, name)) for name in keys]})
        loop = [name for name in LIGHTNING if name in node and not level]
        dropped += as_dropped({LIGHTNING[name]: [name] for name in loop})
        dropped += beside(node, [key, *keys, *loop])
        node = node[key]
    return _extracted(one, state, dropped)


def _other(one: Candidate) -> str:
    return f"the network that {one.shown} is the average of; the average was taken"


def _more(other: Candidate) -> bool:
    """True if a network's state dict holds more than the network and its last layer."""
    return any(
        holds_tensors(value) and not key_name(name).startswith(other.prefix) for name, value in other.weights.items()
    )


def _extracted(one: Candidate, state: dict[str, torch.Tensor], dropped: tuple[Dropped, ...]) -> Extracted:
    if one.rename is not None:
        state = renamed(state, one.rename, one.prefix)
    note = f"nothing in the file says which program wrote it; the network under `{one.shown}` was taken"
    return Extracted(state, dropped, one.shown or "top", facts=TIMMS_RULE, notes=(note, assumed(list(state))))


def _listed(found: list[Candidate]) -> str:
    return ", ".join(f"{one.shown or 'the top'} ({_count(one)} tensors)" for one in found[:6])


def _count(one: Candidate) -> int:
    return sum(key_name(name).startswith(one.prefix) for name in one.weights)


def _options(found: list[Candidate]) -> str:
    return "take one alone with " + " or ".join(f"--prefix {one.shown or repr('')}" for one in found[:6])


def options(tree: Tree) -> str:
    """The line to type where a file holds a network and more; "" if there is none in it."""
    found = candidates(tree)
    return _options(found) + ", everything else is then listed as dropped" if found else ""


def _mappings(tree: Mapping[Any, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    yield path, tree
    for key, value in tree.items():
        deeper = isinstance(key, str) and isinstance(value, Mapping) and len(path) < MAX_DEPTH
        if deeper and (path or key not in TRAINING_STATE):
            yield from _mappings(value, (*path, key))


def _leaves(tree: Mapping[Any, Any], one: Candidate, where: str = "", depth: int = 0) -> Iterator[str]:
    """Names of all entries with tensors, and of the training state, as whole as `Candidate.whole`."""
    for key, value in tree.items():
        name = where + key_name(key)
        deeper = isinstance(value, Mapping) and holds_tensors(value) and depth <= MAX_DEPTH
        if deeper and (depth or key not in TRAINING_STATE):
            yield from _leaves(value, one, f"{name}.", depth + 1)
        elif not one.whole.startswith(f"{name}."):
            yield name


FORMAT = Format(NAME, (), recognise, read, general=3, families=tuple(families()))
