"""Families of backbones: one file each, found by being in this folder. Tasks ask the family, never an architecture.

An architecture is a name ("resnet50", "vit_small_patch16_224") that says everything of the function that its weights
are put into: what shapes show and what leaves no trace in them. A family knows its architectures' tensors, builds the
module that holds them, says what of it is proved, and makes features of what it computes.

Nothing here imports torch before a network is built: command lines, recipes and `inspect` read these numbers.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from transfer.runtime.errors import CheckpointError, UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

Shape = tuple[int, ...]
Facts = Mapping[str, Any]  # what a format knows of its files and no shape shows: a family's own words


class Family(ABC):
    """What a family file declares as `FAMILY`.

    Attributes:
        name: the module's.
        title: for people, in the plural.
        offered: architectures that messages and `random:ARCH` name; a family may know more.
        supported: which those are, in a sentence for messages.
        stem: the tensor that sees the pixels, [channels, 3, h, w].
        classifier: the submodule that a classifier takes the place of.
        markers: beginnings of names by which a format may look for a network of this family.
        behind: submodules that stand behind the last map; a network that gives maps does without them.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    offered: ClassVar[tuple[str, ...]]
    supported: ClassVar[str]
    stem: ClassVar[str]
    classifier: ClassVar[str]
    markers: ClassVar[tuple[str, ...]]
    behind: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def knows(self, arch: str) -> bool:
        """Whether `arch` is one of its architectures."""

    @abstractmethod
    def owns(self, name: str) -> bool:
        """Whether a tensor of this name may lie in one of its networks."""

    @abstractmethod
    def shapes(self, arch: str) -> Mapping[str, Shape]:
        """Name → shape of every tensor of the backbone, in the module's order."""

    @abstractmethod
    def nearest(self, shapes: Mapping[str, Shape], facts: Facts) -> str:
        """The architecture that tensors of these shapes are most likely meant for; `Backbone` demands an exact match.

        Raises:
            CheckpointError: no architecture has such a table of positions, patch size, …; the message says what is off.
        """

    def lookalike(self, shapes: Mapping[str, Shape]) -> str | None:
        """A relative that is not supported and that these tensors most likely are; None if it is none."""
        return None

    def is_optional(self, name: str) -> bool:
        """True for the only tensors that a source may lack."""
        return False

    @abstractmethod
    def gmacs(self, arch: str, side: int = 224) -> float:
        """10⁹ multiply–accumulates of a forward pass of one image of `side` × `side` pixels."""

    @abstractmethod
    def build(self, arch: str, *, stride_in_1x1: bool = False, drop_path: float = 0.0) -> nn.Module:
        """The module, randomly initialised, without a classifier: its `state_dict()` has exactly the names of `shapes`.

        Called without a classifier it returns the feature vector that its authors put one on.

        Args:
            arch: one that it `knows`.
            stride_in_1x1: of ResNets, see `Backbone`.
            drop_path: share of images for which the last block is left out in training, rising from 0 at the first.

        Raises:
            UserError: the module has none.
        """

    def layer(self, arch: str, name: str) -> int:
        """How deep a parameter lies, for rates that fall with depth: 0 what sees the pixels, the blocks from 1 on.

        Raises:
            UserError: the family has no such rule.
        """
        raise UserError(
            f"a {arch} is not fine-tuned with a rate of its own for each block",
            found=f"no rule for {self.name}",
            todo="choose another protocol: `python -m transfer recipe TASK` lists them",
        )

    @abstractmethod
    def stages(self, arch: str) -> tuple[str, ...]:
        """Submodules whose outputs are compared in a proof, in the order in which they compute."""

    def depends_on_size(self, arch: str) -> bool:
        """Whether the size of images decides more than how large a map is: a table is resized to it."""
        return False

    def proof_sides(self, arch: str) -> tuple[int, int]:
        """(height, width) of the image of a proof: one at which the network's function is its authors'."""
        return 96, 160

    def build_for_maps(self, arch: str, *, drop_path: float = 0.0) -> nn.Module:
        """The module whose `maps` are taken: of images of any size, as detectors see them; names as of `build`."""
        return self.build(arch, drop_path=drop_path)

    def as_trained(self, network: nn.Module, arch: str) -> AbstractContextManager[None]:
        """Meanwhile what `build_for_maps` gave computes as what `build` gives, at the size of the training."""
        return nullcontext()

    def maps(self, network: nn.Module, images: Tensor, indices: Sequence[int]) -> tuple[Tensor, ...]:
        """Maps [n, C, h, w] behind those stages, or those blocks of a network without stages, with no norm behind them.

        Args:
            network: of `build_for_maps`.
            images: normalised, [n, 3, H, W].
            indices: ascending, from 0; "out_indices" in MMDetection's configs.

        Raises:
            UserError: the family has none.
        """
        raise UserError(f"no maps are taken from {self.title}")

    def map_widths(self, arch: str) -> tuple[int, ...]:
        """Channels of the map behind each stage, or block, from the first on."""
        return ()

    @abstractmethod
    def poolings(self, arch: str) -> tuple[str, ...]:
        """Names of the features that can be made of its output, the usual one first."""

    @abstractmethod
    def pooling(self, arch: str, name: str) -> str:
        """The feature that stands for `name` of a protocol that was published for ResNets; of its own names itself."""

    @abstractmethod
    def channels(self, arch: str) -> int:
        """Channels of the last map or of a token."""

    def map_channels(self, arch: str) -> int:
        """Channels of the map that poolings are made of, position by position; 0: they are made of tokens."""
        return self.channels(arch)

    @abstractmethod
    def width(self, arch: str, pooling: str) -> int:
        """Numbers that a pooling makes of an image."""

    @abstractmethod
    def demand(self, arch: str, poolings: Iterable[str], height: int, width: int) -> None:
        """Refuse poolings that cannot be made of an image of so many pixels.

        Raises:
            UserError: says why, and which sizes can be taken.
        """

    @abstractmethod
    def outputs(self, network: nn.Module, images: Tensor, poolings: Sequence[str]) -> Any:
        """Normalised images [n, 3, h, w] → tensors that `features` pools, in whatever precision they were computed."""

    @abstractmethod
    def features(self, network: nn.Module, outputs: Any, poolings: Sequence[str]) -> dict[str, Tensor]:
        """Pooling → float32 [n, width], in float32 arithmetic."""

    def facts(self, arch: str) -> dict[str, str]:
        """What `inspect` says of an architecture that no shape shows: label → text."""
        return {}

    def lints(self, arch: str, state: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
        """(code, text) of what explains the classic mistakes of this family, see `transfer.checkpoints.lints`."""
        return iter(())

    def demand_pooling(self, arch: str, pooling: str) -> None:
        """Raise `UserError` if there is no such pooling."""
        if pooling not in (names := self.poolings(arch)):
            raise UserError(f"unknown pooling {pooling!r}", todo=f"for a {arch}, choose one of {', '.join(names)}")


@cache
def families() -> Mapping[str, Family]:
    """Name → family, one per module of this folder; those that begin with an underscore are parts of others."""
    found: dict[str, Family] = {}
    for module in sorted(info.name for info in pkgutil.iter_modules(__path__) if not info.name.startswith("_")):
        family: Family = importlib.import_module(f"{__name__}.{module}").FAMILY
        if family.name != module:
            raise ValueError(f"families/{module}.py declares a family called {family.name!r}, not {module!r}")
        found[module] = family
    return found


def offered() -> tuple[str, ...]:
    """The architectures that are called by name, ResNets first."""
    names = sorted(families(), key=lambda name: name != "resnet")
    return tuple(arch for name in names for arch in families()[name].offered)


@cache
def family_of(arch: str) -> Family:
    """The family that has this architecture.

    Raises:
        CheckpointError: none has.
    """
    for family in families().values():
        if family.knows(arch):
            return family
    raise CheckpointError(f"unknown architecture {arch!r}", todo=f"choose one of {', '.join(offered())}")


def family_of_names(names: Iterable[str]) -> Family:
    """The family that most of these tensors' names belong to; ResNets' where none does."""
    counted = Counter(dict.fromkeys(families(), 0))
    for each in names:
        counted.update(name for name, family in families().items() if family.owns(each))
    return families()[max(counted, key=lambda name: (counted[name], name == "resnet", name == "vit"))]


def is_optional(name: str) -> bool:
    """True for the only tensors that a source may lack, whatever the family."""
    return any(family.is_optional(name) for family in families().values())


def markers() -> tuple[str, ...]:
    """How names of a backbone of any family may begin, by which formats look for one."""
    return tuple(marker for family in families().values() for marker in family.markers)


def fill_buffers(network: Any, keys: object) -> None:
    """What timm's modules compute and no file holds: indices of positions, masks of shifted windows, keys' bias of 0.

    A hook for `register_load_state_dict_post_hook`: a network that was built without memory has no values there.
    """
    for module in network.modules():
        if module is not network and hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()
