"""What happens in an iteration beside Detectron2's own forward pass, backward pass and step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from torch import Tensor, nn

from detection.engines.detectron2.checkpoint import Training
from detection.engines.detectron2.data import PredictionImages
from detection.engines.detectron2.prediction import predict
from detection.engines.detectron2.statistics import put_back, renew_statistics
from detection.recipe import DetectionJob
from transfer.runtime.progress import TrainingLog


class Forward(nn.Module):
    """The detector as the trainer sees it: in bf16 where that is asked for, and its last losses at hand.

    bf16 needs no loss scaling, so this is all of it, on CPUs as on GPUs; fp16 is Detectron2's AMPTrainer's business.
    """

    def __init__(self, model: nn.Module, bf16: bool, device: str) -> None:
        super().__init__()
        self.model, self.bf16, self.device_type = model, bf16, torch.device(device).type
        self.losses: dict[str, Tensor] = {}

    def forward(self, batch: list[Any]) -> dict[str, Tensor]:
        """The losses of one batch."""
        # TorchScript, in which the focal loss is written, computes otherwise in the last bits once it has optimised
        # itself after a few calls; a resumed training would not repeat the uninterrupted one. GPUs do not anyway.
        optimised = torch.jit.optimized_execution(self.device_type != "cpu")  # type: ignore[attr-defined]
        with optimised, torch.autocast(self.device_type, torch.bfloat16, enabled=self.bf16):
            losses: dict[str, Tensor] = self.model(batch)
        self.losses = {name: loss.detach() for name, loss in losses.items()}
        return losses


class Gradients(HookBase):  # type: ignore[misc]
    """Between backward pass and step: the mean over all processes, then no longer than the recipe allows."""

    def __init__(self, training: Training, largest_norm: float) -> None:
        self.training, self.largest_norm = training, largest_norm
        self.parameters = [parameter for parameter in training.model.parameters() if parameter.requires_grad]

    def after_backward(self) -> None:
        """Called by the trainer."""
        world, scaler = self.training.world, self.training.scaler
        if world.size > 1:
            for parameter in self.parameters:
                if parameter.grad is None:  # not used by this process's images, perhaps by another's
                    parameter.grad = torch.zeros_like(parameter)
            world.average([parameter.grad for parameter in self.parameters if parameter.grad is not None])
        if self.largest_norm:
            if scaler:
                scaler.unscale_(self.training.optimizer)
            nn.utils.clip_grad_norm_(self.parameters, self.largest_norm)


class Log(HookBase):  # type: ignore[misc]
    """Passes the losses of every iteration to the `TrainingLog`, which ends the training if they are not finite."""

    def __init__(self, log: TrainingLog, forward: Forward) -> None:
        self.log, self.forward = log, forward

    def after_step(self) -> None:
        """Called by the trainer."""
        names = list(self.forward.losses)
        values = torch.stack([self.forward.losses[name].float() for name in names]).tolist()
        lr = self.trainer.optimizer.param_groups[0]["lr"]
        self.log.step(self.trainer.iter, lr, dict(zip(names, values, strict=True)))


class Curve(HookBase):  # type: ignore[misc]
    """Scores the detector every so many iterations; training goes on as if it had not been looked at."""

    def __init__(self, cfg: CfgNode, job: DetectionJob, model: nn.Module, log: TrainingLog) -> None:
        self.cfg, self.job, self.model, self.log = cfg, job, model, log
        self.every: int = cfg.TEST.EVAL_PERIOD
        self.images = PredictionImages(cfg, job.test)

    def after_step(self) -> None:
        """Called by the trainer; after the last iteration there is nothing to do, the run itself ends with that."""
        done, score, world = self.trainer.iter + 1, self.job.score, self.job.world
        if not self.every or done % self.every or done == self.trainer.max_iter or score is None:
            return
        with put_back(self.model):
            renew_statistics(self.cfg, self.job, self.model)
            detections = predict(self.images, self.job, self.model)
        metrics = world.together(lambda: score(detections) if world.leads else {})
        self.log.evaluation(self.trainer.iter, metrics)


class Save(HookBase):  # type: ignore[misc]
    """Writes the checkpoint every so many iterations, and after the last."""

    def __init__(self, training: Training, path: Path, every: int) -> None:
        self.training, self.path, self.every = training, path, every

    def after_step(self) -> None:
        """Called by the trainer."""
        done = self.trainer.iter + 1
        if done % self.every == 0 or done == self.trainer.max_iter:
            self.training.save(self.path, done)
