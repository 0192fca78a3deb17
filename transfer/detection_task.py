"""What every detection task does around an engine: refuse what cannot finish, rescale, run, keep the detections."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from transfer.architectures import STAGES, gmacs_by_stage
from transfer.atomic import write_json
from transfer.backbone import Backbone
from transfer.datasets.detection import DetectionDataset, Detections
from transfer.detector import DetectionJob, DetectionOutcome, DetectorRecipe
from transfer.engines.choose import load_engine
from transfer.errors import UserError
from transfer.patience import refuse_if_endless
from transfer.task import RunContext

# Backward costs about twice the forward pass.
FORWARD_AND_BACKWARD = 3.0


def train_and_predict(
    context: RunContext,
    recipe: DetectorRecipe,
    train: DetectionDataset,
    test: DetectionDataset,
    score: Callable[[Detections], dict[str, float]],
) -> DetectionOutcome:
    """Run the engine and keep its detections as `detections.json` (COCO result form) in the run's folder.

    `score` gives the numbers of the curve, see `DetectionJob`.
    """
    job = DetectionJob(
        backbone=context.backbone,
        recipe=recipe,
        train=train.for_training(),
        test=test,
        seed=context.seed,
        workdir=context.workdir,
        device=context.device,
        workers=context.workers,
        checkpoint_every=max(25, min(2_000, recipe.iterations // 10)),
        world=context.world,
        score=score,
    )
    outcome = load_engine(context.engine).run(job)
    if context.world.leads:
        write_json(context.workdir / "detections.json", outcome.detections.to_coco(test))
    return outcome


def gmacs_per_image(recipe: DetectorRecipe, arch: str) -> float:
    """Multiply–accumulates (in 10⁹) of one training image's forward pass, convolutions of backbone and RoI head only.

    An estimate for `refuse_if_endless`: ResNet cost at 224×224 scaled by area; in a C4 detector the last stage runs
    once per region on a 14×14 map, exactly what it sees at 224×224.
    """
    by_stage = gmacs_by_stage(arch)
    total, last_stage = sum(by_stage.values()), by_stage[STAGES[-1]]
    short = float(np.mean(recipe.train_sizes))
    area = short * min(short * 4 / 3, recipe.max_size) / 224**2
    if recipe.neck == "c4":
        regions = recipe.roi_batch * (recipe.roi_resolution / 14) ** 2
        return (total - last_stage) * area + last_stage * regions
    # FPN adds 3×3 convolutions on every level, about 6.4 GMACs at 224² and 256 channels with the RPN's; each region
    # goes through two fully connected layers.
    width = recipe.fpn_channels / 256
    return (total + 6.4 * width**2) * area + 0.014 * width * recipe.roi_batch


def rescaled(recipe: DetectorRecipe, processes: int) -> DetectorRecipe:
    """The recipe for fewer processes than published, by the linear scaling rule (Goyal et al., arXiv 1706.02677).

    Images per process stay as published (batch norm sees as many), so the batch and the learning rate shrink and
    iterations, steps and warm-up grow by the same factor.
    """
    published = recipe.published_processes()
    if processes >= published:
        return recipe
    grow = published / processes
    return dataclasses.replace(
        recipe,
        batch=round(recipe.batch / grow),
        lr=recipe.lr / grow,
        iterations=round(recipe.iterations * grow),
        steps=tuple(round(step * grow) for step in recipe.steps),
        warmup_iterations=round(recipe.warmup_iterations * grow),
    )


def check_detector(
    recipe: DetectorRecipe, backbone: Backbone, device: str, presets: list[str], allow_slow: bool
) -> None:
    """Raise `UserError` if the recipe makes no sense, or would not end on this CPU."""
    _demand_sense(recipe)
    if device == "cpu":
        images = recipe.iterations * recipe.batch
        gmacs = images * gmacs_per_image(recipe, backbone.arch) * FORWARD_AND_BACKWARD
        what = f"{recipe.iterations:,} iterations of {recipe.batch} images"
        refuse_if_endless(backbone, gmacs, what, presets, allow_slow)


def _demand_sense(recipe: DetectorRecipe) -> None:
    """Refuse values that no engine can run, before anything is built."""
    problems = []
    for name in (
        "batch",
        "test_size",
        "max_size",
        "roi_batch",
        "rpn_batch",
        "roi_resolution",
        "max_detections",
        "fpn_channels",
    ):
        if getattr(recipe, name) < 1:
            problems.append(f"{name} is {getattr(recipe, name)}")
    for name in ("iterations", "warmup_iterations", "precise_bn", "freeze_at"):
        if getattr(recipe, name) < 0:
            problems.append(f"{name} is {getattr(recipe, name)}")
    if recipe.freeze_at > len(STAGES) + 1:
        problems.append(f"freeze_at is {recipe.freeze_at}, a ResNet has a stem and {len(STAGES)} stages")
    if not recipe.lr > 0:
        problems.append(f"lr is {recipe.lr}")
    if not recipe.train_sizes or min(recipe.train_sizes) < 1:
        problems.append(f"train_sizes is {recipe.train_sizes}")
    if list(recipe.steps) != sorted(recipe.steps):
        problems.append(f"steps {recipe.steps} are not in order")
    if recipe.neck == "fpn" and len(recipe.anchor_sizes) != 5:
        problems.append(f"FPN wants five anchor_sizes (p2 … p6), got {len(recipe.anchor_sizes)}")
    if problems:
        raise UserError("this recipe cannot be run", found="\n".join(problems), todo="see --help for the options")


def detection_details(outcome: DetectionOutcome) -> dict[str, Any]:
    """The part of a record's details that every detection task has."""
    return {"detections": len(outcome.detections)}
