"""What an SGD training leaves in its folder, beside its curve: one checkpoint, from which it goes on.

`fit.pth` is a `torch.save` dict that loads with `weights_only=True`:
    format "transfer-sgd", version 1, step, steps, config (everything that decides the outcome, as plain values),
    unreadable (image number → reason), state (what is trained, and the proof of its network)
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from transfer.runtime.errors import TrainingError
from transfer.runtime.files import save_torch

FORMAT, VERSION = "transfer-sgd", 1
FILE = "fit.pth"


def save(folder: Path, content: Mapping[str, Any]) -> None:
    """Write `content` as the folder's checkpoint, whole or not at all.

    Raises:
        UserError: no space left or no right to write; the old checkpoint is still there.
    """
    save_torch({"format": FORMAT, "version": VERSION, **content}, folder / FILE)


def load(folder: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The folder's checkpoint on the CPU, or None where there is none; what a kill left half written is removed.

    Raises:
        TrainingError: it is damaged, or belongs to a training with another `config`.
    """
    path = folder / FILE
    if not path.exists():
        return None
    remedy = "remove the file to train again"
    content = read_whole(path, f"cannot resume from {path}", remedy)
    demand_format(content, path, FORMAT, VERSION, remedy)
    lines = differences(content["config"], config)
    if lines:
        raise TrainingError(
            f"{path} belongs to a training with other settings",
            found="\n".join(lines),
            todo="repeat its settings, choose another folder, or remove the file to train again",
        )
    found: dict[str, Any] = content
    return found


def read_whole(path: Path, what: str, todo: str, device: str = "cpu") -> Any:
    """The content of a checkpoint that this project wrote, tensors on `device`; nothing in the file is run.

    Raises:
        TrainingError: it is cut off or no PyTorch file: `what`, and `todo`.
    """
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise TrainingError(what, found=f"not a whole PyTorch file ({type(error).__name__})", todo=todo) from error


def demand_format(content: Any, path: Path, format: str, version: int, todo: str) -> None:
    """Refuse a file of another kind.

    Raises:
        TrainingError: it is.
    """
    if not isinstance(content, dict) or (content.get("format"), content.get("version")) != (format, version):
        raise TrainingError(f"cannot resume from {path}", found=f"not a {format} of version {version}", todo=todo)


def differences(
    saved: Mapping[str, Any], wanted: Mapping[str, Any], where: str = "in the checkpoint", prefix: str = ""
) -> list[str]:
    """Lines "recipe.lr: 0.3 in the checkpoint, 0.45 now" for every value that differs; JSON knows no tuples."""
    lines = []
    for name in sorted(saved.keys() | wanted.keys()):
        old, new = saved.get(name, "nothing"), wanted.get(name, "nothing")
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += differences(old, new, where, f"{prefix}{name}.")
        elif _listed(old) != _listed(new):
            lines.append(f"{prefix}{name}: {old} {where}, {new} now")
    return lines


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
