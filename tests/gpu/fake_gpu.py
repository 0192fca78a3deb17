"""A device that computes no number: shapes, types and devices are followed, and every wait for it is counted.

It is PyTorch's "meta" device. What a GPU would refuse and that device lets pass, tensors of two devices in one
operation, is refused here.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROOT = Path(__file__).resolve().parents[2]
GPU = torch.device("meta")
# A GPU takes indices from the CPU, and copies from one device to the other.
BETWEEN = ("aten._to_copy", "aten.copy_", "aten.index", "aten.set_", "aten.lift", "aten._index_put_impl")


class Waits(TorchDispatchMode):
    """Where the program asked the device for a number, and so waited for all that it had been given to do.

    The number is made up: 1, or true; false for lines that have one of the words of `no` in them.

    Attributes:
        places: "file: code" of our own innermost line, one entry a wait.
        autocast: the device types that mixed precision was asked for.
    """

    def __init__(self, no: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.no = no
        self.places: list[str] = []
        self.autocast: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = str(func), kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not name.startswith(BETWEEN) and len({t.device for t in tensors if t.ndim or t.is_meta}) > 1:
            raise RuntimeError(f"{name} of tensors on different devices, at {_our_line()}")
        if name.startswith(("aten._local_scalar_dense", "aten.equal")) and args[0].is_meta:
            self.places.append(_our_line())
            kind = args[0].dtype
            if kind is torch.bool or name.startswith("aten.equal"):
                return not any(word in self.places[-1] for word in self.no)
            return 1.0 if kind.is_floating_point else 1
        if name.startswith("aten._to_copy") and args[0].is_meta and kwargs.get("device", GPU) != GPU:
            self.places.append(_our_line())
            return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        return func(*args, **kwargs)


def _our_line() -> str:
    """The innermost line of the project that is not this folder's."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if path.is_relative_to(ROOT) and not {".venv", "gpu"} & set(path.relative_to(ROOT).parts):
            return f"{path.relative_to(ROOT)}: {(frame.line or '').strip()}"
    return "a test"


@contextmanager
def fake_gpu(*no: str) -> Iterator[Waits]:
    """Gives the waits that the block causes on `GPU`. Mixed precision, which that device has not, changes nothing."""
    waits = Waits(no)

    def autocast(device_type: str, *_: Any, **__: Any) -> AbstractContextManager[None]:
        waits.autocast.add(device_type)
        return nullcontext()

    with mock.patch.object(torch, "autocast", autocast), waits:
        yield waits
