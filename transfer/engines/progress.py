"""Curves and progress of a training run: `metrics.jsonl`, TensorBoard events, a log line now and then, a bar."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from transfer.atomic import write_text
from transfer.errors import TrainingError
from transfer.world import ALONE, World

logger = logging.getLogger(__name__)


class TrainingLog:
    """Writes one JSON line and one TensorBoard entry per logged iteration; survives kills and resumes.

    Of several processes each has one, calls it for every iteration, and the leader writes.

    Args:
        path: `metrics.jsonl`; lines of iterations that a resume will do again are removed first. TensorBoard's files go
            to `tensorboard/` beside it.
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
        self.path, self.start, self.total, self.every = path, start, total, every
        self.world, self.device = world, torch.device(device)
        self._events: SummaryWriter | None = None
        if world.leads:
            kept = [line for line in _whole_lines(path) if json.loads(line)["iteration"] < start]
            write_text(path, "".join(line + "\n" for line in kept))
            # purge_step hides what an interrupted run wrote beyond the point where this one begins
            self._events = SummaryWriter(str(path.parent / "tensorboard"), purge_step=start)
        self._began = time.perf_counter()
        quiet = not (world.leads and sys.stderr.isatty())
        self._bar = tqdm(total=total, initial=start, unit="it", disable=quiet)

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
                todo="lower the learning rate (--detector.lr) or lengthen the warm-up (--detector.warmup-iterations); "
                "the last good checkpoint is kept",
            )
        self._bar.update(1)
        if not self.world.leads or ((iteration + 1) % self.every and iteration + 1 != self.total):
            return
        done = iteration + 1 - self.start
        seconds = (time.perf_counter() - self._began) / done
        eta = seconds * (self.total - iteration - 1)
        row = {"iteration": iteration, "lr": lr, "loss": total, **losses, "seconds_per_iteration": round(seconds, 4)}
        self._write(row)
        self._bar.set_postfix(loss=f"{total:.3f}")
        if self._bar.disable:
            logger.info(
                "iteration %d/%d  loss %.3f  lr %.2g  %.2f s/it  %s left",
                *(iteration + 1, self.total, total, lr, seconds, timedelta(seconds=round(eta))),
            )

    def evaluation(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Record what the detector of after `iteration` (0-based) scores; nothing is ever selected on it."""
        if self.world.leads:
            self._write({"iteration": iteration, **{f"test/{name}": value for name, value in metrics.items()}})
            shown = "  ".join(f"{name} {value:.2f}" for name, value in list(metrics.items())[:3])
            logger.info("iteration %d/%d  %s (for the curve only)", iteration + 1, self.total, shown)

    def close(self) -> None:
        """Finish the bar and the event file."""
        self._bar.close()
        if self._events is not None:
            self._events.close()

    def _write(self, row: Mapping[str, float]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        assert self._events is not None
        for name, value in row.items():
            if name != "iteration":
                self._events.add_scalar(name, value, int(row["iteration"]))


def _whole_lines(path: Path) -> list[str]:
    """Lines that were written to their end; a kill may have cut the last one."""
    if not path.exists():
        return []
    return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=False) if line.endswith("}")]
