"""Frozen features of a set's splits, what is fitted on them held out, and what a record says of the scores."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from transfer.checkpoints.cpu_time import refuse_if_endless
from transfer.checkpoints.verify import Proof, joined
from transfer.classification.features import extract, trunk_once
from transfer.classification.probes.knn import accuracy, standard_error
from transfer.classification.score import (
    Scores,
    classification_metrics,
    mean_per_class,
    mean_per_class_error,
    per_class,
)
from transfer.classification.sgd.loop import SgdMachine
from transfer.classification.task import gmacs_of, held_out
from transfer.classification.trunk import Trunk
from transfer.classification.views import Frozen
from transfer.datasets.labels.catalogue import Metric
from transfer.datasets.labels.labelled import ImageSplits, LabelledImages
from transfer.runtime.errors import UserError
from transfer.task import Run

logger = logging.getLogger(__name__)
PER_CLASS = 1_000  # classes of which a record keeps each one's accuracy


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
    run: Run, images: LabelledImages, own: Frozen, beside: Sequence[Frozen], network: Callable[[], Trunk]
) -> Rows:
    found = extract(
        run.backbone,
        images,
        own.view,
        own.poolings,
        cache=run.cache,
        device=torch.device(run.device),
        workers=run.workers,
        precision=own.precision,
        unreadable=run.data.unreadable,
        world=run.world,
        network=network,
        beside=[(other.view, pooling) for other in beside for pooling in other.poolings],
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


def frozen_splits(run: Run) -> FrozenSplits:
    """The features that the task names (`Task.frozen`), from the cache that all runs share, or into it.

    Those of `run.beside` go into the cache in the same pass over the images, as far as that can be.

    Raises:
        EngineError: the network that is to compute them is not the checkpoint's.
        DataError: more images are unreadable than the run may leave out.
        UserError: features that are not finite, or a cache that belongs to something else.
    """
    (own,) = run.task.frozen(run.recipe)
    beside = [other for other in run.beside if other.precision == own.precision and _may_stand_beside(run, other)]
    network = trunk_once(run.backbone, own.poolings, torch.device(run.device), own.precision)

    def rows(images: LabelledImages, others: Sequence[Frozen]) -> Rows:
        return _frozen_rows(run, images, own, others, network)

    splits: ImageSplits = run.data.splits
    chosen_on = None
    if own.val and splits.val is not None:
        chosen_on = rows(splits.val, [other for other in beside if other.val])
    return FrozenSplits(rows(splits.train, beside), chosen_on, rows(splits.test, beside))


def _may_stand_beside(run: Run, other: Frozen) -> bool:
    """Whether the features that another run wants would come to an end on this CPU."""
    if run.device != "cpu":
        return True
    gmacs = sum(run.data.images.values()) * gmacs_of(run.backbone.arch, other.view.crop)
    try:
        refuse_if_endless(gmacs, run.threads, "features of all images", [], run.allow_slow)
    except UserError as error:
        logger.debug("left to the run that wants it: %s: %s", other, error)
        return False
    return True


def sgd_machine(run: Run) -> SgdMachine:
    """This machine for SGD."""
    device = torch.device(run.device)
    return SgdMachine(device, run.workers, unreadable=run.data.unreadable, world=run.world)


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
