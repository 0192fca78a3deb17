"""One file per format: the files that were released in it, made anew with their true names and shapes.

Adding a format is adding a file here beside the one in `transfer/checkpoints/formats/`: it declares `RELEASES` (and
`REFUSED`, for what is recognised and turned away), and every test of `test_releases.py` runs on it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from checkpoint_files import State, Tree, without_fc

from transfer.checkpoints.backbone import InputSpec
from transfer.checkpoints.families.resnet import is_optional


@dataclass(frozen=True)
class Release:
    """One kind of file.

    Attributes:
        title: as the table of `docs/checkpoints.md` names it, for example "MoCo v2".
        format: the format that must recognise it, and no other.
        build: torchvision state dict with `fc` → what lies in the file.
        place: keys to the mapping that holds the backbone's tensors.
        key: torchvision name → name in that mapping.
        source: repository and file in which the layout was read.
        container: "zip", "legacy", "pickle" or "safetensors", optionally with "+gzip".
        branch: the network that is taken by default.
        others: further branches; the generator fills them with `slow_copy`.
        input, same_padding, stride_in_1x1: what the Backbone must say.
        archs: architectures in which the release exists and is tested; the first is used for round trips.
        counters: whether the file has `num_batches_tracked`.
        lints: codes that `inspect` must show for it.
        real: what real file of this release was read, "" if none was.
        reads: state as saved → what the file can give of it, where it says less or in another form.
        derived: true for tensors that the file lacks and the format works out.
        parts: name → further keys whose tensors are joined behind that of `key`.
        alone: whether its state dict is recognised when it is saved again without what stood beside it.
        find: (tree, torchvision name) → (mapping, key), for files that keep every tensor in a mapping of its own.
    """

    title: str
    format: str
    build: Callable[[State], Tree]
    place: tuple[str, ...]
    key: Callable[[str], str]
    source: str
    container: str = "zip"
    branch: str = "only"
    others: tuple[str, ...] = ()
    input: InputSpec = field(default_factory=InputSpec)
    same_padding: bool = False
    stride_in_1x1: bool = False
    archs: tuple[str, ...] = ("resnet50",)
    counters: bool = True
    lints: tuple[str, ...] = ()
    real: str = ""
    reads: Callable[[State], State] = dict
    derived: Callable[[str], bool] = lambda name: False
    parts: Callable[[str], tuple[str, ...]] = lambda name: ()
    alone: bool = True
    find: Callable[[Tree, str], tuple[dict[str, Any], str]] | None = None

    def weights(self, tree: Tree) -> dict[str, Any]:
        """The mapping in `tree` that holds the backbone."""
        inside: Any = tree
        for key in self.place:
            inside = inside[key]
        return inside

    def gives(self, state: State) -> State:
        """The backbone that the file must give, torchvision name → tensor, for the state dict it was built from."""
        kept = without_fc(self.reads(state))
        return kept if self.counters else {name: value for name, value in kept.items() if not is_optional(name)}

    def entry(self, tree: Tree, name: str) -> tuple[dict[str, Any], str]:
        """(mapping, key in it) of the tensor that torchvision calls `name`."""
        return self.find(tree, name) if self.find else (self.weights(tree), self.key(name))


@dataclass(frozen=True)
class Refusal:
    """A kind of file that is recognised and turned away.

    Attributes:
        title: as the table of `docs/checkpoints.md` names it.
        build: torchvision state dict with `fc` → what lies in the file.
        says: parts of the message: what it is, and what to do instead.
        format: the format that claims it; "" if it is turned away before or after that (by the reader, by its shapes).
        source, container: see `Release`.
    """

    title: str
    build: Callable[[State], Tree]
    says: tuple[str, ...]
    source: str
    format: str = ""
    container: str = "zip"


def _modules() -> list[Any]:
    names = sorted(info.name for info in pkgutil.iter_modules(__path__))
    return [importlib.import_module(f"{__name__}.{name}") for name in names]


@cache
def all_releases() -> Mapping[str, Release]:
    """Identifier → release, over all files of this folder."""
    found: dict[str, Release] = {}
    for module in _modules():
        for name, release in getattr(module, "RELEASES", {}).items():
            assert name not in found, f"two releases are called {name}"
            found[name] = release
    return found


@cache
def all_refusals() -> Mapping[str, Refusal]:
    """Identifier → refusal, over all files of this folder."""
    found: dict[str, Refusal] = {}
    for module in _modules():
        for name, refusal in getattr(module, "REFUSED", {}).items():
            assert name not in found, f"two refusals are called {name}"
            found[name] = refusal
    return found
