"""Training with mmengine's Runner: its optimiser, schedule and hooks, our order of images and our checkpoints."""

from __future__ import annotations

import itertools
import logging
from dataclasses import asdict
from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner import BaseLoop, Runner
from torch import nn

from detection.engines.mmdet import resume
from detection.engines.mmdet.data import deliver_together, training_batches
from detection.engines.mmdet.model import verify_detector
from detection.engines.mmdet.optimiser import keep_full_precision
from detection.engines.mmdet.prediction import predict
from detection.engines.mmdet.statistics import put_back, renew_statistics
from detection.engines.plan import seed_for_iteration
from detection.recipe import DetectionJob
from transfer.checkpoints.verify import UNPROVED, Verification, of_beginning
from transfer.runtime.curve import FILE
from transfer.runtime.errors import TrainingError
from transfer.runtime.progress import TrainingLog

logger = logging.getLogger(__name__)
_runs = itertools.count()


class PlannedTrainLoop(BaseLoop):  # type: ignore[misc]  # mmengine is untyped
    """Iterations `start` … `max_iters` − 1, one row of the plan each.

    mmengine's own iteration loop reads all the data again that was seen before an interruption; this one begins where
    the last checkpoint ends, and draws the same random numbers from there on as the uninterrupted run would.
    """

    def __init__(
        self, runner: Runner, dataloader: Any, job: DetectionJob, identity: str, saved: dict[str, Any] | None
    ) -> None:
        super().__init__(runner, dataloader)
        self.job, self.identity, self.saved = job, identity, saved
        self.iter: int = saved["iteration"] if saved else 0
        self.max_iters = job.recipe.iterations
        self.epoch, self.max_epochs = 0, 1
        self.proof: Verification | None = None

    def run(self) -> nn.Module:
        """Train to the end."""
        job = self.job
        self._restore()
        path = job.workdir / FILE
        log = TrainingLog(path, self.iter, self.max_iters, world=job.world, device=job.device)
        model: nn.Module = self.runner.model
        self.runner.call_hook("before_train")
        model.train()
        if self.saved is None:  # wrapped, hooked and in its place: the next to touch it is the first step
            self.proof = job.world.together(lambda: verify_detector(model, job.backbone, job.recipe.amp))
            logger.info("mmdet %s", self.proof.line())
        try:
            for batch in deliver_together(self.dataloader, job.world, job.device):
                self._iterate(batch, log)
                # After the curve: what is on it is not scored again after a resume.
                self._draw_curve(log)
                if self.iter % job.checkpoint_every == 0 or self.iter == self.max_iters:
                    self._save()
        finally:
            log.close()
        self.runner.call_hook("after_train")
        return model

    def _iterate(self, batch: Any, log: TrainingLog) -> None:
        self.runner.call_hook("before_train_iter", batch_idx=self.iter, data_batch=batch)
        seed_for_iteration(self.job.seed, self.iter, self.job.world.rank)
        lr = self.runner.optim_wrapper.param_groups[0]["lr"]
        values = self.runner.model.train_step(batch, optim_wrapper=self.runner.optim_wrapper)
        self.runner.call_hook("after_train_iter", batch_idx=self.iter, data_batch=batch, outputs=values)
        # "loss" is the sum of the others; accuracies are no losses.
        names = [name for name in values if "loss" in name and name != "loss"]
        losses = torch.stack([values[name].detach().float() for name in names]).tolist()
        log.step(self.iter, lr, dict(zip(names, losses, strict=True)))
        self.iter += 1

    def _draw_curve(self, log: TrainingLog) -> None:
        """Score the detector as if training ended here; the end itself is the run's own evaluation."""
        job, score = self.job, self.job.score
        every = job.recipe.evaluate_every
        if not every or self.iter % every or self.iter == self.max_iters or score is None:
            return
        with put_back(self.runner.model):
            renew_statistics(job, self.runner.model)
            found = predict(job, self.runner.model)
        log.evaluation(self.iter - 1, job.world.together(lambda: score(found) if job.world.leads else {}))

    def _save(self) -> None:
        """Every process calls it, the leader writes."""
        world, model = self.job.world, self.runner.model
        if not all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters()):
            raise TrainingError(
                f"weights are NaN or infinite after {self.iter} iterations",
                todo="lower the learning rate (--detector.lr) or lengthen the warm-up (--detector.warmup-iterations); "
                "the last good checkpoint is kept",
            )
        world.demand_equal("weights", model.parameters())
        # Batch norms that are not synchronised keep statistics of their own on each process; from here on all have
        # the leader's, as they will after a resume.
        world.copy_from_leader(model.buffers())
        state = {
            "model": model.state_dict(),
            "optimizer": self.runner.optim_wrapper.state_dict(),
            "schedulers": [scheduler.state_dict() for scheduler in self.runner.param_schedulers],
            "proof": asdict(self.proof) if self.proof else UNPROVED,
        }
        world.together(lambda: resume.save(self.job, self.identity, self.iter, state) if world.leads else None)

    def _restore(self) -> None:
        if self.saved is None:
            return
        self.proof = of_beginning(self.saved, self.job.backbone)
        self.runner.model.load_state_dict(self.saved["model"])
        self.runner.optim_wrapper.load_state_dict(self.saved["optimizer"])
        for scheduler, state in zip(self.runner.param_schedulers, self.saved["schedulers"], strict=True):
            scheduler.load_state_dict(state)


def train(job: DetectionJob, config: Config, model: nn.Module) -> tuple[int, Verification | None]:
    """Train `model` in place, from the beginning or from the last checkpoint in the work folder.

    Returns:
        The iteration that training began with: 0, or where an earlier run had stopped; and the proof of the model as it
        was before the first one, out of the checkpoint where there is one (None: an older version kept none).

    Raises:
        EngineError: the model does not hold the backbone's weights; nothing was trained.
        TrainingError: the loss is not finite, or the checkpoint in the work folder cannot be used.
        DataError: an image cannot be read.
    """
    identity, saved = _take_up(job)
    start: int = saved["iteration"] if saved else 0
    if start:
        logger.info("resuming %s at iteration %d", job.workdir, start)
    if job.recipe.amp != "off":
        keep_full_precision(model)

    def loop(runner: Runner, dataloader: Any) -> PlannedTrainLoop:
        # The Runner copies all other kinds of arguments deeply, the data set included.
        return PlannedTrainLoop(runner, dataloader, job, identity, saved)

    runner = Runner(
        model=model,
        work_dir=str(job.workdir / "mmdet"),
        train_dataloader=training_batches(job, job.seed, start, job.recipe.iterations),
        train_cfg={"type": loop},
        optim_wrapper={**config.optim_wrapper, "device": job.device, "world": job.world},
        param_scheduler=config.param_scheduler,
        # Curves, checkpoints and progress are ours; only the schedule's hook stays.
        default_hooks=dict.fromkeys(("runtime_info", "timer", "sampler_seed", "logger", "checkpoint")),
        randomness={"seed": job.seed},
        log_level="ERROR",
        experiment_name=f"{job.workdir.name}-{next(_runs)}",  # mmengine keeps global state under this name
        cfg=config,
    )
    model.to(job.device)  # the Runner moves models to a GPU whenever there is one
    runner.train()
    return start, runner.train_loop.proof


def _take_up(job: DetectionJob) -> tuple[str, dict[str, Any] | None]:
    """The run's identity and its last checkpoint, the same on all processes."""
    identity = resume.identity_of(job)
    saved = job.world.together(lambda: resume.load(job, identity))
    starts = job.world.collect(saved["iteration"] if saved else 0)
    if len(set(starts)) > 1:
        raise TrainingError(
            f"not every process finds the same {resume.checkpoint_path(job)}",
            found=", ".join(f"process {rank} would begin at iteration {found}" for rank, found in enumerate(starts)),
            todo="give all machines the same output folder",
        )
    return identity, saved
