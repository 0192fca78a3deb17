"""The one checkpoint of an unfinished run: written whole or not at all, read only by the run that wrote it."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import torch

from detection.recipe import DetectionJob
from transfer.runtime.errors import TrainingError
from transfer.runtime.files import save_torch

LAYOUT = "msbreg-transfer/mmdet-run/2"


def checkpoint_path(job: DetectionJob) -> Path:
    """Where a run keeps its checkpoint."""
    return job.workdir / "checkpoint.pth"


def identity_of(job: DetectionJob) -> str:
    """Hash of all that decides the numbers of a training: recipe, weights, data, seed and number of processes."""
    source, data = job.backbone.source, job.train.fingerprint()["sha256"]
    parts = (LAYOUT, job.recipe, source.sha256, source.branch, data, job.seed, job.world.size)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def save(job: DetectionJob, identity: str, iteration: int, parts: dict[str, Any]) -> None:
    """Write the state after `iteration` iterations; the former checkpoint stays until this one is whole."""
    content = {"layout": LAYOUT, "identity": identity, "iteration": iteration, **parts}
    save_torch(content, checkpoint_path(job))


def load(job: DetectionJob, identity: str) -> dict[str, Any] | None:
    """The last state saved, its tensors on the job's device, or None if there is none.

    Args:
        job: says where to look.
        identity: what `identity_of` gives, which takes long for large data sets.

    Raises:
        TrainingError: the file is damaged, or belongs to another run.
    """
    path = checkpoint_path(job)
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location=job.device, weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise TrainingError(
            f"the run cannot be resumed: {path} is damaged",
            found=str(error).splitlines()[0] if str(error) else type(error).__name__,
            todo=f"delete {path} to start this run afresh",
        ) from error
    found = content if isinstance(content, dict) else {}
    if found.get("layout") != LAYOUT or found.get("identity") != identity:
        raise TrainingError(
            f"{path} was not written by this run",
            found="a checkpoint of another recipe, checkpoint, data set, seed or number of processes"
            if found.get("layout") == LAYOUT
            else "a file that this engine did not write",
            todo=f"choose another work folder, or delete {path} to start this run afresh",
        )
    return found
