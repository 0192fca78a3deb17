"""A plain ResNet under torchvision's names, bare or under "state_dict" and the like, with or without a classifier.

Covers torchvision's own files, linear-evaluation checkpoints of MoCo v1 to v3, SimSiam and AlignUniform (prefix
`module.`), the released backbones of Barlow Twins, VICReg, VICRegL, DINO, DenseCL (WXinlong/DenseCL:
tools/extract_backbone_weights.py) and DetCo (xieenze/DetCo: benchmarks/detection/convert-pretrain-to-detectron2.py),
and what `python -m transfer convert --to torchvision` (or timm, whose names are the same, or safetensors) writes.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch

from transfer.checkpoints.backbone import Backbone
from transfer.checkpoints.carried import CARRIED, carried, carry
from transfer.checkpoints.declared import plain_place, plainly_explained
from transfer.checkpoints.families.resnet import architecture
from transfer.checkpoints.rules import (
    Drop,
    Extracted,
    Format,
    Match,
    Mismatch,
    Target,
    Tree,
    beside,
    separate,
)
from transfer.checkpoints.safetensors_files import write_safetensors
from transfer.runtime.errors import CheckpointError
from transfer.runtime.files import save_torch, write_atomically

NAME = "torchvision"
KEYS = ("state_dict", "model", "model_state_dict", "net", "module")


def recognise(tree: Tree) -> Match | Mismatch:
    """A name that begins with `layer1.` or `module.layer1.`, at the top or under one of `KEYS`."""
    located = plain_place(tree, ("layer1.",), KEYS)
    if located is None:
        return Mismatch(f"no name begins with layer1. or module.layer1., at the top or under {', '.join(KEYS)}")
    return Match("plain ResNet" + (f" under {located[1]!r}" if located[1] else ""))


def read(tree: Tree, branch: str | None) -> Extracted:
    """Drop the classifier, keep the rest."""
    weights, key, prefix = plain_place(tree, ("layer1.",), KEYS) or (tree, None, "")
    rules = [Drop(f"{prefix}fc.", _head(weights.get(f"{prefix}fc.weight")))]
    state, dropped = separate(weights, prefix, rules)
    if key is not None:
        dropped += beside(tree, [key])
    # `state_dict()` hangs the version of every module on the mapping it returns. Converted files carry the
    # normalisation there too, so they stay bare state dicts that `load_state_dict` takes as they are.
    metadata = getattr(weights, "_metadata", None)
    facts = carried(metadata.get(CARRIED) if isinstance(metadata, Mapping) else None)
    return Extracted(state, dropped, **facts)


def _head(weight: object) -> str:
    """What `fc` is: NPID's and InsDis' networks end in 128 numbers for the memory bank, which are no classes."""
    if isinstance(weight, torch.Tensor) and weight.shape[:1] == (128,):
        return "head of 128 outputs, by its width an embedding and no classifier, behind the backbone"
    return "classifier, behind the backbone"


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


def write(backbone: Backbone, path: Path, program: str = "torchvision") -> None:
    """Write the backbone as a state dict in a torch file, whole or not at all."""
    save_torch(to_torchvision(backbone, program), path)


def write_plain(backbone: Backbone, path: Path) -> None:
    """Write the same names as safetensors, for any program, whole or not at all."""
    metadata = {CARRIED: json.dumps(carry(backbone))}
    write_atomically(path, lambda file: write_safetensors(backbone.state, metadata, file))


FORMAT = Format(
    NAME,
    (),
    recognise,
    read,
    lambda tree: plainly_explained(tree, KEYS),
    general=2,
    targets={
        "torchvision": Target(write),
        "timm": Target(partial(write, program="timm")),
        "safetensors": Target(write_plain, ".safetensors"),  # most loaders of them go by the ending
    },
    told_by_name=True,
)
