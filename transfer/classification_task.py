"""What every classification task does around its protocol: read the set, extract features, hold out, report."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from transfer.architectures import gmacs_by_stage
from transfer.backbone import Backbone
from transfer.datasets.catalogue import ClassificationData, data_differences, load
from transfer.datasets.duplicates import duplicates, note
from transfer.datasets.labelled import ImageSplits, LabelledImages
from transfer.errors import DataError, UserError
from transfer.features import extract, trunk_once
from transfer.metrics.classification import (
    Scores,
    classification_metrics,
    mean_per_class,
    mean_per_class_error,
    per_class,
)
from transfer.patience import refuse_if_endless
from transfer.probes import accuracy, standard_error
from transfer.proof import Proof, joined
from transfer.sgd import SgdRecipe
from transfer.sgd_loop import Machine
from transfer.task import Difference, RunContext, Task, TaskOutcome
from transfer.transforms import WholeView
from transfer.trunk import Trunk

logger = logging.getLogger(__name__)

Metric = Literal["top1", "mean_per_class"]
Precision = Literal["fp32", "bf16"]
SURELY_SHORT = 20_000.0  # 10⁹ multiply–accumulates that any CPU does in hours: not worth measuring its speed
PER_CLASS = 1_000  # classes of which a record keeps each one's accuracy


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
    protocols: Mapping[str, Any],
    presets: Mapping[str, tuple[str, Any]],
    sources: Mapping[str, Mapping[str, str]],
    run: Callable[[RunContext], TaskOutcome],
    check: Callable[[Any, Backbone, Loaded, str, bool], None],
    multilabel: bool = False,
    departures: tuple[Difference, ...] = (),
    adapt: Callable[[Any, str, int, int | None], Any] = lambda recipe, *_: recipe,
    version: int = 1,
) -> Task:
    """A task on the set `dataset` of `transfer.datasets.catalogue`, or on a user's own images in its place.

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
        protocols=protocols,
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
        sources=sources,
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
            "several labels an image: it is for transfer.voc07_svm",
            "one label an image: VOC07's SVMs want several",
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


def left_out_note(name: str, images: Sequence[str]) -> tuple[str, ...]:
    """What a record says of images that could not be read."""
    if not images:
        return ()
    shown = ", ".join(images[:5]) + (" …" if len(images) > 5 else "")
    return (f"{name}: {len(images)} images could not be read and were left out: {shown}",)


@dataclass(frozen=True, eq=False)
class Rows:
    """Frozen features of one split: of every image that could be read.

    Attributes:
        features: pooling → float32 [n, width], memory-mapped where nothing was left out.
        labels: of these images.
        left_out: names of images that could not be read.
        proof: of the network that computed the features, before it did; empty without features.
        origin: of the features: "computed", "cached" or "partly cached".
        remarks: what to know of how the features were made.
    """

    images: LabelledImages
    features: Mapping[str, NDArray[np.float32]]
    labels: NDArray[np.int64] | NDArray[np.int8]
    left_out: tuple[str, ...]
    proof: Proof = field(default_factory=dict)
    origin: str = ""
    remarks: tuple[str, ...] = ()

    def tensors(self, pooling: str, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Features float32 [n, width] and labels int64 [n], copied to the device."""
        features = torch.from_numpy(np.array(self.features[pooling])).to(device)
        return features, torch.from_numpy(self.labels.astype(np.int64)).to(device)

    def taken(self, places: NDArray[np.int64]) -> Rows:
        """Some of the rows, copied."""
        features = {name: array[places] for name, array in self.features.items()}
        return Rows(self.images, features, self.labels[places], ())

    def notes(self) -> tuple[str, ...]:
        """For the record."""
        return (*left_out_note(self.images.name, self.left_out), *self.remarks)


def _frozen_rows(
    context: RunContext,
    images: LabelledImages,
    view: WholeView,
    poolings: tuple[str, ...],
    precision: Precision,
    network: Callable[[], Trunk],
) -> Rows:
    found = extract(
        context.backbone,
        images,
        view,
        poolings,
        cache=context.cache,
        device=torch.device(context.device),
        workers=context.workers,
        precision=precision,
        unreadable=context.data.unreadable,
        world=context.world,
        network=network,
    )
    proof, origin = found.proof, found.origin
    remarks = tuple(f"features of {images.name} are of an earlier run: {line}" for line in found.remarks)
    if not found.unreadable:
        return Rows(images, found.arrays, images.labels, (), proof, origin, remarks)
    kept = {name: array[found.usable] for name, array in found.arrays.items()}
    return Rows(images, kept, images.labels[found.usable], tuple(found.unreadable), proof, origin, remarks)


def whole_rows(images: LabelledImages) -> Rows:
    """A split of which every image was seen, for `report`; without features."""
    return Rows(images, {}, images.labels, ())


@dataclass(frozen=True, eq=False)
class FrozenSplits:
    """Frozen features of a set; `val` is None where the set has no validation split."""

    train: Rows
    val: Rows | None
    test: Rows

    def _all(self) -> list[Rows]:
        return [rows for rows in (self.train, self.val, self.test) if rows is not None]

    def notes(self) -> tuple[str, ...]:
        """For the record: what could not be read."""
        return tuple(line for rows in self._all() for line in rows.notes())

    def proof(self) -> Proof:
        """For the record: of the network that computed the features, and which of them came from the cache with it."""
        return joined([rows.proof for rows in self._all()]) | {
            "features": {rows.images.name: rows.origin for rows in self._all()}
        }

    def multilabel(self, pooling: str, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(train features, train labels, test features): float32 [n, d], int8 [n, classes], float32 [m, d]."""
        train, test = (rows.tensors(pooling, device)[0] for rows in (self.train, self.test))
        return train, torch.from_numpy(self.train.labels.copy()).to(device), test

    def to_choose(self, share: float, seed: int) -> tuple[Rows, Rows]:
        """Rows to fit on and rows to choose on: the validation split, or a `share` of train where there is none.

        Raises:
            DataError: see `held_out`.
        """
        if self.val is not None:
            return self.train, self.val
        kept, out = held_out(len(self.train.labels), self.train.images.name, share, seed)
        return self.train.taken(kept), self.train.taken(out)


def frozen_splits(
    context: RunContext, view: WholeView, poolings: tuple[str, ...], precision: Precision, val: bool = True
) -> FrozenSplits:
    """Features of all splits, from the cache that all runs share; without `val` not of the validation split.

    Raises:
        EngineError: the network that is to compute them is not the checkpoint's.
        DataError: more images are unreadable than the run may leave out.
        UserError: features that are not finite, or a cache that belongs to something else.
    """

    network = trunk_once(context.backbone, poolings, torch.device(context.device), precision)

    def rows(images: LabelledImages) -> Rows:
        return _frozen_rows(context, images, view, poolings, precision, network)

    splits: ImageSplits = context.data.splits
    chosen_on = rows(splits.val) if val and splits.val is not None else None
    return FrozenSplits(rows(splits.train), chosen_on, rows(splits.test))


def sgd_machine(context: RunContext) -> Machine:
    """This machine for SGD."""
    device = torch.device(context.device)
    return Machine(device, context.workers, unreadable=context.data.unreadable, world=context.world)


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


def scorer(metric: Metric, classes: int) -> Callable[[torch.Tensor, torch.Tensor], float]:
    """The metric that a choice is made by: (predicted [n], labels [n]) → percent."""
    if metric == "top1":
        return accuracy
    return lambda predicted, labels: mean_per_class(predicted.cpu().numpy(), labels.cpu().numpy(), classes)


def report(scores: Scores, rows: Rows) -> tuple[dict[str, float], dict[str, Any]]:
    """Metrics, and the details of a record: standard errors over test images, and each class's accuracy."""
    labels = rows.labels.astype(np.int64)
    metrics = classification_metrics(scores, labels, rows.images.levels)
    predicted, classes = scores.argmax(1), len(rows.images.classes)
    errors = {name: standard_error(value, len(labels)) for name, value in metrics.items()}
    errors["mean_per_class"] = mean_per_class_error(predicted, labels, classes)
    details: dict[str, Any] = {"standard_error": errors, "test_images": len(labels)}
    if classes <= PER_CLASS:
        shares = per_class(predicted, labels, classes)
        named = zip(rows.images.classes, shares.tolist(), strict=True)
        details["per_class"] = {name: None if np.isnan(share) else share for name, share in named}
    return metrics, details
