"""Curves and progress of a training run: `metrics.jsonl`, a log line now and then, a bar on a terminal."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from tqdm import tqdm

from transfer.atomic import write_text
from transfer.errors import TrainingError

logger = logging.getLogger(__name__)


class TrainingLog:
    """Writes one JSON line per logged iteration; survives kills and resumes.

    Args:
        path: `metrics.jsonl`; lines of iterations that a resume will do again are removed first.
        start: first iteration that will be done (0 for a fresh run).
        total: iterations of the whole training.
        every: iterations between lines.
    """

    def __init__(self, path: Path, start: int, total: int, every: int = 20) -> None:
        self.path, self.start, self.total, self.every = path, start, total, every
        kept = [line for line in _whole_lines(path) if json.loads(line)["iteration"] < start]
        write_text(path, "".join(line + "\n" for line in kept))
        self._began = time.perf_counter()
        self._bar = tqdm(total=total, initial=start, unit="it", disable=not sys.stderr.isatty())

    def step(self, iteration: int, lr: float, losses: Mapping[str, float]) -> None:
        """Record iteration number `iteration` (0-based), whose losses are given in full precision.

        Raises:
            TrainingError: the total loss is NaN or infinite.
        """
        total = sum(losses.values())
        if not math.isfinite(total):
            raise TrainingError(
                f"the loss is {total} at iteration {iteration}",
                found=", ".join(f"{name} {value:.4g}" for name, value in losses.items()),
                todo="lower the learning rate (--detector.lr) or lengthen the warm-up (--detector.warmup-iterations); "
                "the last good checkpoint is kept",
            )
        self._bar.update(1)
        if (iteration + 1) % self.every and iteration + 1 != self.total:
            return
        done = iteration + 1 - self.start
        seconds = (time.perf_counter() - self._began) / done
        eta = seconds * (self.total - iteration - 1)
        row = {"iteration": iteration, "lr": lr, "loss": total, **losses, "seconds_per_iteration": round(seconds, 4)}
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self._bar.set_postfix(loss=f"{total:.3f}")
        if self._bar.disable:
            logger.info(
                "iteration %d/%d  loss %.3f  lr %.2g  %.2f s/it  %s left",
                *(iteration + 1, self.total, total, lr, seconds, timedelta(seconds=round(eta))),
            )

    def close(self) -> None:
        """Finish the bar."""
        self._bar.close()


def _whole_lines(path: Path) -> list[str]:
    """Lines that were written to their end; a kill may have cut the last one."""
    if not path.exists():
        return []
    return [line for line in path.read_text().splitlines(keepends=False) if line.endswith("}")]
