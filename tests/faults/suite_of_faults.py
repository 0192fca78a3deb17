"""`python suite_of_faults.py CKPT …`: `python -m transfer suite` with one task more, which fails in every way there is.

The processes of its runs import this file too (as `__mp_main__`), and so know the task.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from transfer import cli
from transfer.protocol import Protocol
from transfer.runtime.files import write_json
from transfer.task import Run, Task, TaskOutcome, load_task

NAME = "faults.task"


@dataclass(frozen=True)
class Recipe:
    """What happens, and how many steps of 20 ms there are before it."""

    how: str
    steps: int


@dataclass(frozen=True)
class Options:
    images: int = 3


@dataclass(frozen=True)
class Data:
    images: int
    differences: tuple = ()

    @property
    def fingerprints(self):
        return {"train": {"name": "faults", "sha256": "a" * 64, "images": self.images}}


@dataclass(frozen=True, eq=False, kw_only=True)
class Faults(Task):
    data_options = Options

    def load(self, options):
        return Data(options.images)

    def check(self, run):
        pass

    def run(self, run: Run) -> TaskOutcome:
        for step in range(run.recipe.steps):
            write_json(run.workdir / "step.json", {"step": step})
            time.sleep(0.02)
        HOWS[run.recipe.how]()
        with (run.workdir / "done.txt").open("a", encoding="utf-8") as file:
            file.write("once\n")
        number = int(run.id[:4], 16) / 656  # decided by the run alone
        return TaskOutcome(metrics={"number": number})


def garbage() -> None:
    os.write(1, bytes(range(256)) * 400)
    os.write(2, b"\x1b[2J\x1b]0;title\x07\xff\xfe" * 100)


def eat() -> None:
    held = []
    while True:
        held.append(bytearray(os.urandom(1 << 20)) * 64)
        time.sleep(0.05)


def raise_() -> None:
    raise RuntimeError("as planned")


def no_file_more(number: int) -> Callable[[], None]:
    """From here on nothing can be written, as on a full disk or in a folder that has become read-only."""

    def refuse() -> None:
        def replace(*names: object) -> None:
            raise OSError(number, os.strerror(number))

        os.replace = replace

    return refuse


HOWS = {
    "full": no_file_more(errno.ENOSPC),
    "readonly": no_file_more(errno.EROFS),
    "fine": lambda: None,
    "raise": raise_,
    "hang": lambda: time.sleep(3600),
    "eat": eat,
    "garbage": garbage,
    "exit": lambda: os._exit(3),
    "crash": lambda: os.kill(os.getpid(), signal.SIGSEGV),
}

TASK = Faults(
    title="Fails as asked",
    primary="number",
    published={"own": Protocol(Recipe).but("made up for these tests", how="fine", steps=0)},
)

_load = load_task
cli.load_task = lambda name: TASK if name == NAME else _load(name)

if "FULL_BOOKS" in os.environ:  # what the suite itself keeps cannot be written; its runs' files can
    _replace = os.replace

    def _refuse(source: str, target: str | Path) -> None:
        if Path(target).parent.name == "ended" or Path(target).name == "known.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        _replace(source, target)

    os.replace = _refuse

if "JUMPING_CLOCK" in os.environ:
    _time = time.time
    time.time = lambda: _time() + random.choice([-1, 1]) * 86_400

if __name__ == "__main__":
    from transfer.__main__ import main

    sys.exit(main(["suite", *sys.argv[1:]]))
