"""How far a run is, said in one way: a bar on a terminal, and a small file that another process may look at."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tqdm import tqdm

from transfer.runtime.provenance import utc_now

logger = logging.getLogger(__name__)

FILE = "progress.json"
EVERY_SECONDS = 1.0


@dataclass(frozen=True)
class Progress:
    """What a bar has last said of itself.

    Attributes:
        what: is being done, "features of train".
        unit: of the three counts: "im", "it".
        began: how many were done when this bar began, by an earlier attempt.
        done: how many are now.
        total: of the whole.
        seconds: since this bar began.
        gpu_gb: most GB that tensors of this process ever took of its GPU; None where there is none in use.
        pid: of the process.
        utc: when it said so.
    """

    what: str
    unit: str
    began: int
    done: int
    total: int
    seconds: float
    gpu_gb: float | None
    pid: int
    utc: str

    @property
    def left(self) -> float | None:
        """Seconds that the rest will take at the speed so far; None: nothing was done yet."""
        done = self.done - self.began
        return self.seconds / done * max(0, self.total - self.done) if done > 0 else None


@dataclass
class _Report:
    """Where this process reports to. A bar may run within another's (a training is scored for its curve): one file."""

    path: Path | None = None
    written: float = -EVERY_SECONDS  # on the monotonic clock
    failed: bool = False

    def write(self, progress: Progress) -> None:
        """Rename a whole file into place; it is not flushed to disk: after a crash nobody asks how far it was."""
        assert self.path is not None
        self.written = time.monotonic()
        part = self.path.with_name(f".{self.path.name}.part")
        try:
            part.write_text(json.dumps(dataclasses.asdict(progress)) + "\n", encoding="utf-8")
            os.replace(part, self.path)
        except OSError as error:  # a run goes on without telling how far it is
            if not self.failed:
                logger.debug("cannot write %s: %s", self.path, error.strerror)
            self.failed = True


_report = _Report()
_TEXT, _COUNT, _NUMBER = (str,), (int,), (int, float)
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("what", "unit", "utc"), _TEXT),
    **dict.fromkeys(("began", "done", "total", "pid"), _COUNT),
    "seconds": _NUMBER,
    "gpu_gb": (*_NUMBER, type(None)),
}


@contextmanager
def report_to(path: Path) -> Iterator[None]:
    """Let every `Bar` of this process say in this file how far it is; in the end, however it comes, the file goes.

    What a kill left of an earlier attempt goes at the beginning.
    """
    before = (_report.path, _report.written, _report.failed)
    _report.path, _report.written, _report.failed = path, -EVERY_SECONDS, False
    try:
        _remove(path)
        yield
    finally:
        _remove(path)
        _report.path, _report.written, _report.failed = before


def _remove(path: Path) -> None:
    with suppress(OSError):  # of a folder that cannot be written, which the run itself will meet
        path.unlink(missing_ok=True)


def read(path: Path) -> Progress | None:
    """What a run that goes on has last said; None: no file, or not one of these."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or found.keys() != _KINDS.keys():
        return None
    return Progress(**found) if all(type(value) in _KINDS[name] for name, value in found.items()) else None


class Bar:
    """Counts what is done.

    Args:
        total: of the whole.
        done: by an earlier attempt.
        unit: of both.
        what: is being done.
        shown: whether this process is the one that shows a bar, where there is a terminal.
    """

    def __init__(self, total: int, done: int = 0, *, unit: str, what: str = "", shown: bool = True) -> None:
        self.total, self.began, self.done, self.unit, self.what = total, done, done, unit, what
        self.shown = shown and sys.stderr.isatty()
        # made only where it is seen: its lock between processes outlives a killed one
        self._tqdm = tqdm(total=total, initial=done, unit=unit, desc=what) if self.shown else None
        self._start = time.monotonic()
        self._say()

    def update(self, count: int) -> None:
        """So many more are done."""
        self.done += count
        if self._tqdm:
            self._tqdm.update(count)
        self._say()

    def note(self, text: str) -> None:
        """Show this behind the bar."""
        if self._tqdm:
            self._tqdm.set_postfix_str(text)

    def close(self) -> None:
        """It has ended, at whatever count."""
        if self._tqdm:
            self._tqdm.close()
        self._say(ended=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _say(self, ended: bool = False) -> None:
        now = time.monotonic()
        if _report.path is None or not (ended or now - _report.written >= EVERY_SECONDS):
            return
        _report.write(
            Progress(
                self.what, self.unit, self.began, self.done, self.total, round(now - self._start, 3), _gpu_gigabytes(),
                os.getpid(), utc_now(),
            )
        )  # fmt: skip


def _gpu_gigabytes() -> float | None:
    torch = sys.modules.get("torch")  # who computes on a GPU has imported it
    if torch is None or not torch.cuda.is_initialized():
        return None
    taken: int = torch.cuda.max_memory_allocated()
    return round(taken / 1e9, 3)
