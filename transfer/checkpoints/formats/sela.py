"""SeLa (self-labelling), the original release and its training checkpoints.

Layouts (yukimasano/self-label: README.md, change_state_dict.py, files.py, models/resnetv1.py, models/resnetv2.py):

- the models of August 2020: `{"state_dict", "labels"}` with torchvision's names, `fc` predicting the clusters, and
  "labels" the cluster of every image;
- training checkpoints: `{"epoch", "arch", "state_dict", "optimizer", "L"}`, or the older release's bare state dict,
  with `features.0`, `.1` for the stem, `.4` to `.7` for the stages, `features.module.` if trained on several GPUs, and
  one `top_layer.` or several `top_layer0.`, `top_layer1.`, … for the clusterings.

The ResNet of the paper's first version (`resnetv2`) is a pre-activation one, with `features.2` to `.5` as stages: no
engine has it. `model_final.pth.tar` pickles the network as an object and is refused by the reader.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from transfer.checkpoints.declared import renamed, sequential
from transfer.checkpoints.rules import (
    TRAINING_STATE,
    Drop,
    Extracted,
    Format,
    Match,
    Mismatch,
    Tree,
    beside,
    everything,
    has_prefix,
    holds_tensors,
    key_name,
    separate,
    weights_under,
)
from transfer.runtime.errors import CheckpointError

NAME = "sela"
LABELS = ("labels", "L")


def _locate(tree: Tree) -> tuple[Mapping[str, Any], str | None, str] | None:
    """(weights, key or None for the top, prefix of the backbone), or None if this is no such file."""
    inside = weights_under(tree, "state_dict")
    if inside is not None and has_prefix(inside, "layer1.") and holds_tensors(tree.get("labels")):
        return inside, "state_dict", ""
    for weights, key in ((inside, "state_dict"), (tree, None)):
        for prefix in ("features.", "features.module."):
            if weights is not None and has_prefix(weights, "top_layer") and has_prefix(weights, f"{prefix}4."):
                return weights, key, prefix
    return None


def recognise(tree: Tree) -> Match | Mismatch:
    """torchvision's names beside "labels", or `features.` and `top_layer`."""
    located = _locate(tree)
    if located is None:
        return Mismatch("neither `state_dict` with layer1. beside `labels`, nor features.4. with top_layer")
    return Match("SeLa" + (" under `features`" if located[2] else ", torchvision's names"))


def read(tree: Tree, branch: str | None) -> Extracted:
    """Drop the heads that predict clusters and the labels of the images."""
    located = _locate(tree)
    if located is None:
        raise CheckpointError(
            f"has no tensors where the format {NAME} keeps them",
            todo="leave out --format to have the format recognised, or choose another one",
        )
    weights, key, prefix = located
    if has_prefix(weights, f"{prefix}2."):
        raise CheckpointError(
            "is a pre-activation ResNet (SeLa's resnetv2), which no engine builds",
            todo="take one of the models that SeLa's authors published later in torchvision's layout "
            "(resnet50-10x3k_pp.pth)",
        )
    loop = [name for name in weights if key is None and name in TRAINING_STATE]
    weights = {name: value for name, value in weights.items() if name not in loop}
    heads = [key_name(name) for name in weights if re.match(r"(fc|top_layer\d*)\.", key_name(name))]
    rules = [Drop(name, "prediction of clusters, behind the backbone") for name in heads]
    state, dropped = separate(weights, prefix, rules)
    if prefix:
        state = renamed(state, sequential, prefix)
    if key is not None:
        labels = [key for key in LABELS if key in tree]
        dropped += everything(dict.fromkeys(labels), "the cluster of every image")
        dropped += beside(tree, [key, *labels])
    return Extracted(state, dropped)


FORMAT = Format(NAME, (), recognise, read)
