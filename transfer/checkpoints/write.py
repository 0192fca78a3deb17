"""A checkpoint written in the form that another program reads, and verified by reading it back.

Nothing is held twice: tensors go to the file one after the other, and what was written is compared with what was read
by a hash per tensor, so the peak of memory is one copy of the source file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from transfer.checkpoints.backbone import Backbone
from transfer.checkpoints.families import family_of
from transfer.checkpoints.formats import all_formats
from transfer.checkpoints.read import read_backbone
from transfer.checkpoints.rules import Target
from transfer.checkpoints.safetensors_files import bytes_of
from transfer.runtime.errors import CheckpointError

# What --to names → family of backbones → how it is written, and the format that reads it back
WRITERS: Mapping[str, Mapping[str, tuple[Target, str]]] = {
    to: {
        family: (target, form.name)
        for form in all_formats().values()
        for name, target in form.targets.items()
        for family in target.families
        if name == to
    }
    for to in dict.fromkeys(to for form in all_formats().values() for to in form.targets)
}
TARGETS: Mapping[str, Target] = {to: next(iter(writers.values()))[0] for to, writers in WRITERS.items()}


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
    target, reader = _writer(backbone, to)
    target.write(backbone, out)
    wanted = _Fingerprint.of(backbone)
    remarks = backbone.remarks()
    dropped = sum(len(group.names) for group in backbone.dropped)
    del backbone  # so that the file read back takes its place in memory
    written = read_backbone(out, format=reader)
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


def _writer(backbone: Backbone, to: str) -> tuple[Target, str]:
    family = family_of(backbone.arch).name
    if family not in WRITERS[to]:
        can = [name for name, writers in WRITERS.items() if family in writers]
        raise CheckpointError(
            f"{backbone.source.path} is a {backbone.arch}, and {to} has no such network that it could be written for",
            todo=f"choose --to {' or --to '.join(can)}",
        )
    return WRITERS[to][family]


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
    wanted, special = TARGETS[to].suffix, {target.suffix for target in TARGETS.values()} - {Target.suffix}
    if out.suffix != wanted if wanted in special else out.suffix in special:
        ending = f"end in {wanted}" if wanted in special else f"not end in {out.suffix}; {wanted} is usual"
        raise CheckpointError(f"{out} has the wrong ending for {to}", todo=f"the name must {ending}")
