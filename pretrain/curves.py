"""Progress and curves: one line of `metrics.jsonl` now and then, a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from transfer.atomic import write_text
from transfer.errors import UserError

logger = logging.getLogger(__name__)


class Curves:
    """Writes the curves of a run; survives kills and resumes.

    Args:
        path: `metrics.jsonl`; lines of steps that will be done again are removed first. None: another process writes.
        start: first step that will be done.
        total: steps of the whole training.
        every: steps between lines; the last step always has one.
        images: images per step.
    """

    def __init__(self, path: Path | None, start: int, total: int, every: int, images: int) -> None:
        self.path, self.start, self.total, self.every, self.images = path, start, total, every, images
        if path is not None:
            kept = [row for row in read_curves(path) if row["step"] <= start]
            write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._began = self._last = time.perf_counter()
        self._last_step, self._waited = start, 0.0
        self._bar = tqdm(total=total, initial=start, unit="step", disable=path is None or not sys.stderr.isatty())

    def waited(self, seconds: float) -> None:
        """Count time in which training waited for data."""
        self._waited += seconds

    def due(self, done: int) -> bool:
        """Whether a line is due when `done` steps are done."""
        return done % self.every == 0 or done == self.total

    def has(self, step: int, name: str) -> bool:
        """Whether a line of `step` holds `name` (asked by the process that writes; True for the others)."""
        return self.path is None or any(row["step"] == step and name in row for row in read_curves(self.path))

    def step(self, loss: Tensor) -> None:
        """Advance the bar by one step."""
        self._bar.update(1)
        if not self._bar.disable:
            self._bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)

    def note(self, done: int, row: Mapping[str, float]) -> None:
        """Write a line of its own, of something that took time beside training (a probe)."""
        if self.path is not None:
            self._append({"step": done, **row})
            logger.info("step %d/%d  %s", done, self.total, "  ".join(f"{k} {v:.2f}" for k, v in row.items()))
        self._last, self._last_step, self._waited = time.perf_counter(), done, 0.0

    def _append(self, row: Mapping[str, Any]) -> None:
        assert self.path is not None
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise UserError(
                f"cannot write {self.path}", found=error.strerror or str(error), todo="free some space, then type again"
            ) from error

    def write(self, done: int, row: Mapping[str, Any]) -> None:
        """Write the line of `done` finished steps, with the speed since the line before."""
        now = time.perf_counter()
        seconds = now - self._last
        speed = (done - self._last_step) * self.images / seconds if done > self._last_step else 0.0
        timing = {"images_per_second": round(speed, 2), "data_wait": round(self._waited / seconds, 4)}
        self._last, self._last_step, self._waited = now, done, 0.0
        self._append({"step": done, **row, **timing})
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


def read_curves(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a `metrics.jsonl`; a kill may have cut the last one."""
    if not path.exists():
        return []
    return [
        json.loads(line)
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("{") and line.endswith("}")
    ]
