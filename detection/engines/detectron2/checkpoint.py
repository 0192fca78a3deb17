"""The state of a training in one file, from which it goes on exactly."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

from detection.recipe import DetectionJob
from transfer.checkpoints.verify import UNPROVED, Proof
from transfer.runtime.errors import TrainingError
from transfer.runtime.files import save_torch
from transfer.runtime.world import World

CHECKPOINT_FILE = "checkpoint.pth"

_KEYS = {"engine", "run", "iteration", "model", "optimizer", "scheduler", "normalizers", "scaler", "proof"}
_LATER = {"proof"}  # older files have none
# RetinaNet and FCOS divide their losses by a moving average of the number of positive anchors, which they keep as a
# plain attribute, in no state_dict (detectron2/modeling/meta_arch/dense_detector.py, `_ema_update`).
_NORMALIZER = "loss_normalizer"


@dataclasses.dataclass(eq=False)
class Training:
    """What changes while training, and what a checkpoint therefore holds; and the proof of what it began with."""

    run: str
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: Any
    scaler: GradScaler | None  # of fp16
    world: World
    proof: Proof = dataclasses.field(default_factory=lambda: UNPROVED)

    def save(self, path: Path, done: int) -> None:
        """Write the state after `done` iterations, whole or not at all; every process calls it, the leader writes.

        Batch norms that are not synchronised keep statistics of their own on each process; from here on all have the
        leader's, as they will after a resume.

        Raises:
            TrainingError: a weight is not finite; the old file stays.
        """
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self.model.parameters()):
            raise TrainingError(
                f"weights are NaN or infinite after {done} iterations",
                todo="lower the learning rate (--detector.lr) or lengthen the warm-up (--detector.warmup-iterations); "
                "the last good checkpoint is kept",
            )
        self.world.copy_from_leader(self.model.buffers())
        content = {
            "engine": "detectron2",
            "run": self.run,
            "iteration": done,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "normalizers": self.world.collect(loss_normalizer(self.model)),
            "scaler": self.scaler.state_dict() if self.scaler else {},
            "proof": self.proof,
        }
        self.world.together(lambda: save_torch(content, path) if self.world.leads else None)

    def load(self, path: Path, device: str) -> int:
        """Take up the state in `path`; returns the number of iterations it has done.

        Raises:
            TrainingError: the file is cut off, no checkpoint of this engine, or of another run.
        """
        content = _read(path, device)
        if content["run"] != self.run:
            raise TrainingError(
                f"{path} belongs to another run",
                found="other weights, recipe, training images, seed or number of processes",
                todo="delete the file to start anew, or choose another output folder",
            )
        self.proof = content.get("proof", UNPROVED)
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.scheduler.load_state_dict(content["scheduler"])
        set_loss_normalizer(self.model, content["normalizers"][self.world.rank])
        if self.scaler:
            self.scaler.load_state_dict(content["scaler"])
        return int(content["iteration"])


def loss_normalizer(model: nn.Module) -> float | None:
    """The moving average that a dense detector divides its losses by; None before its first iteration."""
    value = getattr(model, _NORMALIZER, None)
    return None if value is None else float(value)


def set_loss_normalizer(model: nn.Module, value: float | None) -> None:
    """Put `loss_normalizer` back."""
    if value is not None:
        setattr(model, _NORMALIZER, value)
    elif hasattr(model, _NORMALIZER):
        delattr(model, _NORMALIZER)


def run_digest(job: DetectionJob) -> str:
    """What a checkpoint must have been trained from to be taken up, as a sha256.

    Weights, recipe, images and annotations in their order, seed and number of processes.
    """
    facts = {
        "backbone": [job.backbone.source.sha256, job.backbone.source.branch, job.backbone.arch],
        "recipe": dataclasses.asdict(job.recipe),
        "images": [image.name for image in job.train.images],
        "contents": job.train.fingerprint()["sha256"],
        "seed": job.seed,
        "processes": job.world.size,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _read(path: Path, device: str) -> dict[str, Any]:
    """The content of a checkpoint of this engine; nothing in the file is run."""
    remedy = "delete the file to start anew"
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        first_line = str(error).strip().splitlines()[:1]
        raise TrainingError(
            f"the checkpoint {path} cannot be read", found="".join(first_line) or "it is cut off", todo=remedy
        ) from error
    if not isinstance(content, dict) or set(content) | _LATER != _KEYS or content["engine"] != "detectron2":
        keys: Iterable[object] = content if isinstance(content, dict) else [type(content).__name__]
        raise TrainingError(
            f"{path} is no checkpoint of the detectron2 engine",
            found=", ".join(str(key) for key in list(keys)[:6]),
            todo=remedy,
        )
    return content
