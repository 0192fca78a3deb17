"""VISSL's training checkpoints, which most ResNets of its model zoo are.

These are SimCLR, PIRL, NPID, NPID++, Jigsaw, RotNet, ClusterFit, SwAV, MoCo v2, Barlow Twins and supervised ones.

Layout: `{"phase_idx", "iteration", "loss", "iteration_num", "train_phase_idx", "classy_state_dict", "type"}`. In
`classy_state_dict` (ClassyVision's task: train, meters, optimizer, phase_idx, num_updates, losses, hooks, loss, amp,
train_dataset_iterator), `base_model` → `model` holds two state dicts, `trunk` and `heads`, and beside it `meta`.
The trunk is torchvision's ResNet under `_feature_blocks.`, or `base_model._feature_blocks.` in a model for linear
evaluation (facebookresearch/vissl: vissl/hooks/log_hooks.py, vissl/models/base_ssl_model.py,
vissl/models/trunks/resnext.py and feature_extractor.py; facebookresearch/ClassyVision:
classy_vision/tasks/classification_task.py). Files that were consolidated from shards have `type` and
`classy_state_dict` → `base_model` alone (vissl/utils/checkpoint.py).

A width multiplier widens the stem and every stage ("w2", "w4"). The zoo's own evaluation takes the trunk, on RGB with
ImageNet's mean and std (configs/config/model_zoo, configs/config/pretrain: SimCLR is no exception). Moving averages:
`ema_model` in `classy_state_dict` (hook EMA_MODEL) is laid out as `base_model` is; MoCo's, DINO's and momentum SwAV's
belong to the loss, which is saved twice, at the top and in `classy_state_dict`: `moco_encoder.`, `momentum_teacher.`,
`momentum_encoder.`, then `trunk.` and `heads.` (vissl/hooks/moco_hooks.py, hook_utils.py, swav_momentum_hooks.py).

The zoo's DeepCluster v2 and its SwAV RN50-w5 are files of facebookresearch/swav and have that layout. Vision
transformers have timm's names in the trunk (vissl/models/trunks/vision_transformer.py); RegNets and XCiTs have others
and are not recognised.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transfer.checkpoints.backbone import Dropped
from transfer.checkpoints.rules import (
    Drop,
    Extracted,
    Format,
    Match,
    Mismatch,
    Tree,
    as_dropped,
    beside,
    everything,
    has_prefix,
    key_name,
    other_network,
    separate,
)
from transfer.runtime.errors import CheckpointError

NAME = "vissl"
TASK = "classy_state_dict"
BRANCHES = ("online", "ema", "momentum")
_BLOCKS = ("_feature_blocks.", "base_model._feature_blocks.")
_TRANSFORMERS = ("", "base_model.")
_STARTS = (*((blocks, "layer1.") for blocks in _BLOCKS), *((start, "blocks.0.norm1.") for start in _TRANSFORMERS))
_SLOW = tuple(
    f"{name}.{module}"
    for name in ("moco_encoder", "momentum_encoder", "momentum_teacher")
    for module in ("", "module.")
)
_STATE = {
    "loss": "state of the loss: queues, memory banks, prototypes, momentum network",
    **dict.fromkeys(("meters", "ema_meters", "losses", "hooks"), "meters and logs of the training loop"),
    "train_dataset_iterator": "state of the training loop, not of the network",
}


@dataclass(frozen=True)
class _Place:
    """Where a network lies: its state dict, the keys to it, and what its backbone's names begin with."""

    weights: Mapping[str, Any]
    keys: tuple[str, ...]
    prefix: str


def _inside(tree: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """The mapping under these keys; an empty one if there is none."""
    found: Any = tree
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _places(tree: Tree) -> dict[str, _Place]:
    """Branch → place of each network in the file."""
    wanted: dict[str, list[tuple[tuple[str, ...], tuple[str, ...]]]] = {
        "online": [((TASK, "base_model", "model", "trunk"), ("",))],
        "ema": [((TASK, "ema_model", "model", "trunk"), ("",))],
        "momentum": [(keys, tuple(f"{slow}trunk." for slow in _SLOW)) for keys in (("loss",), (TASK, "loss"))],
    }
    found: dict[str, _Place] = {}
    for branch, places in wanted.items():
        for keys, outer in places:
            weights = _inside(tree, *keys)
            starts = [(each + start, marker) for each in outer for start, marker in _STARTS]
            prefix = next((start for start, marker in starts if has_prefix(weights, start + marker)), None)
            if prefix is not None:
                found.setdefault(branch, _Place(weights, keys, prefix))
    return found


def recognise(tree: Tree) -> Match | Mismatch:
    """`classy_state_dict` holds a trunk whose names begin with `_feature_blocks.layer1.`, or are timm's of a ViT."""
    if "online" not in _places(tree):
        return Mismatch(f"no trunk with _feature_blocks.layer1. or blocks.0.norm1. in {TASK}")
    heads = _inside(tree, TASK, "base_model", "model", "heads")
    return Match(f"VISSL training checkpoint, {len({key_name(name).split('.')[0] for name in heads})} head(s)")


def read(tree: Tree, branch: str | None) -> Extracted:
    """Take the trunk of one network; everything around it is training state."""
    taken = branch or BRANCHES[0]
    places = _places(tree)
    if taken not in places:
        raise CheckpointError(
            f"holds no {taken} network" if places else f"has no trunk where the format {NAME} keeps it",
            found=f"it holds {', '.join(places)}" if places else "",
            todo="choose one of these --branch" if places else "leave out --format to have the format recognised",
        )
    place = places[taken]
    slow = place.prefix.partition("trunk.")[0] if taken == "momentum" else ""
    where = ".".join(place.keys) + "."
    rules = [Drop(f"{slow}heads.", "heads, behind the backbone")] if slow else []
    rules.append(Drop(f"{place.prefix}masked_embed", "stands for masked patches in pretraining, unused in evaluation"))
    network = {name: value for name, value in place.weights.items() if key_name(name).startswith(slow)}
    state, dropped = separate(network, place.prefix, rules, where=where)
    dropped += everything({n: v for n, v in place.weights.items() if n not in network}, _STATE["loss"], where=where)
    # vision_transformer.py resizes positions as DINO's, of whose code it is
    return Extracted(state, dropped + _around(tree, place.keys, taken), taken, facts={"positions": "offset"})


def _around(tree: Tree, taken: tuple[str, ...], branch: str) -> tuple[Dropped, ...]:
    """What lies beside the state dict that was taken, level by level.

    Raises:
        CheckpointError: an entry that the layout does not have holds tensors.
    """
    task = _inside(tree, TASK)
    dropped = _known(tree, "", [] if taken == ("loss",) else ["loss"])
    dropped += _known(task, f"{TASK}.", [key for key in _STATE if (TASK, key) != taken])
    for name, key in (("online", "base_model"), ("ema", "ema_model")):
        network = _inside(task, key)
        if name != branch:
            dropped += everything(network, other_network(name, branch), where=f"{TASK}.{key}.")
        else:
            model, reason = _inside(network, "model"), "heads, behind the backbone"
            dropped += as_dropped({reason: [f"{TASK}.{key}.model.heads"] if "heads" in model else []})
            dropped += beside(model, ["trunk", "heads"]) + beside(network, ["model"])
    return dropped + beside(task, ["base_model", "ema_model", *_STATE]) + beside(tree, [TASK, "loss"])


def _known(mapping: Mapping[str, Any], where: str, keys: list[str]) -> tuple[Dropped, ...]:
    groups: dict[str, list[str]] = {}
    for key in keys:
        if key in mapping:
            groups.setdefault(_STATE[key], []).append(where + key)
    return as_dropped(groups)


FORMAT = Format(NAME, BRANCHES, recognise, read, families=("resnet", "vit"))
