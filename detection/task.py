"""What every detection task does: refuse what cannot finish, train in an engine, measure twice, draw, and tell."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from detection.data import (
    DetectionData,
    DetectionSplits,
    Official,
    data_differences,
    easiest,
    fingerprints,
    load_splits,
)
from detection.engines.choose import load_engine
from detection.pictures.contact_sheet import draw_contact_sheet
from detection.pictures.mistakes import draw_misses
from detection.protocols import Detector, read_alone
from detection.recipe import (
    DetectionJob,
    DetectionOutcome,
    DetectionRecipe,
    DetectorRecipe,
    dead,
    out_of_range,
    unbuildable,
)
from detection.scaling import BATCH, expectation, fitted, norm_differences, norm_in_words, rescaled
from detection.score.coco_ap import CocoResult, evaluate_coco
from detection.score.voc_ap import VocResult, evaluate_voc
from transfer.checkpoints.architectures import STAGES, gmacs_by_stage
from transfer.checkpoints.cpu_time import refuse_if_endless
from transfer.datasets.boxes.detection import DetectionDataset, Detections
from transfer.runtime.errors import UserError
from transfer.runtime.files import write_json
from transfer.runtime.provenance import Difference
from transfer.task import RunContext, Task, TaskOutcome

if TYPE_CHECKING:
    from transfer.checkpoints.backbone import Backbone

logger = logging.getLogger(__name__)

# Backward costs about twice the forward pass.
FORWARD_AND_BACKWARD = 3.0
RECOMPUTED = "blocks of the ResNet were computed again in the backward pass (--recompute)"
Metric = Literal["voc", "coco"]


def detection_task(
    title: str,
    leading: Metric,
    official: Official,
    official_name: str,
    protocols: Mapping[str, Detector],
    presets: Mapping[str, tuple[str, DetectionRecipe]],
    version: int = 1,
) -> Task:
    """A task that trains a detector and reports its AP.

    Args:
        title: one line for lists of tasks.
        leading: whose AP is called "AP" in the metrics; the other's is "voc_AP" or "coco_AP".
        official: reads the published data.
        official_name: what they are called, for example "COCO train2017 → val2017".
        protocols: name → as published; the first is the default.
        presets: see `Task`.
        version: see `Task`.
    """
    recipes = [protocol.recipe.detector for protocol in protocols.values()]
    first, names = recipes[0], list(presets)
    offered = [*recipes, *(recipe.detector for _, recipe in presets.values())]

    def check(recipe: DetectionRecipe, backbone: Backbone, device: str, allow_slow: bool) -> None:
        if recipe.detector.masks != first.masks:
            room = "detection" if first.masks else "segmentation"
            raise UserError(
                f"{recipe.detector.family} is another task's detector",
                found=f"this one is about {'masks' if first.masks else 'boxes alone'}",
                todo=f"leave --detector.family out, or use {room}/run_coco.sh",
            )
        if recipe.overfit < 0:
            raise UserError(f"--overfit {recipe.overfit}", todo="give a number of images, or 0 for the whole data set")
        check_detector(recipe.detector, backbone, device, names, allow_slow, offered)

    def check_data(
        recipe: DetectionRecipe, backbone: Backbone, data: DetectionSplits, device: str, allow_slow: bool
    ) -> None:
        if recipe.overfit:
            easiest(data.train, recipe.overfit)

    def load(options: DetectionData) -> DetectionSplits:
        return load_splits(options, official, masks=first.masks)

    def run(context: RunContext) -> TaskOutcome:
        return run_detection(context, first, leading)

    return Task(
        title=title,
        version=version,
        primary=("mask_AP" if first.masks else "AP") if leading == "coco" else "AP50",
        published={name: read_alone(protocol) for name, protocol in protocols.items()},
        presets=presets,
        engines=("detectron2", "mmdet"),
        data_options=DetectionData,
        load_data=load,
        fingerprints=fingerprints,
        data_differences=lambda options: data_differences(options, official_name),
        adapt=adapt,
        batch_option=BATCH,
        check=check,
        check_data=check_data,
        run=run,
        scale=scale,
    )


def adapt(recipe: DetectionRecipe, device: str, processes: int, batch: int | None) -> DetectionRecipe:
    """On fewer GPUs than published the recipe stays as it is if their memory holds its batch, else it is rescaled.

    A batch that was typed rescales it everywhere. A CPU otherwise gets it as it is, and is then refused.
    """
    if batch is not None:
        return dataclasses.replace(recipe, detector=rescaled(recipe.detector, processes, batch))
    if device == "cpu":
        return recipe
    import torch

    memory = torch.cuda.get_device_properties(0).total_memory / 1e9 if torch.cuda.is_available() else None
    detector, why = fitted(recipe.detector, processes, memory)
    if why:
        logger.info("%s", why)
    return dataclasses.replace(recipe, detector=detector)


def scale(
    recipe: DetectionRecipe, gpus: int, batch: int | None, arch: str, memory: float | None
) -> tuple[DetectionRecipe, list[str]]:
    """See `Task.scale`."""
    published = recipe.detector
    scaled, why = (rescaled(published, gpus, batch), "") if batch else fitted(published, gpus, memory, arch)
    if scaled.batch % gpus:
        raise UserError(
            f"a batch of {scaled.batch} cannot be shared by {gpus} GPUs",
            todo=f"give --batch a multiple of {gpus}",
        )
    lines = [why] if why else []
    lines += [
        f"images per GPU: {scaled.batch // gpus} (published: {published.batch // published.published_processes()})",
        f"batch norm: {norm_in_words(scaled, gpus)} (published: "
        f"{norm_in_words(published, published.published_processes())})",
    ]
    if norm_differences(published, scaled, gpus):
        lines.append(
            f"  not as published: --batch {published.batch} keeps {published.batch} images together, if they fit"
        )
    expected = expectation(scaled, arch, gpus)
    if expected is None:
        lines.append("hours and memory: no published measurement of this detector to go by")
    else:
        lines.append(
            f"expected: about {expected.hours:.0f} hours on V100s, {expected.gigabytes:.0f} GB per GPU, not measured "
            f"here: {expected.source}"
        )
    return dataclasses.replace(recipe, detector=scaled), lines


def run_detection(context: RunContext, published: DetectorRecipe, leading: Metric) -> TaskOutcome:
    """Train, predict, score, draw; of several processes the leader alone scores and draws."""
    from detection.pictures.curves import draw_curves  # matplotlib takes half a second
    from transfer.checkpoints.verify import UNPROVED

    recipe: DetectionRecipe = context.recipe
    splits: DetectionSplits = context.data
    if recipe.overfit:
        splits = easiest(splits.train, recipe.overfit)

    def score(detections: Detections) -> dict[str, float]:
        return _Measured.of(splits.test, detections, recipe, leading).metrics()

    outcome = train_and_predict(context, recipe.detector, splits.train, splits.test, score)
    if not context.world.leads:
        return TaskOutcome({})
    measured = _Measured.of(splits.test, outcome.detections, recipe, leading)
    draw_contact_sheet(splits.test, outcome.detections, context.workdir / "contact_sheet.png")
    draw_misses(splits.test, outcome.detections, context.workdir / "misses.png")
    draw_curves(measured.coco[-1], context.workdir / "curves.png")
    architecture: tuple[Difference, ...] = ()
    if context.backbone.arch != "resnet50":
        architecture = (("architecture", "resnet50", context.backbone.arch),)
    norms = norm_differences(published, recipe.detector, context.world.size)
    again = (RECOMPUTED,) if context.recompute else ()
    return TaskOutcome(
        metrics=measured.metrics(),
        details={"detections": len(outcome.detections), "objects": dict(splits.objects)} | measured.per_class(),
        verification=dataclasses.asdict(outcome.verification) if outcome.verification else UNPROVED,
        differences=architecture + norms + outcome.differences,
        notes=(*splits.train.notes, *splits.test.notes, *splits.notes, *outcome.notes, *again, *measured.notes()),
    )


@dataclass(frozen=True, eq=False)
class _Measured:
    """Detections by VOC's and by COCO's measure; `coco` holds boxes and, from detectors with masks, masks."""

    voc: VocResult
    coco: tuple[CocoResult, ...]
    leading: Metric

    @classmethod
    def of(cls, test: DetectionDataset, detections: Detections, recipe: DetectionRecipe, leading: Metric) -> _Measured:
        coco = [evaluate_coco(test, detections, "bbox", recipe.coco_metric)]
        if detections.masks is not None:
            coco.append(evaluate_coco(test, detections, "segm", recipe.coco_metric))
        return cls(evaluate_voc(test, detections, recipe.metric), tuple(coco), leading)

    def metrics(self) -> dict[str, float]:
        """In percent. With masks, the box AP is "box_AP" and the mask AP "mask_AP"."""
        boxes = self.coco[0].metrics()
        if self.leading == "voc":
            return self.voc.metrics() | {f"coco_{name}": value for name, value in boxes.items()}
        voc = {f"voc_{name}": value for name, value in self.voc.metrics().items()}
        if len(self.coco) == 1:
            return boxes | voc
        named = {f"box_{name}": value for name, value in boxes.items()}
        return named | {f"mask_{name}": value for name, value in self.coco[1].metrics().items()} | voc

    def per_class(self) -> dict[str, Any]:
        """AP and AP50 of every class, in percent; None where there was nothing to find."""
        rows = zip(self.voc.classes, self.voc.by_class, self.voc.ground_truth.tolist(), strict=True)
        voc = {name: {"AP": float(row.mean()), "AP50": float(row[0])} if count else None for name, row, count in rows}
        found: dict[str, Any] = {"per_class_voc": voc, "per_class_coco": self.coco[0].per_class}
        if len(self.coco) > 1:
            found["per_class_mask"] = self.coco[1].per_class
        return found

    def notes(self) -> tuple[str, ...]:
        """What to know when reading the numbers, each once."""
        notes = [*self.voc.notes, *(note for result in self.coco for note in result.notes)]
        return tuple(dict.fromkeys(notes))


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
        recompute=context.recompute,
        score=score,
    )
    outcome = load_engine(context.engine).run(job)
    if context.world.leads:
        write_json(context.workdir / "detections.json", outcome.detections.to_coco(test))
    return outcome


def gmacs_per_image(recipe: DetectorRecipe, arch: str) -> float:
    """Multiply–accumulates (in 10⁹) of one training image's forward pass, convolutions of backbone and heads only.

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
    width = recipe.fpn_channels / 256
    if not recipe.regions:
        # Two towers of 3×3 convolutions on p3 … p7: 1,045 positions at 224², 0.59 million multiplications each.
        return (total + (1.6 + 1.25 * recipe.dense.convs) * width**2) * area
    # FPN adds 3×3 convolutions on every level, about 6.4 GMACs at 224² and 256 channels with the RPN's; each region
    # goes through two fully connected layers, and a quarter of them through the mask head on 14×14 positions.
    masks = 0.116 * width**2 * recipe.mask_convs * recipe.roi_batch * recipe.roi_positive if recipe.masks else 0.0
    return (total + 6.4 * width**2) * area + 0.014 * width * recipe.roi_batch + masks


def check_detector(
    recipe: DetectorRecipe,
    backbone: Backbone,
    device: str,
    presets: list[str],
    allow_slow: bool,
    offered: Sequence[DetectorRecipe] = (),
) -> None:
    """Raise `UserError` if the recipe makes no sense, or would not end on this CPU.

    `offered` are the task's protocols and presets.
    """
    from transfer.runtime.world import world_size

    problems = [*out_of_range(recipe, world_size()), *unbuildable(recipe, device), *dead(recipe, offered)]
    if problems:
        raise UserError("this recipe cannot be run", found="\n".join(problems), todo="see --help for the options")
    if device == "cpu":
        images = recipe.iterations * recipe.batch
        gmacs = images * gmacs_per_image(recipe, backbone.arch) * FORWARD_AND_BACKWARD
        what = f"{recipe.iterations:,} iterations of {recipe.batch} images"
        refuse_if_endless(backbone, gmacs, what, presets, allow_slow)
