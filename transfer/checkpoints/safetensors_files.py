"""safetensors files, read and written tensor by tensor, so that nothing is in memory twice.

The format (huggingface/safetensors: README.md, "Format"): the length of the header in eight bytes, the header in JSON
(name → dtype, shape, offsets), the tensors one after the other. The library's own reader maps the file and copies out
of the map, its writer copies all tensors first; each then holds two of everything. Its checks of a header are used.
"""

from __future__ import annotations

import json
import math
import struct
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open

_KINDS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
}


def read_safetensors(path: Path) -> tuple[OrderedDict[str, torch.Tensor], dict[str, str]]:
    """(name → tensor with memory of its own, the file's metadata).

    Raises:
        safetensors.SafetensorError: the header is no header, or its offsets do not fit the file.
        EOFError: the file became shorter while it was read.
    """
    tensors: OrderedDict[str, torch.Tensor] = OrderedDict()
    with safe_open(str(path), framework="pt", device="cpu") as checked, path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = json.loads(file.read(length))
        for name in checked.keys():  # noqa: SIM118 - not a dict
            kind = _KINDS.get(header[name]["dtype"])
            # Other kinds hold no weights: whatever the library makes of them is named in the refusal.
            tensors[name] = checked.get_tensor(name) if kind is None else _read(file, header[name], kind, 8 + length)
        return tensors, dict(checked.metadata() or {})


def _read(file: BinaryIO, entry: Mapping[str, Any], kind: torch.dtype, start: int) -> torch.Tensor:
    flat = torch.empty(math.prod(entry["shape"]), dtype=kind)
    file.seek(start + entry["data_offsets"][0])
    memory = bytes_of(flat)
    if file.readinto(memory) != len(memory):  # type: ignore[attr-defined]  # a file opened by Path.open has it
        raise EOFError("the file ends within a tensor")
    return flat.reshape(entry["shape"])


def write_safetensors(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str], file: BinaryIO) -> None:
    """Write float32 and int64 tensors, and plain text beside them."""
    names = {kind: name for name, kind in _KINDS.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for tensor in tensors.values():
        file.write(bytes_of(tensor))


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor, not copied."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data
