"""Where the runs of a suite are done: what a pool of processes here and a cluster's queue have in common."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from transfer.suites.plan import Planned

SHOWN = 5  # last lines of a log that a message shows


@dataclass(frozen=True)
class Slot:
    """Where one run at a time may be.

    Attributes:
        name: for people.
        environment: what makes a process stay there.
    """

    name: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Limits:
    """Of one run: hours, and GB of memory (not of a GPU). None: none."""

    hours: float | None = None
    gigabytes: float | None = None


@dataclass(eq=False)
class Started:
    """A run that goes on, or waits in a queue for its turn.

    Attributes:
        began: by a clock that never jumps; 0 while it waits.
        memory: GB that its processes took when last looked at.
        waits: why it has not begun.
    """

    run: Planned
    slot: Slot
    log: Path
    began: float
    memory: float = 0.0
    waits: str = ""

    @property
    def seconds(self) -> float:
        """So far."""
        return time.monotonic() - self.began if self.began else 0.0


@dataclass(frozen=True)
class Ended:
    """A run whose process has ended.

    Attributes:
        status: its exit status; -9: by that signal.
        reason: if it did not end by itself, why.
        over_limit: it was one of `Limits`.
    """

    run: Planned
    slot: Slot
    log: Path
    status: int
    seconds: float
    reason: str = ""
    over_limit: bool = False


class Pool(Protocol):
    """Starts runs, and tells which have ended.

    Attributes:
        running: those that go on; of a queue those too that wait in it, whoever has put them there.
        width: how many go on at a time, at most.
        room: whether it takes another one now.
    """

    width: int

    @property
    def running(self) -> Sequence[Started]:
        """See above."""

    @property
    def room(self) -> bool:
        """See above."""

    def start(self, run: Planned, log: Path, beside: Sequence[Any] = ()) -> str:
        """Begin a run, or see to it that it begins; which of the two, for people: "begun on GPU 3", "queued"."""

    def ended(self, patience: float) -> list[Ended]:
        """Those that have ended, waiting for the first of them for so many seconds at most."""

    def stop(self) -> None:
        """The suite ends, and so do the runs, unless they are somewhere where they can go on without it."""


def last_words(log: Path) -> str:
    """What a run said last: its error, or the last lines."""
    try:
        text = log.read_bytes()[-20_000:].decode("utf-8", "replace")
    except OSError:
        return ""
    lines = text.rstrip().splitlines()
    errors = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    shown = lines[errors[-1] :] if errors else lines[-SHOWN:]
    return "\n".join("".join(letter for letter in line if letter.isprintable()) for line in shown[: 2 * SHOWN])


def why_ended(log: Path, status: int) -> str:
    """Of a run that has left no record: the error that it has said, else its exit status and last words."""
    said = last_words(log)
    return said if said.startswith("error: ") else f"it ended with status {status}; its last words:\n{said}"
