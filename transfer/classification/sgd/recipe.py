"""The numbers of a published SGD protocol: schedule, crops, learning rates. No default is a protocol's value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from transfer.classification.views import Interpolation, RandomView, WholeView
from transfer.runtime.errors import UserError


class StepSchedule(Protocol):
    """What a training loop asks of a recipe."""

    @property
    def batch(self) -> int:
        """Images of a step, over all processes."""

    def epoch_steps(self, images: int) -> int:
        """Steps in an epoch; the last has what is left of the images (drop_last=False)."""

    def total_steps(self, images: int) -> int:
        """Steps of the whole training."""

    def share(self, step: int, images: int) -> float:
        """Share of the full learning rate at `step` (0, 1, …)."""


@dataclass(frozen=True, kw_only=True)
class SgdSchedule:
    """For how long, in which batches and with which share of the learning rate. No default is a protocol's value.

    Attributes:
        epochs: passes over the images; 0 where `steps` is given.
        steps: optimiser steps; 0 where `epochs` is given.
        batch: images of a step, over all processes.
        optimizer: "sgd", or "lars", which scales each tensor's gradient to its weights (linear classifiers only).
        trust: LARS's coefficient.
        momentum: of torch.optim.SGD, without dampening.
        nesterov: whether the momentum looks ahead.
        schedule: "cosine", from the full rate to 0; or "steps", times `factor` at each milestone.
        milestones: epochs after which "steps" lowers the rate.
        factor: of "steps".
        per_epoch: the cosine moves between epochs only (vicreg and barlowtwins call CosineAnnealingLR so), not every
            step.
    """

    epochs: int = 0
    steps: int = 0
    batch: int
    optimizer: Literal["sgd", "lars"] = "sgd"
    trust: float = 0.0
    momentum: float
    nesterov: bool = False
    schedule: Literal["cosine", "steps"]
    milestones: tuple[int, ...] = ()
    factor: float = 1.0
    per_epoch: bool = False

    def check(self) -> None:
        """Refuse what cannot be trained.

        Raises:
            UserError: names the value.
        """
        wrong = [
            (self.epochs < 0 or self.steps < 0 or bool(self.epochs) == bool(self.steps),
             f"epochs {self.epochs}, steps {self.steps}", "give one of the two, above 0"),
            (self.batch < 1, f"batch {self.batch}", "give 1 or more"),
            (not 0 <= self.momentum < 1, f"momentum {self.momentum}", "give 0 … 1, without 1"),
            (self.nesterov and self.momentum == 0, "nesterov without momentum", "give a momentum above 0"),
            (self.schedule == "steps" and list(self.milestones) != sorted(set(self.milestones)),
             f"milestones {self.milestones}", "give them rising"),
            (self.schedule == "cosine" and bool(self.milestones), f"cosine with milestones {self.milestones}",
             "give the schedule steps, or no milestones"),
            ((self.optimizer == "lars") != (self.trust > 0), f"optimizer {self.optimizer}, trust {self.trust}",
             "give lars a trust coefficient (published: 0.001), and sgd none"),
            (not 0 < self.factor <= 1, f"factor {self.factor}", "give a number above 0, up to 1"),
            (self.per_epoch and not self.epochs, "a schedule per epoch without epochs", "give epochs instead of steps"),
        ]  # fmt: skip
        for bad, found, todo in wrong:
            if bad:
                raise UserError("this cannot be trained", found=found, todo=todo)

    def epoch_steps(self, images: int) -> int:
        """Steps in an epoch; the last has what is left of the images (drop_last=False)."""
        return math.ceil(images / self.batch)

    def total_steps(self, images: int) -> int:
        """Steps of the whole training."""
        return self.steps or self.epochs * self.epoch_steps(images)

    def images_seen(self, images: int) -> int:
        """Crops of the whole training."""
        epochs, rest = divmod(self.total_steps(images), self.epoch_steps(images))
        return epochs * images + rest * self.batch  # an epoch that is not finished has full batches alone

    def share(self, step: int, images: int) -> float:
        """Share of the full learning rate at `step` (0, 1, …), as torch's CosineAnnealingLR and MultiStepLR have it."""
        per_epoch = self.epoch_steps(images)
        if self.schedule == "steps":
            return float(self.factor ** sum(step >= milestone * per_epoch for milestone in self.milestones))
        done = step // per_epoch / self.epochs if self.per_epoch else step / self.total_steps(images)
        return (1 + math.cos(math.pi * done)) / 2

    @property
    def lars_of_vectors(self) -> bool:
        """Whether LARS adapts biases too, as NVIDIA/apex's LARC does."""
        return True


def epoch_order(images: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The images' order in an epoch: a permutation that depends on nothing else."""
    return np.random.default_rng([seed, 0x0DE4, epoch]).permutation(images)


@dataclass(frozen=True, kw_only=True)
class SgdRecipe(SgdSchedule):
    """A published protocol; whoever makes one names the source of its values.

    Attributes:
        lr: of the classifier, for the whole batch. A search gives its own rates and decays (`Head`).
        lr_backbone: of the network; 0: it is frozen.
        weight_decay: L2, of every parameter that is trained.
        smallest: smallest area of a training crop, as a share of the image's; 0: a crop of fixed size out of the image
            resized as in evaluation.
        crop: side of what the network sees, in pixels, in training and evaluation.
        resize: length of the shorter side in evaluation, before the central crop.
        interpolation: of resizing, in training and evaluation.
        processes: of the published training, each with batch / processes images; in fine-tuning each part has BatchNorm
            statistics of its own. Ours may be fewer.
    """

    lr: float
    lr_backbone: float = 0.0
    weight_decay: float
    smallest: float
    crop: int
    resize: int
    interpolation: Interpolation = "bilinear"
    processes: int = 1

    def check(self) -> None:
        """See `SgdSchedule.check`."""
        super().check()
        rates = {"lr": self.lr, "lr_backbone": self.lr_backbone, "weight_decay": self.weight_decay}
        for name, value in rates.items():
            if not 0 <= value < math.inf:
                raise UserError("this cannot be trained", found=f"{name} {value}", todo="give a number from 0")
        if self.optimizer != "sgd" and self.lr_backbone:
            raise UserError("fine-tuning is by SGD", found=f"optimizer {self.optimizer}", todo="give optimizer sgd")
        if not 0 <= self.smallest <= 1:
            raise UserError(
                "this cannot be trained",
                found=f"smallest {self.smallest}",
                todo="give a share of the area, or 0 for crops of a fixed size",
            )
        self.evaluation_view().check()
        if self.processes < 1 or self.batch % self.processes:
            raise UserError(
                "a batch must divide into equal parts",
                found=f"batch {self.batch}, processes {self.processes}",
                todo="give a batch that is a multiple of the processes",
            )

    def training_view(self) -> RandomView:
        """Random crop and flip."""
        resize = 0 if self.smallest else self.resize
        return RandomView(self.crop, self.smallest, interpolation=self.interpolation, resize=resize)

    def evaluation_view(self) -> WholeView:
        """Resize and central crop."""
        return WholeView(self.resize, self.crop, interpolation=self.interpolation)


@dataclass(frozen=True, kw_only=True)
class TokenSgdRecipe(SgdRecipe):
    """SGD as the linear protocols of vision transformers have it.

    A class of its own, because the values of a recipe name its runs: those of ResNets keep their names.

    Attributes:
        warmup_epochs: over which the rate rises from 0, step by step, before the cosine (facebookresearch/mae:
            util/lr_sched.py).
        adapt_biases: whether LARS adapts them; not in facebookresearch/mae: util/lars.py.
        test_interpolation: of resizing in evaluation.
    """

    warmup_epochs: int = 0
    adapt_biases: bool = True
    test_interpolation: Interpolation = "bicubic"

    def check(self) -> None:
        """See `SgdSchedule.check`."""
        super().check()
        if not 0 <= self.warmup_epochs < max(1, self.epochs) or (self.warmup_epochs and self.per_epoch):
            raise UserError(
                "this cannot be trained",
                found=f"warmup_epochs {self.warmup_epochs} of {self.epochs} epochs, per_epoch {self.per_epoch}",
                todo="give fewer than the epochs, and a schedule of steps",
            )

    def share(self, step: int, images: int) -> float:
        """See `SgdSchedule.share`; the cosine begins behind the warm-up."""
        if not self.warmup_epochs:
            return super().share(step, images)
        epoch = step / self.epoch_steps(images)
        if epoch < self.warmup_epochs:
            return epoch / self.warmup_epochs
        done = (epoch - self.warmup_epochs) / (self.epochs - self.warmup_epochs)
        return (1 + math.cos(math.pi * done)) / 2

    @property
    def lars_of_vectors(self) -> bool:
        """See `SgdSchedule`."""
        return self.adapt_biases

    def evaluation_view(self) -> WholeView:
        """Resize and central crop."""
        return WholeView(self.resize, self.crop, interpolation=self.test_interpolation)
