"""Contestants that take turns, so that whatever else the machine does meets all alike. Used by the benchmarks."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

Turn = Callable[[], tuple[float, float]]  # → (wall seconds, processor seconds) of a unit of work


class Process(AbstractContextManager["Process"]):
    """A contestant in a process of its own, perhaps of another environment.

    It is `python worker SETUP`, SETUP a dataclass as JSON. It prints a line of JSON about itself and then one in answer
    to each line that it is sent; other lines are passed over, for packages print things of their own.
    """

    def __init__(self, python: str, worker: Path, setup: Any) -> None:
        self.setup = setup
        environment = os.environ | {name: str(setup.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        self.process = subprocess.Popen(
            [python, "-W", "ignore", str(worker), json.dumps(asdict(setup))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.about = self._read()

    def _read(self) -> Any:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(("{", "[")):
                return json.loads(line)
        raise SystemExit(f"{self.setup} ended with code {self.process.wait()}; its message is above")

    def ask(self, command: str) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self._read()

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@dataclass
class Times:
    """Of one contestant: a value a round."""

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def median(self) -> float:
        return statistics.median(self.wall)


def take_turns(contestants: dict[str, Turn], rounds: int) -> dict[str, Times]:
    """A B C, C B A, A B C, …: no one is always the first after a pause."""
    times = {name: Times() for name in contestants}
    for number in range(rounds):
        names = list(contestants)
        for name in names if number % 2 == 0 else reversed(names):
            wall, processor = contestants[name]()
            times[name].wall.append(wall)
            times[name].processor.append(processor)
    return times


def measured(function: Callable[[], object], units: int, device: str = "cpu") -> tuple[float, float]:
    """(wall seconds, processor seconds) of a call, by unit of work."""
    synchronise(device)
    wall, processor = time.perf_counter(), time.process_time()
    function()
    synchronise(device)
    return (time.perf_counter() - wall) / units, (time.process_time() - processor) / units


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def spread(above: Sequence[float], below: Sequence[float]) -> str:
    """Median (least to greatest) of the ratios of the rounds."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
