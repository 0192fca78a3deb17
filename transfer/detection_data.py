"""Where a detection task's images come from: the official sets, or any set of one's own in VOC or COCO layout."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from transfer.datasets.coco import read_coco
from transfer.datasets.detection import DetectionDataset
from transfer.datasets.fraction import part_of
from transfer.datasets.voc import VOC_CLASSES, Part, read_voc, read_voc_sets
from transfer.errors import DataError
from transfer.task import ROOT, Difference


@dataclass(frozen=True)
class DetectionData:
    """Where the images are.

    Attributes:
        data_root: folder of the official sets: VOC2007/ and VOC2012/, or coco/ with annotations/, train2017/, val2017/
            (default: $DETECTRON2_DATASETS, else datasets/ here).
        voc_root: a data set of your own in VOC layout (Annotations, ImageSets/Main, JPEGImages).
        train: with --voc-root: the split to train on.
        test: with --voc-root: the split to report on.
        train_json: a data set of your own in COCO layout: its training annotations.
        train_images: with --train-json: the folder of its images.
        test_json: with --train-json: the annotations to report on.
        test_images: with --train-json: the folder of their images.
        fraction: train on this share of the training images only (0.01 and 0.1 are customary).
        fraction_seed: which images those are; a smaller fraction is part of a larger one.
        clip_boxes: cut boxes that reach beyond their image back to it, instead of stopping.
    """

    data_root: Path | None = None
    voc_root: Path | None = None
    train: str | None = None
    test: str | None = None
    train_json: Path | None = None
    train_images: Path | None = None
    test_json: Path | None = None
    test_images: Path | None = None
    fraction: float = 1.0
    fraction_seed: int = 0
    clip_boxes: bool = False

    def root(self) -> Path:
        """The folder of the official sets."""
        return self.data_root or Path(os.environ.get("DETECTRON2_DATASETS") or ROOT / "datasets")

    @property
    def own(self) -> bool:
        """Whether the data are another set than the protocol's."""
        return self.voc_root is not None or self.train_json is not None


@dataclass(frozen=True, eq=False)
class DetectionSplits:
    """The two sides of a run; class names and their order are the same in both."""

    train: DetectionDataset
    test: DetectionDataset


Official = Callable[[DetectionData, bool], DetectionSplits]  # (options, masks wanted) → the protocol's own splits


def official_voc(train_parts: tuple[tuple[str, str], ...]) -> Official:
    """Reads (year folder, split) pairs for training and VOC2007's test split."""

    def read(options: DetectionData, masks: bool) -> DetectionSplits:
        root = options.root()
        parts = [(root / year, split) for year, split in train_parts]
        name = "+".join(f"voc_{year.removeprefix('VOC')}_{split}" for year, split in train_parts)
        test = [(root / "VOC2007", "test")]
        return DetectionSplits(
            _voc(parts, name, VOC_CLASSES, options, masks), _voc(test, "voc_2007_test", VOC_CLASSES, options, masks)
        )

    return read


def official_coco(options: DetectionData, masks: bool) -> DetectionSplits:
    """COCO train2017 and val2017 in the layout that Detectron2 and MMDetection document."""
    root = options.root() / "coco"
    annotations = root / "annotations"
    train = read_coco(
        annotations / "instances_train2017.json",
        root / "train2017",
        "coco_2017_train",
        clip_boxes=options.clip_boxes,
        masks=masks,
    )
    test = read_coco(
        annotations / "instances_val2017.json",
        root / "val2017",
        "coco_2017_val",
        clip_boxes=options.clip_boxes,
        masks=masks,
        classes_like=train,
    )
    return DetectionSplits(train, test)


def load_splits(options: DetectionData, official: Official, masks: bool) -> DetectionSplits:
    """Read both splits.

    Args:
        options: where they are.
        official: reads the protocol's own.
        masks: whether the task needs masks.

    Raises:
        DataError: something is missing or malformed; the message says what and where.
    """
    _demand_one_place(options)
    if options.voc_root is not None:
        splits = _own_voc(options, masks)
    elif options.train_json is not None:
        splits = _own_coco(options, masks)
    else:
        splits = official(options, masks)
    _refuse_useless(splits)
    if options.fraction != 1.0:
        splits = dataclasses.replace(splits, train=part_of(splits.train, options.fraction, options.fraction_seed))
    return splits


def load_test(options: DetectionData, masks: bool) -> DetectionDataset:
    """The test side alone: what detections made elsewhere are scored on. No split to train on is asked for.

    Args:
        options: `voc_root` and `test`, or `test_json` and `test_images`.
        masks: whether there are masks to be scored.

    Raises:
        DataError: something is missing or malformed; the message says what and where.
    """
    if (options.voc_root is None) == (options.test_json is None):
        what = "no data set is named" if options.voc_root is None else "--voc-root and --test-json both name the data"
        raise DataError(what, todo="give --voc-root DIR --test SPLIT, or --test-json FILE --test-images DIR")
    if options.voc_root is not None:
        if options.test is None or options.test_images is not None:
            raise DataError("--voc-root wants --test SPLIT and nothing else", todo="--voc-root DIR --test SPLIT")
        parts = [(options.voc_root, options.test)]
        return _voc(parts, f"{options.voc_root.resolve().name}_{options.test}", None, options, masks)
    if options.test_json is None or options.test_images is None or options.test is not None:
        raise DataError("--test-json wants --test-images and nothing else", todo="--test-json FILE --test-images DIR")
    return read_coco(
        options.test_json,
        options.test_images,
        options.test_json.stem,
        clip_boxes=options.clip_boxes,
        masks=masks,
    )


def _demand_one_place(options: DetectionData) -> None:
    coco = {
        "--train-json": options.train_json,
        "--train-images": options.train_images,
        "--test-json": options.test_json,
        "--test-images": options.test_images,
    }
    given = [name for name, value in coco.items() if value is not None]
    if given and len(given) < len(coco):
        missing = [name for name in coco if name not in given]
        raise DataError(f"{', '.join(given)} given without {', '.join(missing)}", todo="give all four, or none")
    if options.voc_root is None and (options.train or options.test):
        raise DataError("--train and --test name splits of the data set at --voc-root", todo="give --voc-root DIR")
    if options.voc_root is not None and not (options.train and options.test):
        raise DataError("--voc-root also wants --train SPLIT and --test SPLIT")
    places = {"--data-root": options.data_root, "--voc-root": options.voc_root, "--train-json": options.train_json}
    named = [name for name, value in places.items() if value is not None]
    if len(named) > 1:
        raise DataError(f"{' and '.join(named)} both name the data", todo="give one of them")


def _own_voc(options: DetectionData, masks: bool) -> DetectionSplits:
    assert options.voc_root is not None
    assert options.train is not None
    assert options.test is not None
    name = options.voc_root.resolve().name
    sets = [(f"{name}_{split}", [(options.voc_root, split)]) for split in (options.train, options.test)]
    return DetectionSplits(*read_voc_sets(sets, clip_boxes=options.clip_boxes, masks=masks))


def _own_coco(options: DetectionData, masks: bool) -> DetectionSplits:
    assert options.train_json is not None
    assert options.train_images is not None
    assert options.test_json is not None
    assert options.test_images is not None
    clip = options.clip_boxes
    train = read_coco(options.train_json, options.train_images, options.train_json.stem, clip_boxes=clip, masks=masks)
    test = read_coco(
        options.test_json,
        options.test_images,
        options.test_json.stem,
        clip_boxes=clip,
        masks=masks,
        classes_like=train,
    )
    return DetectionSplits(train, test)


def _voc(
    parts: list[Part], name: str, classes: tuple[str, ...] | None, options: DetectionData, masks: bool
) -> DetectionDataset:
    return read_voc(parts, name=name, classes=classes, clip_boxes=options.clip_boxes, masks=masks)


def _refuse_useless(splits: DetectionSplits) -> None:
    """A number on images that were trained on says nothing; without boxes there is nothing to train on."""
    train_files = {os.path.realpath(image.path) for image in splits.train.images}
    shared = sorted(image.name for image in splits.test.images if os.path.realpath(image.path) in train_files)
    if shared:
        raise DataError(
            f"{splits.train.name} and {splits.test.name} share images: the result would be on training data",
            found=f"{len(shared)} shared, for example {', '.join(shared[:3])}",
            todo="choose splits that have no image in common",
        )
    if all((image.crowd | image.difficult).all() for image in splits.test.images):
        raise DataError(f"{splits.test.name} has no object to find", found=f"{len(splits.test)} images")
    if not len(splits.train.for_training()):
        raise DataError(f"{splits.train.name} has no boxes to train on", found=f"{len(splits.train)} images")


def fingerprints(splits: DetectionSplits) -> dict[str, dict[str, object]]:
    """One fingerprint per split."""
    return {"train": splits.train.fingerprint(), "test": splits.test.fingerprint()}


def data_differences(options: DetectionData, official: str) -> tuple[Difference, ...]:
    """Another data set than the protocol's (`official`), or a part of it, is the first difference to name."""
    found: list[Difference] = []
    if options.voc_root is not None:
        found.append(("data", official, f"{options.voc_root.resolve().name} {options.train} → {options.test}"))
    if options.train_json is not None and options.test_json is not None:
        found.append(("data", official, f"{options.train_json.stem} → {options.test_json.stem}"))
    if options.fraction != 1.0:
        share = f"{100 * options.fraction:g} % (seed {options.fraction_seed})"
        found.append(("training images", "all", share))
    return tuple(found)


def easiest(dataset: DetectionDataset, count: int) -> DetectionSplits:
    """Both sides of a run that trains and reports on the same few images: does the detector learn at all?

    Taken are the images whose smallest object is largest, measured by area.

    Raises:
        DataError: there are fewer images with objects.
    """
    usable = [image for image in dataset.with_objects().images if not image.crowd.any()]
    if len(usable) < count:
        raise DataError(
            f"{dataset.name} has too few images to overfit {count}",
            found=f"{len(usable)} images with objects and without crowds",
            todo="give a smaller --overfit",
        )
    chosen = sorted(usable, key=lambda image: (-float(np.min(image.areas)), image.name))[:count]
    names = ", ".join(image.name for image in chosen)
    note = f"trained and evaluated on the same {count} images, the number says nothing about new ones: {names}"
    part = dataclasses.replace(
        dataset,
        name=f"{dataset.name}_overfit_{count}",
        images=tuple(sorted(chosen, key=lambda image: image.name)),
        notes=(*dataset.notes, note),
    )
    return DetectionSplits(part, dataclasses.replace(part, notes=()))
