"""Progress and curve of a pretraining: lines of `transfer.runtime.curve`, a bar on a terminal, or log lines."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from transfer.runtime.curve import Curve, read

logger = logging.getLogger(__name__)


class TimedCurve:
    """Writes the curve of a run, with speed and waiting.

    Args:
        path, start, total, every: see `transfer.runtime.curve.Curve`.
        images: images per step.
    """

    def __init__(self, path: Path | None, start: int, total: int, every: int, images: int) -> None:
        self.path, self.start, self.total, self.images = path, start, total, images
        self._curve = Curve(path, start, total, every)
        self._began = self._last = time.perf_counter()
        self._last_step, self._waited = start, 0.0
        self._bar = tqdm(total=total, initial=start, unit="step", disable=path is None or not sys.stderr.isatty())

    def waited(self, seconds: float) -> None:
        """Count time in which training waited for data."""
        self._waited += seconds

    def due(self, done: int) -> bool:
        """Whether a line is due when `done` steps are done."""
        return self._curve.due(done)

    def has(self, step: int, name: str) -> bool:
        """Whether a line of `step` holds `name` (asked by the process that writes; True for the others)."""
        return self.path is None or any(row["step"] == step and name in row for row in read(self.path))

    def step(self, loss: Tensor) -> None:
        """Advance the bar by one step."""
        self._bar.update(1)
        if not self._bar.disable:
            self._bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)

    def note(self, done: int, row: Mapping[str, float]) -> None:
        """Write a line of its own, of something that took time beside training (a probe)."""
        self._curve.write(done, row)
        if self.path is not None:
            logger.info("step %d/%d  %s", done, self.total, "  ".join(f"{k} {v:.2f}" for k, v in row.items()))
        self._last, self._last_step, self._waited = time.perf_counter(), done, 0.0

    def write(self, done: int, row: Mapping[str, Any]) -> None:
        """Write the line of `done` finished steps, with the speed since the line before."""
        now = time.perf_counter()
        seconds = now - self._last
        speed = (done - self._last_step) * self.images / seconds if done > self._last_step else 0.0
        timing = {"images_per_second": round(speed, 2), "data_wait": round(self._waited / seconds, 4)}
        self._last, self._last_step, self._waited = now, done, 0.0
        self._curve.write(done, {**row, **timing})
        if self._bar.disable:
            left = (now - self._began) / (done - self.start) * (self.total - done)
            logger.info(
                "step %d/%d  loss %.4f  lr %.3g  rank %.1f  %.1f images/s  %s left",
                *(done, self.total, row["loss"], row["lr"], row["effective_rank"], speed),
                timedelta(seconds=round(left)),
            )

    def close(self) -> None:
        """Finish the bar."""
        self._bar.close()
