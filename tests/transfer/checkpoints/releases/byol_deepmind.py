"""BYOL by its authors: haiku's parameters in a named tuple, pickled the way dill does it.

The classes here stand for those of haiku, dill and jax while a file is written: its pickle names the true globals.
"""

from __future__ import annotations

import copyreg
import re
import sys
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from checkpoint_files import State, Tree, without_fc

from releases import Refusal, Release
from transfer.checkpoints.families.resnet import is_optional

FIELDS = ("online_params", "target_params", "online_state", "target_state", "opt_state")
KINDS = {"weight": "scale", "bias": "offset", "running_mean": "mean_ema", "running_var": "var_ema"}


def _stand_in(module: str, name: str) -> Callable[..., Any]:
    """A function that is pickled under this name and never called."""

    def function(*_: object) -> None:
        raise AssertionError(f"{module}.{name} was called")

    function.__module__, function.__name__, function.__qualname__ = module, name, name
    return function


CREATE_NAMED_TUPLE = _stand_in("dill._dill", "_create_namedtuple")
CREATE_ARRAY = _stand_in("dill._dill", "_create_array")
RECONSTRUCT = _stand_in("jax._src.array", "_reconstruct_array")
FLAT_MAPPING = _stand_in("haiku._src.data_structures", "FlatMapping")
GLOBALS = (CREATE_NAMED_TUPLE, CREATE_ARRAY, RECONSTRUCT, FLAT_MAPPING)


class NamedTupleType(type):
    """The type of those classes that dill takes apart into name, fields and module."""


copyreg.pickle(NamedTupleType, lambda kind: (CREATE_NAMED_TUPLE, (kind.__name__, kind.fields, kind.module)))


class _NamedTuple(dict, metaclass=NamedTupleType):
    def __reduce_ex__(self, _: object) -> Any:
        return copyreg.__newobj__, (type(self), *(self[field] for field in self.fields))


class _ByolExperimentState(_NamedTuple):
    fields, module = FIELDS, "byol.byol_experiment"


class ScaleByLarsState(_NamedTuple):
    fields, module = ("mu",), "byol.utils.optimizers"


class AddWeightDecayState(_NamedTuple):
    fields, module = (), "byol.utils.optimizers"


class FlatMapping(dict):
    """haiku's immutable mapping, which pickles itself as a call with a dict."""

    def __reduce_ex__(self, _: object) -> Any:
        return FLAT_MAPPING, (dict(self),)


class DillArray(np.ndarray):
    """A numpy array as dill writes it."""

    def __reduce_ex__(self, _: object) -> Any:
        function, arguments, state = np.ndarray.__reduce__(self.view(np.ndarray))
        return CREATE_ARRAY, (function, arguments, state, None)


class JaxArray(np.ndarray):
    """An array on a device as jax writes it."""

    def __reduce_ex__(self, _: object) -> Any:
        function, arguments, state = np.ndarray.__reduce__(self.view(np.ndarray))
        return RECONSTRUCT, (function, arguments, state, {"weak_type": False})


class Checkpoint(dict):
    """A dict that may be pickled only while the modules that its pickle names are there."""

    def modules(self) -> Any:
        """A context in which they are."""
        found: dict[str, ModuleType] = {}
        for function in GLOBALS:
            parts = function.__module__.split(".")
            for path in (".".join(parts[:end]) for end in range(1, len(parts) + 1)):
                found.setdefault(path, ModuleType(path))
            setattr(found[function.__module__], function.__name__, function)
        return patch.dict(sys.modules, found)


@cache
def repeated(shape: tuple[int, ...], number: float) -> Any:
    """One array object for each shape, which a pickle holds once."""
    return np.full(shape, number, dtype=np.float32).view(DillArray)


def haiku_name(name: str, encoder: str = "res_net50", stem: str = "initial_conv") -> tuple[str, str]:
    """torchvision name → (module, name in it): parameters, or under `/~/mean_ema` and `/~/var_ema` the statistics."""
    layer, _, kind = name.rpartition(".")
    block = re.fullmatch(r"layer(\d)\.(\d+)\.(.+)", layer)
    start, inside = f"{encoder}/~/", block.group(3) if block else layer
    if block:
        start += f"block_group_{int(block.group(1)) - 1}/~/block_{block.group(2)}/~/"
    norm = "bn" in inside or inside == "downsample.1"
    if inside.startswith("downsample"):
        module = "shortcut_batchnorm" if norm else "shortcut_conv"
    elif block:
        module = f"{'batchnorm' if norm else 'conv'}_{int(inside[-1]) - 1}"
    else:
        module = "initial_batchnorm" if norm else stem
    if not norm:
        return start + module, "w"
    return (
        (start + module, KINDS[kind]) if kind in ("weight", "bias") else (f"{start}{module}/~/{KINDS[kind]}", "average")
    )


def as_haiku(name: str, tensor: torch.Tensor) -> Any:
    """Convolutions as HWIO, normalisation as 1×1×1×C."""
    turned = tensor.permute(2, 3, 1, 0) if tensor.dim() == 4 else tensor.reshape(1, 1, 1, -1)
    return turned.numpy().view(DillArray)


def mlp(params: dict[str, Any], stats: dict[str, Any], name: str, inputs: int) -> None:
    params[f"{name}/linear"] = {"b": repeated((4096,), 0.5), "w": repeated((inputs, 4096), 0.5)}
    params[f"{name}/batch_norm"] = {kind: repeated((1, 4096), 0.5) for kind in ("offset", "scale")}
    params[f"{name}/linear_1"] = {"w": repeated((4096, 256), 0.5)}
    for average in ("mean_ema", "var_ema"):
        stats[f"{name}/batch_norm/~/{average}"] = averages(repeated((1, 4096), 0.5))


def averages(value: Any) -> dict[str, Any]:
    """`hidden` is what it was before the correction, and must not be taken."""
    counter = np.array(1000, dtype=np.int32).view(DillArray)
    return {"average": value, "counter": counter, "hidden": repeated(value.shape, 0.125)}


def network(state: State, make: Callable[[str, torch.Tensor], Any], **names: str) -> tuple[Any, Any]:
    """(params, state) as haiku returns them."""
    params: dict[str, Any] = {}
    stats: dict[str, Any] = {}
    for name, tensor in without_fc(state).items():
        if is_optional(name):
            continue
        module, inside = haiku_name(name, **names)
        if inside == "average":
            stats[module] = averages(make(name, tensor))
        else:
            params.setdefault(module, {})[inside] = make(name, tensor)
    width = state["fc.weight"].shape[1]
    mlp(params, stats, "projector", width)
    mlp(params, stats, "predictor", 256)
    params["classifier"] = {"b": repeated((1000,), 0.5), "w": repeated((width, 1000), 0.5)}
    return tuple(FlatMapping({name: FlatMapping(inside) for name, inside in part.items()}) for part in (params, stats))


def build(state: State, **names: str) -> Tree:
    slow = lambda name, tensor: repeated(as_haiku(name, tensor).shape, 2.0)  # noqa: E731
    zero = lambda name, tensor: repeated(as_haiku(name, tensor).shape, 0.0)  # noqa: E731
    online, target = network(state, as_haiku, **names), network(state, slow, **names)
    momentum = network(state, zero, **names)[0]
    optimiser = (AddWeightDecayState(), ScaleByLarsState(mu=momentum), AddWeightDecayState())
    values = (online[0], target[0], online[1], target[1], optimiser)
    contents = {
        "experiment_state": _ByolExperimentState(zip(FIELDS, values, strict=True)),
        "step": 312500,
        "rng": np.array([1, 2], dtype=np.uint32).view(JaxArray),
    }
    return Checkpoint(contents)


def find(tree: Tree, name: str) -> tuple[dict[str, Any], str]:
    module, inside = haiku_name(name)
    part = "online_state" if inside == "average" else "online_params"
    return tree["experiment_state"][part][module], inside


def build_200(state: State) -> Tree:
    """Blocks that only a ResNet-200 has."""
    more = {name.replace("layer2.3.", "layer2.8."): tensor for name, tensor in state.items() if "layer2.3." in name}
    return build(state | more, encoder="res_net200")


RELEASES = {
    "byol_deepmind": Release(
        title="BYOL (DeepMind)",
        format="byol_deepmind",
        build=build,
        place=("experiment_state", "online_params"),
        key=lambda name: haiku_name(name)[0],
        find=find,
        source="google-deepmind/deepmind-research: byol/byol_experiment.py, byol/utils/checkpointing.py",
        container="pickle2",
        branch="online",
        others=("target",),
        same_padding=True,
        counters=False,
        lints=("same-padding",),
    )
}
REFUSED = {
    "byol_deepmind_200": Refusal(
        title="BYOL (DeepMind), ResNet-200 2×",
        build=build_200,
        says=("ResNet-200", "pretrain_res50x1.pkl"),
        source="google-deepmind/deepmind-research: byol/README.md",
        format="byol_deepmind",
        container="pickle2",
    )
}
