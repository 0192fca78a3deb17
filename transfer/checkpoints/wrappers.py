"""What PyTorch's wrappers leave in the names of tensors, taken out in one place before any format is asked.

`torch.compile` puts `_orig_mod.` before the names of the module it wraps, FSDP `_fsdp_wrapped_module.` (fairscale's
`_fpw_module.`), activation checkpointing `_checkpoint_wrapped_module.`, Lightning's strategies `_forward_module.`. Any
module may have been wrapped, so these may stand anywhere in a name; none of them is ever a name of its own.
`module.` (DataParallel, DDP) is one in many releases, and there it tells formats apart: it is taken out only behind
the name of a ResNet's layer, where nothing else is called so.

`torch.optim.swa_utils.AveragedModel` writes a counter `n_averaged` and the average under `module.` (pytorch/pytorch:
torch/optim/swa_utils.py); torchvision's reference training with `--model-ema` keeps such a state dict as `model_ema`
(pytorch/vision: references/classification/train.py). It becomes an `Averaged` state dict without either.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from transfer.checkpoints.rules import TRAINING_STATE, Tree, holds_tensors
from transfer.runtime.errors import CheckpointError

COUNTER = "n_averaged"
MAX_DEPTH = 8
_WRAPPER = re.compile(
    r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_fpw_module|_checkpoint_wrapped_module|_forward_module)\."
)
_LAYER = re.compile(r"(?:.*?\.)??(?:conv1|bn1|layer[1-4])\.")


class Averaged(OrderedDict[str, Any]):
    """The state dict of a moving average, without its counter."""


@dataclass(frozen=True)
class Unwrapped:
    """A file without wrappers.

    Attributes:
        tree: as the file's, its state dicts without what wrappers had put into names.
        names: name as shown now → name in the file, for those that differ; with and without the keys above it.
        counters: the counters of averages that were taken out, as they are called in the file.
    """

    tree: Tree
    names: dict[str, str] = field(default_factory=dict)
    counters: list[str] = field(default_factory=list)


def unwrapped(tree: Tree) -> Unwrapped:
    """Take wrappers out of all names in nested dicts; training state is left as it is.

    Raises:
        CheckpointError: two names would become one.
    """
    found = Unwrapped({})
    plain = _unwrap(tree, (), found)
    return Unwrapped(plain, found.names, found.counters)


def without_wrappers(name: str) -> str:
    """`backbone._orig_mod.layer1.module.0.bn1.bias` → `backbone.layer1.0.bn1.bias`."""
    name = _WRAPPER.sub("", name)
    if ".module." in name and (layer := _LAYER.match(name)):
        rest = name[layer.end() :].split(".")
        return layer.group() + ".".join(part for part in rest if part != "module")
    return name


def _unwrap(weights: Mapping[Any, Any], path: tuple[str, ...], found: Unwrapped) -> Mapping[Any, Any]:
    """`weights` itself if no name changes in it or below."""
    fresh: OrderedDict[Any, Any] = OrderedDict()
    before: dict[Any, Any] = {}
    changed = False
    for key, value in weights.items():
        name = without_wrappers(key) if isinstance(key, str) and isinstance(value, torch.Tensor) else key
        inner = isinstance(value, Mapping) and isinstance(key, str) and len(path) < MAX_DEPTH
        if inner and (path or key not in TRAINING_STATE):
            value = _unwrap(value, (*path, key), found)
        if name in before:
            raise CheckpointError(
                "keeps two tensors whose names are one without what compile and parallel wrappers put into them",
                found=f"{before[name]} and {key}",
                todo="save one of the networks alone: torch.save({'state_dict': network.state_dict()}, 'backbone.pth')",
            )
        before[name] = key
        fresh[name] = value
        changed |= name != key or value is not weights[key]
    if _is_average(fresh):
        found.counters.append(".".join((*path, before[COUNTER])))
        before = {name.removeprefix("module."): key for name, key in before.items() if name != COUNTER}
        fresh = Averaged((name.removeprefix("module."), value) for name, value in fresh.items() if name != COUNTER)
        changed = True
    if not changed:
        return weights
    for name, key in before.items():
        if isinstance(name, str) and name != key:
            for depth in range(len(path) + 1):
                found.names[".".join((*path[depth:], name))] = ".".join((*path[depth:], key))
    if hasattr(weights, "_metadata"):  # where converted files carry what tensors cannot say
        fresh._metadata = weights._metadata  # type: ignore[attr-defined]
    return fresh


def _is_average(weights: Mapping[Any, Any]) -> bool:
    counter = weights.get(COUNTER)
    names = [name for name, value in weights.items() if name != COUNTER and holds_tensors(value)]
    return (
        isinstance(counter, torch.Tensor)
        and counter.numel() == 1
        and bool(names)
        and all(isinstance(name, str) and name.startswith("module.") for name in names)
    )
