"""What was read, with nothing on it that could answer in the place of a dict or a tensor.

A pickle may give an `OrderedDict` or a tensor attributes, PyTorch's safe reader included. An attribute called `items`
or `detach` hides the method of that name, and the file would say one thing to one reader and another to the next.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

from transfer.runtime.errors import CheckpointError

# `state_dict()` keeps the versions of modules there, and converted files what tensors cannot say.
KEPT = "_metadata"


def make_plain(tree: object, path: Path) -> None:
    """Take every attribute off every dict and tensor of nested containers, in place, `_metadata` of a dict aside.

    Raises:
        CheckpointError: a tensor has no values or no shape, so that nothing could be asked of it.
    """
    waiting: list[tuple[str, Any]] = [("", tree)]
    seen = set()
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, torch.Tensor):
            _demand_values(name, value, path)
            vars(value).clear()
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, OrderedDict):
                for attribute in [key for key in vars(value) if key != KEPT]:
                    del vars(value)[attribute]
                waiting.append((KEPT, vars(value).get(KEPT)))
            inside = dict.items(value) if isinstance(value, dict) else ((name, item) for item in value)
            waiting.extend((key if isinstance(key, str) else name, item) for key, item in inside)


def _demand_values(name: str, tensor: torch.Tensor, path: Path) -> None:
    kind = "nested" if tensor.is_nested else "without values" if tensor.is_meta else ""
    kind = kind or ("" if tensor.layout in (torch.strided, torch.jagged) else "sparse")
    if kind:
        raise CheckpointError(
            f"{path}: {name[:80]} is a {'tensor without values' if tensor.is_meta else f'{kind} tensor'}",
            todo="save dense float32 weights: {k: v.to_dense() for k, v in …}",
        )
