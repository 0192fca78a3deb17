"""The ResNets that the engines can build, described by torchvision's own definition of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import torch
import torchvision

from transfer.errors import CheckpointError

ARCHITECTURES = ("resnet18", "resnet34", "resnet50", "resnet101")
STAGES = ("layer1", "layer2", "layer3", "layer4")


def build_resnet(arch: str) -> torchvision.models.ResNet:
    """A randomly initialised torchvision ResNet without its classifier (`fc` is the identity).

    Its `state_dict()` has exactly the names and shapes that a `Backbone` holds.
    """
    if arch not in ARCHITECTURES:
        raise CheckpointError(f"unknown architecture {arch!r}", todo=f"choose one of {', '.join(ARCHITECTURES)}")
    model: torchvision.models.ResNet = torchvision.models.get_model(arch, weights=None)
    model.fc = torch.nn.Identity()
    return model


@cache
def expected_shapes(arch: str) -> Mapping[str, tuple[int, ...]]:
    """Name → shape of every tensor of the backbone, `num_batches_tracked` included, in torchvision's order."""
    with torch.device("meta"):
        model = build_resnet(arch)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def is_optional(name: str) -> bool:
    """True for the only tensors a source may lack: Caffe2, TensorFlow and Haiku files do not count batches."""
    return name.endswith("num_batches_tracked")


def stage_channels(arch: str) -> dict[str, int]:
    """Output channels of each stage, for example {'layer1': 256, …, 'layer4': 2048} for ResNet-50."""
    shapes = expected_shapes(arch)
    last_conv = "conv3" if "layer1.0.conv3.weight" in shapes else "conv2"
    return {stage: shapes[f"{stage}.0.{last_conv}.weight"][0] for stage in STAGES}


def depth_of(arch: str) -> int:
    """Number of layers as both engines' configs write it: `resnet50` → 50."""
    return int(arch.removeprefix("resnet"))


def closest_architecture(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The architecture that shares the most (name, shape) pairs with `shapes`.

    Meant for naming what a file most likely is; `Backbone` then demands an exact match, so that a file with one
    tensor missing is reported as that and not as an unknown architecture. Among equals the one with fewer tensors
    of its own left unfilled wins.
    """

    def score(arch: str) -> tuple[int, int]:
        wanted = {name: shape for name, shape in expected_shapes(arch).items() if not is_optional(name)}
        hits = sum(shapes.get(name) == shape for name, shape in wanted.items())
        return hits, hits - len(wanted)

    return max(ARCHITECTURES, key=score)
