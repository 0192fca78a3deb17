"""What every classification task does around its protocol: read the set, extract features, hold out, report."""

from __future__ import annotations

import dataclasses
import logging
import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transfer.checkpoints.cpu_time import refuse_if_endless
from transfer.checkpoints.families import family_of
from transfer.classification.sgd.recipe import SgdRecipe
from transfer.datasets.labels.catalogue import ClassificationData, data_differences, entry_of, load
from transfer.datasets.labels.duplicates import duplicates, note
from transfer.datasets.labels.labelled import ImageSplits
from transfer.runtime.errors import DataError, UserError
from transfer.runtime.provenance import Difference
from transfer.task import Run, Task, TaskOutcome

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Loaded:
    """What a run is given: the splits, what is wrong with them, and how much may turn out unreadable.

    Attributes:
        duplicates: images of test that lie in train or val too, byte by byte.
        warnings: what to say of them.
        unreadable: images of a split that may be left out.
        differences: from the published data and procedure.
    """

    splits: ImageSplits
    duplicates: int
    warnings: tuple[str, ...]
    unreadable: int
    differences: tuple[Difference, ...] = ()

    @cached_property
    def fingerprints(self) -> dict[str, dict[str, object]]:
        """One for each split."""
        return self.splits.fingerprints()

    @property
    def images(self) -> dict[str, int]:
        """How many there are of each split."""
        found = {"train": len(self.splits.train), "test": len(self.splits.test)}
        return found | ({"val": len(self.splits.val)} if self.splits.val is not None else {})

    def notes(self) -> tuple[str, ...]:
        """For the record."""
        found = [line for split in (self.splits.train, *self.splits.others()) for line in split.notes]
        return (*dict.fromkeys(found), *self.warnings)


@dataclass(frozen=True, eq=False, kw_only=True)
class ClassificationTask(Task):
    """A task on a set of `transfer.datasets.labels.catalogue`, or on a user's own images in its place.

    A kind of protocol derives from it and brings `measure`, and `demand` if it asks something of its recipe.

    Attributes:
        dataset: name of the set; None: the task is for own images alone.
        multilabel: whether an image has several labels.
        departures: what is done otherwise than published, whatever the recipe: (what, published, here).
    """

    dataset: str | None
    multilabel: bool = False
    departures: tuple[Difference, ...] = ()

    data_options = ClassificationData

    @property
    def needs(self) -> tuple[str, ...]:
        """See `Task`."""
        return () if self.dataset is None else entry_of(self.dataset).needs

    @property
    def how(self) -> str:
        """See `Task`."""
        return "" if self.dataset is None else f"python -m transfer data {self.dataset}"

    @property
    def source(self) -> tuple[str | bool | None, ...]:
        """See `Task`."""
        return ("labels", self.dataset, self.multilabel)

    def load(self, options: ClassificationData) -> Loaded:
        """Read the set and look for images that lie on both sides.

        Raises:
            DataError: something is missing or malformed; the message says what and where.
        """
        splits = load(self.dataset, options)
        if splits.train.multilabel != self.multilabel:
            several, one = (
                "several labels an image: it is for the transfer.voc07 tasks",
                "one label an image: the transfer.voc07 tasks want several",
            )
            raise DataError(
                f"{splits.train.name} has {several if splits.train.multilabel else one}",
                todo="choose another task (`python -m transfer tasks` lists them), or other images",
            )
        shared, warnings = _on_both_sides(splits)
        differences = (*data_differences(self.dataset, options), *self.departures)
        return Loaded(splits, shared, warnings, options.unreadable, differences)

    def check(self, run: Run) -> None:
        """Refuse views and shares that make no sense, days of extraction on a CPU, and what `demand` refuses."""
        _demand_features(run)
        if run.data is None:
            return
        view = getattr(run.recipe, "view", None)
        holdout = getattr(run.recipe, "holdout", 0.5)
        if not 0 < holdout < 1:
            raise UserError(f"--holdout {holdout}", todo="give a share of the training images between 0 and 1")
        if view is not None:
            view.check()
            refuse_on_cpu(run, "features of all images")
        self.demand(run)

    def suited(self, recipe: Any, arch: str) -> Any:
        """Its poolings are those that stand for them in the family. See `Task`.

        `avg` always stands for that feature, `max` and `grid` where a protocol or preset says them; typed otherwise,
        they are what is wanted, and refused where the family has none.
        """
        family = family_of(arch)
        stated = (*self.protocols.values(), *(preset for _, preset in self.presets.values()))
        changed: dict[str, Any] = {}
        for name in ("pooling", "poolings"):
            value = getattr(recipe, name, None)
            published = any(getattr(each, name, None) == value for each in stated)
            if isinstance(value, str):
                changed[name] = family.pooling(arch, value) if published or value == "avg" else value
            elif value is not None:
                suited = [family.pooling(arch, each) if published or each == "avg" else each for each in value]
                changed[name] = tuple(dict.fromkeys(suited))
        return dataclasses.replace(recipe, **changed) if changed else recipe

    def work(self, recipe: Any, images: Mapping[str, int], arch: str) -> float | None:
        """Of a recipe with one view of each image: what their features take. See `Task`."""
        view = getattr(recipe, "view", None)
        return None if view is None else sum(images.values()) * gmacs_of(arch, view.crop)

    def run(self, run: Run) -> TaskOutcome:
        """`measure`, and what every record says of images and architecture: most protocols here are of a ResNet-50."""
        outcome, loaded, arch = self.measure(run), run.data, run.backbone.arch
        return dataclasses.replace(
            outcome,
            details={**outcome.details, "duplicates": loaded.duplicates},
            notes=(*loaded.notes(), *outcome.notes),
            differences=_architecture(arch, self.covers(run.protocol, arch)),
        )

    def demand(self, run: Run) -> None:
        """Refuse a recipe that makes no sense with these data, or would not end here.

        Raises:
            UserError: says what and what to type instead.
        """

    @abstractmethod
    def measure(self, run: Run) -> TaskOutcome:
        """The protocol itself: extract or train, choose where it chooses, report on test."""


def _demand_features(run: Run) -> None:
    """Refuse poolings that the checkpoint's family has not, and crops that its networks do not take."""
    recipe, arch = run.recipe, run.backbone.arch
    family = family_of(arch)
    wanted = getattr(recipe, "poolings", ()) or (getattr(recipe, "pooling", None),)
    poolings = [pooling for pooling in wanted if pooling is not None]
    for pooling in poolings:
        family.demand_pooling(arch, pooling)
    seen = next((part for name in ("view", "sgd", "tuning") if (part := getattr(recipe, name, None))), None)
    if seen is not None:
        family.demand(arch, poolings, seen.crop, seen.crop)


def _architecture(arch: str, covered: bool) -> tuple[Difference, ...]:
    """Another ResNet than the published one, or a family that the protocol was not published for."""
    same = arch == "resnet50" or (covered and family_of(arch).name != "resnet")
    return () if same else (("architecture", "resnet50", arch),)


def _on_both_sides(splits: ImageSplits) -> tuple[int, tuple[str, ...]]:
    """How many images of test lie in train or val too, and what to say of all that lie in several splits."""
    logger.info("looking for images that lie in several splits")
    parts = (splits.train,) if splits.val is None else (splits.train, splits.val)
    pairs = [(part, other) for part in parts for other in (splits.val, splits.test) if other not in (None, part)]
    shared = [(part, other, duplicates(part, other)) for part, other in pairs if other is not None]
    warnings = tuple(note(found, part, other) for part, other, found in shared if found)
    doubled = {name for _, other, found in shared if other is splits.test for _, name in found}
    for line in warnings:
        logger.warning("%s", line)
    return len(doubled), warnings


def gmacs_of(arch: str, crop: int) -> float:
    """10⁹ multiply–accumulates of a forward pass of one image."""
    return family_of(arch).gmacs(arch, crop)


def fitted_and_held_out(images: Mapping[str, int], share: float) -> tuple[int, int]:
    """Images to fit on, and to choose on: the validation split, or a share of train, see `held_out`."""
    out = images.get("val", 0)
    if out:
        return images["train"], out
    out = math.floor(share * images["train"])
    return images["train"] - out, out


def refuse_on_cpu(run: Run, what: str) -> None:
    """Raise `UserError` if the run would not end on this CPU; `what` it is, in numbers."""
    gmacs = run.task.work(run.recipe, run.data.images, run.backbone.arch)
    if run.device == "cpu" and gmacs is not None:
        refuse_if_endless(gmacs, run.threads, what, list(run.task.presets), run.allow_slow)


def demand_sgd(run: Run, sgd: SgdRecipe, passes: int) -> None:
    """Raise `UserError` if this cannot be trained, or would not end on this CPU.

    Args:
        passes: through the backbone for an image: 1 forward, 3 with the backward pass; times the number of trainings.
    """
    sgd.check()
    seen = sgd.images_seen(len(run.data.splits.train))
    refuse_on_cpu(run, f"{seen:,} crops of {sgd.crop} pixels, {passes} passes each")


def held_out(count: int, name: str, share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places (kept, held out) of a random share of `count` training images, drawn as the published code draws it.

    The first floor(share · n) of numpy's legacy shuffle under `seed` are held out, whatever their classes
    (linusericsson/ssl-transfer: linear.py, get_train_valid_loader, with seed 0).

    Raises:
        DataError: nothing is held out, or nothing kept.
    """
    order = np.arange(count)
    np.random.RandomState(seed).shuffle(order)
    out = int(np.floor(share * count))
    if not 0 < out < count:
        raise DataError(
            f"the validation part of {name} would be empty, or all of it",
            found=f"{share:g} of {count} images",
            todo="give --holdout a share between 0 and 1, or a set with a validation split",
        )
    return order[out:], order[:out]
