"""What every detection task does: refuse what cannot finish, train in an engine, measure twice, draw, and tell."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np

from detection.backbones import EACH_A_TASK, USUAL, demand_taken, gmacs_below_regions
from detection.data import (
    DetectionData,
    DetectionSplits,
    Official,
    data_differences,
    easiest,
    load_splits,
)
from detection.engines.choose import ENGINES, choose_engine, load_engine
from detection.engines.detector import DetectionJob
from detection.engines.engine import DetectionEngine
from detection.pictures.contact_sheet import draw_contact_sheet
from detection.pictures.mistakes import draw_misses
from detection.protocols import DetectorProtocol
from detection.recipe import (
    C4,
    ConvolvedBoxes,
    Dense,
    DetectionRecipe,
    DetectorRecipe,
    OnTrunk,
    PyramidMasks,
    RegionsFPN,
    ViTDet,
    out_of_range,
    unbuildable,
)
from detection.scaling import BATCH, expectation, fitted, norm_differences, norm_in_words, rescaled
from detection.score.coco_ap import CocoResult, evaluate_coco
from detection.score.voc_ap import VocResult, evaluate_voc
from transfer.checkpoints.cpu_time import refuse_if_endless
from transfer.checkpoints.families.resnet import STAGES, gmacs_by_stage
from transfer.datasets.boxes.detection import DetectionDataset, Detections
from transfer.runtime.errors import UserError
from transfer.runtime.files import write_json
from transfer.runtime.provenance import Difference
from transfer.task import Engine, Hardware, Run, Task, TaskOutcome

logger = logging.getLogger(__name__)

RECOMPUTED = "blocks of the backbone were computed again in the backward pass (--recompute)"
Metric = Literal["voc", "coco"]


@dataclass(frozen=True, eq=False, kw_only=True)
class DetectionTask(Task):
    """A task that trains a detector and reports its AP.

    Attributes:
        leading: whose AP is called "AP" in the metrics; the other's is "voc_AP" or "coco_AP".
        official: the published data.
    """

    leading: Metric
    official: Official

    data_options = DetectionData
    engines = ENGINES
    batch_option = BATCH
    retired = dict.fromkeys(("detector.family", "detector.neck"), EACH_A_TASK)

    @property
    def detector(self) -> DetectorRecipe:
        """That of the first protocol."""
        recipe: DetectorRecipe = next(iter(self.protocols.values())).detector
        return recipe

    @property
    def usual(self) -> str:
        """See `Task`."""
        return USUAL[self.detector.takes[0]]

    @property
    def needs(self) -> tuple[str, ...]:
        """See `Task`."""
        return self.official.needs

    @property
    def how(self) -> str:
        """See `Task`."""
        return self.official.how

    @property
    def source(self) -> tuple[str | bool | None, ...]:
        """See `Task`."""
        return ("boxes", self.official.name, self.detector.masks)

    def load(self, options: DetectionData) -> DetectionSplits:
        """Read both sides.

        Raises:
            DataError: see `load_splits`.
        """
        splits = load_splits(options, self.official, masks=self.detector.masks)
        return dataclasses.replace(splits, differences=data_differences(options, self.official.name))

    def check(self, run: Run) -> None:
        """Refuse values that mean nothing, detectors that no engine has, and weeks on a CPU."""
        recipe: DetectionRecipe = run.recipe
        if run.data is not None:
            if recipe.overfit:
                easiest(run.data.train, recipe.overfit)
            return
        if recipe.overfit < 0:
            raise UserError(f"--overfit {recipe.overfit}", todo="give a number of images, or 0 for the whole data set")
        demand_sound(recipe.detector, run.device)
        if run.device == "cpu":
            gmacs = self.work(recipe, {}, run.backbone.arch)
            what = f"{recipe.detector.iterations:,} iterations of {recipe.detector.batch} images"
            refuse_if_endless(gmacs, run.threads, what, list(self.presets), run.allow_slow)

    def work(self, recipe: DetectionRecipe, images: Mapping[str, int], arch: str) -> float:
        """Training, PreciseBN and prediction, perhaps for the curve too; without images no prediction. See `Task`."""
        detector, looks = recipe.detector, 1
        if detector.evaluate_every and detector.iterations:
            looks += (detector.iterations - 1) // detector.evaluate_every
        renewing = detector.precise_bn if detector.iterations and detector.norm != "FrozenBN" else 0
        trained = detector.batch * (3 * detector.iterations + looks * renewing)
        predicted = looks * (recipe.overfit or images.get("test", 0))
        return trained * gmacs_per_image(detector, arch) + predicted * gmacs_per_image(detector, arch, test=True)

    def expected(self, recipe: DetectionRecipe) -> str:
        """By Detectron2's model zoo. See `Task`."""
        gpus = recipe.detector.published_processes()
        found = expectation(recipe.detector, self.usual, gpus)
        return (
            ""
            if found is None
            else f"about {found.hours:.1f} on {gpus} × {found.gpu}, not measured here: {found.source}"
        )

    def scale(self, recipe: DetectionRecipe, hardware: Hardware, batch: int | None) -> tuple[DetectionRecipe, str]:
        """On fewer GPUs than published as it is if their memory holds its batch, else rescaled.

        A batch that was typed rescales it everywhere. A CPU otherwise gets it as it is, and is then refused.
        """
        detector, why = recipe.detector, ""
        if batch is not None:
            detector = rescaled(detector, hardware.processes, batch)
        elif hardware.device != "cpu":
            detector, why = fitted(detector, hardware.processes, hardware.memory, hardware.arch)
        return dataclasses.replace(recipe, detector=detector), why

    def account(self, recipe: DetectionRecipe, scaled: DetectionRecipe, hardware: Hardware) -> list[str]:
        """Images a GPU, batch norm, hours and memory.

        Raises:
            UserError: the batch cannot be shared by so many GPUs; the detector is not built on such a backbone.
        """
        demand_taken(recipe.detector, hardware.arch)
        return account(recipe.detector, scaled.detector, hardware)

    def refusal(self, recipe: DetectionRecipe, arch: str) -> UserError | None:
        """See `Task`."""
        try:
            demand_taken(recipe.detector, arch)
        except UserError as error:
            return error
        return None

    def choose_engine(self, wanted: str, archs: Collection[str]) -> tuple[Engine, str]:
        """See `detection.engines.choose`."""
        name, why = choose_engine(wanted, self.engines, archs)
        return load_engine(name), why

    def run(self, run: Run) -> TaskOutcome:
        """Train, predict, score, draw; of several processes the leader alone scores and draws."""
        from detection.pictures.curves import draw_curves  # matplotlib takes half a second
        from transfer.checkpoints.verify import UNPROVED

        recipe: DetectionRecipe = run.recipe
        splits: DetectionSplits = run.data
        if recipe.overfit:
            splits = easiest(splits.train, recipe.overfit)

        def score(detections: Detections) -> dict[str, float]:
            return _Measured.of(splits.test, detections, recipe, self.leading).metrics()

        outcome = cast(DetectionEngine, run.engine).run(
            DetectionJob.of(run, recipe.detector, splits.train, splits.test, score)
        )
        if not run.world.leads:
            return TaskOutcome({})
        write_json(run.workdir / "detections.json", outcome.detections.to_coco(splits.test))
        measured = _Measured.of(splits.test, outcome.detections, recipe, self.leading)
        draw_contact_sheet(splits.test, outcome.detections, run.workdir / "contact_sheet.png")
        draw_misses(splits.test, outcome.detections, run.workdir / "misses.png")
        draw_curves(measured.coco[-1], run.workdir / "curves.png")
        arch = run.backbone.arch
        architecture: tuple[Difference, ...] = () if arch == self.usual else (("architecture", self.usual, arch),)
        norms = norm_differences(self.detector, recipe.detector, run.world.size)
        again = (RECOMPUTED,) if run.recompute else ()
        return TaskOutcome(
            metrics=measured.metrics(),
            details={"detections": len(outcome.detections), "objects": dict(splits.objects)} | measured.per_class(),
            verification=dataclasses.asdict(outcome.verification) if outcome.verification else UNPROVED,
            differences=architecture + norms + outcome.differences,
            notes=(*splits.train.notes, *splits.test.notes, *splits.notes, *outcome.notes, *again, *measured.notes()),
        )


def detection_task(
    title: str,
    leading: Metric,
    official: Official,
    protocols: Mapping[str, DetectorProtocol],
    presets: Mapping[str, tuple[str, DetectionRecipe]],
    version: int = 2,
) -> DetectionTask:
    """The task of these protocols, with the primary metric that belongs to their detectors."""
    masks = next(iter(protocols.values())).recipe.detector.masks
    return DetectionTask(
        title=title,
        version=version,
        primary=("mask_AP" if masks else "AP") if leading == "coco" else "AP50",
        published=protocols,
        presets=presets,
        families={name: protocol.recipe.detector.takes for name, protocol in protocols.items()},
        leading=leading,
        official=official,
    )


def account(published: DetectorRecipe, scaled: DetectorRecipe, hardware: Hardware) -> list[str]:
    """See `DetectionTask.account`."""
    gpus, theirs = hardware.processes, published.published_processes()
    if scaled.batch % gpus:
        raise UserError(
            f"a batch of {scaled.batch} cannot be shared by {gpus} GPUs",
            todo=f"give --batch a multiple of {gpus}",
        )
    lines = [
        f"images per GPU: {scaled.batch // gpus} (published: {published.batch // theirs})",
        f"batch norm: {norm_in_words(scaled, gpus)} (published: {norm_in_words(published, theirs)})",
    ]
    if norm_differences(published, scaled, gpus):
        lines.append(
            f"  not as published: --batch {published.batch} keeps {published.batch} images together, if they fit"
        )
    expected = expectation(scaled, hardware.arch, gpus)
    if expected is None:
        lines.append("hours and memory: no published measurement of this detector to go by")
    else:
        lines.append(
            f"expected: about {expected.hours:.0f} hours on {expected.gpu}s, {expected.gigabytes:.0f} GB per GPU, "
            f"not measured here: {expected.source}"
        )
    return lines


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


def gmacs_per_image(recipe: DetectorRecipe, arch: str, test: bool = False) -> float:
    """Multiply–accumulates (in 10⁹) of one image's forward pass, convolutions of backbone and heads only.

    An estimate: ResNet cost at 224×224 scaled by area; in a C4 detector the last stage runs once per region on a 14×14
    map, exactly what it sees at 224×224. In a `test` as many regions as can be. ViTDet's is counted on its canvas.
    """
    short = float(recipe.test_size if test or isinstance(recipe, ViTDet) else np.mean(recipe.train_sizes))
    long = min(short * 4 / 3, recipe.max_size)
    if isinstance(recipe, OnTrunk):
        return _of_regions(recipe, test) + gmacs_below_regions(recipe, arch, short, long)
    by_stage = gmacs_by_stage(arch)
    total, last_stage = sum(by_stage.values()), by_stage[STAGES[-1]]
    area = short * long / 224**2
    if isinstance(recipe, C4):
        regions = recipe.rpn_post_nms_test if test else recipe.roi_batch
        if test and recipe.masks:  # of the boxes that are found the last stage computes the masks
            regions += recipe.max_detections
        return (total - last_stage) * area + last_stage * regions * (recipe.roi_resolution / 14) ** 2
    assert isinstance(recipe, RegionsFPN | Dense)  # there are no others
    width = recipe.fpn_channels / 256
    if isinstance(recipe, Dense):
        # Two towers of 3×3 convolutions on p3 … p7: 1,045 positions at 224², 0.59 million multiplications each.
        return (total + (1.6 + 1.25 * recipe.dense.convs) * width**2) * area
    # FPN adds 3×3 convolutions on every level, about 6.4 GMACs at 224² and 256 channels with the RPN's
    return (total + 6.4 * width**2) * area + _of_regions(recipe, test)


def _of_regions(recipe: RegionsFPN | OnTrunk, test: bool) -> float:
    """Each region goes through fully connected layers, and a quarter of them through the mask head on 14×14 positions.

    Some heads convolve before, on 7×7 positions.
    """
    width = recipe.fpn_channels / 256
    regions, masks = recipe.rpn_post_nms_test if test else recipe.roi_batch, 0.0
    if isinstance(recipe, PyramidMasks):
        masked = recipe.max_detections if test else recipe.roi_batch * recipe.roi_positive
        masks = 0.116 * width**2 * recipe.mask_convs * masked
    convolved = 0.029 * width**2 * recipe.box_convs if isinstance(recipe, ConvolvedBoxes) else 0.0
    return (0.014 * width + convolved) * regions + masks


def demand_sound(recipe: DetectorRecipe, device: str) -> None:
    """Raise `UserError` if the recipe makes no sense."""
    from transfer.runtime.world import world_size

    problems = [*out_of_range(recipe, world_size()), *unbuildable(recipe, device)]
    if problems:
        raise UserError("this recipe cannot be run", found="\n".join(problems), todo="see --help for the options")
