"""What every classification task does around its protocol: read the set, extract features, hold out, report."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from transfer.checkpoints.architectures import gmacs_by_stage
from transfer.checkpoints.cpu_time import refuse_if_endless
from transfer.classification.sgd.recipe import SgdRecipe
from transfer.datasets.labels.catalogue import ClassificationData, data_differences, load
from transfer.datasets.labels.duplicates import duplicates, note
from transfer.datasets.labels.labelled import ImageSplits
from transfer.protocol import Protocol
from transfer.runtime.errors import DataError, UserError
from transfer.runtime.provenance import Difference
from transfer.task import RunContext, Task, TaskOutcome

if TYPE_CHECKING:
    from transfer.checkpoints.backbone import Backbone

logger = logging.getLogger(__name__)

Metric = Literal["top1", "mean_per_class"]
Precision = Literal["fp32", "bf16"]
SURELY_SHORT = 20_000.0  # 10⁹ multiply–accumulates that any CPU does in hours: not worth measuring its speed


@dataclass(frozen=True, eq=False)
class Loaded:
    """What a run is given: the splits, what is wrong with them, and how much may turn out unreadable.

    Attributes:
        duplicates: images of test that lie in train or val too, byte by byte.
        warnings: what to say of them.
        unreadable: images of a split that may be left out.
    """

    splits: ImageSplits
    duplicates: int
    warnings: tuple[str, ...]
    unreadable: int

    def notes(self) -> tuple[str, ...]:
        """For the record."""
        found = [line for split in (self.splits.train, *self.splits.others()) for line in split.notes]
        return (*dict.fromkeys(found), *self.warnings)


def classification_task(
    dataset: str | None,
    *,
    title: str,
    primary: str,
    protocols: Mapping[str, Protocol[Any]],
    presets: Mapping[str, tuple[str, Any]],
    run: Callable[[RunContext], TaskOutcome],
    check: Callable[[Any, Backbone, Loaded, str, bool], None],
    multilabel: bool = False,
    departures: tuple[Difference, ...] = (),
    adapt: Callable[[Any, str, int, int | None], Any] = lambda recipe, *_: recipe,
    version: int = 1,
) -> Task:
    """A task on the set `dataset` of `transfer.datasets.labels.catalogue`, or on a user's own images in its place.

    Args:
        dataset: None: the task is for own images alone.
        check: of the recipe; that images can be seen and features computed in time is checked here.
        adapt: see `Task`.
        departures: what is done otherwise than published, whatever the recipe: (what, published, here).
    """

    def checked(recipe: Any, backbone: Backbone, loaded: Loaded, device: str, allow_slow: bool) -> None:
        _check_common(recipe, backbone, loaded, device, allow_slow, list(presets))
        check(recipe, backbone, loaded, device, allow_slow)

    return Task(
        title=title,
        version=version,
        primary=primary,
        published=protocols,
        presets=presets,
        engines=(),
        data_options=ClassificationData,
        load_data=lambda options: load_checked(dataset, options, multilabel),
        fingerprints=lambda loaded: loaded.splits.fingerprints(),
        data_differences=lambda options: (*data_differences(dataset, options), *departures),
        adapt=adapt,
        check=lambda recipe, backbone, device, allow_slow: None,
        check_data=checked,
        run=lambda context: _with_architecture(run(context), context.backbone.arch),
    )


def _check_common(
    recipe: Any, backbone: Backbone, loaded: Loaded, device: str, allow_slow: bool, presets: list[str]
) -> None:
    """Refuse views and shares that make no sense, and days of extraction on a CPU."""
    view = getattr(recipe, "view", None)
    holdout = getattr(recipe, "holdout", 0.5)
    if not 0 < holdout < 1:
        raise UserError(f"--holdout {holdout}", todo="give a share of the training images between 0 and 1")
    if view is None:
        return
    view.check()
    splits = loaded.splits
    gmacs = sum(len(split) for split in (splits.train, *splits.others())) * gmacs_of(backbone, view.crop)
    if device == "cpu" and gmacs > SURELY_SHORT:
        refuse_if_endless(backbone, gmacs, "features of all images", presets, allow_slow)


def gmacs_of(backbone: Backbone, crop: int) -> float:
    """10⁹ multiply–accumulates of a forward pass of one image."""
    return sum(gmacs_by_stage(backbone.arch).values()) * (crop / 224) ** 2


def _with_architecture(outcome: TaskOutcome, arch: str) -> TaskOutcome:
    """All protocols here were published with a ResNet-50."""
    if arch == "resnet50":
        return outcome
    return dataclasses.replace(outcome, differences=(("architecture", "resnet50", arch), *outcome.differences))


def load_checked(dataset: str | None, options: ClassificationData, multilabel: bool) -> Loaded:
    """Read the set and look for images that lie on both sides.

    Raises:
        DataError: something is missing or malformed; the message says what and where.
    """
    splits = load(dataset, options)
    if splits.train.multilabel != multilabel:
        several, one = (
            "several labels an image: it is for the transfer.voc07 tasks",
            "one label an image: the transfer.voc07 tasks want several",
        )
        raise DataError(
            f"{splits.train.name} has {several if splits.train.multilabel else one}",
            todo="choose another task (`python -m transfer tasks` lists them), or other images",
        )
    parts = (splits.train,) if splits.val is None else (splits.train, splits.val)
    logger.info("looking for images that lie in several splits")
    pairs = [(part, other) for part in parts for other in (splits.val, splits.test) if other not in (None, part)]
    shared = [(part, other, duplicates(part, other)) for part, other in pairs if other is not None]
    warnings = tuple(note(found, part, other) for part, other, found in shared if found)
    doubled = {name for _, other, found in shared if other is splits.test for _, name in found}
    for line in warnings:
        logger.warning("%s", line)
    return Loaded(splits, len(doubled), warnings, options.unreadable)


def check_sgd(
    sgd: SgdRecipe, backbone: Backbone, images: int, device: str, allow_slow: bool, presets: list[str], passes: int
) -> None:
    """Raise `UserError` if this cannot be trained, or would not end on this CPU.

    Args:
        images: to train on.
        passes: through the backbone for an image: 1 forward, 3 with the backward pass; times the number of trainings.
    """
    sgd.check()
    if device != "cpu":
        return
    seen = sgd.total_steps(images) * sgd.batch
    what = f"{seen:,} crops of {sgd.crop} pixels, {passes} passes each"
    refuse_if_endless(backbone, seen * passes * gmacs_of(backbone, sgd.crop), what, presets, allow_slow)


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
