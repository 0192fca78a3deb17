"""Training with Detectron2's own trainers, schedule and hooks; kept in one checkpoint file, continued exactly."""

from __future__ import annotations

import logging
from dataclasses import asdict

import torch
from detectron2.engine import AMPTrainer, SimpleTrainer
from detectron2.engine.hooks import LRScheduler
from detectron2.solver import build_lr_scheduler, build_optimizer
from torch import nn
from torch.amp.grad_scaler import GradScaler

from detection.engines.detectron2.checkpoint import CHECKPOINT_FILE, Training, run_digest
from detection.engines.detectron2.data import train_batches
from detection.engines.detectron2.hooks import Curve, Forward, Gradients, Log, Save
from detection.engines.detectron2.model import verify_model
from detection.engines.detectron2.statistics import precise_bn_batches
from detection.engines.detectron2.watched import WatchedCfg
from detection.recipe import DetectionJob
from transfer.checkpoints.verify import Verification, of_beginning
from transfer.runtime.curve import FILE
from transfer.runtime.errors import TrainingError
from transfer.runtime.progress import TrainingLog

logger = logging.getLogger(__name__)


def train(cfg: WatchedCfg, job: DetectionJob, model: nn.Module) -> tuple[int, Verification | None]:
    """Train `model` for the recipe's iterations, at least one, from `checkpoint.pth` on where there is one.

    Returns:
        The iteration that training began with: 0, or where an earlier run had stopped; and the proof of the model as it
        was before the first one, out of the checkpoint where there is one (None: an older version kept none).

    Raises:
        EngineError: the model does not hold the backbone's weights, or a key of the config is read by nothing; nothing
            was trained.
        TrainingError: the loss stopped being finite, or the checkpoint cannot be used.
        DataError: an image cannot be read.
    """
    total = job.recipe.iterations
    training = _new_training(cfg, job, model)
    start = _take_up(training, job)
    log = TrainingLog(job.workdir / FILE, start, total, world=job.world, device=job.device)
    forward = Forward(model, job.recipe.amp == "bf16", job.device)
    trainer = _trainer(cfg, job, training, forward, start)
    # In this order: the log shows the learning rate that was used, the checkpoint keeps the next one; what is on the
    # curve is not scored again after a resume.
    trainer.register_hooks(
        [
            Gradients(training, job.recipe.clip_gradients),
            Log(log, forward),
            LRScheduler(training.optimizer, training.scheduler),
            Curve(cfg, job, model, log),
            Save(training, job.workdir / CHECKPOINT_FILE, cfg.SOLVER.CHECKPOINT_PERIOD),
        ]
    )
    logger.info(
        "training from iteration %d of %d, then PreciseBN from %d batches", start, total, precise_bn_batches(cfg)
    )
    try:
        cfg.demand_read()
        if start == 0:  # wrapped, hooked and in its place: the next to touch it is the first step
            found = job.world.together(lambda: verify_model(model, job.backbone, job.recipe.amp))
            training.proof = asdict(found)
            logger.info("detectron2 %s", found.line())
        proof = of_beginning({"proof": training.proof}, job.backbone)
        if start < total:
            trainer.train(start, total)
    except FloatingPointError as error:
        # Detectron2's own check of the region proposals. Other processes end with this one: torchrun sees to that.
        raise TrainingError(
            f"training diverged at iteration {trainer.iter}",
            found=str(error),
            todo="lower the learning rate (--detector.lr) or lengthen the warm-up (--detector.warmup-iterations); "
            "the last good checkpoint is kept",
        ) from error
    finally:
        log.close()
    return start, proof


def _new_training(cfg: WatchedCfg, job: DetectionJob, model: nn.Module) -> Training:
    optimizer = build_optimizer(cfg, model)
    scaler = GradScaler(torch.device(job.device).type) if job.recipe.amp == "fp16" else None
    scheduler = build_lr_scheduler(cfg, optimizer)
    return Training(run_digest(job), model, optimizer, scheduler, scaler, job.world)


def _take_up(training: Training, job: DetectionJob) -> int:
    """The iteration to begin with, the same on all processes."""
    path = job.workdir / CHECKPOINT_FILE
    start = job.world.together(lambda: training.load(path, job.device) if path.exists() else 0)
    starts = job.world.collect(start)
    if len(set(starts)) > 1:
        raise TrainingError(
            f"not every process finds the same {path}",
            found=", ".join(f"process {rank} would begin at iteration {found}" for rank, found in enumerate(starts)),
            todo="give all machines the same output folder",
        )
    return start


def _trainer(cfg: WatchedCfg, job: DetectionJob, training: Training, forward: Forward, start: int) -> SimpleTrainer:
    """Detectron2's trainer, told never to gather metrics: it pickles them between processes in every iteration."""
    total = job.recipe.iterations
    batches = train_batches(cfg, job, cfg.SEED, start, total)
    never = total + 1
    if cfg.SOLVER.AMP.ENABLED and training.scaler:
        return AMPTrainer(forward, batches, training.optimizer, never, grad_scaler=training.scaler)
    return SimpleTrainer(forward, batches, training.optimizer, never)
