"""ResNets under Caffe2's blob names: what Detectron, Detectron2 and FAIR's self-supervision benchmark keep in `.pkl`.

`conv1_w`, `res_conv1_bn_s`, `res2_0_branch2a_w`, `res2_0_branch2a_bn_s`, `res2_0_branch1_w`, …; branch2a to branch2c
are the convolutions of a bottleneck, branch1 its shortcut. A batch norm is spelt in one of three ways:

- `_bn_s`, `_bn_b`, `_bn_rm`, `_bn_riv`: Caffe2's SpatialBN. `riv` is the running *variance*, whatever its name says:
  the benchmark's own converter folds it as sqrt(riv + 1e-5) (extra_scripts/pickle_caffe2_detection.py), and both it
  and Detectron2 rename it to `running_var`.
- `_bn_gamma`, `_bn_beta`, `_bn_running_mean`, `_bn_running_var`: Detectron2's copies of MSRA's models.
- `_bn_s`, `_bn_b` alone: batch norm folded into y = s·x + b, with 1e-5 added to the variance before the root
  (facebookresearch/Detectron: tools/pickle_caffe_blobs.py).

Sources: facebookresearch/detectron2: detectron2/checkpoint/c2_model_loading.py, and facebookresearch/
fair_self_supervision_benchmark: extra_scripts/pickle_caffe2_to_pytorch.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from transfer.checkpoints.backbone import Dropped, Lint
from transfer.checkpoints.rules import as_dropped, has_prefix, holds_tensors, key_name, refuse_unknown
from transfer.runtime.errors import CheckpointError

# The epsilon of batch norm in torchvision, Detectron2 and MMDetection.
EPSILON = 1e-5
MARK = "res2_0_branch2a_"

_PLACE = r"res(?P<stage>[2-5])_(?P<block>\d+)_branch(?P<branch>1|2a|2b|2c)"
_CONVOLUTION = re.compile(rf"(?:conv1|{_PLACE})(?:_s(?P<tower>\d))?_(?P<kind>w|b)")
_NORM = re.compile(
    rf"(?:res_conv1|{_PLACE})_bn(?:_s(?P<tower>\d))?_(?P<kind>s|b|rm|riv|gamma|beta|running_mean|running_var)"
)
_KINDS = {
    "w": "weight",
    "s": "weight",
    "gamma": "weight",
    "b": "bias",
    "beta": "bias",
    "rm": "running_mean",
    "running_mean": "running_mean",
    "riv": "running_var",
    "running_var": "running_var",
}
_STATISTICS = {"riv": "rm", "running_var": "running_mean"}
_HEAD = re.compile(r"(?:pred|fc)\w*")
_LEFT_OUT: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\w+_momentum"), "momentum of the optimiser"),
    (re.compile(r"lr|model_iter|epoch"), "counters of the training loop"),
    (re.compile(r"pool5\w*"), "batch norm behind pooling, for linear evaluation"),
)
_OTHER_TOWER = "batch norm of another tower of the siamese network; the first one's was taken, as its authors do"
_BIAS = "bias of a convolution in front of batch norm, which Detectron's and Detectron2's networks do not have"

FOLDED = Lint(
    "statistics",
    "the batch norms' statistics were folded into scale and shift (Caffe's affine layers): the network computes what "
    "it should as long as they stay frozen; protocols that train batch norm start from the wrong statistics",
)


@dataclass(frozen=True)
class Blobs:
    """A backbone out of Caffe2 blobs.

    Attributes:
        state: torchvision name → tensor.
        dropped: the other blobs.
        spelling: how batch norms were spelt: "riv", "running_var", or "folded".
        grouped: True for a ResNeXt.
        notes: see `Extracted`.
    """

    state: dict[str, torch.Tensor]
    dropped: tuple[Dropped, ...]
    spelling: str
    grouped: bool
    notes: tuple[str, ...]

    @property
    def lints(self) -> tuple[Lint, ...]:
        """What is worth saying of the spelling."""
        return (FOLDED,) if self.spelling == "folded" else ()


def holds_blobs(blobs: Mapping[str, Any] | None) -> bool:
    """True if there is a ResNet under Caffe2's names."""
    return has_prefix(blobs, MARK)


def read_blobs(blobs: Mapping[str, Any], head: str, where: str = "") -> Blobs:
    """Rename to torchvision's names, and undo the folding of batch norms.

    A folded norm becomes one with mean 0 and variance 1 − 1e-5, to which every ResNet adds 1e-5 again, so that exactly
    y = s·x + b is computed. Detectron2's `FrozenBatchNorm2d` starts with these values, and its checkpointer then
    puts a variance of 1 over them (a state dict without a version counts as an old one), which makes every scale
    0.999995 times as large.

    Args:
        blobs: name → tensor.
        head: why `pred…` and `fc…` may be left out.
        where: written before the names in messages and groups.

    Raises:
        CheckpointError: a tensor is neither part of the backbone nor known to be dispensable, or a second one.
    """
    if any(key_name(name).endswith("_gn_s") for name in blobs):
        raise CheckpointError(
            "holds a ResNet with group normalisation", todo="only ResNets with batch normalisation are read"
        )
    state: dict[str, torch.Tensor] = {}
    groups: dict[str, list[str]] = {}
    unknown: list[str] = []
    kinds: set[str] = set()
    bias_used = False
    for name, value in blobs.items():
        found = _CONVOLUTION.fullmatch(key_name(name)) or _NORM.fullmatch(key_name(name))
        reason = _why_not(found, key_name(name), value, head)
        if reason is not None:
            groups.setdefault(reason, []).append(where + key_name(name))
            bias_used |= reason == _BIAS and bool((value != 0).any())
        elif found is None or not isinstance(value, torch.Tensor):
            unknown.append(where + key_name(name))
        else:
            target = _torchvision_name(found)
            if target in state:
                raise CheckpointError(f"holds a tensor that is a second {target}", found=where + name)
            state[target] = value
            kinds.add(found["kind"])
    refuse_unknown(unknown)
    spelling = next((last for last, first in _STATISTICS.items() if kinds & {last, first}), "folded")
    if spelling == "folded":
        _unfold(state)
    inner = state.get("layer1.0.conv2.weight")
    grouped = inner is not None and inner.ndim == 4 and inner.shape[1] < inner.shape[0]
    notes = (f"not all of these are 0, and they were left out: {_BIAS}",) if bias_used else ()
    return Blobs(state, as_dropped(groups), spelling, grouped, notes)


def _why_not(found: re.Match[str] | None, name: str, value: object, head: str) -> str | None:
    """Why a blob may be left out; None if it may not."""
    if found is None:
        rules = (*_LEFT_OUT, (_HEAD, head))
        reason = next((reason for pattern, reason in rules if pattern.fullmatch(name)), None)
        return reason if reason or holds_tensors(value) else "not a tensor: notes of the program that wrote the file"
    if found["tower"] not in (None, "0"):
        return _OTHER_TOWER
    convolution = found.re is _CONVOLUTION
    return _BIAS if convolution and found["kind"] == "b" and isinstance(value, torch.Tensor) else None


def _torchvision_name(found: re.Match[str]) -> str:
    norm, kind = found.re is _NORM, _KINDS[found["kind"]]
    if found["stage"] is None:
        return f"{'bn1' if norm else 'conv1'}.{kind}"
    place = f"layer{int(found['stage']) - 1}.{int(found['block'])}"
    if found["branch"] == "1":
        return f"{place}.downsample.{int(norm)}.{kind}"
    return f"{place}.{'bn' if norm else 'conv'}{'abc'.index(found['branch'][1]) + 1}.{kind}"


def _unfold(state: dict[str, torch.Tensor]) -> None:
    """Give every norm the statistics with which it computes y = weight·x + bias."""
    for name in [name for name in state if name.endswith(".bias")]:
        norm, shift = name.removesuffix("bias"), state[name]
        state[f"{norm}running_mean"] = torch.zeros(shift.shape)
        state[f"{norm}running_var"] = torch.full(shift.shape, 1 - EPSILON)
