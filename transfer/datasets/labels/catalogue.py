"""All classification sets by name: where they are looked for, how large they are, how to get them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from transfer.datasets.boxes.voc import VOC_CLASSES
from transfer.datasets.boxes.voc_layout import has_lists
from transfer.datasets.labels.birds import read_birdsnap, read_cub200
from transfer.datasets.labels.imagenet import read_imagenet
from transfer.datasets.labels.inat18 import read_inat18
from transfer.datasets.labels.labelled import ImageSplits, LabelledImages
from transfer.datasets.labels.listed import checked, noted
from transfer.datasets.labels.own_images import read_csv, read_image_folder
from transfer.datasets.labels.places205 import read_places205
from transfer.datasets.labels.torchvision_sets import (
    read_aircraft,
    read_caltech,
    read_cars,
    read_cifar10,
    read_cifar100,
    read_dtd,
    read_flowers,
    read_food,
    read_pets,
    read_sun397,
)
from transfer.datasets.labels.voc_labels import read_voc_labels
from transfer.datasets.layouts import chosen, recognise
from transfer.datasets.wording import few
from transfer.runtime.errors import DataError
from transfer.runtime.files import ROOT
from transfer.runtime.provenance import Difference

logger = logging.getLogger(__name__)

Metric = Literal["top1", "mean_per_class"]


@dataclass(frozen=True)
class Entry:
    """One set of the catalogue.

    Attributes:
        title: for people.
        needs: files and folders below the data root without which it counts as missing; the first is its own folder.
        train, val, test: images of the official splits; `val` is 0 where there is none.
        classes: how many.
        how: how to get it, beside `--download`.
        download: whether torchvision fetches it (`--download`).
        read: (data root, download) → the splits.
        metric: the convention of a fine-grained set, which makes `finegrained/sets.py` offer tasks of it; else None.
    """

    title: str
    needs: tuple[str, ...]
    train: int
    val: int
    test: int
    classes: int
    how: str
    download: bool
    read: Callable[[Path, bool], ImageSplits]
    metric: Metric | None = None


_IMAGENET = "image-net.org (account): ILSVRC2012 train and val, sorted into train/<wnid>/ and val/<wnid>/"
_SUBSET = "ImageNet, and {}percent.txt of github.com/google-research/simclr (imagenet_subsets/)"
_VOC = "VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar of host.robots.ox.ac.uk/pascal/VOC"
_OXFORD = "robots.ox.ac.uk/~vgg/data/{}"

# Counts: ImageNet: ILSVRC 2012; its subsets: lines of SimCLR's lists (see `imagenet.SUBSETS`); Places205: Zhou et al.
# 2014, §4.1 (train), 100 validation images a class; VOC07: `voc.OFFICIAL_COUNTS`; iNaturalist 2018: its README;
# CUB-200-2011: README of the archive; Birdsnap: readme.txt of version 1.1; SUN397: 50 + 50 images a class; Caltech-101:
# caltech101-splits of linusericsson/ssl-transfer, of 9,144 images; the others: Kornblith et al. 2019 (arXiv
# 1805.08974), table 1, where train and val are added up, and the sets' pages.
CATALOGUE: dict[str, Entry] = {
    "imagenet": Entry(
        "ImageNet-1k", ("imagenet", "imagenet/train", "imagenet/val"), 1_281_167, 0, 50_000, 1_000, _IMAGENET, False,
        lambda root, _: read_imagenet(root / "imagenet"),
    ),
    "imagenet_1": Entry(
        "ImageNet-1k, 1 % of the labels", ("imagenet", "imagenet/val", "imagenet/imagenet_subsets/1percent.txt"),
        12_811, 0, 50_000, 1_000, _SUBSET.format(1), False,
        lambda root, _: read_imagenet(root / "imagenet", 1),
    ),
    "imagenet_10": Entry(
        "ImageNet-1k, 10 % of the labels", ("imagenet", "imagenet/val", "imagenet/imagenet_subsets/10percent.txt"),
        128_116, 0, 50_000, 1_000, _SUBSET.format(10), False,
        lambda root, _: read_imagenet(root / "imagenet", 10),
    ),
    "places205": Entry(
        "Places205", ("places205",), 2_448_873, 0, 20_500, 205,
        "places.csail.mit.edu: imagesPlaces205_resize.tar.gz and trainvalsplit_places205.tar.gz", False,
        lambda root, _: read_places205(root / "places205"),
    ),
    "voc07": Entry(
        "Pascal VOC 2007, labels of images", ("VOC2007", "VOC2007/JPEGImages"), 5_011, 0, 4_952, 20,
        _VOC, False,
        lambda root, _: read_voc_labels(root / "VOC2007", classes=VOC_CLASSES),
    ),
    "voc07_val": Entry(
        "Pascal VOC 2007, labels of images, train and val apart", ("VOC2007", "VOC2007/JPEGImages"),
        2_501, 2_510, 4_952, 20, _VOC, False,
        lambda root, _: read_voc_labels(root / "VOC2007", "train", classes=VOC_CLASSES, val="val"),
    ),
    "inat18": Entry(
        "iNaturalist 2018", ("inat2018", "inat2018/train2018.json", "inat2018/val2018.json"),
        437_513, 0, 24_426, 8_142,
        "github.com/visipedia/inat_comp (2018): train_val2018.tar.gz, train2018.json, val2018.json, categories.json",
        False, lambda root, _: read_inat18(root / "inat2018"),
    ),
    "cub200": Entry(  # Wah et al. 2011
        "CUB-200-2011", ("CUB_200_2011", "CUB_200_2011/images.txt"), 5_994, 0, 5_794, 200,
        "CUB_200_2011.tgz of data.caltech.edu (record CUB-200-2011)", False,
        lambda root, _: read_cub200(root / "CUB_200_2011"), "top1",
    ),
    "cars196": Entry(  # Krause et al. 2013
        "Stanford Cars", ("stanford_cars", "stanford_cars/devkit"), 8_144, 0, 8_041, 196,
        "its site is gone: from copies, as github.com/pytorch/vision/issues/7545 says", False,
        lambda root, _: read_cars(root), "top1",
    ),
    "aircraft": Entry(  # Maji et al. 2013
        "FGVC-Aircraft, variants", ("fgvc-aircraft-2013b",), 3_334, 3_333, 3_333, 100,
        _OXFORD.format("fgvc-aircraft"), True, read_aircraft, "mean_per_class",
    ),
    "pets": Entry(  # Parkhi et al. 2012
        "Oxford-IIIT Pets", ("oxford-iiit-pet", "oxford-iiit-pet/annotations"), 3_680, 0, 3_669, 37,
        _OXFORD.format("pets"), True, read_pets, "mean_per_class",
    ),
    "flowers102": Entry(  # Nilsback and Zisserman 2008
        "Oxford 102 Flowers", ("flowers-102", "flowers-102/setid.mat"), 1_020, 1_020, 6_149, 102,
        _OXFORD.format("flowers/102"), True, read_flowers, "mean_per_class",
    ),
    "dtd": Entry(  # Cimpoi et al. 2014
        "Describable Textures, partition 1", ("dtd/dtd",), 1_880, 1_880, 1_880, 47, _OXFORD.format("dtd"), True,
        read_dtd, "top1",
    ),
    "food101": Entry(  # Bossard et al. 2014
        "Food-101", ("food-101", "food-101/meta"), 75_750, 0, 25_250, 101,
        "data.vision.ee.ethz.ch/cvl/food-101.tar.gz", True, read_food, "top1",
    ),
    "sun397": Entry(  # Xiao et al. 2010
        "SUN397, partition 1", ("SUN397", "SUN397/ClassName.txt"), 19_850, 0, 19_850, 397,
        "SUN397.tar.gz and Partitions.zip; their site answers 404 (github.com/pytorch/vision/issues/9348): from a copy",
        False, lambda root, _: read_sun397(root), "top1",
    ),
    "caltech101": Entry(  # Fei-Fei et al. 2004; 101 objects and a background class
        "Caltech-101", ("caltech101", "caltech101/101_ObjectCategories"), 2_416, 0, 6_728, 102,
        "caltech-101.zip of data.caltech.edu/records/mzrjq-6wc02", True, read_caltech, "mean_per_class",
    ),
    "cifar10": Entry(  # Krizhevsky 2009; 32 pixels
        "CIFAR-10", ("cifar-10-batches-py",), 50_000, 0, 10_000, 10, "cs.toronto.edu/~kriz/cifar.html", True,
        read_cifar10, "top1",
    ),
    "cifar100": Entry(  # Krizhevsky 2009; 32 pixels
        "CIFAR-100", ("cifar-100-python",), 50_000, 0, 10_000, 100, "cs.toronto.edu/~kriz/cifar.html", True,
        read_cifar100, "top1",
    ),
    "birdsnap": Entry(  # Berg et al. 2014
        "Birdsnap 1.1", ("birdsnap", "birdsnap/images.txt", "birdsnap/test_images.txt"), 47_386, 0, 2_443, 500,
        "thomasberg.org: birdsnap.tgz, and its get_birdsnap.py for what is left of the images", False,
        lambda root, _: read_birdsnap(root / "birdsnap"), "top1",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class ClassificationData:
    """Where the images are.

    Attributes:
        data_root: folder that holds the sets (default: $DETECTRON2_DATASETS, else datasets/ here).
        download: let torchvision fetch the set if it is missing; `python -m transfer data` says for which it can.
        dataset: own images instead, a folder in one of the layouts below; which of them is recognised and said.
        image_folder: own images instead, DIR/train/<class>/… and DIR/test/<class>/…, or a folder in VOC layout.
        csv: own images instead, a CSV file with the columns path, split and a label.
        csv_label: with --csv: the column that holds the label.
        csv_levels: with --csv: columns with coarser labels, such as genus.
        csv_root: with --csv: the folder to which paths are relative (default: that of the file).
        train: of own images: the name of the training split, where it is not called so.
        val: of own images: the name of the split to choose on.
        test: of own images: the name of the split to report on.
        unreadable: how many images that cannot be decoded may be left out; one more stops the run. Tasks that train by
            SGD on crops want all images to choose and to report on.
    """

    data_root: Path | None = None
    download: bool = False
    dataset: Path | None = None
    image_folder: Path | None = None
    csv: Path | None = None
    csv_label: str = "label"
    csv_levels: tuple[str, ...] = ()
    csv_root: Path | None = None
    train: str | None = None
    val: str | None = None
    test: str | None = None
    unreadable: int = 0


def data_root(given: Path | None) -> Path:
    """The folder in which sets are looked for: as given, else $DETECTRON2_DATASETS, else datasets/ of the checkout."""
    return given or Path(os.environ.get("DETECTRON2_DATASETS") or ROOT / "datasets")


def entry_of(name: str) -> Entry:
    """The set called `name`.

    Raises:
        DataError: there is none; the message lists those there are.
    """
    if name not in CATALOGUE:
        raise DataError(f"no data set is called {name!r}", found=", ".join(CATALOGUE), todo="choose one of these")
    return CATALOGUE[name]


def load(name: str | None, options: ClassificationData) -> ImageSplits:
    """The set called `name`, or a user's own images in its place; None: own images and nothing else.

    Numbers of images or classes that are not the official ones become notes on the splits.

    Raises:
        DataError: something is missing or malformed, options contradict each other, a class has no training image, or
            two splits hold the same files.
    """
    _refuse_contradictions(name, options)
    if options.dataset is not None:
        options = _recognised(options, options.dataset)
    if options.csv is not None:
        return read_csv(
            options.csv, options.csv_label, levels=options.csv_levels, root=options.csv_root,
            train=options.train, val=options.val, test=options.test,
        )  # fmt: skip
    if options.image_folder is not None:
        folder = options.image_folder
        if (folder / "ImageSets" / "Main").is_dir():
            if options.val is not None and not (name is not None and entry_of(name).val):
                raise DataError(
                    "this task chooses on no split of its own, so a folder in VOC layout is read without --val",
                    todo="give --train and --test alone",
                )
            train, test = options.train or "trainval", options.test or "test"
            return checked(read_voc_labels(folder, train, test, own=True, val=options.val))
        return read_image_folder(folder, options.train, options.val, options.test)
    if name is None:
        raise DataError(
            "which images?", todo="give --dataset DIR, --image-folder DIR (DIR/train/<class>/…) or --csv FILE"
        )
    return read_set(name, data_root(options.data_root), options.download)


def _recognised(options: ClassificationData, root: Path) -> ClassificationData:
    """The options that name the set at `root` explicitly.

    Raises:
        DataError: it is in none of the layouts, or in several.
    """
    layout = recognise(
        root, ("folders", "voc", "csv"), "--image-folder DIR, or --csv FILE", options.train, options.test
    )
    if layout.kind == "voc" and not has_lists(root):
        raise DataError(
            f"{root} is {layout.title}: labels of images are read from ImageSets/Main alone",
            found=f"splits there: {few(layout.splits, 20)}",
            todo="lay it out as VOC does, or in folders by class; detection tasks read it as it is",
        )
    logger.info("%s is read as %s: %s", root, layout.title, few(layout.splits, 10))
    if layout.kind == "csv":
        return replace(options, dataset=None, csv=layout.csv)
    if layout.kind == "voc":
        train, test = chosen(layout, options.train, options.test)
        options = replace(options, train=train, test=test)
    return replace(options, dataset=None, image_folder=root)


def _refuse_contradictions(name: str | None, options: ClassificationData) -> None:
    own = {"--dataset": options.dataset, "--image-folder": options.image_folder, "--csv": options.csv}
    given = [option for option, value in own.items() if value is not None]
    if len(given) > 1 or (given and options.data_root is not None):
        others = given + (["--data-root"] if options.data_root is not None else [])
        raise DataError(f"{' and '.join(others)} both name the data", todo="give one of them")
    if not given and any((options.train, options.val, options.test)):
        raise DataError(
            "--train, --val and --test name splits of own images", todo="give --dataset, --image-folder or --csv"
        )
    table = options.csv or options.dataset  # in which there may be one
    if table is None and (options.csv_levels or options.csv_root or options.csv_label != "label"):
        raise DataError("--csv-label, --csv-levels and --csv-root say how to read a CSV file", todo="give --csv FILE")
    if options.unreadable < 0:
        raise DataError("--unreadable counts images", found=str(options.unreadable), todo="give 0 or more")
    if options.download and (given or name is None):
        raise DataError("--download cannot fetch own images", todo="leave it out")
    if options.download and name is not None and not entry_of(name).download:
        entry = entry_of(name)
        raise DataError(f"--download cannot fetch {entry.title} by torchvision", todo=f"get it by hand: {entry.how}")


def read_set(name: str, root: Path, download: bool = False) -> ImageSplits:
    """A set of the catalogue below `root`, with notes where its counts are not the official ones.

    Raises:
        DataError: it is missing or malformed; says where it was looked for and how to get it.
    """
    entry = entry_of(name)
    missing = missing_parts(entry, root)
    if missing and not download:
        hint = f"; or add --download (into {root})" if entry.download else ""
        raise DataError(
            f"{entry.title} is not in {root}",
            found=f"no {', '.join(missing)}",
            todo=f"get it: {entry.how}{hint}\nor say with --data-root DIR where it is",
        )
    splits = entry.read(root, download)
    train, val, test = splits.train, splits.val, splits.test
    return checked(
        replace(
            splits,
            train=_counted(train, entry.train, entry.classes),
            val=None if val is None else _counted(val, entry.val, entry.classes),
            test=_counted(test, entry.test, entry.classes),
        )
    )


def missing_parts(entry: Entry, root: Path) -> list[str]:
    """What the set needs and `root` lacks; [] if it is there."""
    return [part for part in entry.needs if not (root / part).exists()]


def _counted(split: LabelledImages, images: int, classes: int) -> LabelledImages:
    for found, official, what in ((len(split), images, "images"), (len(split.classes), classes, "classes")):
        if found != official:
            split = noted(split, f"{found:,} {what} here, the official split has {official:,}")
    return split


def data_differences(name: str | None, options: ClassificationData) -> tuple[Difference, ...]:
    """Other images than the protocol's are the first difference to name."""
    own = options.dataset or options.image_folder or options.csv
    if own is None:
        return ()
    published = entry_of(name).title if name is not None else "public sets"
    return (("data", published, f"own images: {own.resolve().name}"),)
