"""`Backbone` → Detectron2's model file, and back. Needs no Detectron2.

The file is a pickled dict {"model": name → numpy array, "__author__": …, "matching_heuristics": True}. The last key
makes Detectron2 compare names by their endings (detectron2/checkpoint/c2_model_loading.py), so that one file fills
`backbone.*` or `backbone.bottom_up.*` and, in a C4 detector, `roi_heads.res5.*`; without it nothing is loaded.

The naming is that of facebookresearch/moco: detection/convert-pretrain-to-detectron2.py, written here as an exact map
between the two sets of names instead of a chain of text replacements.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import torch

from transfer.checkpoints.backbone import Backbone
from transfer.runtime.errors import CheckpointError
from transfer.runtime.files import write_atomically

AUTHOR: Final = "msbreg-transfer"

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


def to_detectron2(backbone: Backbone) -> dict[str, Any]:
    """The content of a Detectron2 model file: every tensor of the backbone as a numpy array under Detectron2's name.

    The arrays share the backbone's memory and cannot be written to.
    """
    model = {detectron2_name(name): _read_only(tensor) for name, tensor in backbone.state.items()}
    return {"model": model, "__author__": AUTHOR, "matching_heuristics": True}


def _read_only(tensor: torch.Tensor) -> np.ndarray[Any, np.dtype[Any]]:
    array = tensor.numpy()
    array.flags.writeable = False  # of this view, not of the tensor
    return array


def from_detectron2(model_dict: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """torchvision name → tensor, from the content of a Detectron2 model file.

    Args:
        model_dict: what `to_detectron2` gives, or its "model" part alone.

    Raises:
        CheckpointError: a name is not one of a Detectron2 ResNet's, or a value is not an array.
    """
    model = model_dict.get("model", model_dict)
    state: dict[str, torch.Tensor] = {}
    for name, array in model.items():
        if not isinstance(array, np.ndarray):
            raise CheckpointError(f"{name!r} holds a {type(array).__name__}, a Detectron2 model file holds arrays")
        state[torchvision_name(name)] = torch.from_numpy(array.copy())
    return state


def write_detectron2(backbone: Backbone, path: Path, beside: Mapping[str, Any] | None = None) -> None:
    """Write the backbone as a Detectron2 `.pkl`, whole or not at all; `beside` are further top-level entries."""
    content = to_detectron2(backbone) | dict(beside or {})
    write_atomically(path, lambda file: _pickle(content, file))


def _pickle(content: dict[str, Any], file: BinaryIO) -> None:
    # Protocol 4: protocol 2 writes bytes as UTF-8 text, half as large again.
    pickler = pickle.Pickler(file, protocol=4)
    pickler.fast = True  # no memo, which would keep a copy of every array until the end
    pickler.dump(content)
