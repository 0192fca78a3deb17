"""Fine-tuning of a transformer with a learning rate that falls from block to block: its numbers, without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageOps

from transfer.checkpoints.families import family_of
from transfer.classification.views import Interpolation, RandomView, WholeView
from transfer.runtime.errors import UserError


@dataclass(frozen=True, kw_only=True)
class LayerwiseRecipe:
    """AdamW with a rate for every block, mixed images and soft labels. No default is a protocol's value.

    Attributes:
        epochs: passes over the images.
        batch: images of a step, over all processes.
        lr: of the classifier and the last norm, for the whole batch.
        min_lr: at the end of the cosine.
        warmup_epochs: over which the rate rises from 0, step by step.
        betas: of AdamW.
        weight_decay: of matrices; norms, biases, positions and tokens have none.
        layer_decay: factor on the rate from each block to the one before.
        drop_path: share of images for which the last block is left out; rises from 0 at the first.
        pooling: "patches": the average of patches, whose norm starts anew (there is none in a pretrained file);
            "cls": the CLS token behind the file's own norm.
        smoothing: of labels.
        mixup, cutmix: concentration of the distribution that shares are drawn from; 0: none.
        switch: probability of cutmix, where both are.
        erasing: probability that a part of an image becomes noise.
        augment: timm's name of random augmentations; "": none.
        clip: largest norm of the gradient; 0: any.
        smallest: smallest area of a training crop, as a share of the image's.
        crop: side of what the network sees, in pixels, in training and evaluation.
        resize: length of the shorter side in evaluation, before the central crop.
        interpolation: of resizing, in training and evaluation.
    """

    epochs: int
    batch: int
    lr: float
    min_lr: float
    warmup_epochs: int
    betas: tuple[float, float]
    weight_decay: float
    layer_decay: float
    drop_path: float
    pooling: str
    smoothing: float
    mixup: float
    cutmix: float
    switch: float
    erasing: float
    augment: str
    clip: float
    smallest: float
    crop: int
    resize: int
    interpolation: Interpolation

    def check(self) -> None:
        """Refuse what cannot be trained.

        Raises:
            UserError: names the value.
        """
        shares = ("drop_path", "smoothing", "switch", "erasing")
        wrong = [
            (self.epochs < 1 or self.batch < 1, f"epochs {self.epochs}, batch {self.batch}", "give 1 or more"),
            (not 0 <= self.warmup_epochs < self.epochs, f"warmup_epochs {self.warmup_epochs}", "give fewer than all"),
            (not 0 < self.lr < math.inf or not 0 <= self.min_lr <= self.lr, f"lr {self.lr}, min_lr {self.min_lr}",
             "give a rate above 0, and a lowest one up to it"),
            (not 0 < self.layer_decay <= 1, f"layer_decay {self.layer_decay}", "give a number above 0, up to 1"),
            (self.pooling not in ("patches", "cls"), f"pooling {self.pooling}", "give patches or cls"),
            (min(self.mixup, self.cutmix, self.clip, self.weight_decay) < 0, "a negative number", "give 0 or more"),
            (not 0 < self.smallest <= 1, f"smallest {self.smallest}", "give a share of the area"),
            *((not 0 <= getattr(self, name) < 1, f"{name} {getattr(self, name)}", "give a share") for name in shares),
        ]  # fmt: skip
        for bad, found, todo in wrong:
            if bad:
                raise UserError("this cannot be trained", found=found, todo=todo)
        self.evaluation_view().check()

    def epoch_steps(self, images: int) -> int:
        """Steps in an epoch; the last has what is left of the images."""
        return math.ceil(images / self.batch)

    def total_steps(self, images: int) -> int:
        """Steps of the whole training."""
        return self.epochs * self.epoch_steps(images)

    def images_seen(self, images: int) -> int:
        """Crops of the whole training."""
        return self.epochs * images

    def share(self, step: int, images: int) -> float:
        """Share of the full learning rate at `step` (0, 1, …), as facebookresearch/mae: util/lr_sched.py has it."""
        epoch = step / self.epoch_steps(images)
        if epoch < self.warmup_epochs:
            return epoch / self.warmup_epochs
        done = (epoch - self.warmup_epochs) / (self.epochs - self.warmup_epochs)
        lowest = self.min_lr / self.lr
        return lowest + (1 - lowest) * (1 + math.cos(math.pi * done)) / 2

    def training_view(self) -> RandomView:
        """Random crop and flip, and augmentations."""
        return AugmentedView(self.crop, self.smallest, interpolation=self.interpolation, augment=self.augment)

    def evaluation_view(self) -> WholeView:
        """Resize and central crop."""
        return WholeView(self.resize, self.crop, interpolation=self.interpolation)


@dataclass(frozen=True)
class AugmentedView(RandomView):
    """A random crop, mirrored, and then augmented by timm (timm/data/auto_augment.py).

    Attributes:
        augment: timm's name, for example "rand-m9-mstd0.5-inc1"; "": none.
    """

    augment: str = ""

    def after(self, image: Image.Image, draw: tuple[int, ...]) -> Image.Image:
        """The augmentations that `draw` decides; timm draws them from Python's and numpy's own generators."""
        if not self.augment:
            return image
        from timm.data.auto_augment import rand_augment_transform

        from transfer.classification.sgd.seeds import drawn_by

        gray = tuple(min(255, round(255 * value)) for value in (0.485, 0.456, 0.406))
        settings = {
            "translate_const": int(self.crop * 0.45),
            "img_mean": gray,
            "interpolation": Image.Resampling.BICUBIC,
        }
        with drawn_by(*draw, 1):
            transform = rand_augment_transform(self.augment, settings)
            for operation in transform.ops:
                if operation.name.startswith("Posterize"):
                    operation.aug_fn = _posterized
            augmented: Image.Image = transform(image)
            return augmented


def _posterized(image: Image.Image, bits: int, **settings: Any) -> Image.Image:
    """As timm's; of no bits, which "m9-mstd0.5" reaches in a few images of a hundred, a black image remains.

    Pillow refuses that since its version 12; those of the published trainings computed it.
    """
    return ImageOps.posterize(image, bits) if bits else image.point([0] * 256 * len(image.getbands()))


def demand_transformer(arch: str, pooling: str) -> None:
    """Raise `UserError` where blocks have no rates of their own, or there is no CLS token that is asked for."""
    if family_of(arch).name != "vit":
        raise UserError(
            "this protocol fine-tunes a vision transformer, with a learning rate for every block",
            found=f"the checkpoint is a {arch}",
            todo="choose another protocol, for example --protocol vissl",
        )
    if pooling == "cls" and "cls" not in family_of(arch).poolings(arch):
        raise UserError(
            "there is no CLS token behind a norm in this checkpoint",
            found=arch,
            todo="leave out --tuning.pooling: the average of patches has a norm of its own",
        )
