"""What is trained how: everything that moves the numbers, read from the command line by tyro."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pretrain.networks import Arch
from pretrain.views import Augmentation
from transfer.errors import UserError


@dataclass(frozen=True)
class Recipe:
    """Training recipe. The defaults are BYOL's for 100 epochs (Grill et al. 2020, appendix C and F; schedules by
    length: google-deepmind/deepmind-research, byol/configs/byol.py) with VICReg's symmetrised views.

    Attributes:
        arch: the ResNet, with the ImageNet stem.
        crop: side of a view in pixels.
        augmentation: vicreg: every view drawn alike. byol: two kinds of views in turn.
        epochs: passes over the images.
        steps: length in optimiser steps, instead of --epochs. 0: the epochs decide.
        warmup_epochs: epochs of linear warm-up; a cosine to 0 follows.
        warmup_steps: warm-up in steps, used together with --steps.
        batch: images per step; each gives as many views as --views says.
        optimizer: lars for large batches; sgd for small ones.
        lr: learning rate for a batch of 256, scaled in proportion to the batch.
        momentum: of either optimiser.
        weight_decay: on weights; never on biases and norm parameters.
        trust: LARS's trust coefficient; biases and norm parameters are not adapted.
        precision: bf16 runs networks under autocast on a GPU; losses are always float32 or wider.
        seed: of initial weights, image order, views and Brownian directions.
    """

    arch: Arch = "resnet50"
    crop: int = 224
    augmentation: Augmentation = "vicreg"
    epochs: int = 100
    steps: int = 0
    warmup_epochs: float = 10
    warmup_steps: int = 0
    batch: int = 4096
    optimizer: Literal["lars", "sgd"] = "lars"
    lr: float = 0.45
    momentum: float = 0.9
    weight_decay: float = 1e-6
    trust: float = 1e-3
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0

    def check(self, images: int) -> None:
        """Refuse what cannot be trained.

        Raises:
            UserError: a number is out of range, or there are fewer images than a batch.
        """
        for name, lowest in (("batch", 2), ("crop", 32), ("epochs", 1), ("steps", 0), ("warmup_steps", 0), ("seed", 0)):
            if getattr(self, name) < lowest:
                option = "--" + name.replace("_", "-")
                raise UserError(f"{option} is {getattr(self, name)}", todo=f"give {option} {lowest} or more")
        if self.lr <= 0:
            raise UserError(f"--lr is {self.lr}", todo="give a positive learning rate")
        if images < self.batch:
            raise UserError(
                f"{images} images are fewer than a batch of {self.batch}",
                todo=f"lower the batch (--batch {max(2, images // 4)} or --preset demo), or add images",
            )

    def total_steps(self, images: int) -> int:
        """Optimiser steps of the whole training; the last, incomplete batch of an epoch is dropped."""
        return self.steps or self.epochs * (images // self.batch)

    def lr_at(self, step: int, images: int) -> float:
        """Learning rate of step 0, 1, …: linear from 0, then a cosine (byol/utils/schedules.py)."""
        peak, total = self.lr * self.batch / 256, self.total_steps(images)
        warmup = self.warmup_steps if self.steps else round(self.warmup_epochs * (images // self.batch))
        if step < warmup:
            # Counted from 1: a first step at rate 0 would be lost in a short training.
            return peak * (step + 1) / (warmup + 1)
        return peak * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup))) / 2
