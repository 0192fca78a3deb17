"""Runs a task for checkpoints × seeds and leaves one record each. The one place that catches a failing run."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detection.engines.choose import load_engine
from transfer import record as records
from transfer.checkpoints.backbone import Backbone
from transfer.protocol import recipe_differences
from transfer.record import Record
from transfer.runtime.conditions import THREADS, Conditions, differences, observed, settle
from transfer.runtime.errors import UserError
from transfer.runtime.files import locked, write_json
from transfer.runtime.provenance import Difference
from transfer.runtime.shared_memory import out_of_shared_memory
from transfer.runtime.world import World
from transfer.task import RunContext, Task, TaskOutcome

logger = logging.getLogger(__name__)

PACKAGES = ("torch", "torchvision", "numpy", "pillow", "scikit-learn")


@dataclass(frozen=True, eq=False)
class Plan:
    """One run to be done: everything that decides its number, and how it is presented.

    Attributes:
        protocol: name of the published protocol that `recipe` is measured against.
        published: that protocol's recipe.
        recipe: what will be run.
        data_differences: how the data differ from the protocol's.
        label: the checkpoint's name in tables.
        command: as typed.
        threads: of PyTorch on the CPU; stands in the record and not in the run id, see `transfer.runtime.conditions`.
        authors_own: see `Record`; not in the run id.
        recompute: see `RunContext`; not in the run id, because it moves no number beyond rounding.
    """

    task_name: str
    task: Task
    backbone: Backbone
    label: str
    protocol: str
    published: Any
    recipe: Any
    data: Any
    fingerprints: dict[str, dict[str, object]]
    data_differences: tuple[Difference, ...]
    engine: str
    seed: int
    device: str
    workers: int
    command: str
    threads: int = THREADS
    authors_own: bool = False
    recompute: bool = False

    def run_id(self) -> str:
        """Hash of what decides the number: task + version, checkpoint, engine, recipe, data, seed."""
        source = self.backbone.source
        return records.run_id(
            task=self.task_name,
            task_version=self.task.version,
            sha256=source.sha256,
            branch=source.branch,
            engine=self.engine,
            recipe=dataclasses.asdict(self.recipe),
            data_fingerprints=self.fingerprints,
            seed=self.seed,
        )


def run(plan: Plan, runs: Path, overwrite: bool = False, world: World | None = None) -> Record:
    """Do one run, or find it finished.

    Records go to `runs/records`, what runs share to `runs/features`, everything else to `runs/work/<task>/<run id>`.
    A finished record is returned as it is; what has changed since then in code, packages or conditions is logged. An
    unfinished run is resumed. Ctrl-C leaves no record. Of several processes the leader alone writes; the others get its
    record.

    Raises:
        UserError: another process is doing this very run, or the record cannot be written.
    """
    world = world or World()
    conditions = settle(plan.device, plan.threads)
    if not world.leads:
        return _follow(plan, runs, world)
    said: list[bool] = []

    def announce(goes: bool) -> None:
        said.append(goes)
        world.collect(goes)

    def release(record: Record | None) -> None:
        """The others wait for two messages, whatever happens here."""
        if not said:
            world.collect(False)
        world.collect(record)

    try:
        record = _lead(plan, runs, overwrite, world, conditions, announce)
        if world.size > 1 and said[0] and record.status == "failed":
            _end_all()
    except Exception:  # not Ctrl-C, which reaches the others too: who writes to one that has gone gets an error
        release(None)
        raise
    release(record)
    return record


def _end_all() -> None:
    """Leave at once: the others may be waiting inside the failed run, where no message reaches them.

    `torchrun` ends them when this process is gone.
    """
    logger.error("the record of the failed run is written; the other processes are ended")
    logging.shutdown()
    os._exit(1)


def _follow(plan: Plan, runs: Path, world: World) -> Record:
    """Take part in the leader's run, if there is one, and return its record.

    Raises:
        UserError: there is none, the leader says why.
    """
    record: Record | None = None
    try:
        if world.collect(None)[0]:
            try:
                plan.task.run(_context(plan, runs, plan.run_id(), world))
            except UserError as error:
                logger.debug("process %d: %s", world.rank, error)  # the leader says it, and writes it down
        record = world.collect(None)[0]
    except RuntimeError as error:  # what gloo says when the leader has left, see `_end_all`
        if not re.search("Connection (closed|reset) by peer", str(error)):
            raise
    if record is None:
        raise UserError("the process that leads has stopped; its message says why")
    return record


def _lead(
    plan: Plan, runs: Path, overwrite: bool, world: World, conditions: Conditions, announce: Callable[[bool], None]
) -> Record:
    """Do the run, or find it finished; `announce` tells the other processes which."""
    run_id = plan.run_id()
    path = runs / "records" / plan.task_name / f"{run_id}.json"
    workdir = runs / "work" / plan.task_name / run_id
    # Marks a run that is being done again, so that the earlier record does not answer for it after a kill.
    redo = workdir / "redo"
    with only_one(workdir):
        for leftover in workdir.glob(".*.part"):  # what a kill left of files that were being written
            leftover.unlink()
        if path.exists() and not overwrite and not redo.exists():
            found = records.read_record(path)
            if found.status == "finished":
                announce(False)
                _demand_as_many_processes(found, plan, world)
                return _reuse(found, path, plan, runs, conditions)
            logger.info("the last attempt at run %s failed (%s); trying again", run_id, found.failure["message"])
        if overwrite and not redo.exists():
            _forget(workdir)
            redo.touch()
        announce(True)
        record = _attempt(plan, _context(plan, runs, run_id, world), conditions)
        kept = path.exists() and record.status == "failed" and records.read_record(path).status == "finished"
        if kept:
            logger.error("the record of the earlier, finished run is kept: %s", path)
        else:
            records.write_record(record, runs / "records", overwrite=True)
        redo.unlink(missing_ok=True)
    return record


def _context(plan: Plan, runs: Path, run_id: str, world: World) -> RunContext:
    return RunContext(
        backbone=plan.backbone,
        recipe=plan.recipe,
        data=plan.data,
        engine=plan.engine,
        seed=plan.seed,
        workdir=runs / "work" / plan.task_name / run_id,
        device=plan.device,
        workers=plan.workers,
        cache=runs / "features",
        world=world,
        recompute=plan.recompute,
    )


def _attempt(plan: Plan, context: RunContext, conditions: Conditions) -> Record:
    """The record of one attempt, finished or failed."""
    run_id = plan.run_id()
    code = records.git_state(Path(__file__).parent)  # now: files may change while the run goes on
    began = time.perf_counter()
    try:
        earlier = _earlier_attempts(context.workdir / "conditions.json", conditions)
        outcome = plan.task.run(context)
        notes = [*outcome.notes, *earlier, *_changed(conditions, plan.device)]
        if context.world.size > 1:
            notes.append(_processes(context.world.size))
        outcome = dataclasses.replace(outcome, notes=tuple(notes))
        return _record(plan, run_id, code, time.perf_counter() - began, conditions, outcome=outcome)
    except UserError as error:
        logger.error("%s", error)
        failure = {"kind": type(error).__name__, "message": str(error), "traceback": traceback.format_exc()}
    except Exception as error:  # noqa: BLE001 - the one place: a fault in one run must not take the others with it
        known = out_of_shared_memory(error)
        shown = known or error
        if known:
            logger.error("%s", known)
        else:
            logger.error(
                "the run failed with %s: %s (its record holds the traceback; --debug shows it)",
                type(error).__name__,
                error,
            )
        failure = {"kind": type(shown).__name__, "message": str(shown), "traceback": traceback.format_exc()}
    logger.debug("%s", failure["traceback"])
    return _record(plan, run_id, code, time.perf_counter() - began, conditions, failure=failure)


def _earlier_attempts(path: Path, conditions: Conditions) -> list[str]:
    """Notes on attempts at this run under other conditions, whose unfinished work is taken up; adds this one to `path`.

    Raises:
        UserError: the disk is full.
    """
    attempts = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    if not attempts and any(entry.name not in ("lock", "redo") for entry in path.parent.iterdir()):
        attempts = [{}]  # left by code that wrote no such file
    now = conditions.plain()
    write_json(path, [*(attempt for attempt in attempts if attempt != now), now])
    found = dict.fromkeys(line for attempt in attempts for line in differences(attempt, now))
    for line in found:
        logger.warning("an unfinished attempt is taken up, compared with which %s", line)
    return [f"begun under other conditions: {line}" for line in found]


def _changed(conditions: Conditions, device: str) -> list[str]:
    """Notes on what a task or engine has set otherwise while it ran."""
    lines = differences(conditions.plain(), observed(device).plain())
    return [f"changed while the run went on: {line}" for line in lines]


def _record(
    plan: Plan,
    run_id: str,
    code: tuple[str, bool],
    seconds: float,
    conditions: Conditions,
    outcome: TaskOutcome | None = None,
    failure: dict[str, str] | None = None,
) -> Record:
    source = plan.backbone.source
    commit, dirty = code
    differences = (
        *plan.data_differences,
        *recipe_differences(plan.published, plan.recipe),
        *(outcome.differences if outcome else ()),
    )
    versions = records.package_versions(PACKAGES)
    if plan.engine:
        versions |= load_engine(plan.engine).versions()
    return Record(
        run_id=run_id,
        task=plan.task_name,
        task_version=plan.task.version,
        checkpoint={
            "path": source.path,
            "sha256": source.sha256,
            "format": source.format,
            "branch": source.branch,
            "arch": plan.backbone.arch,
            "label": plan.label,
        },
        engine=plan.engine,
        recipe=dataclasses.asdict(plan.recipe),
        protocol=plan.protocol,
        differences=[{"what": what, "protocol": theirs, "run": ours} for what, theirs, ours in differences],
        data=plan.fingerprints,
        seed=plan.seed,
        status="finished" if outcome else "failed",
        primary_metric=plan.task.primary,
        metrics=outcome.metrics if outcome else {},
        details=outcome.details if outcome else {},
        verification=outcome.verification if outcome else {},
        notes=[*plan.backbone.remarks(), *(outcome.notes if outcome else ())],
        failure=failure or {},
        command=plan.command,
        git_commit=commit,
        git_dirty=dirty,
        versions=versions,
        conditions=conditions.plain(),
        device=records.device_name(plan.device),
        seconds=round(seconds, 1),
        utc=records.utc_now(),
        authors_own=plan.authors_own,
    )


def _processes(size: int) -> str:
    """The note of a run of several processes."""
    return f"{size} processes"


def _demand_as_many_processes(found: Record, plan: Plan, world: World) -> None:
    """An engine's processes draw and normalise apart from each other: their number decides the numbers.

    Other tasks give the same with any.
    """
    if not plan.engine or (world.size == 1 and not any(note.endswith(" processes") for note in found.notes)):
        return
    if _processes(world.size) not in found.notes:
        raise UserError(
            f"run {found.run_id} is finished, by another number of processes",
            found=next((note for note in found.notes if note.endswith(" processes")), "1 process")
            + f", now {world.size}",
            todo="start as many, choose another --runs folder, or give --overwrite to do it again",
        )


def _reuse(found: Record, path: Path, plan: Plan, runs: Path, conditions: Conditions) -> Record:
    """The finished record, under the name asked for now; says what else is not as it was."""
    versions = records.package_versions(PACKAGES)
    if plan.engine:
        versions |= load_engine(plan.engine).versions()
    logger.info("already finished on %s: %s (--overwrite does it again)", found.utc, path)
    commit, dirty = records.git_state(Path(__file__).parent)
    for difference in records.differences_on_reuse(found, commit, dirty, versions, conditions.plain()):
        logger.warning("compared with that run: %s", difference)
    if found.protocol != plan.protocol:
        logger.warning(
            "the record states its differences from protocol %s, not %s; --overwrite does the run again for that",
            *(found.protocol, plan.protocol),
        )
    # The number is the same whoever chose the protocol; a run that was once asked for by its name stays comparable.
    own = found.authors_own and plan.authors_own
    if found.authors_own and not own:
        logger.info("it was marked as --protocol auto, and is compared with others from now on")
    if found.label != plan.label:
        logger.info("it was called %s, and is called %s from now on", found.label, plan.label)
    if (found.label, found.authors_own) != (plan.label, own):
        found = dataclasses.replace(found, checkpoint={**found.checkpoint, "label": plan.label}, authors_own=own)
        records.write_record(found, runs / "records", overwrite=True)
    return found


def _forget(workdir: Path) -> None:
    """Remove what an earlier attempt left, the lock file excepted; its record stays until another replaces it."""
    for entry in sorted(workdir.rglob("*"), reverse=True):
        if entry.is_dir():
            entry.rmdir()
        elif entry.name != "lock":
            entry.unlink()


def only_one(workdir: Path) -> AbstractContextManager[None]:
    """Hold the run's lock.

    Raises:
        UserError: another process has it.
    """
    return locked(
        workdir,
        f"another process is doing this very run ({workdir.name})",
        "wait for it; its record will then answer this command at once",
    )
