"""Training with mmengine's Runner: its optimiser, schedule and hooks, our order of images and our checkpoints."""

from __future__ import annotations

import itertools
import logging
from typing import Any

from mmengine.config import Config
from mmengine.runner import BaseLoop, Runner
from torch import nn

from transfer.detector import DetectionJob
from transfer.engines.mmdet import resume
from transfer.engines.mmdet.data import collate, deliver, training_pipeline
from transfer.engines.plan import plan_batches, planned_loader, seed_for_iteration
from transfer.engines.precise_bn import update_bn_statistics
from transfer.engines.progress import TrainingLog

logger = logging.getLogger(__name__)
_runs = itertools.count()


class PlannedTrainLoop(BaseLoop):  # type: ignore[misc]  # mmengine is untyped
    """Iterations `start` … `max_iters` − 1, one row of the plan each.

    mmengine's own iteration loop reads all the data again that was seen before an interruption; this one begins where
    the last checkpoint ends, and draws the same random numbers from there on as the uninterrupted run would.
    """

    def __init__(self, runner: Runner, dataloader: Any, job: DetectionJob, saved: dict[str, Any] | None) -> None:
        super().__init__(runner, dataloader)
        self.job, self.saved = job, saved
        self.iter: int = saved["iteration"] if saved else 0
        self.max_iters = job.recipe.iterations
        self.epoch, self.max_epochs = 0, 1

    def run(self) -> nn.Module:
        """Train to the end."""
        self._restore()
        log = TrainingLog(self.job.workdir / "metrics.jsonl", self.iter, self.max_iters)
        model: nn.Module = self.runner.model
        self.runner.call_hook("before_train")
        model.train()
        try:
            for batch in deliver(self.dataloader):
                self._iterate(batch, log)
        finally:
            log.close()
        self.runner.call_hook("after_train")
        return model

    def _iterate(self, batch: Any, log: TrainingLog) -> None:
        self.runner.call_hook("before_train_iter", batch_idx=self.iter, data_batch=batch)
        seed_for_iteration(self.job.seed, self.iter)
        lr = self.runner.optim_wrapper.param_groups[0]["lr"]
        values = self.runner.model.train_step(batch, optim_wrapper=self.runner.optim_wrapper)
        self.runner.call_hook("after_train_iter", batch_idx=self.iter, data_batch=batch, outputs=values)
        # "loss" is the sum of the others; accuracies are no losses.
        losses = {name: float(value.detach()) for name, value in values.items() if "loss" in name and name != "loss"}
        log.step(self.iter, lr, losses)
        self.iter += 1
        if self.iter % self.job.checkpoint_every == 0 or self.iter == self.max_iters:
            resume.save(self.job, self.iter, self._state())

    def _state(self) -> dict[str, Any]:
        return {
            "model": self.runner.model.state_dict(),
            "optimizer": self.runner.optim_wrapper.state_dict(),
            "schedulers": [scheduler.state_dict() for scheduler in self.runner.param_schedulers],
        }

    def _restore(self) -> None:
        if self.saved is None:
            return
        self.runner.model.load_state_dict(self.saved["model"])
        self.runner.optim_wrapper.load_state_dict(self.saved["optimizer"])
        for scheduler, state in zip(self.runner.param_schedulers, self.saved["schedulers"], strict=True):
            scheduler.load_state_dict(state)


def train(job: DetectionJob, config: Config, model: nn.Module) -> int:
    """Train the verified `model` in place, from the beginning or from the last checkpoint in the work folder.

    Returns:
        The iteration that training began with: 0, or where an earlier run had stopped.

    Raises:
        TrainingError: the loss is not finite, or the checkpoint in the work folder cannot be used.
        DataError: an image cannot be read.
    """
    saved = resume.load(job)
    if saved is not None:
        logger.info("resuming %s at iteration %d", job.workdir, saved["iteration"])
    recipe = job.recipe
    loader = planned_loader(
        job.train,
        training_pipeline(recipe),
        plan_batches(job.train, recipe.iterations, recipe.batch, job.seed),
        seed=job.seed,
        start=saved["iteration"] if saved else 0,
        workers=job.workers,
        collate=collate,
    )

    def loop(runner: Runner, dataloader: Any) -> PlannedTrainLoop:
        # The Runner copies all other kinds of arguments deeply, the data set included.
        return PlannedTrainLoop(runner, dataloader, job, saved)

    runner = Runner(
        model=model,
        work_dir=str(job.workdir / "mmdet"),
        train_dataloader=loader,
        train_cfg={"type": loop},
        optim_wrapper=config.optim_wrapper,
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
    return int(saved["iteration"]) if saved else 0


def refine_statistics(job: DetectionJob, model: Any) -> None:
    """PreciseBN over batches of a plan of its own, so that a resumed run averages the same ones."""
    recipe, seed = job.recipe, job.seed + 1
    plan = plan_batches(job.train, recipe.precise_bn, recipe.batch, seed)
    loader = planned_loader(job.train, training_pipeline(recipe), plan, seed, 0, job.workers, collate)
    numbers = itertools.count()

    def forward(batch: Any) -> None:
        seed_for_iteration(seed, next(numbers))
        model(**model.data_preprocessor(batch, True), mode="loss")

    model.train()
    layers = update_bn_statistics(model, deliver(loader), forward, recipe.precise_bn)
    logger.info("precise BN: statistics of %d layers averaged over %d batches", layers, recipe.precise_bn)
