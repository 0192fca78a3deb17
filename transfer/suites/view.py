"""A suite as people see it: its plan, its runs while they go on, and how all of it stands."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from transfer.runtime.errors import printable
from transfer.runtime.progress import FILE, Progress, read
from transfer.suites.plan import Planned, Standing, State
from transfer.suites.pool import Ended, Started

BEAT = 60.0  # seconds between two lines about runs that go on, where there is no terminal
REASONS = 12  # failed runs whose reason is shown in full
SHOWN = 20  # runs that go on which are shown one by one
WORDS: Mapping[State, str] = {
    "done": "done",
    "running": "running",
    "queued": "in the queue",
    "waiting": "to do",
    "failed": "failed",
    "impossible": "cannot run here",
}


def duration(seconds: float | None) -> str:
    """For people: "40 s", "12 min", "3.5 h", "2.1 days"; "?" where it is not known."""
    if seconds is None:
        return "?"
    for unit, size, most in (("s", 1, 90), ("min", 60, 5400), ("h", 3600, 48 * 3600)):
        if seconds < most:
            number = seconds / size
            return f"{number:.1f} {unit}" if unit == "h" else f"{number:.0f} {unit}"
    return f"{seconds / 86400:.1f} days"


@dataclass(frozen=True)
class Estimate:
    """How long something will take: seconds, of what could be estimated, and whether that is all of it."""

    seconds: float
    whole: bool

    def line(self) -> str:
        """For people: "about 3.5 h", "at least 12 min", "an unknown time"."""
        if not self.whole and not self.seconds:
            return "an unknown time"
        return f"{'about' if self.whole else 'at least'} {duration(self.seconds)}"


def standing_text(
    title: str, planned: Sequence[Planned], standings: Mapping[Planned, Standing], runs: Path | None = None
) -> str:
    """A table of tasks × checkpoints, what goes on, and why what failed did.

    Args:
        runs: to look at the progress of runs that go on.
    """
    labels = list(dict.fromkeys(run.label for run in planned))
    rows = [["", *labels]]
    for line in dict.fromkeys(run.line for run in planned):
        row = [line]
        for label in labels:
            found = Counter(standings[run].state for run in planned if (run.line, run.label) == (line, label))
            row.append(", ".join(f"{found[state]} {word}" for state, word in WORDS.items() if found[state]))
        rows.append(row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [title, ""]
    lines += ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for run in planned:
        if standings[run].state == "running" and runs is not None:
            lines.append(f"  running: {run.name}{_progress_text(progress_of(run, runs))}")
    lines += _reasons(planned, standings, "queued")
    lines += _reasons(planned, standings, "failed")
    lines += _reasons(planned, standings, "impossible")
    counted = Counter(standing.state for standing in standings.values())
    counts = ", ".join(f"{counted[state]} {word}" for state, word in WORDS.items() if counted[state])
    lines += ["", f"{len(planned)} {'run' if len(planned) == 1 else 'runs'}: {counts}"]
    return "\n".join(lines)


def _reasons(planned: Sequence[Planned], standings: Mapping[Planned, Standing], state: State) -> list[str]:
    """Each reason once, with the runs that have it."""
    by_reason: dict[str, list[Planned]] = {}
    for run in planned:
        if standings[run].state == state:
            by_reason.setdefault(standings[run].reason, []).append(run)
    word, lines = WORDS[state], []
    for reason, runs in list(by_reason.items())[:REASONS]:
        more = f" and {len(runs) - 1} more" if len(runs) > 1 else ""
        lines += ["", f"{word}: {runs[0].name}{more}", "  " + reason.strip().replace("\n", "\n  ")]
    if len(by_reason) > REASONS:
        lines += ["", f"… and {len(by_reason) - REASONS} more reasons"]
    return lines


def progress_of(run: Planned, runs: Path) -> Progress | None:
    """What a run that goes on has last said of itself."""
    return read(runs / "work" / run.task / run.id / FILE)


def _progress_text(progress: Progress | None) -> str:
    if progress is None:
        return ""
    gpu = "" if progress.gpu_gb is None else f", {progress.gpu_gb:.1f} GB of the GPU"
    return f": {progress.what} {progress.done}/{progress.total}, about {duration(progress.left)} left{gpu}"


class View(Protocol):
    """Who is told while a suite goes on."""

    def started(self, run: Planned, how: str) -> None:
        """A run was started: "begun", "queued"."""

    def ended(self, ended: Ended, standing: Standing) -> None:
        """A run has ended, and how."""

    def found(self, run: Planned, standing: Standing) -> None:
        """Another suite has done a run that was to be done here."""

    def tick(self, running: Sequence[Started], waiting: int, others: int, left: Estimate) -> None:
        """Every second or so.

        Args:
            waiting: runs that are to be done.
            others: those that another process is doing.
            left: how long everything will still take.
        """

    def close(self) -> None:
        """Nothing more will come."""


def ended_line(ended: Ended, standing: Standing) -> str:
    """One line, and for a failed run its reason."""
    state = "done" if standing.state == "done" else standing.state
    line = f"{state}: {ended.run.name}, {duration(ended.seconds)}"
    if standing.state != "failed":
        return line
    return f"{line}\n  " + standing.reason.strip().replace("\n", "\n  ") + f"\n  log: {ended.log}"


def _outlook(waiting: int, others: int, left: Estimate) -> str:
    elsewhere = f"{others} by another process, " if others else ""
    return f"{elsewhere}{waiting} to do, {left.line()} left"


def queue_lines(running: Sequence[Started]) -> list[str]:
    """Why runs wait in a queue, the commonest first."""
    counted = Counter(each.waits for each in running if not each.began)
    return [f"{count} in the queue: {why}" for why, count in counted.most_common(REASONS)]


class Lines:
    """For a file or a pipe: a line for each thing that happens, and one a minute for each run that goes on."""

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self._said = time.monotonic()

    def started(self, run: Planned, how: str) -> None:
        """See `View`."""
        self._say(f"{how}: {run.name}")

    def ended(self, ended: Ended, standing: Standing) -> None:
        """See `View`."""
        self._say(ended_line(ended, standing))

    def found(self, run: Planned, standing: Standing) -> None:
        """See `View`."""
        self._say(f"{standing.state} by another process: {run.name}")

    def tick(self, running: Sequence[Started], waiting: int, others: int, left: Estimate) -> None:
        """See `View`."""
        if time.monotonic() - self._said < BEAT:
            return
        for each in [each for each in running if each.began][:SHOWN]:
            self._say(f"running: {each.run.name}{_progress_text(progress_of(each.run, self.runs))}")
        for line in queue_lines(running):
            self._say(line)
        self._say(_outlook(waiting, others, left))

    def close(self) -> None:
        """See `View`."""

    def _say(self, line: str) -> None:
        sys.stdout.write(f"{printable(line)}\n")
        sys.stdout.flush()
        self._said = time.monotonic()


class Screen:
    """For a terminal: what ended scrolls by, what goes on stays at the bottom."""

    def __init__(self, runs: Path, total: int, done: int) -> None:
        self.runs, self.total, self.done, self.failed = runs, total, done, 0
        self._live = Live(console=Console(), refresh_per_second=4, transient=True)
        self._live.start()

    def started(self, run: Planned, how: str) -> None:
        """See `View`."""

    def ended(self, ended: Ended, standing: Standing) -> None:
        """See `View`."""
        self.done += standing.state == "done"
        self.failed += standing.state == "failed"
        style = {"done": "green", "failed": "red"}.get(standing.state, "yellow")
        self._live.console.print(Text(printable(ended_line(ended, standing)), style=style))

    def found(self, run: Planned, standing: Standing) -> None:
        """See `View`."""
        self.done += standing.state == "done"
        self.failed += standing.state == "failed"
        self._live.console.print(Text(printable(f"{standing.state} by another process: {run.name}")))

    def tick(self, running: Sequence[Started], waiting: int, others: int, left: Estimate) -> None:
        """See `View`."""
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for column in ("running", "for", "doing", "done", "left", "memory", "GPU"):
            table.add_column(column, style="dim" if column == "for" else "")
        begun = [each for each in running if each.began]
        for each in begun[:SHOWN]:
            told = progress_of(each.run, self.runs)
            done = f"{100 * told.done / told.total:.0f} %" if told and told.total else ""
            gpu = f"{told.gpu_gb:.1f} GB" if told and told.gpu_gb is not None else ""
            cells = (each.run.name, duration(each.seconds), told.what if told else "starting", done)
            rest = duration(told.left) if told else "", f"{each.memory:.1f} GB" if each.memory else "", gpu
            table.add_row(*(Text(printable(cell)) for cell in (*cells, *rest)))
        failed = f", {self.failed} failed" if self.failed else ""
        counted = f"{self.done} of {self.total} done{failed}, {len(begun)} running"
        head = f"{counted}, {_outlook(waiting, others, left)}"
        more = [f"… and {len(begun) - SHOWN} more"] if len(begun) > SHOWN else []
        below = [Text(printable(line), style="dim") for line in (*more, *queue_lines(running))]
        self._live.update(Group(Text(head, style="bold"), table, *below))

    def close(self) -> None:
        """See `View`."""
        self._live.stop()


def make_view(runs: Path, total: int, done: int) -> View:
    """For the terminal if there is one."""
    return Screen(runs, total, done) if sys.stdout.isatty() else Lines(runs)
