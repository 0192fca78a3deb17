"""`Backbone`: the only thing that a task ever sees of a checkpoint."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

import torch

from transfer.checkpoints.families import family_of, is_optional
from transfer.runtime.errors import CheckpointError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class InputSpec:
    """How pixels must be presented to the weights; none of this leaves a trace in the tensors.

    Attributes:
        channels: "RGB" or "BGR", the order in which the first convolution sees the planes.
        value_range: the largest pixel value before normalisation, 1.0 or 255.0.
        mean, std: per channel, in the order of `channels` and in units of `value_range`:
            the network sees (pixel − mean) / std.
    """

    channels: str = "RGB"
    value_range: float = 1.0
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def in_255(self) -> tuple[list[float], list[float]]:
        """(mean, std) for pixels in 0–255, as both engines' configs write them."""
        factor = 255.0 / self.value_range
        return [round(m * factor, 6) for m in self.mean], [round(s * factor, 6) for s in self.std]


@dataclass(frozen=True)
class Source:
    """Where the weights came from: file, its sha256, the format that read it, and the branch that was taken."""

    path: str
    sha256: str
    format: str
    branch: str = "only"


@dataclass(frozen=True)
class Dropped:
    """Tensors of the file that are no part of the backbone, and why they may be left out."""

    reason: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Lint:
    """Something that explains a classic mistake. `code` is for machines ("same-padding"), `text` for people."""

    code: str
    text: str


@dataclass(frozen=True, eq=False)
class Backbone:
    """A network's weights under the names of its family, complete and finite, with everything needed to feed it.

    Attributes:
        arch: an architecture of one of `transfer.checkpoints.families`.
        state: name → float32 tensor (int64 for `num_batches_tracked`) on the CPU. Read-only mapping.
        input: what the weights expect as pixels.
        source: file, hash, format, branch.
        stride_in_1x1: True if the stride of a bottleneck sits in its first 1×1 convolution (Caffe's ResNet).
        same_padding: True if the network was trained with TensorFlow's or Haiku's SAME padding, which on even sizes
            pads one pixel more on the right and at the bottom. Neither engine has it: the weights load, and every
            strided layer samples a grid that is shifted by up to a pixel.
        dropped: what else was in the file.
        notes: what a reader should know (for example that half precision was widened); goes into the record.
        lints: what may be mistaken about these weights; goes into the record.

    Raises:
        CheckpointError: a tensor is missing, left over, misshaped, not floating point, or not finite.
            The message names it.
    """

    arch: str
    state: Mapping[str, torch.Tensor]
    input: InputSpec
    source: Source
    stride_in_1x1: bool = False
    same_padding: bool = False
    dropped: tuple[Dropped, ...] = ()
    notes: tuple[str, ...] = field(default=())
    lints: tuple[Lint, ...] = ()

    def __post_init__(self) -> None:
        check_complete(self.arch, self.state, self.source.path)
        object.__setattr__(self, "state", MappingProxyType(dict(self.state)))

    @property
    def tensor_count(self) -> int:
        """Tensors held, `num_batches_tracked` included: 318 for a full ResNet-50."""
        return len(self.state)

    @cached_property
    def weights(self) -> str:
        """sha256 of names, shapes and values of the tensors, counters aside: the same file, read otherwise, differs."""
        digest = hashlib.sha256()
        for name in sorted(self.state):
            if not is_optional(name):
                tensor = self.state[name]
                digest.update(f"{name}{tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().contiguous().numpy().data)
        return digest.hexdigest()

    def with_lints(self, lints: tuple[Lint, ...]) -> Backbone:
        """The same backbone with these lints added; its tensors, which have been checked, are not checked again."""
        twin = copy.copy(self)
        object.__setattr__(twin, "lints", self.lints + lints)
        return twin

    def remarks(self) -> tuple[str, ...]:
        """Notes and lints as sentences, for logs and records."""
        return (*self.notes, *(f"{lint.code}: {lint.text}" for lint in self.lints))

    def network(self, drop_path: float = 0.0) -> torch.nn.Module:
        """The family's module without classifier that holds these weights, in eval mode; for ResNets torchvision's."""
        family = family_of(self.arch)
        with torch.device("meta"):  # drawing weights that are then overwritten takes most of the time
            model = family.build(self.arch, stride_in_1x1=self.stride_in_1x1, drop_path=drop_path)
        model = model.to_empty(device="cpu")
        counted = {name: torch.zeros((), dtype=torch.int64) for name in family.shapes(self.arch) if is_optional(name)}
        model.load_state_dict(counted | dict(self.state))
        return model.eval()


def check_names(arch: str, state: Mapping[str, torch.Tensor], path: str) -> None:
    """Raise `CheckpointError` unless `state` has exactly the names and shapes of this `arch`."""
    wanted = family_of(arch).shapes(arch)
    missing = [name for name in wanted if name not in state and not is_optional(name)]
    extra = [name for name in state if name not in wanted]
    reshaped = [
        f"{name} is {tuple(state[name].shape)}, a {arch} has {shape}"
        for name, shape in wanted.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    if missing or extra or reshaped:
        parts = [
            f"{len(names)} {label}: {', '.join(names[:4])}{' …' if len(names) > 4 else ''}"
            for label, names in (("missing", missing), ("left over", extra), ("of another shape", reshaped))
            if names
        ]
        raise CheckpointError(
            f"{path} does not fill a {arch} exactly, so none of it is used",
            found="\n".join(parts),
            todo="check that the file is whole and of the architecture you think it is; "
            "`python -m transfer inspect FILE` lists what is in it",
        )


def check_complete(arch: str, state: Mapping[str, torch.Tensor], path: str) -> None:
    """Raise `CheckpointError` unless `state` fills a network of this `arch` exactly with finite numbers."""
    check_names(arch, state, path)
    for name, tensor in state.items():
        if is_optional(name):
            continue
        if tensor.dtype != torch.float32:
            raise CheckpointError(f"{path}: {name} has dtype {tensor.dtype}, a Backbone holds float32")
        # NaN comes through as NaN, and one pass without a copy takes a ninth of isfinite's time
        if not all(map(torch.isfinite, tensor.aminmax())):
            bad = int((~torch.isfinite(tensor)).sum())
            raise CheckpointError(
                f"{path}: {name} holds values that are not finite",
                found=f"{bad} of {tensor.numel()} values are NaN or infinite",
                todo="the training that made this file diverged: take an earlier checkpoint",
            )
        if name.endswith("running_var") and bool((tensor < 0).any()):
            raise CheckpointError(
                f"{path}: {name} holds negative variances, {float(tensor.min()):.3g} the lowest",
                found="the root of a variance is taken: the network would compute NaN",
                todo="look for statistics or scales that were filed under each other's names, or a damaged file",
            )


def random_backbone(arch: str, seed: int) -> Backbone:
    """The random initialisation of `arch` by its own module under `seed`: the baseline that every table needs.

    Its hash is taken over the weights, so equal (arch, seed, torch) give equal run ids.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = family_of(arch).build(arch).state_dict()
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    source = Source(path=f"random:{arch}:{seed}", sha256=digest.hexdigest(), format="random")
    return Backbone(arch=arch, state=state, input=InputSpec(), source=source)
