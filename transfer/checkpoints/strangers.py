"""Torch files that hold no network: named as what they are."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from transfer.checkpoints.rules import TRAINING_STATE, Tree, holds_tensors, key_name
from transfer.runtime.errors import CheckpointError


def refuse_strangers(tree: Tree) -> None:
    """Raise `CheckpointError` for an empty dict, settings without tensors and the state of an optimiser alone."""
    if not holds_tensors(tree):
        keys = ", ".join(key_name(key)[:40] for key in list(tree)[:6])
        raise CheckpointError(
            "holds settings or counters and not a single tensor" if tree else "is an empty dict",
            found=f"keys: {keys}" if tree else "nothing was in the dict that was saved",
            todo="save the weights: torch.save({'state_dict': model.state_dict()}, 'weights.pth')",
        )
    training = [key_name(key) for key, value in tree.items() if _is_optimiser(value) or key in TRAINING_STATE]
    rest = {key: value for key, value in tree.items() if key_name(key) not in training}
    if _is_optimiser(tree) or not holds_tensors(rest):
        raise CheckpointError(
            "holds the state of an optimiser and no network",
            found="`state` and `param_groups`" if _is_optimiser(tree) else f"under {', '.join(training)}",
            todo="name the file that holds the model's state dict (its training wrote it beside this one), or save it: "
            "torch.save({'state_dict': model.state_dict()}, 'weights.pth')",
        )


def tensors_in(tree: Tree) -> int:
    """How many tensors lie in nested dicts, training state aside."""
    count, waiting, seen = 0, [value for key, value in tree.items() if key not in TRAINING_STATE], set()
    while waiting:
        value = waiting.pop()
        count += isinstance(value, torch.Tensor)
        if isinstance(value, Mapping) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values())
    return count


def _is_optimiser(value: object) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("param_groups"), list) and "state" in value
