"""Detectron2 model files with a ResNet under Detectron2's names, read and written.

Layout: a pickled dict `{"model": name → array, "__author__", "matching_heuristics": True}` with `stem.` and
`res2.`–`res5.`. The last key makes Detectron2 compare names by their endings (detectron2/checkpoint/
c2_model_loading.py), so that one file fills `backbone.*` or `backbone.bottom_up.*` and, in a C4 detector,
`roi_heads.res5.*`; without it nothing is loaded. The same layout comes from facebookresearch/moco:
detection/convert-pretrain-to-detectron2.py, which files the projection head under `stem.fc.`; its chain of text
replacements is here an exact map between the two sets of names. Needs no Detectron2.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from transfer.checkpoints.backbone import Backbone
from transfer.checkpoints.carried import CARRIED, carried, carry
from transfer.checkpoints.rules import (
    Drop,
    Extracted,
    Format,
    Match,
    Mismatch,
    Target,
    Tree,
    beside,
    has_prefix,
    separate,
    weights_under,
)
from transfer.runtime.errors import CheckpointError
from transfer.runtime.files import write_atomically

NAME = "detectron2"
AUTHOR = "msbreg-transfer"

_STATISTIC = r"(?:weight|bias|running_mean|running_var|num_batches_tracked)"
_TORCHVISION = re.compile(
    rf"(?:layer(?P<stage>[1-4])\.(?P<block>\d+)\.)?"
    rf"(?:(?P<conv>conv\d)\.weight|bn(?P<bn>\d)\.(?P<bn_tensor>{_STATISTIC})"
    rf"|downsample\.0\.weight(?P<shortcut>)|downsample\.1\.(?P<shortcut_tensor>{_STATISTIC}))"
)
_DETECTRON2 = re.compile(
    rf"(?:stem|res(?P<stage>[2-5])\.(?P<block>\d+))\."
    rf"(?:conv(?P<conv>\d)\.weight|conv(?P<bn>\d)\.norm\.(?P<bn_tensor>{_STATISTIC})"
    rf"|shortcut\.weight(?P<shortcut>)|shortcut\.norm\.(?P<shortcut_tensor>{_STATISTIC}))"
)


def detectron2_name(tv_name: str) -> str:
    """Detectron2's name of a torchvision ResNet tensor: `layer1.0.bn1.bias` → `res2.0.conv1.norm.bias`.

    Raises:
        CheckpointError: not a name of a torchvision ResNet without its classifier.
    """
    match = _TORCHVISION.fullmatch(tv_name)
    if match is None:
        raise CheckpointError(f"{tv_name!r} is not a tensor of a torchvision ResNet's backbone")
    place = f"res{int(match['stage']) + 1}.{match['block']}" if match["stage"] else "stem"
    if match["conv"]:
        return f"{place}.{match['conv']}.weight"
    if match["bn"]:
        return f"{place}.conv{match['bn']}.norm.{match['bn_tensor']}"
    if match["shortcut_tensor"]:
        return f"{place}.shortcut.norm.{match['shortcut_tensor']}"
    return f"{place}.shortcut.weight"


def torchvision_name(d2_name: str) -> str:
    """The inverse of `detectron2_name`.

    Raises:
        CheckpointError: not a name of a Detectron2 ResNet's stem or stages.
    """
    match = _DETECTRON2.fullmatch(d2_name)
    if match is None:
        raise CheckpointError(f"{d2_name!r} is not a tensor of a Detectron2 ResNet's stem or stages")
    place = f"layer{int(match['stage']) - 1}.{match['block']}." if match["stage"] else ""
    if match["conv"]:
        return f"{place}conv{match['conv']}.weight"
    if match["bn"]:
        return f"{place}bn{match['bn']}.{match['bn_tensor']}"
    if match["shortcut_tensor"]:
        return f"{place}downsample.1.{match['shortcut_tensor']}"
    return f"{place}downsample.0.weight"


def recognise(tree: Tree) -> Match | Mismatch:
    """Names that begin with `res2.`, under `model` or at the top."""
    if not has_prefix(weights_under(tree, "model") or tree, "res2."):
        return Mismatch("no name under `model` or at the top begins with res2.")
    return Match("ResNet under Detectron2's names")


def read(tree: Tree, branch: str | None) -> Extracted:
    """Rename to torchvision's names; a head that a converter left under the stem is dropped."""
    weights = weights_under(tree, "model") or tree  # the latter is what is left of it in safetensors
    named, dropped = separate(weights, "", [Drop("stem.fc.", "classifier or projection head, behind the backbone")])
    state = {torchvision_name(name): tensor for name, tensor in named.items()}
    rest = beside(tree, ["model"]) if weights is not tree else ()
    return Extracted(state, dropped + rest, **carried(tree.get(CARRIED)))


def content(backbone: Backbone) -> dict[str, Any]:
    """What a model file holds: every tensor of the backbone as a numpy array under Detectron2's name.

    The arrays share the backbone's memory and cannot be written to. What tensors cannot say lies beside them.
    """
    model = {detectron2_name(name): read_only(tensor) for name, tensor in backbone.state.items()}
    return {"model": model, "__author__": AUTHOR, "matching_heuristics": True, CARRIED: carry(backbone)}


def read_only(tensor: torch.Tensor) -> np.ndarray[Any, np.dtype[Any]]:
    """The tensor's own memory as an array that cannot be written to."""
    array = tensor.numpy()
    array.flags.writeable = False  # of this view, not of the tensor
    return array


def write(backbone: Backbone, path: Path) -> None:
    """Write the backbone as a Detectron2 `.pkl`, whole or not at all."""
    write_atomically(path, lambda file: pickled(content(backbone), file))


def pickled(values: dict[str, Any], file: BinaryIO) -> None:
    """Into a file as Detectron2 unpickles it, with no copy of an array kept."""
    # Protocol 4: protocol 2 writes bytes as UTF-8 text, half as large again.
    pickler = pickle.Pickler(file, protocol=4)
    pickler.fast = True  # no memo, which would keep a copy of every array until the end
    pickler.dump(values)


# Detectron2 chooses how to read a file by its ending (detectron2/checkpoint/detection_checkpoint.py).
FORMAT = Format(NAME, (), recognise, read, targets={"detectron2": Target(write, ".pkl")})
