"""The training loop: any method of `pretrain.methods` on images, on CPUs or GPUs, in one process or several."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from pretrain import checkpoint, data
from pretrain.curves import TimedCurve
from pretrain.device_views import colour_batch
from pretrain.health import collapse_warning, force_report, health
from pretrain.machine import Machine, check_precision, prepare
from pretrain.methods import Method, Outputs, find_method
from pretrain.monitor import Monitor
from pretrain.optimizers import build_optimizer, set_decay, set_rate
from pretrain.recipe import Recipe
from pretrain.sources import ImageSource, open_source
from pretrain.step import Outcome, Step
from pretrain.views import Views, to_network
from transfer.datasets.wording import few_lines
from transfer.runtime.batch_norm import sync_batchnorm
from transfer.runtime.conditions import Conditions
from transfer.runtime.conditions import differences as other_conditions
from transfer.runtime.curve import FILE
from transfer.runtime.errors import DataError, TrainingError, UserError
from transfer.runtime.files import clear_parts, locked
from transfer.runtime.interrupts import asked, leave, saves_when_asked
from transfer.runtime.world import World, world

logger = logging.getLogger(__name__)
LISTED = 20  # unreadable images named in a message
LOCK_PATIENCE = 10.0


def pretrain(
    images: Path,
    out: Path,
    method_name: str,
    recipe: Recipe,
    settings: Any,
    machine: Machine | None = None,
    overwrite: bool = False,
    root: Path | None = None,
) -> Path:
    """Train on `images` (see `pretrain.sources.open_source`) and return the checkpoint, `out`/checkpoint.pth.

    What is found there is resumed, a finished run is not done again, unless `overwrite` starts anew.
    `root` is where the paths of a list begin, if not in the list's own folder.
    `method_name` is a file of `pretrain.methods`, to which `settings` belongs.

    Raises:
        UserError: bad input, or a loss that is not finite; the last good checkpoint is kept.
    """
    machine = machine or Machine()
    machine.check()
    device = machine.torch_device()
    check_precision(recipe, device)
    module = find_method(method_name)
    with world(device) as (processes, device):
        conditions = prepare(device, machine.threads)
        if not processes.leads:
            logging.getLogger("pretrain").setLevel(logging.WARNING)
        recipe.check_processes(processes.size)
        source = open_source(images, getattr(module, "NEEDS_LABELS", False), root)
        recipe.check(len(source))
        torch.manual_seed(recipe.seed)
        method: Method = module.build(recipe.network(len(source.classes)), settings)
        config = _config(method_name, method, recipe, settings, source, processes)
        path = out / checkpoint.FILE
        logger.info("computes with: %s", conditions.line())
        run = _Run(method, recipe, config, path, machine, device, processes, source, conditions)
        with ExitStack() as stack:
            processes.together(lambda: _claim(out, processes, stack))
            if not run.begin(overwrite):
                processes.copy_from_leader(method.state_dict().values())
                run.train(Views.of(recipe, settings))
        return path


def _config(
    name: str, method: Method, recipe: Recipe, settings: Any, source: ImageSource, processes: World
) -> dict[str, Any]:
    """All that decides the outcome, as plain values: what a run that is resumed must share."""
    for force in ("singular", "brownian"):
        if not 0 <= getattr(method.forces, force) < math.inf:
            raise UserError(f"--{force} is {getattr(method.forces, force)}", todo="give 0 or more: it disperses")
    config: dict[str, Any] = {
        "method": name,
        "recipe": asdict(recipe),
        "settings": asdict(settings),
        "data": {"images": len(source), "sha256": source.fingerprint()},
    }
    if processes.size > 1 and not recipe.sync_batchnorm:
        config["processes"] = processes.size  # each has BatchNorm statistics of its own
    return config


def _claim(out: Path, processes: World, stack: ExitStack) -> None:
    """Lock the folder; DataLoader workers that outlive a kill hold the lock a few seconds longer."""
    if processes.leads:
        todo = "wait for it, or choose another --out"
        lock = locked(out, f"another process trains in {out}", todo, name=".lock", patience=LOCK_PATIENCE)
        stack.enter_context(lock)


def _refuse_other_run(path: Path, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    lines = checkpoint.differences(saved, wanted)
    if lines:
        raise TrainingError(
            f"{path} belongs to a run with other settings",
            found="\n".join(lines),
            todo="repeat its settings to resume it, choose another --out, or replace it with --overwrite",
        )


class _Run:
    """One training: state and the loop around `Step`."""

    def __init__(
        self,
        method: Method,
        recipe: Recipe,
        config: dict[str, Any],
        path: Path,
        machine: Machine,
        device: torch.device,
        processes: World,
        source: ImageSource,
        conditions: Conditions,
    ) -> None:
        self.method, self.recipe, self.config, self.path = method, recipe, config, path
        self.machine, self.device, self.processes, self.source = machine, device, processes, source
        method.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        if processes.size > 1 and recipe.sync_batchnorm:
            sync_batchnorm(method, device)
        if machine.compile:
            for branch in method.branches.values():
                branch.compile()
        self.step = Step(method, build_optimizer(recipe, method), recipe, device, processes)
        self.generator = torch.Generator(device)
        self.done, self.saved, self.total = 0, 0, recipe.total_steps(len(source))
        self.unreadable: dict[str, str] = {}
        self.conditions: list[dict[str, Any]] = [conditions.plain()]  # under which it was trained, the latest last
        self.replaces = False  # an older checkpoint, which goes as soon as a step has succeeded
        self.monitor: Monitor | None = None
        if machine.probe_train is not None and machine.probe_test is not None:
            where = (machine.probe_train, machine.probe_test)
            self.monitor = Monitor(*where, recipe.crop, device, processes, machine.workers)
        if recipe.stem != "imagenet":
            logger.info("the %s stem does not convert to detectors; --stem imagenet does", recipe.stem)

    @property
    def epoch_steps(self) -> int:
        """Steps in one pass over the images."""
        return self.recipe.steps_per_epoch(len(self.source))

    def begin(self, overwrite: bool) -> bool:
        """Put back what a checkpoint holds; returns whether nothing is left to do.

        Raises:
            TrainingError: it belongs to another run, or processes see different files.
        """
        if self.processes.leads:
            clear_parts(self.path)
        self.processes.wait()
        self.replaces = overwrite
        state = None if overwrite else checkpoint.load(self.path)
        seen = self.processes.collect((self.config["data"], state and state["step"]))
        if any(other != seen[0] for other in seen):
            raise TrainingError(
                "the processes see different images or checkpoints",
                found="\n".join(f"process {rank}: {data}, step {step}" for rank, (data, step) in enumerate(seen)),
                todo="let DATA and --out be folders that all of them share",
            )
        if state is None:
            return False
        _refuse_other_run(self.path, state["config"], self.config)
        self.done = self.saved = state["step"]
        self.unreadable = dict(state["progress"]["unreadable"])
        self._compare_conditions(state["progress"].get("conditions", [{}]))
        checkpoint.restore(state, self.step)
        if self.done < self.total:
            logger.info("resuming %s at step %d of %d", self.path, self.done, self.total)
            return False
        self._probe(self._curves())
        logger.info("%s is finished (%d steps); --overwrite trains it again", self.path, self.done)
        return True

    def _compare_conditions(self, before: list[dict[str, Any]]) -> None:
        """Say in what the conditions differ from those of the steps that the checkpoint holds, and keep both."""
        now = self.conditions[-1]
        for line in dict.fromkeys(line for then in before for line in other_conditions(then, now)):
            logger.warning("compared with the training so far: %s", line)
        self.conditions = [*(each for each in before if each != now), now]

    def _curves(self) -> TimedCurve:
        path = self.path.parent / FILE if self.processes.leads else None
        return TimedCurve(path, self.done, self.total, self.machine.log_every, self.recipe.batch)

    @saves_when_asked()
    def train(self, views: Views) -> None:
        """All remaining steps."""
        machine, recipe, world_ = self.machine, self.recipe, self.processes
        curves = self._curves()
        self._probe(curves)
        sampler = data.EndlessShuffle(
            len(self.source), recipe.batch, recipe.seed, self.done, self.total, world_.rank, world_.size
        )
        dataset = data.DrawnViews(self.source, views, recipe.seed)
        stream = data.batches(dataset, sampler, machine.workers, self.device.type == "cuda")
        warned = False
        since = time.perf_counter()
        for batch in stream:
            self._note_unreadable(batch)
            curves.waited(time.perf_counter() - since)
            due = curves.due(self.done + 1) and world_.leads
            outcome, rate = self._step(batch, self._signs if due else None)
            curves.step(outcome.loss)
            if self.replaces and world_.leads:
                self.path.unlink(missing_ok=True)
            self.replaces = False
            if due:
                row = {"epoch": self.done / self.epoch_steps, **_numbers(outcome), "lr": rate, **outcome.seen}
                curves.write(self.done, row)
                warning = collapse_warning(outcome.seen)
                if warning and not warned:
                    logger.warning("step %d: %s", self.done, warning)
                warned = bool(warning)
            # Saved before it is probed: a probe that fails costs no training.
            leaving = world_.any(asked(), self.device)
            if leaving or self.done % machine.save_every == 0 or self.done == self.total or self._probes_here():
                self._save()
            if leaving:
                leave()
            self._probe(curves)
            since = time.perf_counter()
        curves.close()

    def _step(self, batch: data.DrawnBatch, watch: Any = None) -> tuple[Outcome, float]:
        """One optimiser step: what came of it, and its learning rate."""
        images = len(self.source)
        warm = self.done < self.recipe.warmup(images)
        rate = set_rate(self.step.optimizer, self.recipe.rate_at(self.done, images), warm)
        progress = self.done / self.total
        set_decay(self.step.optimizer, self.method.weight_decay(progress, self.recipe.weight_decay))
        parts, labels = self._parts(batch)
        outcome = self.step(parts, labels, self.done, progress, self._directions(), watch)
        if not bool(outcome.loss.isfinite()):
            self._stop(f"the loss is {outcome.loss.item()} at step {self.done + 1}", _numbers(outcome))
        self.done += 1
        return outcome, rate

    def _directions(self) -> torch.Generator:
        # Seeded by the step, so that a resumed run draws the directions of the uninterrupted one.
        seeds = np.random.SeedSequence([self.recipe.seed, 0xB20, self.done]).generate_state(1, np.uint64)
        return self.generator.manual_seed(int(seeds[0]))

    def _parts(self, batch: data.DrawnBatch) -> tuple[list[list[Tensor]], Tensor]:
        """The batch on the device as the network sees it, cut for accumulation, and its labels."""
        views = batch.views
        if batch.draws:
            moved = (view.to(self.device, non_blocking=True) for view in views)
            views = [colour_batch(view, draws) for view, draws in zip(moved, batch.draws, strict=True)]
        whole = to_network(views, self.device)
        size = len(whole[0]) // self.recipe.accumulate
        parts = [[view[i * size : (i + 1) * size] for view in whole] for i in range(self.recipe.accumulate)]
        return parts, batch.labels.to(self.device, non_blocking=True)

    def _signs(self, outputs: Outputs, labels: Tensor | None) -> dict[str, Any]:
        embeddings = self.method.embeddings(outputs)
        forces = force_report(self.method, outputs, labels, self._directions())
        return {**health(embeddings), **forces}

    def _probes_here(self) -> bool:
        """Whether a probe belongs to this step: the untrained encoder, every few epochs, the last step."""
        every = self.machine.probe_every * self.epoch_steps
        return self.monitor is not None and (self.done % every == 0 or self.done == self.total)

    def _probe(self, curves: TimedCurve) -> None:
        """Probe where one belongs and none was written (a kill may have come between checkpoint and probe)."""
        if self.monitor is None or not self._probes_here():
            return
        if any(self.processes.collect(not curves.has(self.done, "knn"))):
            encoder: Any = self.method.branches[self.method.evaluated].encoder
            curves.note(self.done, self.monitor(encoder))

    def _note_unreadable(self, batch: data.DrawnBatch) -> None:
        """List new unreadable images of all processes; stop when they are more than the budget."""
        new = {name: reason for name, reason in batch.unreadable.items() if name not in self.unreadable}
        lost = not batch.views
        if not self.processes.any(bool(new) or lost, self.device):
            return
        for name, reason in new.items():
            logger.warning("cannot read %s (%s); another image is seen in its place", name, reason)
        for found in self.processes.collect(new):
            self.unreadable |= found
        listed = [f"{name}: {reason}" for name, reason in sorted(self.unreadable.items())]
        shown = few_lines(listed, LISTED)
        if self.processes.any(lost, self.device):
            raise DataError(
                f"{data.TRIES} images drawn one after another cannot be read",
                found=shown,
                todo=f"see whether the disk with the images is still there; {self._kept()}",
            )
        if len(self.unreadable) > self.machine.unreadable:
            raise DataError(
                f"{len(listed)} images cannot be read, --unreadable allows {self.machine.unreadable}",
                found=shown,
                todo=f"replace them or take them out, or raise --unreadable; {self._kept()}",
            )

    def _kept(self) -> str:
        return f"the checkpoint of step {self.saved} is kept" if self.saved else "no checkpoint was written yet"

    def _stop(self, what: str, row: Mapping[str, float]) -> NoReturn:
        raise TrainingError(
            what,
            found=", ".join(f"{name} {value:.4g}" for name, value in row.items()),
            todo=f"lower the learning rate (--lr) or lengthen the warm-up; {self._kept()}",
        )

    def _save(self) -> None:
        # A finite loss can still have had a gradient that is not; such weights must not replace good ones.
        if not all(bool(parameter.isfinite().all()) for parameter in self.method.parameters()):
            self._stop(f"weights are no longer finite after step {self.done}", {})
        progress = {
            "step": self.done,
            "steps": self.total,
            "epoch": self.done // self.epoch_steps,
            "unreadable": self.unreadable,
            "conditions": self.conditions,
        }

        def write() -> None:
            if self.processes.leads:
                checkpoint.save(self.path, self.step, self.config, progress)

        self.processes.together(write)
        self.saved = self.done


def _numbers(outcome: Outcome) -> dict[str, float]:
    terms = {name: term.item() for name, term in outcome.terms.items()}
    return {"loss": outcome.loss.item(), **terms, **outcome.logged}
