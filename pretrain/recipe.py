"""What is trained how: everything that moves the numbers, read from the command line by tyro."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from transfer.runtime.errors import UserError

Arch = Literal[
    "resnet18_quarter",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "vit_tiny",
    "vit_small",
    "vit_tiny_patch8",
    "vit_small_patch8",
]
Stem = Literal["imagenet", "cifar"]
AugmentationName = Literal["vicreg", "byol", "moco", "simclr", "swav", "wmse", "crop", "dino"]

# Vision transformers: (size, side of a patch in pixels). Which weights they have is said in the families' room.
TRANSFORMERS: Mapping[str, tuple[str, int]] = {
    "vit_tiny": ("tiny", 16),
    "vit_small": ("small", 16),
    "vit_tiny_patch8": ("tiny", 8),
    "vit_small_patch8": ("small", 8),
}

LOWEST = {"batch": 2, "accumulate": 1, "crop": 16, "epochs": 1, "steps": 0, "warmup_steps": 0, "seed": 0}
# What a recipe without these fields did: checkpoints and rows of that time are resumed. A field that is added to
# `Recipe` stands here, unless nothing from before it can be resumed.
BEFORE: Mapping[str, Any] = {
    "start_lr": None,
    "warmup_inclusive": False,
    "milestones": (),
    "factor": 1.0,
    "per_epoch": False,
}


@dataclass(frozen=True)
class EncoderSpec:
    """Which encoder a method is built around.

    Attributes:
        arch: the ResNet or vision transformer. "resnet18_quarter" has a quarter of the channels in its stages (the
            stem keeps its 64): for studies on a CPU, it converts to nothing.
        stem: "imagenet": 7×7 convolution of stride 2 and max-pooling, which detectors have too. "cifar": 3×3
            convolution of stride 1 and no pooling, for images of 32 pixels (Chen et al., SimCLR, 2020, appendix B.9).
            Transformers have none.
        classes: number of classes of the labelled images, for methods that need labels.
        crop: side in pixels of the views that a transformer's table of positions is for.
    """

    arch: Arch
    stem: Stem = "imagenet"
    classes: int = 0
    crop: int = 224

    @property
    def patch(self) -> int:
        """Side of a transformer's patch in pixels; 0 of a ResNet."""
        return TRANSFORMERS[self.arch][1] if self.arch in TRANSFORMERS else 0

    @property
    def transformer(self) -> str:
        """The whole name of a transformer, as `transfer.checkpoints.families.vit` has it; "" of a ResNet."""
        if not self.patch:
            return ""
        return f"vit_{TRANSFORMERS[self.arch][0]}_patch{self.patch}_{self.crop}"

    def check_side(self, option: str, side: int) -> None:
        """Refuse images that a transformer cannot cut into whole patches; `side` in pixels is that of `option`.

        Raises:
            UserError: says which sizes are near.
        """
        if self.patch and (side % self.patch or side < self.patch):
            below = side // self.patch * self.patch
            near = f"{below} or {below + self.patch}" if below else f"{self.patch}"
            raise UserError(
                f"{option} {side} is no multiple of the patches of {self.patch} pixels of --arch {self.arch}",
                todo=f"give {option} {near}",
            )


@dataclass(frozen=True)
class Recipe:
    """Training recipe. The defaults are BYOL's for 100 epochs (Grill et al. 2020, appendix C and F; schedules by
    length: google-deepmind/deepmind-research, byol/configs/byol.py) with VICReg's symmetrised views.

    Attributes:
        arch: a ResNet, or a vision transformer with patches of 16 pixels (patch8: of 8) whose table of positions is for
            --crop; resnet18_quarter is for studies on a CPU and converts to nothing.
        stem: of a ResNet: imagenet, or cifar (3x3, no pooling) for 32-pixel images; only imagenet converts to
            detectors.
        crop: side of a view in pixels; for a transformer a multiple of its patches.
        augmentation: whose random views; methods start from their own paper's.
        views_on: workers augment with Pillow; device does colour and blur in batches there, the same draws.
        epochs: passes over the images.
        steps: length in optimiser steps, instead of --epochs. 0: the epochs decide.
        warmup_epochs: epochs of linear warm-up. Not used with --steps.
        warmup_steps: warm-up in steps, with --steps or in place of --warmup-epochs 0.
        start_lr: rate of the first step of the warm-up, as a share of the peak. None: one step's worth, so that a short
            training loses no step to a rate of 0.
        warmup_inclusive: the last step of the warm-up has the peak already (SwAV, W-MSE), not the step after it.
        batch: images per step over all processes; each gives as many views as --views says.
        accumulate: parts that a process cuts its share of the batch into, to need less memory; the loss is still that
            of the whole batch, BatchNorm sees a part.
        optimizer: lars for large batches; sgd for small ones; adamw, adam.
        lr: learning rate for a batch of 256, scaled in proportion to the batch.
        bias_lr: the same for biases and norm parameters, if not 0.
        final_lr: end of the cosine, as a share of the peak.
        per_epoch: the cosine moves between epochs only (MoCo, SimSiam).
        milestones: epochs after which the rate is multiplied by --factor; none: a cosine follows the warm-up.
        factor: of the milestones.
        momentum: of lars and sgd; beta1 of adam and adamw.
        weight_decay: on weights; a transformer's positions and tokens are none (but with DINO, as published).
        decay_all: biases and norm parameters decay too, and LARS adapts them.
        trust: LARS's trust coefficient.
        clip: longest gradient (global norm); 0: not clipped.
        sync_batchnorm: several processes share BatchNorm statistics, as if they were one.
        precision: bf16 and fp16 run networks under autocast; losses are always float32 or wider. fp16 needs a GPU.
        seed: of initial weights, image order, views and Brownian directions.
    """

    arch: Arch = "resnet50"
    stem: Stem = "imagenet"
    crop: int = 224
    augmentation: AugmentationName = "vicreg"
    views_on: Literal["workers", "device"] = "workers"
    epochs: int = 100
    steps: int = 0
    warmup_epochs: float = 10
    warmup_steps: int = 0
    start_lr: float | None = None
    warmup_inclusive: bool = False
    batch: int = 4096
    accumulate: int = 1
    optimizer: Literal["lars", "sgd", "adamw", "adam"] = "lars"
    lr: float = 0.45
    bias_lr: float = 0.0
    final_lr: float = 0.0
    per_epoch: bool = False
    milestones: tuple[int, ...] = ()
    factor: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 1e-6
    decay_all: bool = False
    trust: float = 1e-3
    clip: float = 0.0
    sync_batchnorm: bool = True
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    seed: int = 0

    def check(self, images: int) -> None:
        """Refuse what cannot be trained.

        Raises:
            UserError: a number is out of range, or there are fewer images than a batch.
        """
        at_least(self, LOWEST)
        self.network().check_side("--crop", self.crop)
        if self.arch in TRANSFORMERS and self.stem != "imagenet":
            raise UserError(
                f"--stem {self.stem} is for ResNets, and --arch {self.arch} cuts its images into patches",
                todo="leave out --stem; for small images choose small patches, as in --arch vit_tiny_patch8",
            )
        for name in ("lr", "trust"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{_option(name)} is {getattr(self, name)}", todo="give a positive number")
        for name in ("bias_lr", "final_lr", "weight_decay", "warmup_epochs", "clip"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{_option(name)} is {getattr(self, name)}", todo="give 0 or more")
        if not 0 <= self.momentum < 1:
            raise UserError(f"--momentum is {self.momentum}", todo="give 0 or more, below 1")
        if images < self.batch:
            raise UserError(
                f"{images} images are fewer than a batch of {self.batch}",
                todo=f"lower the batch (--batch {max(2, images // 4)} or --preset demo), or add images",
            )
        if self.start_lr is not None and not 0 <= self.start_lr <= 1:
            raise UserError(f"--start-lr is {self.start_lr}", todo="give a share of the peak, 0 to 1")
        if self.warmup_steps and self.warmup_epochs and not self.steps:
            raise UserError(
                f"--warmup-steps {self.warmup_steps} and --warmup-epochs {self.warmup_epochs:g}",
                todo="give one of the two, the other as 0",
            )
        self._check_milestones(images)
        warmup, total = self.warmup(images), self.total_steps(images)
        if warmup >= total:
            raise UserError(
                f"the warm-up of {warmup} steps is no shorter than the training of {total}",
                todo="lower --warmup-steps" if self.steps else "lower --warmup-epochs, or raise --epochs",
            )

    def _check_milestones(self, images: int) -> None:
        drops = f"--milestones {' '.join(map(str, self.milestones))}" if self.milestones else "no milestones"
        if not 0 < self.factor <= 1:
            raise UserError(f"--factor is {self.factor}", todo="give a number above 0, up to 1")
        if (self.factor < 1) != bool(self.milestones):
            raise UserError(
                f"--factor {self.factor:g} and {drops} do not go together",
                todo="give both, or --factor 1 and --milestones with nothing behind it for a cosine",
            )
        if not self.milestones:
            return
        if self.final_lr or self.per_epoch:
            raise UserError(f"{drops} and an option of the cosine", todo="give --final-lr 0 and --no-per-epoch")
        length = self.total_steps(images) / self.steps_per_epoch(images)
        if list(self.milestones) != sorted(set(self.milestones)) or self.milestones[0] < 1:
            raise UserError(drops, todo="give them rising, from 1")
        if self.milestones[-1] >= length:
            raise UserError(
                f"{drops}: the training of {length:g} epochs does not reach them all",
                todo="give others, or --factor 1 and --milestones with nothing behind it for a cosine",
            )

    def check_processes(self, processes: int) -> None:
        """Refuse a batch that cannot be cut evenly.

        Raises:
            UserError: it does not divide by `processes` times `accumulate`, or leaves less than two images a part.
        """
        parts = processes * self.accumulate
        if self.batch % parts or self.batch // parts < 2:
            raise UserError(
                f"--batch {self.batch} does not divide into equal parts for {processes} processes"
                f" x --accumulate {self.accumulate}, of two images or more",
                todo=f"make it a multiple of {parts}, {2 * parts} or more",
            )

    def network(self, classes: int = 0) -> EncoderSpec:
        """The encoder that the method is built around."""
        return EncoderSpec(self.arch, self.stem, classes, self.crop)

    def steps_per_epoch(self, images: int) -> int:
        """Steps in one pass; the last, incomplete batch is dropped."""
        return images // self.batch

    def total_steps(self, images: int) -> int:
        """Optimiser steps of the whole training."""
        return self.steps or self.epochs * self.steps_per_epoch(images)

    def warmup(self, images: int) -> int:
        """Steps of linear warm-up."""
        if self.steps or self.warmup_steps:
            return self.warmup_steps
        return round(self.warmup_epochs * self.steps_per_epoch(images))

    def rate_at(self, step: int, images: int) -> float:
        """Share of the peak learning rate at step 0, 1, …: linear, then a cosine or milestones."""
        total, warmup, epoch = self.total_steps(images), self.warmup(images), self.steps_per_epoch(images)
        if step < warmup:
            stretch = warmup - self.warmup_inclusive  # steps from the first one to the peak
            if self.start_lr is None:
                return (step + 1) / (stretch + 1)
            return self.start_lr + (1 - self.start_lr) * step / max(1, stretch)
        if self.milestones:
            return float(self.factor ** sum(step >= milestone * epoch for milestone in self.milestones))
        if self.per_epoch:
            step = max(warmup, step // epoch * epoch)
        cosine = (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup))) / 2
        return self.final_lr + (1 - self.final_lr) * cosine

    def peak(self, base: float) -> float:
        """A learning rate given for 256 images, for this batch."""
        return base * self.batch / 256


def demo(**changes: Any) -> Recipe:
    """A recipe that is no protocol: a minute or two on two CPU cores, to see that everything works."""
    return replace(Recipe(arch="resnet18", crop=64, steps=28, warmup_steps=4, batch=32), **changes)


def for_transformers(recipe: Recipe) -> Recipe:
    """A demo's recipe for a vision transformer: AdamW, which trains one where SGD does not, with DINO's first decay.

    Ours: 5e-4 whatever the batch is a rate for a short training of small batches; nobody published it.
    """
    rate = 5e-4 * 256 / recipe.batch
    return replace(recipe, optimizer="adamw", lr=rate, bias_lr=0.0, weight_decay=0.04, clip=3.0, decay_all=False)


def at_least(options: object, lowest: Mapping[str, int]) -> None:
    """Refuse options below their lowest values.

    Raises:
        UserError: names the first.
    """
    for name, least in lowest.items():
        if getattr(options, name) < least:
            raise UserError(f"{_option(name)} is {getattr(options, name)}", todo=f"give {least} or more")


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
