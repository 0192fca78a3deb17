"""What an SGD training leaves in its folder: one checkpoint, from which it goes on, and the curve `metrics.jsonl`.

`fit.pth` is a `torch.save` dict that loads with `weights_only=True`:
    format "transfer-sgd", version 1, step, steps, config (everything that decides the outcome, as plain values),
    unreadable (image number → reason), state (tensors and plain numbers of what is trained)
"""

from __future__ import annotations

import json
import logging
import pickle
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from transfer.atomic import write_text
from transfer.errors import TrainingError
from transfer.torch_files import save_torch

FORMAT, VERSION = "transfer-sgd", 1
FILE = "fit.pth"

logger = logging.getLogger(__name__)


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
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        known = isinstance(content, dict) and (content.get("format"), content.get("version")) == (FORMAT, VERSION)
        found = "" if known else f"not a {FORMAT} of version {VERSION}"
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        found = f"not a whole PyTorch file ({type(error).__name__})"
    if found:
        raise TrainingError(f"cannot resume from {path}", found=found, todo="remove the file to train again")
    lines = differences(content["config"], config)
    if lines:
        raise TrainingError(
            f"{path} belongs to a training with other settings",
            found="\n".join(lines),
            todo="repeat its settings, choose another folder, or remove the file to train again",
        )
    return content


def clear(folder: Path) -> None:
    """Delete what kills left half written."""
    for leftover in folder.glob(f".{FILE}.*.part"):
        leftover.unlink()


def differences(saved: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Lines "recipe.lr: 0.3 in the checkpoint, 0.45 now" for every value that differs."""
    lines = []
    for name in sorted(saved.keys() | wanted.keys()):
        old, new = saved.get(name, "nothing"), wanted.get(name, "nothing")
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += differences(old, new, f"{prefix}{name}.")
        elif old != new:
            lines.append(f"{prefix}{name}: {old} in the checkpoint, {new} now")
    return lines


class Curve:
    """Writes one JSON line per logged step; lines of steps that a resume will do again are removed first.

    Args:
        path: `metrics.jsonl`; None writes nothing.
        start: steps done.
        total: steps of the whole training.
        every: steps between lines; the last step always has one.
    """

    def __init__(self, path: Path | None, start: int, total: int, every: int) -> None:
        self.path, self.total, self.every = path, total, every
        self._mark, self._marked = time.perf_counter(), start
        if path is not None:
            kept = [line for line in _whole_lines(path) if json.loads(line)["step"] <= start]
            write_text(path, "".join(line + "\n" for line in kept))

    def due(self, step: int) -> bool:
        """Whether a line belongs behind step number `step` (1, 2, …)."""
        return self.path is not None and (step % self.every == 0 or step == self.total)

    def write(self, step: int, epoch: float, numbers: Mapping[str, Any]) -> None:
        """A line; `seconds` is the mean time of a step since the last one."""
        now = time.perf_counter()
        seconds = (now - self._mark) / max(1, step - self._marked)
        self._mark, self._marked = now, step
        row = {"step": step, "epoch": round(epoch, 4), **numbers, "seconds": round(seconds, 5)}
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, allow_nan=False) + "\n")
        logger.info("step %d/%d  loss %s  %.2f s a step", step, self.total, numbers.get("loss"), seconds)


def _whole_lines(path: Path) -> list[str]:
    """Lines that were written to their end; a kill may have cut the last one."""
    return (
        [line for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")] if path.exists() else []
    )
