"""Where a detection task's images come from: the official sets, or any set of one's own in VOC or COCO layout."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from transfer.datasets.boxes.account import account, summary
from transfer.datasets.boxes.coco import read_coco
from transfer.datasets.boxes.detection import DetectionDataset
from transfer.datasets.boxes.fraction import part_of
from transfer.datasets.boxes.orientation import ExifFrame
from transfer.datasets.boxes.voc import VOC_CLASSES, Part, read_voc, read_voc_sets
from transfer.datasets.labels.catalogue import data_root
from transfer.datasets.layouts import VAL_AS_TEST, Kind, Layout, chosen, chosen_test, is_validation, no_split, recognise
from transfer.datasets.split_check import compare
from transfer.runtime.errors import DataError
from transfer.runtime.provenance import Difference

logger = logging.getLogger(__name__)

INSTEAD = "--voc-root DIR, or --train-json FILE --train-images DIR --test-json FILE --test-images DIR"
TEST_SIDE = "give --dataset DIR --test SPLIT, or --voc-root DIR --test SPLIT, or --test-json FILE --test-images DIR"


@dataclass(frozen=True)
class DetectionData:
    """Where the images are.

    Attributes:
        data_root: folder of the official sets: VOC2007/ and VOC2012/, or coco/ with annotations/, train2017/, val2017/
            (default: $DETECTRON2_DATASETS, else datasets/ here).
        dataset: a data set of your own, a folder in VOC or COCO layout; which of them is recognised and said.
        voc_root: the same, to be read in VOC layout.
        train: with --dataset or --voc-root: the split to train on (default: the one that is called so).
        test: with --dataset or --voc-root: the split to report on (default: the one called so, else the validation's).
        train_json: a data set of your own in COCO layout: its training annotations.
        train_images: with --train-json: the folder of its images.
        test_json: with --train-json: the annotations to report on.
        test_images: with --train-json: the folder of their images.
        fraction: train on this share of the training images only (0.01 and 0.1 are customary).
        fraction_seed: which images those are; a smaller fraction is part of a larger one.
        clip_boxes: cut boxes that reach beyond their image back to it, instead of stopping.
        exif: what the boxes were drawn on, where pictures have an EXIF orientation and no size tells: seen (the picture
            as viewers show it) or stored (the pixels as they lie in the file).
    """

    data_root: Path | None = None
    dataset: Path | None = None
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
    exif: ExifFrame | None = None

    def root(self) -> Path:
        """The folder of the official sets."""
        return data_root(self.data_root)

    @property
    def own(self) -> bool:
        """Whether the data are another set than the protocol's."""
        return any(place is not None for place in (self.dataset, self.voc_root, self.train_json))


@dataclass(frozen=True, eq=False)
class DetectionSplits:
    """The two sides of a run; class names and their order are the same in both.

    Attributes:
        train, test: the sides.
        notes: what is odd about the two beside each other, and what of them does not count; for the record.
        objects: of each side how many objects were annotated, left out for which reason, and used.
        differences: from the protocol's data.
    """

    train: DetectionDataset
    test: DetectionDataset
    notes: tuple[str, ...] = ()
    objects: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    differences: tuple[Difference, ...] = ()

    @cached_property
    def fingerprints(self) -> dict[str, dict[str, object]]:
        """One for each side."""
        return {"train": self.train.fingerprint(), "test": self.test.fingerprint()}


@dataclass(frozen=True, eq=False)
class Official:
    """The protocol's own data.

    Attributes:
        name: for people, "COCO train2017 → val2017".
        needs: files and folders below the data root.
        how: where they are had.
        read: (options, masks wanted) → the splits.
    """

    name: str
    needs: tuple[str, ...]
    how: str
    read: Callable[[DetectionData, bool], DetectionSplits]


def official_voc(name: str, train_parts: tuple[tuple[str, str], ...]) -> Official:
    """(Year folder, split) pairs for training and VOC2007's test split."""

    def read(options: DetectionData, masks: bool) -> DetectionSplits:
        root = options.root()
        parts = [(root / year, split) for year, split in train_parts]
        title = "+".join(f"voc_{year.removeprefix('VOC')}_{split}" for year, split in train_parts)
        test = [(root / "VOC2007", "test")]
        return DetectionSplits(
            _voc(parts, title, VOC_CLASSES, options, masks), _voc(test, "voc_2007_test", VOC_CLASSES, options, masks)
        )

    years = dict.fromkeys([*(year for year, _ in train_parts), "VOC2007"])
    return Official(
        name,
        tuple(f"{year}/{part}" for year in years for part in ("ImageSets/Main", "Annotations", "JPEGImages")),
        "the archives of host.robots.ox.ac.uk/pascal/VOC, unpacked: VOC2007 is their VOCdevkit/VOC2007",
        read,
    )


def _read_coco(options: DetectionData, masks: bool) -> DetectionSplits:
    """In the layout that Detectron2 and MMDetection document."""
    root = options.root() / "coco"
    annotations = root / "annotations"
    train = read_coco(
        annotations / "instances_train2017.json",
        root / "train2017",
        "coco_2017_train",
        clip_boxes=options.clip_boxes,
        exif=options.exif,
        masks=masks,
    )
    test = read_coco(
        annotations / "instances_val2017.json",
        root / "val2017",
        "coco_2017_val",
        clip_boxes=options.clip_boxes,
        exif=options.exif,
        masks=masks,
        classes_like=train,
    )
    return DetectionSplits(train, test)


_ANNOTATIONS = ("coco/annotations/instances_train2017.json", "coco/annotations/instances_val2017.json")
COCO = Official(
    "COCO train2017 → val2017",
    ("coco/train2017", "coco/val2017", *_ANNOTATIONS),
    "cocodataset.org: train2017.zip, val2017.zip and annotations_trainval2017.zip, unpacked in coco/",
    _read_coco,
)


def load_splits(options: DetectionData, official: Official, masks: bool) -> DetectionSplits:
    """Read both splits.

    Args:
        options: where they are.
        official: reads the protocol's own.
        masks: whether the task needs masks.

    Raises:
        DataError: something is missing or malformed; the message says what and where.
    """
    own = own_set(options)
    if own is None:
        splits = official.read(options, masks)
    else:
        logger.info("%s", own.said)
        splits = own.read(options, masks)
    refuse_shared(splits)
    accounts = {"train": account(splits.train, to_train=True), "test": account(splits.test, to_train=False)}
    for each in accounts.values():
        each.demand_some()
    notes = (
        *(own.notes if own is not None else ()),
        *(line for each in accounts.values() for line in each.notes()),
        *compare(summary(splits.train, to_train=True), [summary(splits.test, to_train=False)]),
    )
    splits = dataclasses.replace(splits, notes=notes, objects={side: one.details() for side, one in accounts.items()})
    if options.fraction != 1.0:
        part = part_of(splits.train, options.fraction, options.fraction_seed)
        objects = {**splits.objects, "train": account(dataclasses.replace(part, left_out={}), to_train=True).details()}
        splits = dataclasses.replace(splits, train=part, objects=objects)
    return splits


def load_test(options: DetectionData, masks: bool) -> tuple[DetectionDataset, Kind]:
    """The test side alone, and its layout: what detections made elsewhere are scored on; none to train on is needed.

    Args:
        options: `dataset` or `voc_root`, with or without `test`; or `test_json` and `test_images`.
        masks: whether there are masks to be scored.

    Raises:
        DataError: something is missing or malformed; the message says what and where.
    """
    files = options.test_json, options.test_images
    given = [place for place in (options.dataset, options.voc_root, options.test_json) if place is not None]
    if len(given) != 1 or (files[0] is None) != (files[1] is None) or (files[0] is not None and options.test):
        what = "more than one option names the data" if len(given) > 1 else "no data set is named"
        raise DataError(what if len(given) != 1 else "options that do not go together", todo=TEST_SIDE)
    clip = options.clip_boxes
    root = options.dataset or options.voc_root
    if root is None:
        assert options.test_json is not None
        assert options.test_images is not None
        name = options.test_json.stem
        return read_coco(
            options.test_json, options.test_images, name, clip_boxes=clip, exif=options.exif, masks=masks
        ), "coco"
    if options.voc_root is not None and options.test:
        layout = Layout("voc", "VOC layout", root, ())  # what is wrong with it, the reader says
    else:
        wanted: tuple[Kind, ...] = ("voc", "coco") if options.dataset is not None else ("voc",)
        layout = recognise(root, wanted, TEST_SIDE, None, options.test)
    test = chosen_test(layout, options.test)
    logger.info("%s is read as %s: %r", root, layout.title, test)
    name = f"{root.resolve().name}_{test}"
    if layout.kind == "voc":
        return read_voc([(root, test)], name, clip_boxes=clip, exif=options.exif, masks=masks), "voc"
    annotations, images = layout.coco[test]
    return read_coco(annotations, images, name, clip_boxes=clip, exif=options.exif, masks=masks), "coco"


@dataclass(frozen=True)
class OwnSet:
    """Where a set of one's own lies.

    Attributes:
        title: for the record, "BCCD train → test".
        said: what it was taken for.
        names: of the data set to train on and of the one to report on.
        voc: root and the two splits, in VOC layout.
        coco: annotations and folder of images of each, in COCO layout.
        notes: for the record.
    """

    title: str
    said: str
    names: tuple[str, str]
    voc: tuple[Part, Part] | None = None
    coco: tuple[tuple[Path, Path], tuple[Path, Path]] | None = None
    notes: tuple[str, ...] = ()

    def read(self, options: DetectionData, masks: bool) -> DetectionSplits:
        """Read both sides.

        Raises:
            DataError: see `read_voc` and `read_coco`.
        """
        if self.voc is not None:
            sets = [(name, [part]) for name, part in zip(self.names, self.voc, strict=True)]
            train, test = read_voc_sets(sets, clip_boxes=options.clip_boxes, masks=masks, exif=options.exif)
            return DetectionSplits(train, test)
        assert self.coco is not None
        (train_json, train_images), (test_json, test_images) = self.coco
        clip = options.clip_boxes
        train = read_coco(train_json, train_images, self.names[0], clip_boxes=clip, exif=options.exif, masks=masks)
        test = read_coco(
            test_json, test_images, self.names[1], clip_boxes=clip, exif=options.exif, masks=masks, classes_like=train
        )
        return DetectionSplits(train, test)


def own_set(options: DetectionData) -> OwnSet | None:
    """The set that the options name, recognised; None where it is the protocol's own.

    Raises:
        DataError: options contradict each other, the folder is in no layout or in two, or its splits are not clear.
    """
    _demand_one_place(options)
    if options.train_json is not None:
        assert options.train_images is not None
        assert options.test_json is not None
        assert options.test_images is not None
        names = options.train_json.stem, options.test_json.stem
        files = (options.train_json, options.train_images), (options.test_json, options.test_images)
        return OwnSet(f"{names[0]} → {names[1]}", f"reading {files[0][0]} and {files[1][0]}", names, coco=files)
    root = options.dataset or options.voc_root
    if root is None:
        return None
    wanted: tuple[Kind, ...] = ("voc", "coco") if options.dataset is not None else ("voc",)
    if options.voc_root is not None and options.train and options.test:
        layout = Layout("voc", "VOC layout", root, ())  # what is wrong with it, the reader says
    else:
        layout = recognise(root, wanted, INSTEAD, options.train, options.test)
    train, test = chosen(layout, options.train, options.test)
    name = root.resolve().name
    said = f"{root} is read as {layout.title}: train on {train!r}, report on {test!r}"
    note = (VAL_AS_TEST,) if options.test is None and is_validation(test) else ()
    if layout.kind == "voc":
        parts = (root, train), (root, test)
        return OwnSet(f"{name} {train} → {test}", said, (f"{name}_{train}", f"{name}_{test}"), voc=parts, notes=note)
    absent = [split for split in (train, test) if split not in layout.coco]
    if absent:
        raise no_split(layout, absent[0], "choose one of these with --train and --test")
    files = layout.coco[train], layout.coco[test]
    names = files[0][0].stem, files[1][0].stem
    if names[0] == names[1]:  # Roboflow calls them all _annotations.coco.json
        names = f"{name}_{train}", f"{name}_{test}"
    return OwnSet(f"{name} {train} → {test}", said, names, coco=files, notes=note)


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
    folder = options.dataset or options.voc_root
    if folder is None and (options.train or options.test):
        raise DataError("--train and --test name splits of a folder", todo="give --dataset DIR, or --voc-root DIR")
    places = {
        "--data-root": options.data_root,
        "--dataset": options.dataset,
        "--voc-root": options.voc_root,
        "--train-json": options.train_json,
    }
    named = [name for name, value in places.items() if value is not None]
    if len(named) > 1:
        raise DataError(f"{' and '.join(named)} both name the data", todo="give one of them")


def _voc(
    parts: list[Part], name: str, classes: tuple[str, ...], options: DetectionData, masks: bool
) -> DetectionDataset:
    return read_voc(parts, name=name, classes=classes, clip_boxes=options.clip_boxes, masks=masks, exif=options.exif)


def refuse_shared(splits: DetectionSplits) -> None:
    """A number on images that were trained on says nothing.

    Raises:
        DataError: a file is on both sides.
    """
    train_files = {os.path.realpath(image.path) for image in splits.train.images}
    shared = sorted(image.name for image in splits.test.images if os.path.realpath(image.path) in train_files)
    if shared:
        raise DataError(
            f"{splits.train.name} and {splits.test.name} share images: the result would be on training data",
            found=f"{len(shared)} shared, for example {', '.join(shared[:3])}",
            todo="choose splits that have no image in common",
        )


def data_differences(options: DetectionData, official: str) -> tuple[Difference, ...]:
    """Another data set than the protocol's (`official`), or a part of it, is the first difference to name."""
    found: list[Difference] = []
    own = own_set(options)
    if own is not None:
        found.append(("data", official, own.title))
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
        left_out={},
        clipped=0,
    )
    test = dataclasses.replace(part, notes=())
    objects = {
        "train": account(part, to_train=True).details(),
        "test": account(test, to_train=False).details(),
    }
    return DetectionSplits(part, test, objects=objects)
