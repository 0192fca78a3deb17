"""The loop of a published SGD protocol: whatever learns, its images, its checkpoint, its curve."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from transfer.classification.sgd.data import Batch, Deal, Order, crops, listed
from transfer.classification.sgd.recipe import StepSchedule
from transfer.classification.views import RandomView
from transfer.datasets.labels.labelled import LabelledImages
from transfer.runtime import curve
from transfer.runtime import training as checkpoint
from transfer.runtime.errors import DataError, TrainingError, UserError
from transfer.runtime.files import clear_parts
from transfer.runtime.interrupts import asked, leave, saves_when_asked
from transfer.runtime.progress import Bar
from transfer.runtime.world import World

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SgdMachine:
    """How this machine does it; nothing here moves a number beyond rounding.

    Attributes:
        device: where networks live.
        workers: processes that decode and crop; 0: the training process does it.
        save_every: steps between checkpoints; there is always one at the end.
        log_every: steps between lines of metrics.jsonl.
        unreadable: training images that may turn out unreadable. Each is listed and left out of its batches; one more
            stops the training.
        world: the processes that train together.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    workers: int = 0
    save_every: int = 500
    log_every: int = 20
    unreadable: int = 0
    world: World = field(default_factory=World)

    def check(self) -> None:
        """Raise `UserError` for a number out of range."""
        for name, lowest in {"workers": 0, "save_every": 1, "log_every": 1, "unreadable": 0}.items():
            value = getattr(self, name)
            if value < lowest:
                option = name.replace("_", "-")
                raise UserError(f"--{option} {value} is too small", todo=f"give {lowest} or more")


class Learner(Protocol):
    """Something that learns from batches."""

    def step(self, batch: Batch, labels: Tensor, share: float, images: int, number: int) -> Tensor:
        """Step `number` (1, 2, …).

        Args:
            batch: this process's images; may be none.
            labels: int64 of them, [n], or [n, classes] where an image may show several; on the device.
            share: of the full learning rate.
            images: of the whole batch.

        Returns:
            Loss or losses of the whole batch, equal on all processes.

        Raises:
            TrainingError: it cannot go on.
        """

    def numbers(self, losses: Tensor, share: float) -> dict[str, Any]:
        """What the curve tells: `lr`, `loss` and more, all finite."""

    def check(self) -> None:
        """Raise `TrainingError` if what was learned is not worth keeping."""

    def state(self) -> dict[str, Any]:
        """Tensors and plain numbers."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""


class SgdTraining:
    """One training, begun or resumed: weights after N steps are the same however often it was killed (on CPUs)."""

    def __init__(
        self,
        learner: Learner,
        train: LabelledImages,
        schedule: StepSchedule,
        view: RandomView,
        config: Mapping[str, Any],
        folder: Path,
        machine: SgdMachine,
    ) -> None:
        self.learner, self.train, self.schedule, self.view = learner, train, schedule, view
        self.config, self.folder, self.machine = dict(config), folder, machine
        self.total = schedule.total_steps(len(train))
        self.done = self.saved = 0
        self.unreadable: dict[int, str] = {}
        self.labels = torch.from_numpy(train.labels.astype(np.int64))

    @saves_when_asked()
    def run(self, seed: int, deal: Deal) -> None:
        """All steps that the folder's checkpoint has not done; none if it is finished.

        Args:
            seed: of orders and crops.
            deal: which of a batch's images are this process's.

        Raises:
            DataError: more unreadable images than allowed.
            TrainingError: it cannot go on, or the folder belongs to another training.
        """
        self._begin()
        machine = self.machine
        if self.done == self.total:
            return
        order = Order(len(self.train), self.schedule.batch, seed, self.done, self.total, deal)
        path = self.folder / curve.FILE if machine.world.leads else None
        log = curve.Curve(path, self.done, self.total, machine.log_every)
        what = f"training on {self.train.name}"
        with Bar(self.total, self.done, unit="step", what=what, shown=machine.world.leads) as bar:
            for batch in crops(self.train.images, self.view, order, machine.workers, machine.device):
                self._step(batch, log, bar)
                leaving = machine.world.any(asked(), machine.device)
                if leaving or self.done % machine.save_every == 0 or self.done == self.total:
                    self._save()
                if leaving:
                    leave()

    def _begin(self) -> None:
        world = self.machine.world
        if world.leads:
            clear_parts(self.folder / checkpoint.FILE)
        saved = world.together(lambda: checkpoint.load(self.folder, self.config))
        steps = world.collect(saved and saved["step"])
        if len(set(steps)) > 1:
            raise TrainingError(
                "the processes see different checkpoints",
                found="\n".join(f"process {rank}: step {step}" for rank, step in enumerate(steps)),
                todo="let the folder of the run be one that all of them share",
            )
        if saved is None:
            return
        self.learner.load(saved["state"])
        self.done = self.saved = saved["step"]
        self.unreadable = dict(saved["unreadable"])
        finished = "is finished" if self.done == self.total else "is resumed"
        logger.info("%s %s at step %d of %d", self.folder / checkpoint.FILE, finished, self.done, self.total)

    def _step(self, batch: Batch, log: curve.Curve, bar: Bar) -> None:
        images = self._counted(batch)
        share = self.schedule.share(self.done, len(self.train))
        labels = self.labels[batch.places].to(self.machine.device, non_blocking=True)
        if images:
            losses = self.learner.step(batch, labels, share, images, self.done + 1)
        self.done += 1
        bar.update(1)
        if not images:
            logger.warning("step %d has no readable image and changes nothing", self.done)
        elif log.due(self.done):
            numbers = self.learner.numbers(losses, share)
            epoch = self.done / self.schedule.epoch_steps(len(self.train))
            seconds = log.seconds(self.done)
            log.write(self.done, {"epoch": round(epoch, 4), **numbers, "seconds": round(seconds, 5)})
            bar.note(f"loss={numbers['loss']:.3f}")
            if self.machine.world.leads and not bar.shown:
                logger.info("step %d/%d  loss %s  %.2f s a step", self.done, self.total, numbers["loss"], seconds)

    def _counted(self, batch: Batch) -> int:
        """Readable images of the whole batch; the unreadable ones are noted.

        Raises:
            DataError: they are more than the budget.
        """
        world = self.machine.world
        new = {index: reason for index, reason in batch.unreadable.items() if index not in self.unreadable}
        if world.size == 1:
            count, any_new = len(batch.places), bool(new)
        else:
            seen = torch.tensor([len(batch.places), len(new)], device=self.machine.device)
            world.add_up([seen])
            count, any_new = int(seen[0]), bool(seen[1])
        if any_new:
            for found in world.collect(new):
                self.unreadable |= found
            self._refuse_too_many(new)
        return count

    def _refuse_too_many(self, new: Mapping[int, str]) -> None:
        for index, reason in new.items():
            logger.warning("cannot read %s (%s); it is left out", self.train.images.name(index), reason)
        if len(self.unreadable) > self.machine.unreadable:
            kept = f"the checkpoint of step {self.saved} is kept" if self.saved else "no checkpoint was written yet"
            raise DataError(
                f"{len(self.unreadable)} images of {self.train.name} cannot be read, "
                f"--unreadable allows {self.machine.unreadable}",
                found=listed(self.train, self.unreadable),
                todo="replace them or take them out of the set, or type the command again with "
                f"--unreadable {len(self.unreadable)} or more; {kept}",
            )

    def _save(self) -> None:
        self.learner.check()

        def write() -> None:
            if self.machine.world.leads:
                checkpoint.save(
                    self.folder,
                    {
                        "step": self.done,
                        "steps": self.total,
                        "config": self.config,
                        "unreadable": self.unreadable,
                        "state": self.learner.state(),
                    },
                )

        self.machine.world.together(write)
        self.saved = self.done
