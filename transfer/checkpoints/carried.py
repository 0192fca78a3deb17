"""What tensors cannot say of themselves, carried along in the files that this project writes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, fields
from reprlib import repr as brief
from typing import Any

from transfer.checkpoints.backbone import Backbone, InputSpec
from transfer.checkpoints.families import family_of
from transfer.runtime.errors import CheckpointError

# Engines' configs write std with six decimals: less would be a division by zero.
MIN_STD = 1e-6
# The entry that holds it, beside the tensors.
CARRIED = "transfer"

ASSUMED = (
    "the file cannot say how its pixels were normalised, where its strides sit and how it pads: assumed are RGB with "
    "ImageNet's mean and std, the stride in the 3×3 convolution, and no SAME padding or anti-aliased pooling"
)

# The same of a network under timm's names.
TIMMS_RULE = {"positions": "antialias"}
ASSUMED_OF_VITS = (
    "the file cannot say how its pixels were normalised, how many heads it has, the eps of its norms and how positions "
    "are resized: assumed are RGB with ImageNet's mean and std, the usual heads of its size, 1e-6, and timm's rule "
    "(bicubic, antialiased), which matters at other sizes than the training's"
)
_PIXELS = "the file cannot say how its pixels were normalised: assumed are RGB with ImageNet's mean and std"
_ASSUMED_OF: Mapping[str, str] = {
    "rope.": f"{_PIXELS} (satellite images have others)",
    "layer1.": ASSUMED,
    "stages.": _PIXELS,
    "layers.": f"{_PIXELS}; nor the eps of its norms: assumed is 1e-5",
}


def assumed(names: Collection[str]) -> str:
    """What a file with a network of these names cannot say, and what is taken instead."""
    starts = [start for start in _ASSUMED_OF if any(name.startswith(start) for name in names)]
    return _ASSUMED_OF[starts[0]] if starts else ASSUMED_OF_VITS


def carry(backbone: Backbone) -> dict[str, Any]:
    """What a converted file must say beside its tensors, as plain values."""
    said = {
        "input": asdict(backbone.input),
        "stride_in_1x1": backbone.stride_in_1x1,
        "same_padding": backbone.same_padding,
    }
    # of a ResNet the tensors say it all
    return said if family_of(backbone.arch).name == "resnet" else said | {"arch": backbone.arch}


def carried(values: object) -> dict[str, Any]:
    """The facts out of `carry`'s values, as arguments of `Extracted`; a note that says so if they had to be assumed.

    Raises:
        CheckpointError: there are values, and they are not `carry`'s.
    """
    if values is None:
        return {"notes": (ASSUMED,)}
    if not isinstance(values, Mapping):
        raise CheckpointError(f"has an unusable entry {CARRIED!r}", found=brief(values), todo="convert it again")
    # Files of this project's first version do not speak of padding: they came from formats that pad symmetrically.
    facts = {"stride_in_1x1": values.get("stride_in_1x1"), "same_padding": values.get("same_padding", False)}
    if any(type(flag) is not bool for flag in facts.values()):
        raise CheckpointError(f"has an unusable entry {CARRIED!r}", found=brief(values), todo="convert it again")
    arch = values.get("arch")
    if arch is not None and not isinstance(arch, str):
        raise CheckpointError(f"has an unusable entry {CARRIED!r}", found=brief(values), todo="convert it again")
    said = {"arch": arch} if arch else {}
    return {"input": input_from_dict(values.get("input")), **facts, **said}


def input_from_dict(values: object) -> InputSpec:
    """An `InputSpec` out of a file that holds its fields as plain values.

    Raises:
        CheckpointError: a value is absent, unknown or not a number.
    """
    if not isinstance(values, Mapping) or set(values) != {each.name for each in fields(InputSpec)}:
        raise CheckpointError(
            "does not say how its pixels are normalised",
            found=f"`input` is {brief(values)}",
            todo="`input` must hold exactly channels, value_range, mean and std",
        )
    mean, std = (_three(values[key], key) for key in ("mean", "std"))
    order, value_range = values["channels"], values["value_range"]
    known = isinstance(order, str) and order in ("RGB", "BGR") and type(value_range) in (int, float)
    if not known or value_range not in (1, 255) or min(std) < MIN_STD:
        raise CheckpointError(
            "states an impossible normalisation of pixels",
            found=brief(dict(values)),
            todo="channels must be RGB or BGR, value_range 1 or 255, std above zero",
        )
    return InputSpec(order, float(value_range), mean, std)


def _three(values: object, key: str) -> tuple[float, float, float]:
    # compared before they become floats, which a JSON file's whole numbers can be too large for; NaN is below nothing
    if (
        isinstance(values, (list, tuple))
        and len(values) == 3
        and all(type(value) in (int, float) and abs(value) < 1e6 for value in values)
    ):
        first, second, third = (float(value) for value in values)
        return first, second, third
    raise CheckpointError(f"`input` has no usable {key}", found=brief(values), todo="three numbers are needed")
