"""The published protocols that train by SGD on random crops: linear classifiers on a frozen network, fine-tuning.

Facts taken from facebookresearch/vicreg and facebookresearch/barlowtwins, evaluate.py: a frozen network is in eval
mode; a fine-tuned one in train mode, with BatchNorm statistics of each process's own images and one optimiser of two
learning rates whose weight decay falls on every parameter; the classifier starts from N(0, 0.01²) and biases of 0; the
images of an epoch are dealt out by DistributedSampler with drop_last=False; rank 0 evaluates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transfer.checkpoints.backbone import Backbone
from transfer.classification.sgd.bank import Bank, Head, Norm, rule_of
from transfer.classification.sgd.data import Deal, listed, wholes
from transfer.classification.sgd.layerwise import LayerwiseTuned, LayerwiseTuner
from transfer.classification.sgd.layerwise_recipe import LayerwiseRecipe
from transfer.classification.sgd.learners import FineTuned, FineTuner, LinearFit, LinearLearner
from transfer.classification.sgd.loop import SgdMachine, SgdTraining
from transfer.classification.sgd.recipe import SgdRecipe
from transfer.classification.trunk import Trunk
from transfer.classification.views import WholeView
from transfer.datasets.labels.labelled import LabelledImages
from transfer.runtime.errors import DataError, UserError
from transfer.runtime.progress import Bar

__all__ = [
    "FineTuned",
    "LinearFit",
    "SgdMachine",
    "SgdRecipe",
    "evaluate",
    "fine_tune",
    "fine_tune_layerwise",
    "fit_linear",
]


def fit_linear(
    backbone: Backbone,
    train: LabelledImages,
    recipe: SgdRecipe,
    grid: Sequence[Head],
    *,
    norm: Norm | None = None,
    seed: int,
    folder: Path,
    machine: SgdMachine | None = None,
) -> LinearFit:
    """Linear classifiers on the frozen backbone, all on the same random crops; a finished fit is read, not repeated.

    Args:
        train: single-label images.
        recipe: its `lr` and `weight_decay` are not used: `grid` has those of every classifier.
        norm: in front of the classifiers.
        folder: of the checkpoint and the curve.

    Raises:
        UserError: bad input; `DataError` and `TrainingError` as in `SgdTraining.run`.
    """
    machine = _checked(train, recipe, machine, frozen=True)
    device, world = machine.device, machine.world
    poolings = tuple(sorted({head.pooling for head in grid}))
    trunk = Trunk(backbone, poolings, device)
    bank = Bank(grid, trunk.widths, len(train.classes), rule=rule_of(recipe), norm=norm, seed=seed, device=device)
    config = _config("linear", backbone, train, recipe, seed) | {"grid": [asdict(head) for head in bank.heads]}
    if norm is not None:
        config["norm"] = asdict(norm)
    learner = LinearLearner(LinearFit(trunk, bank), world)
    # BatchNorm is frozen: how a batch is dealt out changes nothing, any number of processes may share it.
    deal = Deal(recipe.processes, world.size, range(world.rank, world.rank + 1))
    training = SgdTraining(learner, train, recipe, recipe.training_view(), config, folder, machine)
    training.run(seed, deal)
    bank.note_lost()
    return replace(learner.fit, left_out=_names(train, training), began=learner.began)


def fine_tune(
    backbone: Backbone,
    train: LabelledImages,
    recipe: SgdRecipe,
    *,
    seed: int,
    folder: Path,
    machine: SgdMachine | None = None,
) -> FineTuned:
    """Backbone and classifier trained together; a finished training is read, not repeated.

    A batch is cut into `recipe.processes` parts, each normalised by its own statistics as under
    DistributedDataParallel; gradients are those of the mean over the whole batch, and the running statistics those of
    part 0, which rank 0 of the published training would have saved.

    Args:
        train: images of one label each, trained by cross-entropy, or of several, see `summed_loss`.
        folder: of the checkpoint and the curve.

    Returns:
        The network in eval mode, equal on all processes.

    Raises:
        UserError: bad input; `DataError` and `TrainingError` as in `SgdTraining.run`.
    """
    machine = _checked(train, recipe, machine, frozen=False)
    world = machine.world
    if recipe.processes % world.size:
        raise UserError(
            f"fine-tuning normalises a batch in parts, {recipe.processes} of them, which cannot be shared out evenly",
            found=f"{world.size} processes",
            todo=f"start {recipe.processes}, or a divisor of it"
            if recipe.processes > 1
            else "start one process: without TORCHRUN and torchrun",
        )
    _refuse_lone_images(recipe, len(train))
    model = FineTuned(backbone, len(train.classes), seed, machine.device, recipe.crop)
    learner = FineTuner(model, recipe, world)
    config = _config("fine-tuning", backbone, train, recipe, seed)
    each = recipe.processes // world.size
    deal = Deal(recipe.processes, recipe.processes, range(world.rank * each, (world.rank + 1) * each))
    training = SgdTraining(learner, train, recipe, recipe.training_view(), config, folder, machine)
    training.run(seed, deal)
    model.left_out = _names(train, training)
    world.copy_from_leader(model.buffers())
    return model.eval()


def fine_tune_layerwise(
    backbone: Backbone,
    train: LabelledImages,
    recipe: LayerwiseRecipe,
    *,
    seed: int,
    folder: Path,
    machine: SgdMachine | None = None,
) -> LayerwiseTuned:
    """A transformer fine-tuned with a rate for every block; a finished training is read, not repeated.

    Args:
        train: images of one label each.
        folder: of the checkpoint and the curve.

    Returns:
        The network in eval mode, equal on all processes.

    Raises:
        UserError: bad input, or no transformer; `DataError` and `TrainingError` as in `SgdTraining.run`.
    """
    machine = machine or SgdMachine()
    machine.check()
    recipe.check()
    if train.multilabel:
        raise UserError(f"{train.name} has several labels an image", todo="give a set with one label an image")
    world, classes = machine.world, len(train.classes)
    model = LayerwiseTuned(backbone, classes, recipe, seed, machine.device)
    learner = LayerwiseTuner(model, recipe, classes, seed, world)
    config = _config("fine-tuning by layers", backbone, train, recipe, seed)
    deal = Deal(world.size, world.size, range(world.rank, world.rank + 1))
    training = SgdTraining(learner, train, recipe, recipe.training_view(), config, folder, machine)
    training.run(seed, deal)
    model.left_out = _names(train, training)
    return model.eval()


def _names(train: LabelledImages, training: SgdTraining) -> tuple[str, ...]:
    return tuple(train.images.name(index) for index in sorted(training.unreadable))


@torch.no_grad()
def evaluate(
    fit: Callable[[Tensor], Tensor],
    test: LabelledImages,
    view: WholeView,
    *,
    batch: int = 64,
    machine: SgdMachine | None = None,
    keep: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """What `fit` says of every image, [n, …] on the CPU, in the order of the set; every process gets all of it.

    Args:
        fit: uint8 RGB [b, 3, crop, crop] → logits [b, …, classes], such as a `LinearFit` or `FineTuned`.
        keep: what to keep of a batch's logits, for instance their argmax; many classifiers of many classes fill memory.

    Raises:
        DataError: an image cannot be read. None is left out: the number would be of another test set.
    """
    machine = machine or SgdMachine()
    world = machine.world
    places = np.arange(world.rank, len(test), world.size)
    found: list[Tensor] = []
    unreadable: dict[int, str] = {}
    with Bar(len(places), unit="im", what=f"predictions on {test.name}", shown=world.leads) as bar:
        for views in wholes(test.images, view, places, batch, machine.workers, machine.device):
            unreadable |= views.unreadable
            if not unreadable:
                logits = fit(views.views.to(machine.device, non_blocking=True))
                found.append((keep(logits) if keep else logits).cpu())
            bar.update(len(views.places) + len(views.unreadable))
    lost = {index: reason for part in world.collect(unreadable) for index, reason in part.items()}
    if lost:
        raise DataError(
            f"{len(lost)} images of {test.name} cannot be read", found=listed(test, lost), todo="replace them"
        )
    shared: list[Tensor] = [part for part in world.collect(torch.cat(found) if found else None) if part is not None]
    whole = shared[0].new_empty(len(test), *shared[0].shape[1:])
    for rank, part in enumerate(shared):
        whole[rank :: world.size] = part
    return whole


def _checked(train: LabelledImages, recipe: SgdRecipe, machine: SgdMachine | None, frozen: bool) -> SgdMachine:
    machine = machine or SgdMachine()
    machine.check()
    recipe.check()
    if train.multilabel and frozen:
        raise UserError(f"{train.name} has several labels an image", todo="give a set with one label an image")
    if frozen != (recipe.lr_backbone == 0):
        raise UserError(
            "linear classifiers leave the network alone, fine-tuning does not",
            found=f"lr_backbone {recipe.lr_backbone}",
            todo="give 0 for linear classifiers, more for fine-tuning",
        )
    return machine


def _refuse_lone_images(recipe: SgdRecipe, images: int) -> None:
    """A part of one image whose last feature map is one pixel has no variance to normalise by."""
    left = -(-images // recipe.processes) % (recipe.batch // recipe.processes)
    if recipe.crop <= 32 and 1 in (left, recipe.batch // recipe.processes):
        raise UserError(
            "a part of a batch would be a single image, which BatchNorm cannot normalise",
            found=f"crop {recipe.crop}, batch {recipe.batch}, processes {recipe.processes}, {images} images",
            todo="give another batch size, or a crop above 32",
        )


def _config(
    kind: str, backbone: Backbone, train: LabelledImages, recipe: SgdRecipe | LayerwiseRecipe, seed: int
) -> dict[str, Any]:
    """All that decides the outcome, as plain values: what a training that is resumed must share."""
    sha = hashlib.sha256(np.ascontiguousarray(train.labels).tobytes())
    for index in range(len(train)):
        sha.update(b"\0" + train.images.name(index).encode("utf-8", "surrogateescape"))
    source = backbone.source
    return {
        "kind": kind,
        "backbone": {"arch": backbone.arch, "sha256": source.sha256, "branch": source.branch},
        "data": {"name": train.name, "images": len(train), "classes": len(train.classes), "sha256": sha.hexdigest()},
        "recipe": asdict(recipe),
        "seed": seed,
    }
