"""The checkpoint of a run: weights for others to read, and all that an exact resume needs.

A `torch.save` dict that loads with `weights_only=True`:
    format "msbreg-checkpoint", version 1, method, epoch, step,
    arch, stem  "imagenet" or "cifar" of a ResNet; a transformer's arch is the whole name, vit_tiny_patch16_128
    input     channels, value_range, mean and std that the encoder was trained with
    online    encoder.<torchvision names without fc, timm names without head>, projector.…, predictor.…
    target    encoder.…, projector.… (methods with a slow copy)
    config    everything that decides the outcome, as plain values
    optimizer, scaler, progress, rest (what else the method remembers: a queue, prototypes)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pretrain.methods import Method
from pretrain.networks import architecture
from pretrain.recipe import BEFORE
from pretrain.step import Step
from pretrain.views import MEAN, STD
from transfer.runtime import training
from transfer.runtime.errors import TrainingError
from transfer.runtime.files import save_torch
from transfer.runtime.training import demand_format, read_whole

FORMAT, VERSION = "msbreg-checkpoint", 1
FILE = "checkpoint.pth"


def save(path: Path, step: Step, config: Mapping[str, Any], progress: Mapping[str, Any]) -> None:
    """Write the checkpoint whole or not at all.

    Args:
        path: the file.
        step: method, optimiser and gradient scaler.
        config: `recipe` (with `arch` and `stem`), `method`, `settings`, `data`: plain values.
        progress: `step`, `steps` and `epoch`, counted as finished; `unreadable` images so far; `conditions`, a
            list of those it was trained under (`transfer.runtime.conditions`).

    Raises:
        UserError: no space left or no right to write; the previous checkpoint is kept.
    """
    encoder: Any = step.method.branches["online"].encoder
    state = {
        "format": FORMAT,
        "version": VERSION,
        "arch": architecture(encoder, config["recipe"]["arch"]),
        "method": config["method"],
        "epoch": progress["epoch"],
        "step": progress["step"],
        "stem": config["recipe"]["stem"],
        "input": {"channels": "RGB", "value_range": 1.0, "mean": list(MEAN), "std": list(STD)},
        **{name: _contiguous(branch.state_dict()) for name, branch in step.method.branches.items()},
        "config": dict(config),
        "optimizer": step.optimizer.state_dict(),
        "scaler": step.scaler.state_dict(),
        "progress": dict(progress),
        "rest": _contiguous(rest(step.method)),
    }
    save_torch(state, path)


def rest(method: Method) -> dict[str, torch.Tensor]:
    """What the method holds beside its branches, by name."""
    return {name: tensor for name, tensor in method.state_dict().items() if name.split(".")[0] not in method.branches}


def load(path: Path) -> dict[str, Any] | None:
    """The checkpoint as a dict on the CPU, or None where there is none.

    Raises:
        TrainingError: the file is not one of this project's checkpoints.
    """
    if not path.exists():
        return None
    if not os.access(path, os.R_OK):
        raise TrainingError(f"may not read {path}", todo="change its permissions or choose another --out")
    remedy = "start anew with --overwrite or choose another --out"
    state: dict[str, Any] = read_whole(path, f"cannot resume from {path}", remedy)
    demand_format(state, path, FORMAT, VERSION, remedy)
    return state


def restore(state: Mapping[str, Any], step: Step) -> None:
    """Put weights, running statistics, momentum, scale and the method's memory back."""
    flat = dict(state["rest"])
    for name in step.method.branches:
        flat |= {f"{name}.{key}": tensor for key, tensor in state[name].items()}
    step.method.load_state_dict(flat)
    step.optimizer.load_state_dict(state["optimizer"])
    step.scaler.load_state_dict(state["scaler"])


def differences(saved: Mapping[str, Any], wanted: Mapping[str, Any], where: str = "in the checkpoint") -> list[str]:
    """See `transfer.runtime.training`; a recipe that was saved before it had all of today's fields is completed."""
    return training.differences({**saved, "recipe": {**BEFORE, **saved["recipe"]}}, wanted, where)


def _contiguous(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    # channels_last is a matter of speed on this machine; files keep the usual layout.
    return {name: tensor.detach().contiguous() for name, tensor in state.items()}
