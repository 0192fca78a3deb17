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
from pathlib import Path

from transfer import record as records
from transfer.record import Record
from transfer.runtime.conditions import Conditions, differences, observed, settle
from transfer.runtime.errors import UserError
from transfer.runtime.files import ROOT, clear_parts, locked, write_json
from transfer.runtime.progress import FILE as PROGRESS
from transfer.runtime.progress import report_to
from transfer.runtime.shared_memory import out_of_shared_memory
from transfer.task import Run, TaskOutcome

logger = logging.getLogger(__name__)

PACKAGES = ("torch", "torchvision", "numpy", "pillow", "scikit-learn")


def do(run: Run, overwrite: bool = False) -> Record:
    """Do one run, or find it finished.

    Records go to `runs/records`, what runs share to `runs/features`, everything else to `runs/work/<task>/<run id>`.
    A finished record is returned as it is; what has changed since then in code, packages or conditions is logged. An
    unfinished run is resumed. Ctrl-C leaves no record. Of several processes the leader alone writes; the others get its
    record.

    Raises:
        UserError: another process is doing this very run, or the record cannot be written.
    """
    world = run.world
    conditions = settle(run.device, run.threads)
    if not world.leads:
        return _follow(run)
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
        record = _lead(run, overwrite, conditions, announce)
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


def _follow(run: Run) -> Record:
    """Take part in the leader's run, if there is one, and return its record.

    Raises:
        UserError: there is none, the leader says why.
    """
    record: Record | None = None
    try:
        if run.world.collect(None)[0]:
            try:
                run.task.run(run)
            except UserError as error:
                logger.debug("process %d: %s", run.world.rank, error)  # the leader says it, and writes it down
        record = run.world.collect(None)[0]
    except RuntimeError as error:  # what gloo says when the leader has left, see `_end_all`
        if not re.search("Connection (closed|reset) by peer", str(error)):
            raise
    if record is None:
        raise UserError("the process that leads has stopped; its message says why")
    return record


def _lead(run: Run, overwrite: bool, conditions: Conditions, announce: Callable[[bool], None]) -> Record:
    """Do the run, or find it finished; `announce` tells the other processes which."""
    path, workdir = run.record_file, run.workdir
    # Marks a run that is being done again, so that the earlier record does not answer for it after a kill.
    redo = workdir / "redo"
    with only_one(workdir):
        clear_parts(workdir / "*")
        if path.exists() and not overwrite and not redo.exists():
            found = records.read_record(path)
            if found.status == "finished":
                announce(False)
                _demand_as_many_processes(found, run)
                return _reuse(found, run, conditions)
            logger.info("the last attempt at run %s failed (%s); trying again", run.id, found.failure["message"])
        if overwrite and not redo.exists():
            _forget(workdir)
            redo.touch()
        announce(True)
        with report_to(workdir / PROGRESS):
            record = _attempt(run, conditions)
        kept = path.exists() and record.status == "failed" and records.read_record(path).status == "finished"
        if kept:
            logger.error("the record of the earlier, finished run is kept: %s", path)
        else:
            records.write_record(record, run.runs / "records", overwrite=True)
        redo.unlink(missing_ok=True)
    return record


def _attempt(run: Run, conditions: Conditions) -> Record:
    """The record of one attempt, finished or failed."""
    code = records.git_state(ROOT)  # now: files may change while the run goes on
    began = time.perf_counter()
    try:
        earlier = _earlier_attempts(run.workdir / "conditions.json", conditions)
        outcome = run.task.run(run)
        notes = [*outcome.notes, *earlier, *_changed(conditions, run.device)]
        if run.world.size > 1:
            notes.append(_processes(run.world.size))
        outcome = dataclasses.replace(outcome, notes=tuple(notes))
        return _record(run, code, time.perf_counter() - began, conditions, outcome=outcome)
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
    return _record(run, code, time.perf_counter() - began, conditions, failure=failure)


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
    run: Run,
    code: tuple[str, bool],
    seconds: float,
    conditions: Conditions,
    outcome: TaskOutcome | None = None,
    failure: dict[str, str] | None = None,
) -> Record:
    source = run.backbone.source
    commit, dirty = code
    differences = (*run.differences, *(outcome.differences if outcome else ()))
    return Record(
        run_id=run.id,
        task=run.task_name,
        task_version=run.task.version,
        checkpoint={
            "path": source.path,
            "sha256": source.sha256,
            "format": source.format,
            "branch": source.branch,
            "arch": run.backbone.arch,
            "label": run.label,
        },
        engine=run.engine.name if run.engine else "",
        recipe=dataclasses.asdict(run.recipe),
        protocol=run.protocol,
        differences=[{"what": what, "protocol": theirs, "run": ours} for what, theirs, ours in differences],
        data=run.data.fingerprints,
        seed=run.seed,
        status="finished" if outcome else "failed",
        primary_metric=run.task.primary,
        metrics=outcome.metrics if outcome else {},
        details=outcome.details if outcome else {},
        verification=outcome.verification if outcome else {},
        notes=[*run.backbone.remarks(), *(outcome.notes if outcome else ())],
        failure=failure or {},
        command=run.command,
        git_commit=commit,
        git_dirty=dirty,
        versions=_versions(run),
        conditions=conditions.plain(),
        device=records.device_name(run.device),
        seconds=round(seconds, 1),
        utc=records.utc_now(),
        authors_own=run.authors_own,
    )


def _versions(run: Run) -> dict[str, str]:
    """Of all packages that decide the numbers, those of the engine among them."""
    return records.package_versions(PACKAGES) | (run.engine.versions() if run.engine else {})


def _processes(size: int) -> str:
    """The note of a run of several processes."""
    return f"{size} processes"


def _demand_as_many_processes(found: Record, run: Run) -> None:
    """An engine's processes draw and normalise apart from each other: their number decides the numbers.

    Other tasks give the same with any.
    """
    world = run.world
    if not run.engine or (world.size == 1 and not any(note.endswith(" processes") for note in found.notes)):
        return
    if _processes(world.size) not in found.notes:
        raise UserError(
            f"run {found.run_id} is finished, by another number of processes",
            found=next((note for note in found.notes if note.endswith(" processes")), "1 process")
            + f", now {world.size}",
            todo="start as many, choose another --runs folder, or give --overwrite to do it again",
        )


def _reuse(found: Record, run: Run, conditions: Conditions) -> Record:
    """The finished record, under the name asked for now; says what else is not as it was."""
    logger.info("already finished on %s: %s (--overwrite does it again)", found.utc, run.record_file)
    commit, dirty = records.git_state(ROOT)
    for difference in records.differences_on_reuse(found, commit, dirty, _versions(run), conditions.plain()):
        logger.warning("compared with that run: %s", difference)
    if found.protocol != run.protocol:
        logger.warning(
            "the record states its differences from protocol %s, not %s; --overwrite does the run again for that",
            *(found.protocol, run.protocol),
        )
    # The number is the same whoever chose the protocol; a run that was once asked for by its name stays comparable.
    own = found.authors_own and run.authors_own
    if found.authors_own and not own:
        logger.info("it was marked as --protocol auto, and is compared with others from now on")
    if found.label != run.label:
        logger.info("it was called %s, and is called %s from now on", found.label, run.label)
    if (found.label, found.authors_own) != (run.label, own):
        found = dataclasses.replace(found, checkpoint={**found.checkpoint, "label": run.label}, authors_own=own)
        records.write_record(found, run.runs / "records", overwrite=True)
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
        patience=2,  # who looks whether it is held, holds it for a moment
    )
