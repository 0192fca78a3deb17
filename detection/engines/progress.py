"""Curve and progress of a detector's training: `metrics.jsonl`, TensorBoard events, a log line now and then, a bar."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter

from transfer.runtime.curve import Curve
from transfer.runtime.errors import TrainingError
from transfer.runtime.progress import Bar
from transfer.runtime.world import ALONE, World

logger = logging.getLogger(__name__)

LOWER = (
    "lower the learning rate (--detector.lr) or lengthen the warm-up (--detector.warmup-iterations); "
    "the last good checkpoint is kept"
)


class TrainingLog:
    """Writes one JSON line and one TensorBoard entry per logged iteration; survives kills and resumes.

    Of several processes each has one, calls it for every iteration, and the leader writes.

    Args:
        path: see `transfer.runtime.curve.Curve`. TensorBoard's files go to `tensorboard/` beside it.
        start: first iteration that will be done (0 for a fresh run).
        total: iterations of the whole training.
        every: iterations between lines.
        world: the processes whose losses are averaged.
        device: where messages between them live.
    """

    def __init__(
        self,
        path: Path,
        start: int,
        total: int,
        every: int = 20,
        world: World = ALONE,
        device: str | torch.device = "cpu",
    ) -> None:
        self.start, self.total = start, total
        self.world, self.device = world, torch.device(device)
        self._events: SummaryWriter | None = None
        if world.leads:
            # purge_step hides what an interrupted run wrote beyond the point where this one begins
            self._events = SummaryWriter(str(path.parent / "tensorboard"), purge_step=start + 1)
        self._curve = Curve(path if world.leads else None, start, total, every)
        self._began = time.perf_counter()
        self._bar = Bar(total, start, unit="it", what="training", shown=world.leads)

    def step(self, iteration: int, lr: float, losses: Mapping[str, float]) -> None:
        """Record iteration number `iteration` (0-based), whose losses are given in full precision.

        Raises:
            TrainingError: the total loss is NaN or infinite, on any process; then all of them raise.
        """
        losses = dict(zip(losses, self.world.mean(list(losses.values()), self.device), strict=True))
        total = sum(losses.values())
        if not math.isfinite(total):
            raise TrainingError(
                f"the loss is {total} at iteration {iteration}",
                found=", ".join(f"{name} {value:.4g}" for name, value in losses.items()),
                todo=LOWER,
            )
        self._bar.update(1)
        if not self.world.leads or not self._curve.due(iteration + 1):
            return
        done = iteration + 1 - self.start
        seconds = (time.perf_counter() - self._began) / done
        eta = seconds * (self.total - iteration - 1)
        row = {"lr": lr, "loss": total, **losses, "seconds": round(self._curve.seconds(iteration + 1), 5)}
        self._write(iteration + 1, row)
        self._bar.note(f"loss={total:.3f}")
        if not self._bar.shown:
            logger.info(
                "iteration %d/%d  loss %.3f  lr %.2g  %.2f s/it  %s left",
                *(iteration + 1, self.total, total, lr, seconds, timedelta(seconds=round(eta))),
            )

    def evaluation(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Record what the detector of after `iteration` (0-based) scores; nothing is ever selected on it."""
        if self.world.leads:
            self._write(iteration + 1, {f"test/{name}": value for name, value in metrics.items()})
            shown = "  ".join(f"{name} {value:.2f}" for name, value in list(metrics.items())[:3])
            logger.info("iteration %d/%d  %s (for the curve only)", iteration + 1, self.total, shown)

    def close(self) -> None:
        """Finish the bar and the event file."""
        self._bar.close()
        if self._events is not None:
            self._events.close()

    def _write(self, step: int, row: Mapping[str, float]) -> None:
        self._curve.write(step, row)
        assert self._events is not None
        for name, value in row.items():
            self._events.add_scalar(name, value, step)
