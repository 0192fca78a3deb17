"""The rules that checkpoint formats are written with: which tensors are kept, which may be left, and why.

Every rule is anchored at the beginning of a name ("module.encoder_q." never catches "module.encoder_k."), and a
tensor that no rule speaks of is an error. So nothing of a file is lost without a reason that can be read later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from transfer.checkpoints.backbone import Backbone, Dropped, InputSpec, Lint
from transfer.checkpoints.families import Facts, is_optional
from transfer.runtime.errors import CheckpointError

Tree = Mapping[str, Any]

# What training loops keep beside the weights. They may hold tensors (momentum, random states) and none is a weight.
TRAINING_STATE = frozenset(
    (
        *("optimizer", "optimizers", "optim", "opt", "optim_state_dict", "optimizer_state_dict", "optimizer_states"),
        *("scheduler", "lr_scheduler", "lr_schedulers", "scheduler_state_dict"),
        *("scaler", "grad_scaler", "amp", "criterion", "progress"),
        *("rng", "rng_state", "cuda_rng_state", "torch_rng_state", "random_state"),
    )
)


@dataclass(frozen=True)
class Match:
    """A format recognises a file. `description` is for people, for example "MoCo v2, both encoders"."""

    description: str


@dataclass(frozen=True)
class Mismatch:
    """A format does not recognise a file, for this reason."""

    reason: str


@dataclass(frozen=True)
class Extracted:
    """A backbone as a format found it: not yet checked, values as stored in the file.

    Attributes:
        state: name in the family's module → tensor, or whatever the file holds under that name.
        dropped: groups of the file's other entries, each with the reason why it may be left out.
        branch: the network that was taken where a file holds several, otherwise "only".
        input: how pixels must be presented.
        stride_in_1x1, same_padding: see `Backbone`.
        arch: the architecture, where the file itself names it.
        facts: what this layout says of the architecture beside shapes, see `transfer.checkpoints.families`.
        notes: what a reader should know.
        lints: what this release is known to be mistaken for, or cannot say of itself.
    """

    state: dict[str, torch.Tensor]
    dropped: tuple[Dropped, ...]
    branch: str = "only"
    input: InputSpec = field(default_factory=InputSpec)
    stride_in_1x1: bool = False
    same_padding: bool = False
    arch: str | None = None
    facts: Facts = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    lints: tuple[Lint, ...] = ()


@dataclass(frozen=True)
class Target:
    """A program that a backbone can be written for.

    Attributes:
        write: puts a backbone into a file, whole or not at all; raises `CheckpointError` where the program builds no
            such network.
        suffix: the ending that the program goes by; ".pth" if it does not look.
        families: of the backbones that it can be written for.
    """

    write: Callable[[Backbone, Path], None]
    suffix: str = ".pth"
    families: tuple[str, ...] = ("resnet",)


@dataclass(frozen=True)
class Format:
    """What a module in `transfer/checkpoints/formats/` offers as `FORMAT`. Adding a format is adding one such module.

    Most are declared by `declared.prefixed`; a layout that it cannot describe brings functions of its own.

    Attributes:
        name: what `--format` calls it; the module's name.
        branches: the networks to choose from with `--branch`, the default first; empty if there is only one.
        recognise: decides from the structure of the keys alone, without looking at values.
        read: takes the backbone out, of one of `branches` (None: the default one); raises `CheckpointError` for a
            tensor that no rule covers.
        explained: how many of a file's tensors its rules speak of, which says how near it is to a file that no format
            recognises.
        general: how little a file must say to be claimed. Formats are asked in this order, and the least number at
            which one recognises the file decides; two of one number are an error. So none has to know another's names.
            −1: more than a layout of 0 holds, which it would fit, too; 0: names or entries of its own; 1: names that
            others use as well; 2: a network that nobody signed; 3: any network anywhere.
        targets: what `convert --to` calls the programs that read this layout, and how it is written for each.
        families: of the networks that such files hold.
        told_by_name: the name of such a file may say what nothing in it does; see `lints.told_by_name`.
        beside: adds what another file that was saved beside this one says of it, where the layout has such a file.
    """

    name: str
    branches: tuple[str, ...]
    recognise: Callable[[Tree], Match | Mismatch]
    read: Callable[[Tree, str | None], Extracted]
    explained: Callable[[Tree], int] = lambda tree: 0
    general: int = 0
    targets: Mapping[str, Target] = field(default_factory=dict)
    families: tuple[str, ...] = ("resnet",)
    told_by_name: bool = False
    beside: Callable[[Extracted, Path], Extracted] | None = None


class LeftOver(CheckpointError):
    """A file holds tensors that no rule of its format covers."""


def refused(name: str, recognise: Callable[[Tree], Match | Mismatch], reason: str, todo: str) -> Format:
    """A format that is recognised in order to say why it cannot be read, and what could be done instead."""

    def read(tree: Tree, branch: str | None) -> Extracted:
        raise CheckpointError(reason, todo=todo)

    return Format(name, (), recognise, read, families=())


@dataclass(frozen=True)
class Drop:
    """A rule: the name `start` itself, or, if it ends in a dot, every name that begins with it, is left out."""

    start: str
    reason: str

    def covers(self, name: str) -> bool:
        """True if the rule speaks of `name`."""
        return name.startswith(self.start) if self.start.endswith(".") else name == self.start


def weights_under(tree: Tree, key: str) -> Mapping[str, Any] | None:
    """The mapping name → tensor that `tree` keeps under `key`; None if there is no such mapping."""
    inside = tree.get(key)
    return inside if isinstance(inside, Mapping) and holds_tensors(inside) else None


def needed_weights(tree: Tree, key: str, format_name: str) -> Mapping[str, Any]:
    """As `weights_under`, for a format that cannot do without; raises `CheckpointError` if there are none."""
    weights = weights_under(tree, key)
    if weights is None:
        raise CheckpointError(
            f"has no tensors under {key!r}, where the format {format_name} keeps them",
            todo="leave out --format to have the format recognised, or choose another one or another --branch",
        )
    return weights


def key_name(key: object) -> str:
    """A dict's key for messages: itself if it is a string, otherwise its type."""
    return key if isinstance(key, str) else f"<{type(key).__name__}>"


def has_prefix(weights: Mapping[str, Any] | None, prefix: str) -> bool:
    """True if `weights` has a name that begins with `prefix`."""
    return weights is not None and any(isinstance(name, str) and name.startswith(prefix) for name in weights)


def holds_tensors(value: object) -> bool:
    """True if there is a tensor anywhere in nested containers; follows each container once, so loops are harmless."""
    waiting, seen = [value], set()
    while waiting:
        item = waiting.pop()
        if isinstance(item, torch.Tensor):
            return True
        if isinstance(item, (Mapping, list, tuple)) and id(item) not in seen:
            seen.add(id(item))
            waiting.extend(item.values() if isinstance(item, Mapping) else item)
    return False


def separate(
    weights: Mapping[str, Any], keep: str, rules: Sequence[Drop], *, where: str = ""
) -> tuple[dict[str, torch.Tensor], tuple[Dropped, ...]]:
    """Divide a state dict into the backbone and groups that may be left out.

    Args:
        weights: name → tensor.
        keep: the prefix of the backbone's names; it is cut off. "" keeps every name that no rule drops.
        rules: names to leave out; they come before `keep`.
        where: written before the names in messages and groups, for example "online.".

    Returns:
        (state without the prefix, dropped groups in the order of `rules`).

    Raises:
        CheckpointError: a tensor is neither kept nor dropped.
    """
    state: dict[str, torch.Tensor] = {}
    groups: dict[str, list[str]] = {rule.reason: [] for rule in rules}
    unknown: list[str] = []
    for name, value in weights.items():
        shown = where + key_name(name)
        rule = next((rule for rule in rules if rule.covers(key_name(name))), None)
        if rule is not None:
            groups[rule.reason].append(shown)
        elif isinstance(value, torch.Tensor) and isinstance(name, str) and name.startswith(keep):
            state[name.removeprefix(keep)] = value
        elif holds_tensors(value):
            unknown.append(shown)
        else:
            groups.setdefault("not a tensor: notes of the program that wrote the file", []).append(shown)
    refuse_unknown(unknown)
    return state, as_dropped(groups)


def beside(tree: Tree, taken: Iterable[str]) -> tuple[Dropped, ...]:
    """The entries of `tree` other than `taken`, as dropped groups: training state and plain values.

    Raises:
        CheckpointError: another entry holds tensors, so it might be the network that was meant.
    """
    taken = set(taken)
    groups: dict[str, list[str]] = {}
    unknown = []
    for key, value in tree.items():
        if key in taken:
            continue
        if key in TRAINING_STATE:
            groups.setdefault("state of the training loop, not of the network", []).append(key_name(key))
        elif isinstance(value, torch.Tensor) and value.numel() == 1:  # MoCo's linear evaluation: "best_acc1"
            groups.setdefault("a single number, no network", []).append(key_name(key))
        elif holds_tensors(value):
            unknown.append(key_name(key))
        else:
            groups.setdefault("settings and counters, no tensors", []).append(key_name(key))
    refuse_unknown(unknown)
    return as_dropped(groups)


def everything(weights: Mapping[str, Any], reason: str, *, where: str = "") -> tuple[Dropped, ...]:
    """One dropped group of all names in `weights`; none if it is empty."""
    return as_dropped({reason: [where + key_name(name) for name in weights]})


def as_dropped(groups: Mapping[str, Sequence[str]]) -> tuple[Dropped, ...]:
    """reason → names, as the groups of a `Backbone`; empty groups vanish."""
    return tuple(Dropped(reason=reason, names=tuple(names)) for reason, names in groups.items() if names)


def refuse_unknown(names: Sequence[str]) -> None:
    """Raise `CheckpointError` if there are `names`: tensors that no rule covers."""
    if names:
        raise LeftOver(
            "holds tensors that are neither part of the backbone nor known to be dispensable",
            found=f"{len(names)} left over: {', '.join(names[:4])}{' …' if len(names) > 4 else ''}",
            todo="if they are dispensable, save the backbone alone: "
            "torch.save({'state_dict': backbone.state_dict()}, 'backbone.pth')",
        )


def other_network(name: str, taken: str) -> str:
    """Why the network `name` of a file may be left out."""
    return f"the {name} network; the {taken} network was taken"


def demand_equal(weights: Mapping[str, Any], first: str, second: str) -> None:
    """For a network that is saved under two prefixes: refuse the file unless both hold the same values.

    Nothing under `second` is in order; a batch counter may be absent from either.

    Raises:
        CheckpointError: a tensor is absent from one of them, or differs.
    """
    one, other = (
        {
            key_name(name).removeprefix(start): value
            for name, value in weights.items()
            if key_name(name).startswith(start)
        }
        for start in (first, second)
    )
    for name in {**one, **other} if other else ():
        here, there = one.get(name), other.get(name)
        if is_optional(name) and (here is None or there is None):
            continue
        if not _same(here, there):
            raise CheckpointError(
                f"keeps one network under two names, {first} and {second}, and the two differ",
                found=f"{second}{name} is not equal to {first}{name}",
                todo="save it again with the program that wrote it, where both names mean one tensor, or the network "
                "alone: torch.save({'state_dict': network.state_dict()}, 'backbone.pth')",
            )


def _same(one: object, other: object) -> bool:
    """True for two plain tensors of equal values; torch cannot compare sparse ones and those without values."""
    if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor):
        return False
    plain = all(tensor.layout == torch.strided and not tensor.is_meta for tensor in (one, other))
    return plain and (one.is_set_to(other) or torch.equal(one, other))
