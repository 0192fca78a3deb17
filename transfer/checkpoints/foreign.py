"""Files of other frameworks, and torch files that were taken apart: what they are, and the line to type.

What is said of a file is read from its first bytes (ONNX: onnx/onnx.proto, `ModelProto`; TensorFlow Lite's identifier)
or, where nothing else tells, from its name.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

_EXPORT = (
    "its exporter folded the batch normalisations into the convolutions, so the weights cannot be taken back out; name "
    "the PyTorch checkpoint that it was exported from, or save one: "
    "torch.save({'state_dict': model.state_dict()}, 'weights.pth')"
)
_TENSORFLOW = (
    "convert it to PyTorch first (for SimCLR: the converters tonylins/simclr-converter and "
    "Separius/SimCLRv2-Pytorch) and name the file that they write"
)
_KERAS = (
    "open it in Keras and save its arrays, each under torchvision's name and with the axes of a kernel turned from "
    "HWIO to OIHW: torch.save({name: torch.from_numpy(array)}, 'weights.pth')"
)


def foreign_file(head: bytes, name: str) -> tuple[str, str] | None:
    """(what a file is that begins with `head`, what to type); None if it is nothing that is known here."""
    if re.search(r"\.(?:index|meta|data-\d{5}-of-\d{5})$", name):
        return "by its name a part of a TensorFlow checkpoint, which is not read", _TENSORFLOW
    if re.search(r"\.onnx[._]data$", name):
        return "by its name the external data of an ONNX model, which is not read", _EXPORT
    # field 1 (the version of the format), then the name of the producer, a text, the graph, or the operators' versions
    if re.match(rb"\x08[\x01-\x1f][\x12\x1a\x22\x3a\x42]", head) or name.endswith(".onnx"):
        return "an ONNX model, which is not read", _EXPORT
    if head.startswith(b"\x89HDF"):
        return "an HDF5 file (Keras weights): TensorFlow and Keras files are not read", _KERAS
    if name.endswith(".pb"):
        return "by its name a graph or SavedModel of TensorFlow, which is not read", _TENSORFLOW
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model, which is not read", _TENSORFLOW
    if head.startswith(b"model_checkpoint_path:"):
        return "TensorFlow's list of checkpoints, not one of them", _TENSORFLOW
    return None


def foreign_folder(folder: Path) -> tuple[str, str] | None:
    """(what a folder is, what to type); None if it is nothing that is known here."""
    for root in (folder, *sorted(inner for inner in folder.iterdir() if inner.is_dir())):
        if (root / "data.pkl").is_file() and (root / "data").is_dir():
            out = shlex.quote(str(folder.absolute().parent / f"{folder.absolute().name}_zipped.pth"))
            place = root.absolute()
            line = f"(cd {shlex.quote(str(place.parent))} && zip -0rDq {out} {shlex.quote(place.name)})"
            return "a torch file that was unpacked as if it were an archive", f"put it together again: {line}"
    if (folder / "saved_model.pb").is_file():
        return "a SavedModel of TensorFlow, which is not read", _TENSORFLOW
    if any(folder.glob("*.index")) and any(folder.glob("*.data-*-of-*")):
        return "a folder with a TensorFlow checkpoint, which is not read", _TENSORFLOW
    if (folder / ".metadata").is_file() and any(folder.glob("*.distcp")):
        line = (
            f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {shlex.quote(str(folder))} weights.pth"
        )
        return "a sharded checkpoint of torch.distributed.checkpoint", f"write it as one file: {line}"
    return None


def foreign_archive(path: Path, names: Sequence[str], compressed: bool) -> tuple[str, str] | None:
    """(what a zip archive with these files is, what to type); None for one that torch wrote, and for others."""
    if "config.json" in names and any(name.endswith("model.weights.h5") for name in names):
        return "a model that Keras saved (.keras), which is not read", _KERAS
    if names and all(name.endswith(".npy") for name in names):
        line = "torch.save({k: torch.from_numpy(v) for k, v in numpy.load(FILE).items()}, 'weights.pth')"
        return "arrays that numpy saved (.npz)", line
    pickles = [name for name in names if name.rpartition("/")[2] == "data.pkl" and not name.startswith("__MACOSX/")]
    program = any(name.endswith("/constants.pkl") or "/code/" in name for name in names)
    if len(pickles) != 1 or program:  # TorchScript compresses its code; who reads torch's files says what it is
        return None
    root = pickles[0].rpartition("/")[0]
    foreign = [name for name in names if not name.startswith(f"{root}/")]
    if root and "/" not in root and not foreign and not compressed:
        return None
    why = "compressed" if compressed else "with another folder around its parts" if root else "without its folder"
    parent, _, last = f"unpacked/{root or 'archive'}".rpartition("/")
    into = "unpacked" if root else "unpacked/archive"
    out = shlex.quote(str(path.absolute().with_name(f"{path.stem}_again.pth")))
    taken_out = f"mkdir -p {into} && unzip -q {shlex.quote(str(path))} -d {into}"
    line = f"{taken_out} && (cd {shlex.quote(parent)} && zip -0rDq {out} {shlex.quote(last)})"
    return f"a torch file that was unpacked and zipped again, {why}", f"zip it as torch does: {line}"
