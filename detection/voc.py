"""Faster R-CNN on Pascal VOC: trainval07+12 → test2007, or any data set in VOC layout.

Protocol: MoCo's (facebookresearch/moco, detection/README.md and detection/configs/pascal_voc_R_50_C4_24k_moco.yaml),
the one behind the VOC columns of the MoCo v1/v2, SimSiam, Barlow Twins and VICReg papers. Published spread: MoCo
reports the mean of 5 runs with a standard deviation of about 0.2 / 0.2 / 0.4 (AP / AP50 / AP75).
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path

from transfer.backbone import Backbone
from transfer.contact_sheet import draw_contact_sheet
from transfer.datasets.detection import DetectionDataset
from transfer.datasets.voc import VOC_CLASSES, read_voc, voc_classes
from transfer.detection_task import check_detector, detection_details, rescaled, train_and_predict
from transfer.detector import DetectorRecipe
from transfer.errors import DataError
from transfer.metrics.voc_ap import VocApOptions, VocResult, evaluate_voc
from transfer.task import ROOT, Difference, RunContext, Task, TaskOutcome


@dataclass(frozen=True)
class VocRecipe:
    """The detector and how it is measured. The defaults are MoCo's protocol and the published tables' metric."""

    detector: DetectorRecipe = field(default_factory=DetectorRecipe)
    metric: VocApOptions = field(default_factory=VocApOptions)


@dataclass(frozen=True)
class VocData:
    """Where the images are.

    Attributes:
        data_root: folder that holds VOC2007/ and VOC2012/ (default: $DETECTRON2_DATASETS, else datasets/ here).
        voc_root: any other data set in VOC layout (Annotations, ImageSets/Main, JPEGImages) instead of VOC07+12.
        train: with --voc-root: the split to train on.
        test: with --voc-root: the split to report on.
        clip_boxes: cut boxes that reach beyond their image back to it, instead of stopping.
    """

    data_root: Path | None = None
    voc_root: Path | None = None
    train: str | None = None
    test: str | None = None
    clip_boxes: bool = False


@dataclass(frozen=True, eq=False)
class VocSplits:
    """The two sides of a run; class names and their order are the same in both."""

    train: DetectionDataset
    test: DetectionDataset


MOCO = VocRecipe()
# Barlow Twins (arXiv 2103.03230, appendix): as MoCo, lr 0.1 and a warm-up from 1/3 over 1000 iterations.
BARLOW_TWINS = VocRecipe(DetectorRecipe(lr=0.1, warmup_iterations=1_000, warmup_factor=0.333))

# The CPU presets change the detector, not the metric: a narrow FPN costs a small part of a C4 head. The learning rate
# is twice what linear scaling from 0.02 at a batch of 16 gives; four times that diverges on random backbones.
_CPU = DetectorRecipe(
    neck="fpn",
    extra_norm=False,
    norm="BN",
    fpn_channels=64,
    anchor_sizes=(16, 32, 64, 128, 256),  # images are shrunk to a third of the protocol's
    roi_resolution=7,
    train_sizes=(224, 256, 288),
    test_size=256,
    max_size=426,
    iterations=300,
    batch=2,
    lr=0.005,
    steps=(240, 285),
    warmup_iterations=50,
    precise_bn=30,
    rpn_pre_nms_train=1_000,
    rpn_post_nms_train=500,
    rpn_pre_nms_test=500,
    rpn_post_nms_test=300,
    roi_batch=64,
)
_SMOKE = dataclasses.replace(
    _CPU,
    train_sizes=(160,),
    test_size=160,
    max_size=320,
    iterations=80,
    steps=(65,),
    warmup_iterations=20,
    precise_bn=20,
)
PRESETS = {
    "smoke": ("two CPU cores, about 2 minutes: shows that everything works, the numbers mean little", _SMOKE),
    "cpu": ("two CPU cores, about 10 minutes: a small FPN detector that learns small data sets", _CPU),
}


def load_data(options: VocData) -> VocSplits:
    """Read both splits.

    Raises:
        DataError: something is missing or malformed; the message says what and where.
    """
    if options.voc_root is None and (options.train or options.test):
        raise DataError("--train and --test name splits of the data set at --voc-root", todo="give --voc-root DIR")
    if options.voc_root is not None:
        if not options.train or not options.test:
            raise DataError("--voc-root also wants --train SPLIT and --test SPLIT")
        if options.data_root is not None:
            raise DataError("--voc-root and --data-root both name the data", todo="give one of them")
        train_parts = [(options.voc_root, options.train)]
        test_parts = [(options.voc_root, options.test)]
        classes = tuple(sorted({*voc_classes(train_parts), *voc_classes(test_parts)}))
        name = options.voc_root.resolve().name
        names = f"{name}_{options.train}", f"{name}_{options.test}"
    else:
        root = options.data_root or Path(os.environ.get("DETECTRON2_DATASETS") or ROOT / "datasets")
        train_parts = [(root / "VOC2007", "trainval"), (root / "VOC2012", "trainval")]
        test_parts = [(root / "VOC2007", "test")]
        classes = VOC_CLASSES
        names = "voc_2007_trainval+voc_2012_trainval", "voc_2007_test"
    splits = VocSplits(
        read_voc(train_parts, name=names[0], classes=classes, clip_boxes=options.clip_boxes),
        read_voc(test_parts, name=names[1], classes=classes, clip_boxes=options.clip_boxes),
    )
    _refuse_useless(splits)
    return splits


def _refuse_useless(splits: VocSplits) -> None:
    """A number on images that were trained on says nothing; without boxes there is nothing to train on."""
    shared = sorted({image.name for image in splits.train.images} & {image.name for image in splits.test.images})
    if shared:
        raise DataError(
            f"{splits.train.name} and {splits.test.name} share images: the result would be on training data",
            found=f"{len(shared)} shared, for example {', '.join(shared[:3])}",
            todo="choose splits that have no image in common",
        )
    if not len(splits.train.with_objects()):
        raise DataError(f"{splits.train.name} has no boxes to train on", found=f"{len(splits.train)} images")


def fingerprints(splits: VocSplits) -> dict[str, dict[str, object]]:
    """One fingerprint per split."""
    return {"train": splits.train.fingerprint(), "test": splits.test.fingerprint()}


def data_differences(options: VocData) -> tuple[Difference, ...]:
    """Another data set than the protocol's is the first difference to name."""
    if options.voc_root is None:
        return ()
    used = f"{options.voc_root.resolve().name} {options.train} → {options.test}"
    return (("data", "VOC trainval07+12 → test2007", used),)


def adapt(recipe: VocRecipe, device: str) -> VocRecipe:
    """On a GPU the published recipe is rescaled to one process; a CPU gets it as it is, and is then refused."""
    if device == "cpu":
        return recipe
    return dataclasses.replace(recipe, detector=rescaled(recipe.detector, processes=1))


def check(recipe: VocRecipe, backbone: Backbone, device: str, allow_slow: bool) -> None:
    """See `check_detector`."""
    check_detector(recipe.detector, backbone, device, list(PRESETS), allow_slow)


def run(context: RunContext) -> TaskOutcome:
    """Train, predict, score, draw."""
    recipe: VocRecipe = context.recipe
    splits: VocSplits = context.data
    outcome = train_and_predict(context, recipe.detector, splits.train, splits.test)
    result = evaluate_voc(splits.test, outcome.detections, recipe.metric)
    draw_contact_sheet(splits.test, outcome.detections, context.workdir / "contact_sheet.png")
    architecture: tuple[Difference, ...] = ()
    if context.backbone.arch != "resnet50":
        architecture = (("architecture", "resnet50", context.backbone.arch),)
    return TaskOutcome(
        metrics=result.metrics(),
        details=detection_details(outcome) | _per_class(result),
        verification=dataclasses.asdict(outcome.verification),
        differences=architecture + outcome.differences,
        notes=(*splits.train.notes, *splits.test.notes, *outcome.notes, *result.notes),
    )


def _per_class(result: VocResult) -> dict[str, object]:
    """AP and AP50 of every class in percent; None where there was nothing to find."""
    rows = zip(result.classes, result.by_class, result.ground_truth.tolist(), strict=True)
    return {
        "per_class": {
            name: {"AP": float(row.mean()), "AP50": float(row[0])} if count else None for name, row, count in rows
        }
    }


TASK = Task(
    title="Faster R-CNN on Pascal VOC (07+12 → test2007, or any VOC layout)",
    version=1,
    primary="AP50",
    protocols={"moco": MOCO, "barlowtwins": BARLOW_TWINS},
    presets={name: (line, VocRecipe(detector)) for name, (line, detector) in PRESETS.items()},
    engines=("detectron2", "mmdet"),
    data_options=VocData,
    load_data=load_data,
    fingerprints=fingerprints,
    data_differences=data_differences,
    adapt=adapt,
    check=check,
    run=run,
)
