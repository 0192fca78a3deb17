"""A checkpoint written in the form that another program reads, and verified by reading it back.

Nothing is held twice: tensors go to the file one after the other, and what was written is compared with what was read
by a hash per tensor, so the peak of memory is one copy of the source file.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from transfer.checkpoints.architectures import architecture
from transfer.checkpoints.backbone import Backbone
from transfer.checkpoints.read import read_backbone
from transfer.checkpoints.safetensors_files import bytes_of, write_safetensors
from transfer.checkpoints.to_detectron2 import write_detectron2
from transfer.checkpoints.to_mmdet import to_mmdet
from transfer.checkpoints.unseen import CARRIED, carry
from transfer.runtime.errors import CheckpointError
from transfer.runtime.files import save_torch, write_atomically

# Target → the format that reads it back.
TARGETS = {
    "torchvision": "torchvision",
    "timm": "torchvision",
    "detectron2": "detectron2",
    "mmdet": "mmdet",
    "safetensors": "torchvision",
}
_SUFFIXES = {"detectron2": ".pkl", "safetensors": ".safetensors"}


def usual_suffix(to: str) -> str:
    """The ending that a file for `to` has: Detectron2 and safetensors' readers go by it."""
    return _SUFFIXES.get(to, ".pth")


def to_torchvision(backbone: Backbone, program: str = "torchvision") -> OrderedDict[str, torch.Tensor]:
    """A bare state dict that `torchvision.models.resnet….load_state_dict` takes, `fc` aside; timm's names are the same.

    The normalisation of pixels rides along in the mapping's `_metadata`, where PyTorch keeps the versions of modules.

    Raises:
        CheckpointError: `program` never builds such a ResNet: the stride sits in the 1×1 convolutions, or the stem and
            all stages are widened.
    """
    if backbone.stride_in_1x1 and not architecture(backbone.arch).basic:
        raise CheckpointError(
            f"{backbone.source.path} has its strides in the 1×1 convolutions: {program}'s ResNet would load it and "
            "compute something else",
            todo="convert it to detectron2 or mmdet, which can build such a ResNet",
        )
    if architecture(backbone.arch).width != 1 and program == "timm":
        raise CheckpointError(
            f"{backbone.source.path} is a {backbone.arch}, which timm has no model for",
            todo="convert it to detectron2 or mmdet, which can build it, or to safetensors",
        )
    state = OrderedDict(backbone.state)
    state._metadata = {CARRIED: carry(backbone)}  # type: ignore[attr-defined]
    return state


def _write(backbone: Backbone, to: str, out: Path) -> None:
    unseen = {CARRIED: carry(backbone)}
    if to == "detectron2":
        write_detectron2(backbone, out, beside=unseen)
    elif to == "safetensors":
        metadata = {CARRIED: json.dumps(carry(backbone))}
        write_atomically(out, lambda file: write_safetensors(backbone.state, metadata, file))
    else:
        save_torch(to_mmdet(backbone, copy=False) | unseen if to == "mmdet" else to_torchvision(backbone, to), out)


def convert(
    path: str | Path,
    to: str,
    out: str | Path,
    *,
    format: str | None = None,
    branch: str | None = None,
    prefix: str | None = None,
    allow_half: bool = False,
) -> str:
    """Write the backbone of `path` to `out` as `to`, one of `TARGETS`.

    The file appears whole or not at all; it is then read back and compared tensor by tensor.

    Returns:
        A summary for people.

    Raises:
        CheckpointError: `path` cannot be read, `to` is unknown or cannot hold this backbone, or `out` is `path` itself
            or has the wrong ending.
        UserError: `out` cannot be written.
    """
    path, out = Path(path), Path(out)
    _check_target(path, to, out)
    backbone = read_backbone(path, format=format, branch=branch, prefix=prefix, allow_half=allow_half)
    _write(backbone, to, out)
    wanted = _Fingerprint.of(backbone)
    remarks = backbone.remarks()
    dropped = sum(len(group.names) for group in backbone.dropped)
    del backbone  # so that the file read back takes its place in memory
    written = read_backbone(out, format=TARGETS[to])
    if _Fingerprint.of(written) != wanted:
        out.unlink()
        raise CheckpointError(f"{out} did not read back as it was written, and was removed", todo="check the disk")
    lines = [
        f"wrote {out} ({out.stat().st_size:,} bytes, sha256 {written.source.sha256})",
        f"{written.arch}: {written.tensor_count} of {len(wanted.tensors)} tensors, read back and found equal; "
        f"{dropped} entries of the source were left out",
        *(f"note: {remark}" for remark in remarks),
    ]
    return "\n".join(lines)


@dataclass(frozen=True)
class _Fingerprint:
    """What must survive a conversion: every tensor's hash, and what the tensors cannot say."""

    tensors: Mapping[str, str]
    facts: tuple[object, ...]

    @classmethod
    def of(cls, backbone: Backbone) -> _Fingerprint:
        hashes = {name: hashlib.sha256(bytes_of(tensor)).hexdigest() for name, tensor in backbone.state.items()}
        return cls(hashes, (backbone.arch, backbone.input, backbone.stride_in_1x1, backbone.same_padding))


def _check_target(path: Path, to: str, out: Path) -> None:
    if to not in TARGETS:
        raise CheckpointError(f"cannot convert to {to!r}", todo=f"choose one of {', '.join(TARGETS)}")
    if out.is_dir():
        raise CheckpointError(f"{out} is a folder", todo=f"name the file to write, for example {out / 'backbone.pth'}")
    if out.exists() and not out.is_file():
        raise CheckpointError(f"{out} is a device or a pipe, and a file would take its place", todo="name a file")
    if out.exists() and path.exists() and out.samefile(path):
        raise CheckpointError(f"{out} is the input file itself", todo="write to another name with -o")
    # Detectron2 chooses how to read a file by its ending (detectron2/checkpoint/detection_checkpoint.py), and so do
    # most loaders of safetensors.
    special = [suffix for suffix in _SUFFIXES.values() if suffix == out.suffix]
    if special != [_SUFFIXES[to]] if to in _SUFFIXES else special:
        ending = f"end in {_SUFFIXES[to]}" if to in _SUFFIXES else f"not end in {out.suffix}; .pth is usual"
        raise CheckpointError(f"{out} has the wrong ending for {to}", todo=f"the name must {ending}")
