"""The curve of a training, `metrics.jsonl`: one schema and one writer for pretraining, both engines and SGD.

Every line is a JSON object with `step`, the number of steps that were done. A line of the training itself has `lr`,
`loss` and whatever parts and signs belong to it, `seconds` (the mean time of a step since the line before) or
`images_per_second`; a line without `loss` is of something beside it: an evaluation ("test/AP"), a probe ("knn").
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transfer.runtime.errors import UserError
from transfer.runtime.files import write_text

FILE = "metrics.jsonl"


class Curve:
    """Writes a curve; survives kills and resumes.

    Args:
        path: lines of steps that a resume will do again are removed first. None: another process writes.
        start: steps done.
        total: steps of the whole training.
        every: steps between lines; the last step always has one.

    Raises:
        UserError: what is there is no curve.
    """

    def __init__(self, path: Path | None, start: int, total: int, every: int) -> None:
        self.path, self.total, self.every = path, total, every
        self._mark, self._marked = time.perf_counter(), start
        if path is not None:
            kept = [row for row in read(path) if row["step"] <= start]
            write_text(path, "".join(json.dumps(row) + "\n" for row in kept))

    def due(self, step: int) -> bool:
        """Whether a line of the training belongs behind step number `step` (1, 2, …)."""
        return step % self.every == 0 or step == self.total

    def seconds(self, step: int) -> float:
        """Mean time of a step from the last line to now, when `step` steps are done."""
        return (time.perf_counter() - self._mark) / max(1, step - self._marked)

    def write(self, step: int, numbers: Mapping[str, Any]) -> None:
        """A line of what is known after `step` steps; of the training itself, with `lr` and `loss`."""
        self._mark, self._marked = time.perf_counter(), step
        if self.path is None:
            return
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **numbers}) + "\n")
        except OSError as error:
            raise UserError(
                f"cannot write {self.path}",
                found=error.strerror or str(error),
                todo="free some space, then type the same command again",
            ) from error


def read(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a curve, in order; none where there is no file. A last line that a kill cut short is left out.

    The engines' lines once had `iteration`, counted from 0, and `seconds_per_iteration`.

    Raises:
        UserError: a whole line is no line of a curve; the message has its number.
    """
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")[:-1], start=1):
        try:
            rows.append(_present(dict(json.loads(line))))
        except (ValueError, LookupError, TypeError) as error:
            raise not_a_line(path, number, line) from error
    return rows


def not_a_line(path: Path, number: int, line: str) -> UserError:
    """The error of a line that does not belong into a curve."""
    return UserError(
        f"{path}, line {number}, is not a line of a loss curve",
        found=line[:80],
        todo="remove the line; to draw the others, leave the run out by --task",
    )


def _present(row: dict[str, Any]) -> dict[str, Any]:
    if "step" not in row:
        row = {"step": row.pop("iteration") + 1, **row}
        if "seconds_per_iteration" in row:
            row["seconds"] = row.pop("seconds_per_iteration")
    return row | {"step": int(row["step"])}
