"""No key of a native config may be set in vain.

MMDetection's classes check their arguments only where they take no `**kwargs`, and `train_cfg` and `test_cfg` are
plain dictionaries that everybody takes what they know from. So arguments are compared with constructors before
anything is built, and the two dictionaries remember what was read.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import mmcv.ops
from mmdet.registry import MODELS, TASK_UTILS
from torch import nn

from transfer.runtime.errors import EngineError

_NMS = {"type", "iou_threshold"}  # arguments of a function: mmcv/ops/nms.py, batched_nms
_NORM = {"requires_grad"}  # mmcv/cnn/bricks/norm.py, build_norm_layer
_INITIAL = "init_cfg"  # checked by nobody, and small: mmengine/model/weight_init.py


class Watched(dict[str, Any]):
    """A `train_cfg` or `test_cfg` whose keys are remembered when they are read.

    Dictionaries inside are watched too, except those that have a type: they become arguments.
    """

    def __init__(self, values: Mapping[str, Any], prefix: str, were_read: set[str] | None = None) -> None:
        self.prefix, self.were_read = prefix, set() if were_read is None else were_read
        super().__init__()
        for name, value in values.items():
            inside = isinstance(value, Mapping) and "type" not in value
            self[name] = Watched(value, f"{prefix}.{name}", self.were_read) if inside else value

    def __getitem__(self, name: str) -> Any:
        self.were_read.add(f"{self.prefix}.{name}")
        return super().__getitem__(name)

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(name)
        return self[name]

    def get(self, name: str, default: Any = None) -> Any:
        """`dict.get`, which counts as reading."""
        self.were_read.add(f"{self.prefix}.{name}")
        return super().get(name, default)

    def __deepcopy__(self, memo: dict[int, Any]) -> Watched:
        return self  # mmdet copies before it reads, and writes into none of ours

    def unread(self) -> Iterator[str]:
        """Full names of what nobody has read."""
        for name in self:
            full, value = f"{self.prefix}.{name}", super().__getitem__(name)
            if isinstance(value, Watched):
                yield from value.unread()
            elif full not in self.were_read:
                yield full


def watch(config: Any) -> Any:
    """A copy of a model's config whose `train_cfg` and `test_cfg` are watched.

    Raises:
        EngineError: a dictionary holds an argument that its class does not name.
    """
    dead = sorted(_unknown_arguments(config, "model"))
    if dead:
        raise _dead(dead)
    made = config.copy()
    for name in ("train_cfg", "test_cfg"):
        if name in made:
            made[name] = Watched(made[name], f"model.{name}")
    return made


def demand_read(model: Any) -> None:
    """To be called after the detector has computed losses and predictions once.

    Raises:
        EngineError: a key of `train_cfg` or `test_cfg` was read by nobody.
    """
    dead = [name for part in (model.train_cfg, model.test_cfg) if isinstance(part, Watched) for name in part.unread()]
    if dead:
        raise _dead(dead)


def _unknown_arguments(node: Any, path: str) -> Iterator[str]:
    if isinstance(node, (list, tuple)):
        for item in node:
            yield from _unknown_arguments(item, path)
    if not isinstance(node, Mapping):
        return
    if "type" in node:
        known = _named_arguments(node["type"])
        yield from (f"{path}.{name}" for name in node if name not in known)
    for name, value in node.items():
        if name != _INITIAL:
            yield from _unknown_arguments(value, f"{path}.{name}")


def _named_arguments(kind: str) -> set[str]:
    """Names of all arguments of a class, those included that it hands on to the classes it is made from."""
    if kind == "nms":
        return _NMS
    found = MODELS.get(kind) or TASK_UTILS.get(kind) or getattr(mmcv.ops, kind, None)
    if found is None:
        raise EngineError(f"MMDetection has no {kind}", todo="this is a fault of the program: please report it")
    names = {name for base in inspect.getmro(found) for name in _parameters(base)} | {"type"}
    return names | _NORM if issubclass(found, (nn.BatchNorm2d, nn.GroupNorm)) else names


def _parameters(base: type) -> set[str]:
    if "__init__" not in vars(base):
        return set()
    keywords = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        name for name, given in inspect.signature(vars(base)["__init__"]).parameters.items() if given.kind in keywords
    }


def _dead(names: list[str]) -> EngineError:
    return EngineError(
        "dead config keys: they are set in MMDetection's config, and nothing reads them",
        found=", ".join(names),
        todo="this is a fault of the program, nothing was trained: please report it",
    )
