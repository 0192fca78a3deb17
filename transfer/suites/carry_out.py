"""A suite in the doing: which run begins next, how each has ended, how long the rest will take."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from transfer.checkpoints.speed import speed
from transfer.runtime.errors import UserError
from transfer.suites.facts import Facts
from transfer.suites.plan import Planned, Standing, forget_ended, note_ended, read_ended, record_time, standing
from transfer.suites.pool import Ended, Pool, Started, why_ended
from transfer.suites.processes import in_a_process
from transfer.suites.view import Estimate, View

logger = logging.getLogger(__name__)

LOOK = 0.5  # seconds between two looks at everything
ELSEWHERE = 5.0  # seconds between two looks at a run that another process is doing
CHANGED = "its images are not those that were planned, and have been looked at anew: type the same line again"


class Undertaking:
    """Runs of a suite that are to be done.

    Args:
        planned: all runs of the suite.
        standings: of all of them; kept true.
        pool: does them.
        facts: learn how long runs take.
        runs: the folder of records and of everything else.
        logs: where each run prints to.
        device, threads: with what runs compute; device None: with what this machine does not have.
    """

    def __init__(
        self,
        planned: Sequence[Planned],
        standings: dict[Planned, Standing],
        pool: Pool,
        facts: Facts,
        runs: Path,
        logs: Path,
        device: str | None,
        threads: int,
    ) -> None:
        self.planned, self.standings, self.pool, self.facts = planned, standings, pool, facts
        self.runs, self.logs, self.device, self.threads = runs, logs, device, threads
        self._extracted: set[str] = set()
        self._elsewhere: dict[Planned, float] = {}
        self._records: dict[Planned, int] = {}  # when its record was written, as it began
        self._fresh: set[Planned] = set()  # begun from nothing, and so worth timing

    def carry_out(self, todo: Sequence[Planned], view: View) -> None:
        """Do these runs, whichever of them can be done; however it is left, no process of it stays."""
        already = {each.run for each in self.pool.running}  # in a queue, put there when this line was typed before
        self._records |= {run: record_time(run, self.runs) for run in already}
        waiting = dict.fromkeys(run for run in todo if run not in already)
        try:
            while waiting or self.pool.running:
                for run in self._startable(waiting, view):
                    del waiting[run]
                    self._start(run, view)
                for ended in self.pool.ended(LOOK):
                    found = self._judge(ended)
                    if found.state == "running":  # another suite was a moment earlier
                        waiting[ended.run] = None
                    else:
                        self._now(ended.run, found)
                        view.ended(ended, found)
                for each in self.pool.running:  # another suite has put it in the queue
                    if each.run not in self._records:
                        self._records[each.run] = record_time(each.run, self.runs)
                        waiting.pop(each.run, None)
                others = sum(run in self._elsewhere for run in waiting)
                view.tick(self.pool.running, len(waiting) - others, others, self.left(waiting, self.pool.running))
        finally:
            view.close()
            self.pool.stop()

    def _startable(self, waiting: dict[Planned, None], view: View) -> Iterator[Planned]:
        """Those that can begin, as long as there is room; what others have done meanwhile is taken off the list."""
        extracting = {each.run.images for each in self.pool.running} - self._extracted
        for run in list(waiting):
            if not self.pool.room:
                return
            if run.images and run.images in extracting:
                continue
            if time.monotonic() - self._elsewhere.get(run, -ELSEWHERE) < ELSEWHERE:
                continue
            found = standing(run, self.runs)
            if found.state == "running":
                self._elsewhere[run] = time.monotonic()
                continue
            self._elsewhere.pop(run, None)
            if found.state == "done" or (found.state == "failed" and self.standings[run].state != "failed"):
                self._now(run, found)
                del waiting[run]
                view.found(run, found)
                continue
            extracting |= {run.images} - self._extracted
            yield run

    def _start(self, run: Planned, view: View) -> None:
        _kept(forget_ended, self.runs, run)
        if not (self.runs / "work" / run.task / run.id).exists():
            self._fresh.add(run)
        self._records[run] = record_time(run, self.runs)
        view.started(run, self.pool.start(run, self.logs / f"{run.stem}.log", self._beside(run)))

    def _beside(self, run: Planned) -> tuple[Any, ...]:
        """The features that other runs want of the same images and weights: an image is decoded once for all."""
        if not run.images or run.images in self._extracted:
            return ()
        others = [other for other in self.planned if other.images == run.images and other != run]
        wanted = [view for other in others if self.standings[other].state != "done" for view in other.frozen]
        return tuple(dict.fromkeys(wanted))

    def _judge(self, ended: Ended) -> Standing:
        """How a run stands whose process has ended."""
        run = ended.run
        found = standing(run, self.runs)
        if found.state == "done":
            self._records.pop(run)
            if run in self._fresh:
                self.facts.took(self._kind(run), ended.seconds)
                _kept(self.facts.save)
            self._extracted.add(run.images)
            return found
        written = record_time(run, self.runs) != self._records.pop(run)  # else it is that of an earlier attempt
        if found.state == "failed" and (written or read_ended(self.runs, run)):
            return found
        if ended.reason:
            reason = ended.reason
        elif found.state == "running":
            return found
        elif ended.status == 0:
            self.facts.forget_images()
            _kept(self.facts.save)
            return Standing("failed", CHANGED)
        else:
            reason = why_ended(ended.log, ended.status)
        if ended.status > 0 or ended.over_limit:  # who was killed is simply to do
            _kept(note_ended, self.runs, run, reason)
        return Standing("failed", reason)

    def _now(self, run: Planned, found: Standing) -> None:
        self.standings[run] = found
        self._fresh.discard(run)

    def left(self, waiting: Iterable[Planned], running: Sequence[Started]) -> Estimate:
        """Until all is done: by how long such runs took here, else by their work and this machine's speed."""
        expected, seen = [], set(self._extracted)
        for run, gone in (*((each.run, each.seconds) for each in running), *((run, 0.0) for run in waiting)):
            seconds = self._expected(run, run.images in seen)
            seen.add(run.images)
            expected.append(None if seconds is None else max(0.0, seconds - gone))
        known = [seconds for seconds in expected if seconds is not None]
        return Estimate(sum(known) / self.pool.width, len(known) == len(expected))

    def _kind(self, run: Planned, extracted: bool | None = None) -> str:
        """Of runs that take about as long: whether there are features already decides it."""
        if extracted is None:
            extracted = run.images in self._extracted
        where = run.kind if self.device is not None else f"{run.kind} on a cluster"
        return f"{where} on features" if run.images and extracted else where

    def _expected(self, run: Planned, extracted: bool) -> float | None:
        took = self.facts.seconds(self._kind(run, extracted))
        if took is not None or run.work is None or self.device is None:
            return took
        return 0.0 if run.images and extracted else run.work / self._speed

    @cached_property
    def _speed(self) -> float:
        if self.device == "cpu":
            return speed(self.device, self.threads)
        return float(in_a_process(speed, self.device, self.threads))  # a GPU is left to the runs


def _kept(write: Callable[..., None], *arguments: Any) -> None:
    """Bookkeeping that may fail, on a full disk for example: the runs that go on are not ended for it."""
    try:
        write(*arguments)
    except UserError as error:
        logger.warning("%s", error)
