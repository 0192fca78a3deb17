"""What is in a checkpoint file, in words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transfer.checkpoints.backbone import Backbone, Lint
from transfer.checkpoints.container import Contents, read_contents
from transfer.checkpoints.families import family_of
from transfer.checkpoints.formats import all_formats, first_keys, opinions, reasons
from transfer.checkpoints.lints import compare_channels
from transfer.checkpoints.read import backbone_from, read_backbone
from transfer.checkpoints.rules import Match
from transfer.runtime.errors import CheckpointError


@dataclass(frozen=True)
class Description:
    """What `python -m transfer inspect` prints, and whether a backbone could be made of the file."""

    text: str
    complete: bool


def examine(
    path: str | Path,
    *,
    format: str | None = None,
    branch: str | None = None,
    allow_half: bool = False,
    prefix: str | None = None,
    reference: str | Path | None = None,
    every: bool = False,
) -> Description:
    """For `python -m transfer inspect`: file, formats, backbone with what is used and dropped, notes, lints.

    A file that can be opened is described even if no backbone can be made of it; the reason is then part of the text.

    Args:
        path: the checkpoint.
        format, branch, prefix, allow_half: see `transfer.checkpoints.read.read_backbone`.
        reference: a file of the same network whose channel order is known, to compare the first convolution with.
        every: say of every format why it does not recognise the file, not of the nearest three alone.

    Raises:
        CheckpointError: the file cannot be opened, or is no checkpoint at all; the reference cannot be read.
    """
    path = Path(path)
    contents = read_contents(path)
    try:
        backbone = backbone_from(contents, path, format=format, branch=branch, prefix=prefix, allow_half=allow_half)
    except CheckpointError as error:
        lines = [*_file(path, contents), *_formats(contents, every), "", f"no backbone: {error}"]
        return Description("\n".join(lines), complete=False)
    if reference is not None:
        found = compare_channels(backbone, read_backbone(reference))
        stem = family_of(backbone.arch).stem.removesuffix(".weight")
        agreed = Lint("channels", f"{stem} agrees with the reference's: {backbone.input.channels}")
        backbone = backbone.with_lints(found or (agreed,))
    lines = [*_file(path, contents), *_formats(contents, every), *_backbone(backbone)]
    return Description("\n".join(lines), complete=True)


def _file(path: Path, contents: Contents) -> list[str]:
    return [
        _line("file", path),
        _line("size", f"{contents.size:,} bytes"),
        _line("sha256", contents.sha256),
        _line("container", contents.container),
    ]


def _formats(contents: Contents, every: bool) -> list[str]:
    try:
        views = opinions(contents.tree)
    except CheckpointError:  # the reason is said below
        return []
    declined = [_line("", reason) for reason in reasons(contents.tree)] if every else []
    lines = [_line("format", f"{name} ({view.description})") for name, view in views.items() if isinstance(view, Match)]
    keys = first_keys(contents.tree).split("\n")
    # where no format fits, or two, the error that follows shows the keys and the reasons
    shown = [_line("" if row else "keys", line) for row, line in enumerate(keys)] if len(lines) == 1 else []
    return declined + lines + shown


def _backbone(backbone: Backbone) -> list[str]:
    spec = backbone.input
    values = sum(tensor.numel() for tensor in backbone.state.values())
    stride = "its first 1×1 convolution (Caffe)" if backbone.stride_in_1x1 else "its 3×3 convolution (torchvision)"
    lines = [
        _line("read as", f"{backbone.source.format}, branch {_branch(backbone)}"),
        _line("architecture", backbone.arch),
        _line("used", f"{backbone.tensor_count} tensors, {values:,} values"),
    ]
    for group in backbone.dropped:
        shown = ", ".join(group.names[:3]) + (" …" if len(group.names) > 3 else "")
        lines.append(_line("dropped", f"{len(group.names)}: {group.reason} ({shown})"))
    mean, std = (" ".join(f"{value:g}" for value in values) for values in (spec.mean, spec.std))
    lines.append(_line("input", f"{spec.channels}, 0 to {spec.value_range:g}, mean {mean}, std {std}"))
    if family_of(backbone.arch).name == "resnet":
        lines.append(_line("stride", f"a stage's stride sits in {stride}"))
    lines += [_line(label, text) for label, text in family_of(backbone.arch).facts(backbone.arch).items()]
    lines += [_line("note", note) for note in backbone.notes]
    return lines + [_line("lint", f"{lint.code}: {lint.text}") for lint in backbone.lints]


def _branch(backbone: Backbone) -> str:
    taken = backbone.source.branch
    name = taken.partition(" as ")[0]
    others = [branch for branch in all_formats()[backbone.source.format].branches if branch != name]
    return f"{taken} (another one: --branch {' or '.join(others)})" if name != "only" and others else taken


def _line(label: str, text: object) -> str:
    return f"{label:<13}{text}"
