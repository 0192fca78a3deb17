"""The state of a detector's training in one file, from which it goes on exactly."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

from detection.engines.detector import DetectionJob, Detector, Schedule
from detection.engines.progress import LOWER
from transfer.checkpoints.verify import UNPROVED, Proof
from transfer.runtime.errors import TrainingError
from transfer.runtime.files import save_torch
from transfer.runtime.training import read_whole
from transfer.runtime.world import World

CHECKPOINT_FILE = "checkpoint.pth"
_KEYS = {"engine", "run", "iteration", "model", "optimizer", "schedule", "scaler", "memory", "proof"}


@dataclass(eq=False)
class Training:
    """What changes while training, and what a checkpoint therefore holds; and the proof of what it began with.

    Attributes:
        detector: the network, and what it remembers beside its state dict.
        run: `digest` of the run.
        scaler: of losses in fp16; it does nothing otherwise.
    """

    detector: Detector
    run: str
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    scaler: GradScaler
    world: World
    proof: Proof = field(default_factory=lambda: UNPROVED)

    @classmethod
    def of(cls, detector: Detector) -> Training:
        """Before the first iteration."""
        job = detector.job
        scaler = GradScaler(torch.device(job.device).type, enabled=detector.amp == "fp16")
        return cls(detector, digest(job, detector.name), *detector.optimisation(), scaler, job.world)

    @property
    def model(self) -> nn.Module:
        """The network."""
        return self.detector.model

    def save(self, path: Path, done: int) -> None:
        """Write the state after `done` iterations, whole or not at all; every process calls it, the leader writes.

        Batch norms that are not synchronised keep statistics of their own on each process; from here on all have the
        leader's, as they will after a resume.

        Raises:
            TrainingError: a weight is not finite; the old file stays.
        """
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self.model.parameters()):
            raise TrainingError(f"weights are NaN or infinite after {done} iterations", todo=LOWER)
        self.world.demand_equal("weights", self.model.parameters())
        self.world.copy_from_leader(self.model.buffers())
        content = {
            "engine": self.detector.name,
            "run": self.run,
            "iteration": done,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "memory": self.world.collect(self.detector.memory()),
            "proof": self.proof,
        }
        self.world.together(lambda: save_torch(content, path) if self.world.leads else None)

    def take_up(self, path: Path, device: str) -> int:
        """The iteration to begin with, the same on all processes: 0, or where the checkpoint at `path` ends.

        Raises:
            TrainingError: the file is damaged, of another engine or of another run, or not every process has it.
        """
        start = self.world.together(lambda: self._load(path, device) if path.exists() else 0)
        starts = self.world.collect(start)
        if len(set(starts)) > 1:
            raise TrainingError(
                f"not every process finds the same {path}",
                found=", ".join(f"process {rank} would begin at iteration {at}" for rank, at in enumerate(starts)),
                todo="give all machines the same output folder",
            )
        return start

    def _load(self, path: Path, device: str) -> int:
        remedy = "delete the file to start anew"
        content = read_whole(path, f"the checkpoint {path} cannot be read: it is damaged", remedy, device)
        if not isinstance(content, dict) or set(content) != _KEYS or content["engine"] != self.detector.name:
            keys = list(content) if isinstance(content, dict) else [type(content).__name__]
            raise TrainingError(
                f"{path} is no checkpoint of the {self.detector.name} engine",
                found="not written by it, or by an earlier version: " + ", ".join(str(key) for key in keys[:6]),
                todo=remedy,
            )
        if content["run"] != self.run:
            raise TrainingError(
                f"{path} was not written by this run but by another run",
                found="other weights, recipe, training images, seed or number of processes",
                todo=f"{remedy}, or choose another output folder",
            )
        self.proof = content["proof"]
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.schedule.load_state_dict(content["schedule"])
        self.scaler.load_state_dict(content["scaler"])
        self.detector.remember(content["memory"][self.world.rank])
        return int(content["iteration"])


def digest(job: DetectionJob, engine: str) -> str:
    """What a checkpoint must have been trained from to be taken up, as a sha256.

    Engine, weights, recipe, images and annotations in their order, seed and number of processes.
    """
    facts = {
        "engine": engine,
        "backbone": [job.backbone.source.sha256, job.backbone.source.branch, job.backbone.arch],
        "recipe": dataclasses.asdict(job.recipe),
        "images": [image.name for image in job.train.images],
        "contents": job.train.fingerprint()["sha256"],
        "seed": job.seed,
        "processes": job.world.size,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
