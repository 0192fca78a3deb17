"""What holds no network: other frameworks' files, torn torch files, optimisers alone; and the line to type instead.

What is said of a file is read from its first bytes (ONNX: onnx/onnx.proto, `ModelProto`; TensorFlow Lite's identifier)
or, where nothing else tells, from its name; what is said of a torch file, from the keys in it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from transfer.checkpoints.rules import TRAINING_STATE, Tree, holds_tensors, key_name
from transfer.runtime.errors import CheckpointError

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
_MAGIC = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file it points to: run `git lfs pull`"),
    (b"\x93NUMPY", "a single numpy array"),
    (b"\xfd7zXZ", "an xz archive: unpack it with `xz -d`"),
    (b"BZh", "a bzip2 archive: unpack it with `bzip2 -d`"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive: unpack it with `zstd -d`"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"%PDF", "a PDF document"),
    (b"\x7fELF", "a program"),
)


def describe(head: bytes, name: str) -> tuple[str, str]:
    """(what a file is that is no checkpoint, what to do)."""
    again = "download or copy the checkpoint itself again"
    if known := foreign_file(head, name):
        return known
    if not head:
        return "an empty file", again
    if head.startswith(b"\x1f\x8b"):
        return "a gzip file inside a gzip file", "unpack it once with `gzip -d`"
    for magic, words in _MAGIC:
        if head.startswith(magic):
            what, _, todo = words.partition(": ")
            return what, todo or again
    if head[257:262] == b"ustar":
        return "a tar archive", "unpack it with `tar -xf` and name a file inside"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--")):
        return (
            "an HTML page: the download link led to a web page",
            f"look into it, it may say why; then download the file itself again: curl -fL -o {name} URL",
        )
    if text.startswith((b"{", b"[")):
        return "a JSON file: an index or a configuration, not the weights", "name the file that holds the weights"
    if all(byte >= 32 or byte in b"\t\r\n\f" for byte in head):
        return f"a text file that begins {head[:60].decode(errors='replace')!r}", again
    return f"unknown contents that begin {head[:8].hex(' ')}", again


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


def refuse_without_network(tree: Tree) -> None:
    """Raise `CheckpointError` for an empty dict, settings without tensors and the state of an optimiser alone."""
    if not holds_tensors(tree):
        keys = ", ".join(key_name(key)[:40] for key in list(tree)[:6])
        raise CheckpointError(
            "holds settings or counters and not a single tensor" if tree else "is an empty dict",
            found=f"keys: {keys}" if tree else "nothing was in the dict that was saved",
            todo="save the weights: torch.save({'state_dict': model.state_dict()}, 'weights.pth')",
        )
    training = [key_name(key) for key, value in tree.items() if _is_optimiser(value) or key in TRAINING_STATE]
    rest = {key: value for key, value in tree.items() if key_name(key) not in training}
    if _is_optimiser(tree) or not holds_tensors(rest):
        raise CheckpointError(
            "holds the state of an optimiser and no network",
            found="`state` and `param_groups`" if _is_optimiser(tree) else f"under {', '.join(training)}",
            todo="name the file that holds the model's state dict (its training wrote it beside this one), or save it: "
            "torch.save({'state_dict': model.state_dict()}, 'weights.pth')",
        )


def _is_optimiser(value: object) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("param_groups"), list) and "state" in value
