"""BYOL's released checkpoints by its authors (`pretrain_res50x1.pkl` and the ablations), a pickle written by dill.

Layout: `{"experiment_state", "step", "rng"}`; the state is a named tuple of `online_params`, `target_params`,
`online_state`, `target_state` and `opt_state`. Parameters and state are haiku's: module → name → array. The ResNet is
`res_net50/~/initial_conv`, `…/initial_batchnorm` and `…/block_group_0/~/block_0/~/` with `conv_0`–`conv_2`,
`batchnorm_0`–`batchnorm_2`, `shortcut_conv`, `shortcut_batchnorm`; some releases call the first one `initial_conv_1`
(chigur/byol-convert: convert.py). Convolutions are `w`, height × width × inputs × outputs; normalisation is `scale` and
`offset` of shape 1×1×1×C, its statistics `average` (what evaluation uses), `hidden` (before the correction for starting
at zero) and `counter` under `/~/mean_ema` and `/~/var_ema`. Evaluation takes the online network
(google-deepmind/deepmind-research: byol/byol_experiment.py, byol/eval_experiment.py, byol/utils/networks.py,
byol/utils/checkpointing.py; google-deepmind/dm-haiku: haiku/_src/nets/resnet.py, batch_norm.py, moving_averages.py).

It is a ResNet v1 with the stride in the 3×3 convolution and eps 1e-5, as torchvision's; pixels have ImageNet's mean and
std. Every layer pads SAME. BYOL's own ResNet-18 and -34 have a projection in their first block, which torchvision's do
not, and are refused for it. A file written by this code with the real haiku, jax, optax and dill was read, and gave
haiku's own embedding when run with SAME padding; no released file was.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from transfer.checkpoints.rules import (
    Extracted,
    Format,
    Match,
    Mismatch,
    Tree,
    as_dropped,
    beside,
    everything,
    holds_tensors,
    key_name,
    other_network,
    refuse_unknown,
)
from transfer.runtime.errors import CheckpointError

NAME = "byol_deepmind"
BRANCHES = ("online", "target")
STATE = "experiment_state"
HEADS = {
    "projector": "projector, behind the backbone",
    "predictor": "predictor, behind the projector",
    "classifier": "online classifier, trained on detached features",
}
NOT_NEEDED = {
    "hidden": "moving averages before the correction for starting at zero; evaluation uses the corrected ones",
    "counter": "counters of the moving averages",
}
NOTE = "SAME padding in the stem, the max-pooling and the strided 3×3 convolution of each stage"

_PART = re.compile(r"(?:initial_(conv|batchnorm)(?:_1)?|block_group_([0-3])/~/block_(\d+)/~/(\w+))")
_INSIDE = {
    **{f"conv_{index}": f"conv{index + 1}" for index in range(3)},
    **{f"batchnorm_{index}": f"bn{index + 1}" for index in range(3)},
    "shortcut_conv": "downsample.0",
    "shortcut_batchnorm": "downsample.1",
}
_PARAMETERS = {("conv", "w"): "weight", ("batchnorm", "scale"): "weight", ("batchnorm", "offset"): "bias"}
_STATISTICS = {"mean_ema": "running_mean", "var_ema": "running_var"}


def recognise(tree: Tree) -> Match | Mismatch:
    """`experiment_state` has `online_params` with haiku's names of a ResNet."""
    if _encoder(_modules(tree, "online_params")) is None:
        return Mismatch(f"no haiku ResNet (…/~/block_group_0/…) under {STATE}.online_params")
    return Match("BYOL by its authors (haiku), online and target network")


def read(tree: Tree, branch: str | None) -> Extracted:
    """Rename and reorder the arrays of one network; list the other network, the heads and the optimiser."""
    taken = branch or BRANCHES[0]
    params, stats = _modules(tree, f"{taken}_params"), _modules(tree, f"{taken}_state")
    encoder = _encoder(params)
    if encoder is None:
        raise CheckpointError(
            f"has no haiku ResNet under {STATE}.{taken}_params",
            todo="leave out --format to have the format recognised, or choose another --branch",
        )
    _refuse_other_networks(params, encoder)
    state: dict[str, torch.Tensor] = {}
    groups: dict[str, list[str]] = {}
    unknown = []
    for module, name, value, shown in [*_leaves(params, f"{taken}_params"), *_leaves(stats, f"{taken}_state")]:
        head = HEADS.get(module.split("/")[0])
        reason = head or (NOT_NEEDED.get(name) if module.endswith(tuple(_STATISTICS)) else None)
        target = None if reason else _torchvision_name(module, name, encoder)
        if reason:
            groups.setdefault(reason, []).append(shown)
        elif target is None or target in state or not isinstance(value, torch.Tensor):
            unknown.append(shown)
        else:
            state[target] = _as_torchvision(value, target)
    refuse_unknown(unknown)
    dropped = as_dropped(groups) + _rest(tree[STATE], taken) + beside(tree, [STATE])
    return Extracted(state, dropped, taken, same_padding=True, notes=(NOTE,))


def _modules(tree: Tree, part: str) -> Mapping[str, Any]:
    experiment = tree.get(STATE)
    modules = experiment.get(part) if isinstance(experiment, Mapping) else None
    return modules if isinstance(modules, Mapping) else {}


def _encoder(params: Mapping[str, Any]) -> str | None:
    """The name of the ResNet among haiku's modules, for example "res_net50"."""
    found = (re.match(r"([^/]+)/~/block_group_0/", key_name(module)) for module in params)
    return next((match.group(1) for match in found if match), None)


def _refuse_other_networks(params: Mapping[str, Any], encoder: str) -> None:
    if any(key_name(module).startswith(f"{encoder}/~/block_group_1/~/block_8/") for module in params):
        raise CheckpointError(
            "is a ResNet-200, which no detection engine builds", todo="take the ResNet-50, pretrain_res50x1.pkl"
        )
    if f"{encoder}/~/final_batchnorm" in params:
        raise CheckpointError(
            "is a pre-activation ResNet (v2), which no detection engine builds",
            todo="pretrain with resnet_v2=False, or take the released pretrain_res50x1.pkl",
        )


def _leaves(modules: Mapping[str, Any], part: str) -> Iterator[tuple[str, str, Any, str]]:
    """(module, name in it, value, how messages call it) of everything in a two-level mapping."""
    for module, inside in modules.items():
        entries = inside.items() if isinstance(inside, Mapping) else [("", inside)]
        for name, value in entries:
            yield key_name(module), key_name(name), value, f"{part}.{key_name(module)}.{key_name(name)}"


def _torchvision_name(module: str, name: str, encoder: str) -> str | None:
    """`res_net50/~/block_group_0/~/block_1/~/conv_2`, `w` → `layer1.1.conv3.weight`; None for anything else."""
    start = f"{encoder}/~/"
    if not module.startswith(start):
        return None
    part, _, average = module.removeprefix(start).rpartition("/~/")
    kind: str | None
    if average in _STATISTICS:
        kind = _STATISTICS[average] if name == "average" else None
    else:
        part = module.removeprefix(start)
        kind = _PARAMETERS.get(("batchnorm" if "batchnorm" in part.rsplit("/", 1)[-1] else "conv", name))
    found = _PART.fullmatch(part)
    if found is None or kind is None:
        return None
    if found.group(1):
        return f"{'conv1' if found.group(1) == 'conv' else 'bn1'}.{kind}"
    inside = _INSIDE.get(found.group(4))
    return f"layer{int(found.group(2)) + 1}.{int(found.group(3))}.{inside}.{kind}" if inside else None


def _as_torchvision(value: torch.Tensor, target: str) -> torch.Tensor:
    """Convolutions from height × width × inputs × outputs; normalisation without its three axes of length 1."""
    if value.dim() != 4:
        return value  # refused by its shape
    if "conv" in target or target.endswith("downsample.0.weight"):
        return value.permute(3, 2, 0, 1)
    return value.reshape(-1) if value.shape[:3] == (1, 1, 1) else value


def _rest(experiment: Mapping[str, Any], taken: str) -> tuple[Any, ...]:
    """The other network and the optimiser."""
    other = "target" if taken == "online" else "online"
    dropped: tuple[Any, ...] = ()
    known = {f"{taken}_params", f"{taken}_state", f"{other}_params", f"{other}_state", "opt_state"}
    for key in (f"{other}_params", f"{other}_state"):
        inside = experiment.get(key)
        if isinstance(inside, Mapping):
            dropped += everything(inside, other_network(other, taken), where=f"{STATE}.{key}.")
    if "opt_state" in experiment:
        dropped += as_dropped({"state of the training loop, not of the network": [f"{STATE}.opt_state"]})
    refuse_unknown([f"{STATE}.{key_name(k)}" for k, v in experiment.items() if k not in known and holds_tensors(v)])
    return dropped


FORMAT = Format(NAME, BRANCHES, recognise, read)
