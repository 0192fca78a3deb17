"""A checkpoint written in the form that another program reads, and verified by reading it back."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from transfer.atomic import write_atomically
from transfer.backbone import Backbone
from transfer.checkpoint import read_backbone
from transfer.errors import CheckpointError
from transfer.export.detectron2 import to_detectron2
from transfer.export.mmdet import to_mmdet
from transfer.layout import CARRIED, carry


def to_torchvision(backbone: Backbone) -> OrderedDict[str, torch.Tensor]:
    """A bare state dict that `torchvision.models.resnet….load_state_dict` takes, `fc` aside.

    The normalisation of pixels rides along in the mapping's `_metadata`, where PyTorch keeps the versions of modules.

    Raises:
        CheckpointError: the stride sits in the 1×1 convolutions, where torchvision's ResNet never has it.
    """
    if backbone.stride_in_1x1:
        raise CheckpointError(
            f"{backbone.source.path} has its strides in the 1×1 convolutions: torchvision's ResNet would load it and "
            "compute something else",
            todo="convert it to detectron2 or mmdet, which can build such a ResNet",
        )
    state = OrderedDict(backbone.state)
    state._metadata = {CARRIED: carry(backbone.input, backbone.stride_in_1x1)}  # type: ignore[attr-defined]
    return state


def _with_input(content: dict[str, Any], backbone: Backbone) -> dict[str, Any]:
    return content | {CARRIED: carry(backbone.input, backbone.stride_in_1x1)}


def _writer(backbone: Backbone, to: str) -> Callable[[BinaryIO], object]:
    if to == "detectron2":
        arrays = _with_input(to_detectron2(backbone), backbone)
        # Protocol 4: protocol 2 writes bytes as UTF-8 text, half as large again.
        return lambda file: pickle.dump(arrays, file, protocol=4)
    content = to_torchvision(backbone) if to == "torchvision" else _with_input(to_mmdet(backbone), backbone)
    # Through memory: torch.save on a file reports a full disk as an internal error of its zip writer.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return lambda file: file.write(buffer.getbuffer())


TARGETS = ("torchvision", "detectron2", "mmdet")


def convert(
    path: str | Path,
    to: str,
    out: str | Path,
    *,
    format: str | None = None,
    branch: str | None = None,
    allow_half: bool = False,
) -> str:
    """Write the backbone of `path` to `out` as `to` ("torchvision", "detectron2" or "mmdet").

    The file appears whole or not at all; it is then read back and compared tensor by tensor.

    Returns:
        A summary for people.

    Raises:
        CheckpointError: `path` cannot be read, `to` is unknown, or `out` is `path` itself or has the wrong ending.
        UserError: `out` cannot be written.
    """
    path, out = Path(path), Path(out)
    _check_target(path, to, out)
    backbone = read_backbone(path, format=format, branch=branch, allow_half=allow_half)
    write_atomically(out, _writer(backbone, to))
    written = read_backbone(out, format=to)
    _compare(backbone, written, out)
    dropped = sum(len(group.names) for group in backbone.dropped)
    lines = [
        f"wrote {out} ({out.stat().st_size:,} bytes, sha256 {written.source.sha256})",
        f"{backbone.arch}: {written.tensor_count} of {backbone.tensor_count} tensors, read back and found equal; "
        f"{dropped} entries of the source were left out",
        *(f"note: {note}" for note in backbone.notes),
    ]
    return "\n".join(lines)


def _check_target(path: Path, to: str, out: Path) -> None:
    if to not in TARGETS:
        raise CheckpointError(f"cannot convert to {to!r}", todo=f"choose one of {', '.join(TARGETS)}")
    if out.is_dir():
        raise CheckpointError(f"{out} is a folder", todo=f"name the file to write, for example {out / 'backbone.pth'}")
    if out.exists() and path.exists() and out.samefile(path):
        raise CheckpointError(f"{out} is the input file itself", todo="write to another name with -o")
    # Detectron2 chooses how to read a file by its ending (detectron2/checkpoint/detection_checkpoint.py).
    if (out.suffix == ".pkl") != (to == "detectron2"):
        ending = "end in .pkl" if to == "detectron2" else "not end in .pkl; .pth is usual"
        raise CheckpointError(f"{out} has the wrong ending for {to}", todo=f"the name must {ending}")


def _compare(backbone: Backbone, written: Backbone, out: Path) -> None:
    same = written.state.keys() == backbone.state.keys() and all(
        torch.equal(tensor, written.state[name]) for name, tensor in backbone.state.items()
    )
    meant = (backbone.arch, backbone.input, backbone.stride_in_1x1)
    if not same or (written.arch, written.input, written.stride_in_1x1) != meant:
        out.unlink()
        raise CheckpointError(f"{out} did not read back as it was written, and was removed", todo="check the disk")
