"""From any supported file to a `Backbone`: read safely, recognise the format, take everything or refuse."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch

from transfer.checkpoints.backbone import Backbone, Dropped, Source, check_names
from transfer.checkpoints.container import Contents, read_contents
from transfer.checkpoints.families import families, family_of_names, is_optional
from transfer.checkpoints.formats import all_formats, choose, recognised
from transfer.checkpoints.formats.prefix import NAME as PREFIX
from transfer.checkpoints.formats.prefix import options, take
from transfer.checkpoints.lints import lints_of, told_by_name
from transfer.checkpoints.rules import Extracted, Format, LeftOver, Tree
from transfer.checkpoints.wrappers import Unwrapped, unwrapped
from transfer.runtime.errors import CheckpointError

HALF = (torch.float16, torch.bfloat16)


def read_backbone(
    path: str | Path,
    *,
    format: str | None = None,
    branch: str | None = None,
    prefix: str | None = None,
    allow_half: bool = False,
) -> Backbone:
    """Read a checkpoint.

    Args:
        path: torch, safetensors or pickle file, possibly gzip'd.
        format: name of the format, if none or more than one recognises the file.
        branch: which network to take where the file holds several; the format's default if None.
        prefix: what the names of the network begin with that is to be taken; everything else is dropped.
        allow_half: accept float16 and bfloat16 weights and widen them to float32.

    Returns:
        A complete backbone in float32 whose tensors own their memory.

    Raises:
        CheckpointError: the file cannot be read, is not recognised, or does not fill a supported network exactly.
    """
    path = Path(path)
    contents = read_contents(path)
    return backbone_from(contents, path, format=format, branch=branch, prefix=prefix, allow_half=allow_half)


def backbone_from(
    contents: Contents,
    path: Path,
    *,
    format: str | None = None,
    branch: str | None = None,
    prefix: str | None = None,
    allow_half: bool = False,
) -> Backbone:
    """The second half of `read_backbone`, for contents that have been read."""
    form, extracted = extract_from(contents, path, format=format, branch=branch, prefix=prefix)
    arch = _architecture(extracted, path)
    check_names(arch, extracted.state, str(path))  # before anything is copied
    state, notes = settle(extracted.state, path, allow_half=allow_half)
    taken, asked = _as_asked(contents, form, extracted.branch, format)
    backbone = Backbone(
        arch=arch,
        state=state,
        input=extracted.input,
        source=Source(path=str(path), sha256=contents.sha256, format=form.name, branch=taken),
        stride_in_1x1=extracted.stride_in_1x1,
        same_padding=extracted.same_padding,
        dropped=extracted.dropped,
        notes=extracted.notes + notes + asked,
        lints=extracted.lints,
    )
    # what the format has said of its own files is not said again in general words
    said = {lint.code for lint in backbone.lints}
    lints = (*lints_of(backbone), *(told_by_name(path.name, backbone.arch) if form.told_by_name else ()))
    return backbone.with_lints(tuple(lint for lint in lints if lint.code not in said))


def _as_asked(contents: Contents, form: Format, branch: str, forced: str | None) -> tuple[str, tuple[str, ...]]:
    """(branch, note) of a file that is read otherwise than it would be without --format.

    Another format may feed the same tensors other pixels. A run is named by the file's hash and the branch, so the
    branch has to say it, or one reading's finished run would answer for the other.
    """
    if forced is None or recognised(contents.tree) == [forced]:
        return branch, ()
    return f"{branch} as {form.name}", (f"read as {form.name} because --format asked for it",)


def extract_from(
    contents: Contents,
    path: Path,
    *,
    format: str | None = None,
    branch: str | None = None,
    prefix: str | None = None,
) -> tuple[Format, Extracted]:
    """The format that fits and what it takes out; its errors are given the file's name."""
    tree: Tree = contents.tree
    try:
        plain = unwrapped(tree)
        tree = plain.tree
        if prefix is None:
            form = choose(tree, format)
            if form.branches:
                _check_branch(form, branch)
            extracted = form.read(tree, branch)
            _check_branch(form, branch)  # of a format without branches: why it cannot be read comes first
            if form.beside is not None:
                extracted = form.beside(extracted, path)
            return form, _as_in_the_file(extracted, plain)
        if format is not None or branch is not None:
            raise CheckpointError("--prefix names the network itself", todo="leave out --format and --branch")
        return all_formats()[PREFIX], _as_in_the_file(_under(tree, prefix), plain)
    except CheckpointError as error:
        way_out = options(tree) if isinstance(error, LeftOver) else ""
        todo = f"{error.todo}; or {way_out}" if way_out else error.todo
        raise CheckpointError(f"{path}: {error.what}", found=error.found, todo=todo) from error


def _check_branch(form: Format, branch: str | None) -> None:
    if branch is not None and branch not in form.branches:
        raise CheckpointError(
            f"there is no branch {branch!r} in a checkpoint of the format {form.name}",
            todo=f"choose --branch {' or --branch '.join(form.branches)}" if form.branches else "leave out --branch",
        )


def _under(tree: Tree, prefix: str) -> Extracted:
    """What lies under a typed prefix; what the file's own format knows of its releases is kept.

    That format's refusals are, too, unless it stumbled over what the prefix leaves out.
    """
    found = take(tree, prefix)
    known = [all_formats()[name] for name in recognised(tree) if name != PREFIX]
    if len(known) != 1:
        return found
    try:
        usual = known[0].read(tree, None)
    except LeftOver:
        return found
    return dataclasses.replace(
        found,
        input=usual.input,
        stride_in_1x1=usual.stride_in_1x1,
        same_padding=usual.same_padding,
        facts=usual.facts,
        lints=usual.lints,
        notes=(f"a file of the format {known[0].name}, of which --prefix took the network under `{found.branch}`",),
    )


def _as_in_the_file(found: Extracted, plain: Unwrapped) -> Extracted:
    """Dropped entries under the names that they have in the file, averages with their counters, and a word on both."""
    dropped = tuple(
        dataclasses.replace(group, names=tuple(plain.names.get(name, name) for name in group.names))
        for group in found.dropped
    )
    notes = found.notes
    if plain.counters:
        dropped += (Dropped("counter of the moving average", tuple(plain.counters)),)
        notes += (
            "the file holds a moving average (AveragedModel); it does not say whether the statistics of its batch "
            "normalisations were computed again (update_bn) or copied from the model",
        )
    if any(name not in plain.counters and shown != name for shown, name in plain.names.items()):
        notes += ("what compile or parallel wrappers had put into names was left out",)
    return dataclasses.replace(found, dropped=dropped, notes=notes)


def _architecture(extracted: Extracted, path: Path) -> str:
    """The one that the file names, or the nearest of the family whose names its tensors have."""
    shapes = {name: tuple(tensor.shape) for name, tensor in extracted.state.items()}
    family = family_of_names(shapes)
    relative = family.lookalike(shapes)
    if relative is not None:
        raise CheckpointError(f"{path} looks like {relative}", todo=family.supported)
    if extracted.arch is None:
        try:
            return family.nearest(shapes, extracted.facts)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error.what}", found=error.found, todo=error.todo) from error
    if not any(each.knows(extracted.arch) for each in families().values()):
        raise CheckpointError(f"{path} says it is a {extracted.arch[:60]}", todo=family.supported)
    return extracted.arch


def settle(
    state: Mapping[str, torch.Tensor], path: Path, *, allow_half: bool
) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """Bring tensors as stored to what a `Backbone` holds: dense float32 on the CPU, each with memory of its own.

    float64 is narrowed where float32 holds every value exactly, and refused otherwise: rounding would silently make
    other weights than the published ones. Half precision is refused unless `allow_half`, then widened, which is exact.

    Returns:
        (state, notes for the reader).
    """
    settled: dict[str, torch.Tensor] = {}
    storages: set[int] = set()
    for name, tensor in state.items():
        _check_kind(name, tensor, path)
        plain = tensor.detach()
        if is_optional(name):
            plain = plain.to(torch.int64)
        elif plain.dtype != torch.float32:
            plain = _to_float32(name, plain, path, allow_half)
        storage = plain.untyped_storage()
        whole = plain.is_contiguous() and storage.nbytes() == plain.numel() * plain.element_size()
        if not whole or storage.data_ptr() in storages:
            plain = plain.clone(memory_format=torch.contiguous_format)
        storages.add(plain.untyped_storage().data_ptr())
        settled[name] = plain
    notes = []
    kinds = {str(tensor.dtype).removeprefix("torch.") for tensor in state.values() if tensor.dtype in HALF}
    if kinds:
        notes.append(f"weights stored as {' and '.join(sorted(kinds))} were widened to float32")
    if any(tensor.dtype == torch.float64 for name, tensor in state.items() if not is_optional(name)):
        notes.append("weights stored as float64 were narrowed to float32, exactly")
    return settled, tuple(notes)


def _check_kind(name: str, tensor: torch.Tensor, path: Path) -> None:
    if tensor.is_quantized or tensor.layout != torch.strided or tensor.is_meta or tensor.is_nested:
        kind = "quantised" if tensor.is_quantized else "without values" if tensor.is_meta else "sparse"
        raise CheckpointError(
            f"{path}: {name} is a {kind} tensor", todo="save dense float32 weights: {k: v.to_dense() for k, v in …}"
        )
    number = tensor.is_floating_point() or (is_optional(name) and not tensor.is_complex())
    if not number or tensor.element_size() < 2:
        raise CheckpointError(
            f"{path}: {name} has dtype {str(tensor.dtype).removeprefix('torch.')}",
            todo="weights are float32; a quantised model must be converted back by the program that quantised it",
        )


def _to_float32(name: str, tensor: torch.Tensor, path: Path, allow_half: bool) -> torch.Tensor:
    if tensor.dtype in HALF and not allow_half:
        raise CheckpointError(
            f"{path}: {name} is stored in half precision ({str(tensor.dtype).removeprefix('torch.')})",
            found="half of the digits that published weights have",
            todo="take the float32 file, or type --allow-half to widen these; the record will say so",
        )
    narrow = tensor.to(torch.float32)
    if tensor.dtype == torch.float64 and not torch.equal(narrow.double().nan_to_num(), tensor.nan_to_num()):
        raise CheckpointError(
            f"{path}: {name} is stored in float64 and float32 does not hold its values exactly",
            todo="round it knowingly: torch.save({k: v.float() for k, v in state.items()}, 'float32.pth')",
        )
    return narrow
