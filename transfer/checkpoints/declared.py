"""Formats declared by the prefixes of their names, which is what nearly all releases differ in.

A release is a dict; under one of its keys, or at its top, lies a state dict; in that, the names of the
backbone begin with one prefix, those of its moving average with another, and heads with others still. A declaration
lists these, and everything that it does not list is an error.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from transfer.checkpoints.backbone import Dropped, InputSpec, Lint
from transfer.checkpoints.families import families
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
    everything,
    has_prefix,
    holds_tensors,
    key_name,
    other_network,
    separate,
    weights_under,
)
from transfer.runtime.errors import CheckpointError

# What DistributedDataParallel puts before every name; other wrappers are gone already (`wrappers`).
OUTER = ("module.", "")

# Heads under the names that nearly everybody gives them.
USUAL_HEADS = {
    "classifier.": "classifier, behind the backbone",
    "fc.": "classifier or projection head, behind the backbone",
    "head.": "head, behind the backbone",
    "heads.": "heads, behind the backbone",
    "projector.": "projector, behind the backbone",
    "projection.": "projector, behind the backbone",
    "predictor.": "predictor, behind the projector",
    "prediction.": "predictor, behind the projector",
    "prototypes.": "prototypes, behind the projector",
    "criterion.": "state of the loss",
    "loss.": "state of the loss",
    "queue": "queue of negatives",
    "queue_ptr": "position in the queue of negatives",
}


@dataclass(frozen=True)
class Network:
    """One of the networks in a file.

    Attributes:
        prefix: what its backbone's names begin with.
        key: the top-level key under which it lies alone; None if it lies under one of the release's keys.
    """

    prefix: str
    key: str | None = None


@dataclass(frozen=True)
class Release:
    """A format in terms of prefixes. Prefixes, heads, `needs` and `lacks` are all written without `outer`.

    Attributes:
        name: what `--format` calls it; the module's name.
        title: for people, for example "MoCo v3".
        variants: prefix or whole name → title of the files that have it, where one layout serves several methods.
        networks: branch → network; the first one that a file holds is the default, the one its authors evaluate.
        heads: prefix (ending in a dot) or whole name → why it may be left out.
        behind: the same for names that continue a network's own prefix, for example "fc.".
        keys: top-level keys that may hold the state dict; None stands for the top itself, which is what remains in
            a safetensors file.
        outer: what may stand before every name, see `OUTER`.
        needs: prefixes or whole names of which the state dict must have at least one; empty if the networks' own
            prefixes are telling enough.
        lacks: prefixes or whole names of which the state dict must have none.
        markers: how the backbone's names continue after the prefix, in the file's own spelling; one of them is enough.
        rename: a backbone's name in the file, without prefixes → the family's; None if it is no backbone's name. A part
            of a tensor that files keep in three is named `name#0/3`, `name#1/3`, `name#2/3`, as they are joined.
        families: of its networks; where nothing is said, those whose own names the markers are.
        facts: what the layout says of the architecture beside shapes, see `transfer.checkpoints.families`.
        general: see `Format`.
        input, same_padding, stride_in_1x1: see `Backbone`.
        notes, lints: see `Extracted`.
    """

    name: str
    title: str
    networks: Mapping[str, Network]
    variants: Mapping[str, str] = field(default_factory=dict)
    heads: Mapping[str, str] = field(default_factory=dict)
    behind: Mapping[str, str] = field(default_factory=dict)
    keys: tuple[str | None, ...] = ("state_dict", None)
    outer: tuple[str, ...] = OUTER
    needs: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    markers: tuple[str, ...] = ("layer1.",)
    rename: Callable[[str], str | None] | None = None
    families: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    general: int = 0
    input: InputSpec = field(default_factory=InputSpec)
    same_padding: bool = False
    stride_in_1x1: bool = False
    notes: tuple[str, ...] = ()
    lints: tuple[Lint, ...] = ()


@dataclass(frozen=True)
class _Place:
    """Where a network was found: the top-level key (None: the top), the names there, what stands before all of them."""

    key: str | None
    weights: Mapping[str, Any]
    outer: str


def prefixed(release: Release) -> Format:
    """The `Format` that a `Release` declares."""
    branches = tuple(release.networks) if len(release.networks) > 1 else ()
    return Format(
        name=release.name,
        branches=branches,
        recognise=lambda tree: _matches(release, tree),
        read=lambda tree, branch: _extract(release, tree, branch),
        explained=lambda tree: _explained(release, tree),
        general=release.general,
        families=release.families or _families(release),
    )


def _families(release: Release) -> tuple[str, ...]:
    own = [name for name, family in families().items() if set(family.markers) & set(release.markers)]
    return tuple(own) or ("resnet",)


def one_of(name: str, *layouts: Format) -> Format:
    """A format whose files come in several layouts, equally general, of one name; the first one that fits is read.

    Forced on a file that none of them fits, it fails as the first of them does.
    """

    def recognise(tree: Tree) -> Match | Mismatch:
        views = [layout.recognise(tree) for layout in layouts]
        fitting = next((view for view in views if isinstance(view, Match)), None)
        return fitting or Mismatch("; ".join(view.reason for view in views if isinstance(view, Mismatch)))

    def read(tree: Tree, branch: str | None) -> Extracted:
        layout = next((layout for layout in layouts if isinstance(layout.recognise(tree), Match)), layouts[0])
        return layout.read(tree, branch)

    def explained(tree: Tree) -> int:
        return max(each.explained(tree) for each in layouts)

    branches = dict.fromkeys(branch for layout in layouts for branch in layout.branches)
    held = dict.fromkeys(name for layout in layouts for name in layout.families)
    return Format(name, tuple(branches), recognise, read, explained, layouts[0].general, families=tuple(held))


# What a classifier is called behind a network of any family; ConvNeXt's `head.norm` belongs to the network.
CLASSIFIERS = {
    **dict.fromkeys(("fc.", "head.weight", "head.bias"), "classifier or projection head, behind the backbone"),
    "head.fc.": "classifier, behind the backbone",
}


def plain_place(
    tree: Tree, markers: Sequence[str], keys: Sequence[str]
) -> tuple[Mapping[str, Any], str | None, str] | None:
    """(weights, key or None for the top, prefix) of a network that stands by itself; None if there is none in `tree`.

    Args:
        markers: how its names may begin.
        keys: under which it may lie.
    """
    for key in (None, *keys):
        weights = tree if key is None else weights_under(tree, key)
        for prefix in ("", "module."):
            if weights is not None and any(has_prefix(weights, prefix + marker) for marker in markers):
                return weights, key, prefix
    return None


def plainly_explained(tree: Tree, keys: Sequence[str]) -> int:
    """Tensors under a family's own names, at the place of a plain network that has most of them."""
    places = [tree, *filter(None, (weights_under(tree, key) for key in keys))]
    return max(explained_names(weights, prefix) for weights in places for prefix in ("", "module."))


def with_entries(format: Format, *entries: str) -> Format:
    """`format` for those files alone that have these entries at the top, whatever is in them."""

    def recognise(tree: Tree) -> Match | Mismatch:
        missing = [entry for entry in entries if entry not in tree]
        return Mismatch(f"no entry {' or '.join(missing)}") if missing else format.recognise(tree)

    return dataclasses.replace(format, recognise=recognise)


def signed(format: Format, names: Sequence[str], signature: Callable[[Tree], bool] = lambda tree: False) -> Format:
    """`format` for those files alone that say that this toolkit wrote them.

    Args:
        format: the layouts.
        names: beginnings of names, under `state_dict` or at the top; one of them is enough.
        signature: whether something beside the state dict says so.
    """

    def recognise(tree: Tree) -> Match | Mismatch:
        weights = weights_under(tree, "state_dict") or tree
        view = format.recognise(tree)
        if isinstance(view, Mismatch) or signature(tree) or any(has_prefix(weights, name) for name in names):
            return view
        return Mismatch(f"nothing says that it is {format.name}'s: no name begins with {', '.join(names[:3])} …")

    return dataclasses.replace(format, recognise=recognise)


def sequential(name: str) -> str | None:
    """torchvision's name for one out of `nn.Sequential(*resnet.children())`: `4.0.bn1.bias` → `layer1.0.bn1.bias`.

    Children 0 and 1 are `conv1` and `bn1`, 2 and 3 have no weights, 4 to 7 are the stages.
    """
    index, _, rest = name.partition(".")
    child = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}.get(index)
    return f"{child}.{rest}" if child else None


def renamed(
    state: Mapping[str, torch.Tensor], rename: Callable[[str], str | None], shown: str = ""
) -> dict[str, torch.Tensor]:
    """The state dict under the family's names, of parts joined.

    Args:
        state: name in the file → tensor.
        rename: see `Release.rename`.
        shown: written before a name in messages.

    Raises:
        CheckpointError: a name is no backbone's, two mean the same tensor, a part is missing, or parts do not fit.
    """
    found: dict[str, torch.Tensor] = {}
    names: dict[str, str] = {}
    for name, tensor in state.items():
        target = rename(name)
        if target is None or target in found:
            why = "is no tensor of the backbone" if target is None else f"is a second {target}"
            raise CheckpointError(
                f"holds a tensor that {why}", found=shown + name, todo="force another --format if this is another file"
            )
        found[target], names[target] = tensor, shown + name
    return _joined(found, names)


def _joined(state: dict[str, torch.Tensor], names: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """`name#0/3`, `name#1/3`, … in a row along their first dimension; `names` is what the file calls each of them."""
    parts: dict[str, dict[int, torch.Tensor]] = {}
    counts: dict[str, int] = {}
    for name in [name for name in state if "#" in name]:
        target, _, place = name.partition("#")
        number, _, count = place.partition("/")
        parts.setdefault(target, {})[int(number)] = state.pop(name)
        counts[target] = int(count)
    for target, each in parts.items():
        wanted = counts[target]
        held = " and ".join(f"{names[f'{target}#{place}/{wanted}']} {tuple(each[place].shape)}" for place in each)
        if len(each) < wanted:
            raise CheckpointError(
                f"keeps {target} in {wanted} parts, and {wanted - len(each)} of them is not in the file",
                found=f"only {held}",
                todo="check that the file is whole: download or copy it again",
            )
        if len({each[place].shape for place in each}) > 1:
            raise CheckpointError(
                f"keeps {target} in parts that do not fit each other", found=held, todo="check that the file is whole"
            )
        state[target] = torch.cat([each[place] for place in range(wanted)])
    return state


def _matches(release: Release, tree: Tree) -> Match | Mismatch:
    places = _places(release, tree)
    if not places:
        return Mismatch(f"no name begins with {_starts(release)} (under {_keys(release)})")
    place = next(iter(places.values()))
    if release.needs and not _any_begins(place, release.needs):
        return Mismatch(f"no name begins with {' or '.join(release.needs)}")
    if unwanted := _any_begins(place, release.lacks):
        return Mismatch(f"a name begins with {unwanted}")
    variant = _any_begins(place, tuple(release.variants))
    return Match(release.variants[variant] if variant else release.title)


def explained_names(names: Iterable[object], prefix: str, rename: Callable[[str], str | None] | None = None) -> int:
    """How many of `names` are a network's tensors behind `prefix`, of whichever family."""
    rests = [name.removeprefix(prefix) for name in names if isinstance(name, str) and name.startswith(prefix)]
    own = [(rename(rest) or "") if rename else rest for rest in rests]
    return max(sum(family.owns(name) for name in own) for family in families().values())


def _explained(release: Release, tree: Tree) -> int:
    """Tensors of all the declared networks and heads, under that of the outer prefixes that explains most."""
    keys = dict.fromkeys((*release.keys, *(network.key for network in release.networks.values())))
    count = 0
    for key in keys:
        weights = tree if key is None else weights_under(tree, key)
        names = [key_name(name) for name, value in (weights or {}).items() if isinstance(value, torch.Tensor)]
        networks = [network for network in release.networks.values() if network.key in (None, key)]
        count += max(_explained_under(release, networks, names, outer) for outer in release.outer)
    return count


def _explained_under(release: Release, networks: Sequence[Network], names: Sequence[str], outer: str) -> int:
    starts = [outer + head for head in release.heads]
    starts += [outer + network.prefix + head for network in networks for head in release.behind]
    heads = sum(any(Drop(start, "").covers(name) for start in starts) for name in names)
    return heads + sum(explained_names(names, outer + network.prefix, release.rename) for network in networks)


def _extract(release: Release, tree: Tree, branch: str | None) -> Extracted:
    places = _places(release, tree)
    taken = _branch(release, places, branch)
    place, network = places[taken], release.networks[taken]
    prefix = place.outer + network.prefix
    rules = [
        *(Drop(prefix + start, reason) for start, reason in release.behind.items()),
        *(Drop(place.outer + start, reason) for start, reason in release.heads.items()),
        *(
            Drop(place.outer + other.prefix, other_network(name, taken))
            for name, other in release.networks.items()
            if other.key == network.key and name != taken
        ),
    ]
    state, dropped = separate(_without_training_state(place), prefix, rules)
    if release.rename is not None:
        state = renamed(state, release.rename, prefix)
    return Extracted(
        state=state,
        dropped=dropped + _rest(release, tree, place, taken),
        branch=taken if len(release.networks) > 1 else "only",
        input=release.input,
        stride_in_1x1=release.stride_in_1x1,
        same_padding=release.same_padding,
        facts=release.facts,
        notes=release.notes,
        lints=release.lints + _lint_of_branch(release, taken, branch),
    )


def _lint_of_branch(release: Release, taken: str, asked: str | None) -> tuple[Lint, ...]:
    """Said where a file holds another network than the one that is taken by default, and nobody asked for that."""
    usual = next(iter(release.networks))
    if asked is not None or taken == usual:
        return ()
    return (Lint("branch", f"the file holds no {usual} network, the usual one: the {taken} network was taken"),)


def _places(release: Release, tree: Tree) -> dict[str, _Place]:
    """Branch → where it lies, for those branches that the file holds."""
    found: dict[str, _Place] = {}
    for branch, network in release.networks.items():
        keys: Sequence[str | None] = release.keys if network.key is None else (network.key,)
        for key in keys:
            weights = tree if key is None else weights_under(tree, key)
            outer = next((each for each in release.outer if _holds(weights, release, each + network.prefix)), None)
            if weights is not None and outer is not None and branch not in found:
                found[branch] = _Place(key, weights, outer)
    return found


def _holds(weights: Mapping[str, Any] | None, release: Release, prefix: str) -> bool:
    return any(has_prefix(weights, prefix + marker) for marker in release.markers)


def _starts(release: Release) -> str:
    starts = [network.prefix + marker for network in release.networks.values() for marker in release.markers]
    return " or ".join(dict.fromkeys(starts))


def _branch(release: Release, places: Mapping[str, _Place], branch: str | None) -> str:
    if not places:
        raise CheckpointError(
            f"has no tensors where the format {release.name} keeps them",
            found=f"nothing under {_keys(release)} that begins with {_starts(release)}",
            todo="leave out --format to have the format recognised, or choose another one or another --branch",
        )
    if branch is None or len(release.networks) == 1:  # a format without branches: `read` refuses what was typed
        return next(iter(places))
    if branch not in places:
        raise CheckpointError(
            f"holds no {branch} network", found=f"it holds {', '.join(places)}", todo="choose one of these --branch"
        )
    return branch


def _without_training_state(place: _Place) -> Mapping[str, Any]:
    """Only where the state dict is the file itself can a trainer's own entries lie among the names."""
    if place.key is not None:
        return place.weights
    return {name: value for name, value in place.weights.items() if name not in TRAINING_STATE}


def _rest(release: Release, tree: Tree, place: _Place, taken: str) -> tuple[Dropped, ...]:
    """What lies beside the state dict that was taken."""
    if place.key is None:
        loop = [key_name(name) for name in tree if name in TRAINING_STATE]
        return as_dropped({"state of the training loop, not of the network": loop})
    alone = {
        network.key: name
        for name, network in release.networks.items()
        if network.key is not None and network.key != place.key
    }
    dropped: tuple[Dropped, ...] = ()
    for key, name in alone.items():
        inside = tree.get(key)
        if isinstance(inside, Mapping):
            dropped += everything(inside, other_network(name, taken), where=f"{key}.")
    others = [key for key in release.heads if key in tree and holds_tensors(tree[key])]
    reasons = dict.fromkeys(release.heads[key] for key in others)
    dropped += as_dropped({why: [key for key in others if release.heads[key] == why] for why in reasons})
    return dropped + beside(tree, [place.key, *alone, *others])


def _any_begins(place: _Place, starts: Sequence[str]) -> str | None:
    """The first of `starts` that a name begins with (or, without a final dot, is)."""
    for start in starts:
        rule = Drop(place.outer + start, "")
        if any(rule.covers(key_name(name)) for name in place.weights):
            return start
    return None


def _keys(release: Release) -> str:
    keys = [key for key in release.keys if key is not None]
    keys += [network.key for network in release.networks.values() if network.key is not None]
    return ", ".join([*dict.fromkeys(keys), *(["the top"] if None in release.keys else [])])


# Entries beside the state dict, or names in it, with which Lightning keeps its own state.
LIGHTNING = {
    "loops": "state of Lightning's training loop",
    "callbacks": "state of Lightning's callbacks",
}
