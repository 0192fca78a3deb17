"""Training with Detectron2's own trainer, schedule and hooks; kept in one checkpoint file, continued exactly."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase, SimpleTrainer
from detectron2.engine.hooks import LRScheduler
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils.events import EventStorage
from torch import nn

from transfer.detector import DetectionJob
from transfer.engines.detectron2.data import train_batches
from transfer.engines.precise_bn import update_bn_statistics
from transfer.engines.progress import TrainingLog
from transfer.errors import TrainingError
from transfer.torch_files import save_torch

CHECKPOINT_FILE = "checkpoint.pth"
METRICS_FILE = "metrics.jsonl"

_KEYS = {"engine", "run", "iteration", "model", "optimizer", "scheduler"}


@dataclasses.dataclass(frozen=True, eq=False)
class Training:
    """What changes while training, and what a checkpoint therefore holds."""

    run: str
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: Any

    def save(self, path: Path, done: int) -> None:
        """Write the state after `done` iterations, whole or not at all."""
        content = {
            "engine": "detectron2",
            "run": self.run,
            "iteration": done,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }
        save_torch(content, path)

    def load(self, path: Path, device: str) -> int:
        """Take up the state in `path`; returns the number of iterations it has done.

        Raises:
            TrainingError: the file is cut off, no checkpoint of this engine, or of another run.
        """
        content = _read(path, device)
        if content["run"] != self.run:
            raise TrainingError(
                f"{path} belongs to another run",
                found="other weights, recipe, training images or seed",
                todo="delete the file to start anew, or choose another output folder",
            )
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.scheduler.load_state_dict(content["scheduler"])
        return int(content["iteration"])


def train(cfg: CfgNode, job: DetectionJob, model: nn.Module) -> int:
    """Train `model` for the recipe's iterations, from `checkpoint.pth` on where there is one.

    Returns:
        The iteration that training began with: 0, or where an earlier run had stopped.

    Raises:
        TrainingError: the loss stopped being finite, or the checkpoint cannot be used.
        DataError: an image cannot be read.
    """
    total = job.recipe.iterations
    if total == 0:
        return 0
    optimizer = build_optimizer(cfg, model)
    training = Training(run_digest(job), model, optimizer, build_lr_scheduler(cfg, optimizer))
    checkpoint = job.workdir / CHECKPOINT_FILE
    start = training.load(checkpoint, job.device) if checkpoint.exists() else 0
    if start >= total:
        return start
    trainer = SimpleTrainer(model, train_batches(cfg, job, job.seed, start, total), optimizer)
    log = TrainingLog(job.workdir / METRICS_FILE, start, total)
    # In this order: the log shows the learning rate that was used, the checkpoint keeps the next one.
    trainer.register_hooks(
        [_Log(log), LRScheduler(optimizer, training.scheduler), _Save(training, checkpoint, job.checkpoint_every)]
    )
    try:
        trainer.train(start, total)
    except FloatingPointError as error:
        raise TrainingError(
            f"training diverged at iteration {trainer.iter}",
            found=str(error),
            todo="lower the learning rate (--detector.lr) or lengthen the warm-up (--detector.warmup-iterations); "
            "the last good checkpoint is kept",
        ) from error
    finally:
        log.close()
    return start


def renew_statistics(cfg: CfgNode, job: DetectionJob, model: nn.Module) -> int:
    """PreciseBN: the statistics of every trained batch norm, averaged over `recipe.precise_bn` training batches.

    The batches come from a plan of their own, the same after every resume.

    Returns:
        The number of layers renewed.
    """
    iterations = job.recipe.precise_bn
    if iterations == 0:
        return 0
    seed = job.seed + 1  # another stream of images, the same one as in the mmdet engine
    model.train()
    with EventStorage():  # the losses, not used here, are reported to it
        return update_bn_statistics(model, train_batches(cfg, job, seed, 0, iterations), model, iterations)


def run_digest(job: DetectionJob) -> str:
    """What a checkpoint must have been trained from to be taken up: weights, recipe, images and seed, as a sha256."""
    facts = {
        "backbone": [job.backbone.source.sha256, job.backbone.source.branch, job.backbone.arch],
        "recipe": dataclasses.asdict(job.recipe),
        "images": [image.name for image in job.train.images],
        "seed": job.seed,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


class _Log(HookBase):  # type: ignore[misc]
    """Passes the losses of every iteration to the `TrainingLog`."""

    def __init__(self, log: TrainingLog) -> None:
        self.log = log

    def after_step(self) -> None:
        latest = self.trainer.storage.latest()
        losses = {name: float(value) for name, (value, _) in latest.items() if name.startswith("loss_")}
        self.log.step(self.trainer.iter, self.trainer.optimizer.param_groups[0]["lr"], losses)


class _Save(HookBase):  # type: ignore[misc]
    """Writes the checkpoint every so many iterations, and after the last."""

    def __init__(self, training: Training, path: Path, every: int) -> None:
        self.training, self.path, self.every = training, path, every

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self.every == 0 or done == self.trainer.max_iter:
            self.training.save(self.path, done)


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
    if not isinstance(content, dict) or set(content) != _KEYS or content["engine"] != "detectron2":
        keys: Iterable[object] = content if isinstance(content, dict) else [type(content).__name__]
        raise TrainingError(
            f"{path} is no checkpoint of the detectron2 engine",
            found=", ".join(str(key) for key in list(keys)[:6]),
            todo=remedy,
        )
    return content
