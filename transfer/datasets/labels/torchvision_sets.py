"""Sets that torchvision.datasets lays out on the disk, and reads: its classes find files and labels, here they become
`ImageSplits`.

`root` is always the folder that is given to torchvision, so a set that it downloaded before is found as it lies.
Splits are the official ones; a set with an official validation split has it as `ImageSplits.val`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from transfer.datasets.image_files import open_folder
from transfer.datasets.labels.labelled import ImageSplits, LabelledImages, Level
from transfer.datasets.labels.listed import level_of, listed_split, noted
from transfer.datasets.lists import read_lines
from transfer.runtime.errors import DataError

CALTECH_TRAIN = 30  # training images a class
CALTECH_NOTE = (
    "Caltech-101 has no official split: 30 training images of each of 102 classes (background included), "
    "drawn with seed 0, the others for testing; published numbers have another split (linusericsson/ssl-transfer: "
    "caltech101-splits), which is read where it lies in caltech101/ beside the images"
)
# linusericsson/ssl-transfer: caltech101-splits, without carriage returns: 2,416 lines (30 draws a class, some of them
# twice: the repeated ones are not in the file) and 6,728.
CALTECH_SPLITS = {
    "train": "b35f228082a402eb0848a2b365418d508126337ab453b0adb91773e099c8691e",
    "test": "b9ed3419c72dff3f1ad3cb7cee5eb756e6e59502cc0062d46f3b454da3f87c24",
}


def _torchvision() -> ModuleType:
    import torchvision.datasets  # here: its import takes seconds, which `--help` need not wait for

    datasets: ModuleType = torchvision.datasets
    return datasets


def _opened(kind: Callable[..., Any], root: Path, download: bool, **options: Any) -> Any:
    """An instance of a torchvision data set; what it raises over missing or odd files becomes a `DataError`."""
    try:
        return kind(str(root), download=download, **options)
    except (RuntimeError, OSError, ValueError, LookupError) as error:
        raise DataError(
            f"torchvision cannot read {kind.__name__} in {root}",
            found=f"{type(error).__name__}: {error}",
            todo="python -m transfer data says where it looks and how to get the set",
        ) from error


# -- sets of files -----------------------------------------------------------------------------------------------


def _split(
    name: str,
    base: Path,
    files: Sequence[str | Path],
    labels: Sequence[int],
    classes: Sequence[str],
    levels: Mapping[str, Level] | None = None,
) -> LabelledImages:
    paths = [Path(file).relative_to(base).as_posix() for file in files]
    return listed_split(name, base, paths, labels, classes, source=f"the annotations of {name}", levels=levels)


def read_aircraft(root: Path, download: bool = False) -> ImageSplits:
    """FGVC-Aircraft: 100 variants; levels "family" and "manufacturer".

    Raises:
        DataError: it is missing or malformed.
    """
    kind, base, names = _torchvision().FGVCAircraft, root / "fgvc-aircraft-2013b", ("train", "val", "test")
    variants = [_opened(kind, root, download, split=split) for split in names]
    levels = {}
    for level in ("family", "manufacturer"):
        coarse = [_opened(kind, root, False, split=split, annotation_level=level) for split in names]
        levels[level] = level_of(_parents(variants, coarse, level), variants[0].classes)
    train, val, test = (
        _split(f"aircraft_{split}", base, one._image_files, one._labels, one.classes, levels)
        for split, one in zip(names, variants, strict=True)
    )
    return ImageSplits(train, val, test)


def _parents(variants: Sequence[Any], coarse: Sequence[Any], level: str) -> dict[str, str]:
    """Variant → its class at `level`: both are given by image."""
    above = {
        file: one.classes[label] for one in coarse for file, label in zip(one._image_files, one._labels, strict=True)
    }
    parents: dict[str, str] = {}
    for one in variants:
        for file, label in zip(one._image_files, one._labels, strict=True):
            name = one.classes[label]
            if file not in above or parents.setdefault(name, above[file]) != above[file]:
                raise DataError(
                    f"variant {name!r} of FGVC-Aircraft does not belong to one {level}",
                    found=f"{Path(file).name}: {above.get(file, 'in no list')}; before: {parents.get(name, 'none')}",
                    todo="unpack fgvc-aircraft-2013b.tar.gz again",
                )
    return parents


def read_pets(root: Path, download: bool = False) -> ImageSplits:
    """Oxford-IIIT Pets: 37 breeds, trainval and test; level "species" (cat, dog).

    Raises:
        DataError: it is missing or malformed.
    """
    found = _each(_torchvision().OxfordIIITPet, root, download, ("trainval", "test"))
    parts = [
        _split(f"pets_{split}", root / "oxford-iiit-pet", one._images, one._labels, one.classes) for split, one in found
    ]
    species = {
        one.classes[label]: one.bin_classes[kind]
        for _, one in found
        for label, kind in zip(one._labels, one._bin_labels, strict=True)
    }
    levels = {"species": level_of(species, parts[0].classes)}
    train, test = (replace(part, levels=levels) for part in parts)
    return ImageSplits(train, None, test)


def read_flowers(root: Path, download: bool = False) -> ImageSplits:
    """Oxford 102 Flowers: the official train, val and test lists (test is the largest).

    Raises:
        DataError: it is missing or malformed.
    """
    kind = _torchvision().Flowers102
    train, val, test = (
        _split(f"flowers102_{split}", root / "flowers-102", one._image_files, one._labels, kind.classes)
        for split, one in _each(kind, root, download, ("train", "val", "test"))
    )
    return ImageSplits(train, val, test)


def read_dtd(root: Path, download: bool = False) -> ImageSplits:
    """Describable Textures: 47 textures, the first of its ten partitions, as results are usually given for.

    Raises:
        DataError: it is missing or malformed.
    """
    train, val, test = (
        _split(f"dtd_{split}1", root / "dtd/dtd/images", one._image_files, one._labels, one.classes)
        for split, one in _each(_torchvision().DTD, root, download, ("train", "val", "test"))
    )
    return ImageSplits(train, val, test)


def read_food(root: Path, download: bool = False) -> ImageSplits:
    """Food-101, train and test; labels of the training images are noisy by design.

    Raises:
        DataError: it is missing or malformed.
    """
    train, test = (
        _split(f"food101_{split}", root / "food-101/images", one._image_files, one._labels, one.classes)
        for split, one in _each(_torchvision().Food101, root, download, ("train", "test"))
    )
    return ImageSplits(train, None, test)


def read_cars(root: Path) -> ImageSplits:
    """Stanford Cars: 196 models, train and test with the labels released later (cars_test_annos_withlabels.mat).

    Raises:
        DataError: it is missing or malformed.
    """
    train, test = (
        _split(
            f"cars196_{split}",
            root / "stanford_cars",
            [file for file, _ in one._samples],
            [int(label) for _, label in one._samples],
            [str(name) for name in one.classes],
        )
        for split, one in _each(_torchvision().StanfordCars, root, False, ("train", "test"))
    )
    return ImageSplits(train, None, test)


def _each(kind: Callable[..., Any], root: Path, download: bool, splits: Sequence[str]) -> list[tuple[str, Any]]:
    return [(split, _opened(kind, root, download, split=split)) for split in splits]


def read_sun397(root: Path) -> ImageSplits:
    """SUN397: the first of its ten official partitions, 50 training and 50 test images of each of 397 scenes.

    Images and ClassName.txt lie in SUN397/, as torchvision has it; it knows no split. The partitions are an archive of
    their own (Partitions.zip), whose Training_01.txt and Testing_01.txt belong in SUN397/ or SUN397/Partitions/. A line
    there is "/a/abbey/sun_x.jpg".

    Raises:
        DataError: images or partitions are missing, or name a scene that ClassName.txt does not.
    """
    base = root / "SUN397"
    todo = "put ClassName.txt, Training_01.txt and Testing_01.txt (Partitions.zip of the SUN397 page) into this folder"
    classes = [line.removeprefix("/") for line in read_lines(base / "ClassName.txt", todo)]
    numbers = {name: number for number, name in enumerate(classes)}
    lists = base / "Partitions" if (base / "Partitions/Training_01.txt").is_file() else base
    parts = []
    for split, file in (("train", "Training_01.txt"), ("test", "Testing_01.txt")):
        paths = [line.removeprefix("/") for line in read_lines(lists / file, todo)]
        unknown = sorted({path.rpartition("/")[0] for path in paths} - set(numbers))
        if unknown:
            what = f"{lists / file} names {len(unknown)} scenes that ClassName.txt does not"
            raise DataError(what, found=", ".join(unknown[:5]), todo=todo)
        labels = [numbers[path.rpartition("/")[0]] for path in paths]
        parts.append(listed_split(f"sun397_{split}1", base, paths, labels, classes, source=str(lists / file)))
    return ImageSplits(parts[0], None, parts[1])


def read_caltech(root: Path, download: bool = False) -> ImageSplits:
    """Caltech-101: the split of linusericsson/ssl-transfer where it lies in `caltech101/caltech101-splits/`; else 30
    training images a class, drawn with seed 0, all others for testing, which is a departure.

    There is no official split. The background folder is a class, so there are 102, as in Kornblith et al. (2019) and
    Ericsson et al. (2021, linusericsson/ssl-transfer: few_shot.py).

    Raises:
        DataError: it is missing, a class has no more than 30 images, or the files of the split are others.
    """
    base = root / "caltech101" / "101_ObjectCategories"
    if download and not base.is_dir():
        _opened(_torchvision().Caltech101, root, True)
    found = open_folder(base, labelled=True)
    if (root / "caltech101" / "caltech101-splits").is_dir():
        parts = [_published_caltech(base, split, found.classes) for split in ("train", "test")]
        return ImageSplits(parts[0], None, parts[1])
    labels = np.array(found.labels, dtype=np.int64)
    scarce = [name for name, count in zip(found.classes, np.bincount(labels), strict=True) if count <= CALTECH_TRAIN]
    if scarce:
        raise DataError(
            f"{len(scarce)} classes of {base} have no more than {CALTECH_TRAIN} images",
            found=", ".join(scarce[:5]),
            todo="unpack 101_ObjectCategories.tar.gz again",
        )
    generator = np.random.default_rng(0)
    drawn = [
        generator.choice(np.flatnonzero(labels == number), CALTECH_TRAIN, replace=False)
        for number in range(len(found.classes))
    ]
    chosen = np.isin(np.arange(len(labels)), np.concatenate(drawn))
    whole = noted(LabelledImages("caltech101", found, labels, tuple(found.classes)), CALTECH_NOTE)
    train, test = np.flatnonzero(chosen), np.flatnonzero(~chosen)
    return ImageSplits(whole.subset(train, "caltech101_train30"), None, whole.subset(test, "caltech101_test"))


def _published_caltech(base: Path, split: str, classes: Sequence[str]) -> LabelledImages:
    """A split that names its images, "ant/image_0001.jpg 1"; the class is the folder's."""
    file = base.parent / "caltech101-splits" / f"{split}.txt"
    todo = "put caltech101-splits/ of linusericsson/ssl-transfer there as it is, or take the folder away"
    lines = read_lines(file, todo)
    if hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest() != CALTECH_SPLITS[split]:
        raise DataError(f"{file} is not the published split", found=f"{len(lines)} lines, another sha256", todo=todo)
    paths = [line.rpartition(" ")[0] for line in lines]
    numbers = {name: number for number, name in enumerate(classes)}
    unknown = sorted({path.partition("/")[0] for path in paths} - set(numbers))
    if unknown:
        raise DataError(f"{base} lacks classes of the published split", found=", ".join(unknown[:5]), todo=todo)
    labels = [numbers[path.partition("/")[0]] for path in paths]
    return listed_split(f"caltech101_published_{split}", base, paths, labels, classes, source=str(file))


# -- sets of pixels ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PixelArray:
    """Images that lie in one array, as those of CIFAR; a `transfer.datasets.labels.labelled.Images`.

    Attributes:
        split: first part of the names: "train" gives "train/00000" to "train/49999".
        pixels: uint8 [n, height, width, 3], RGB.
    """

    split: str
    pixels: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.pixels)

    def name(self, index: int) -> str:
        """Split and number, from 0."""
        return f"{self.split}/{range(len(self))[index]:05d}"

    def size(self, index: int) -> int:
        """Bytes of its pixels."""
        return int(self.pixels[index].nbytes)

    def content(self, index: int) -> bytes:
        """Its pixels, row by row."""
        return bytes(self.pixels[index].tobytes())

    def read(self, index: int) -> Image.Image:
        """The image, 8-bit RGB."""
        return Image.fromarray(self.pixels[index])


def read_cifar10(root: Path, download: bool = False) -> ImageSplits:
    """CIFAR-10, train and test. torchvision compares each file with its published MD5 before it reads it.

    Raises:
        DataError: it is missing or damaged.
    """
    return _cifar("cifar10", _torchvision().CIFAR10, root, download)


def read_cifar100(root: Path, download: bool = False) -> ImageSplits:
    """CIFAR-100, train and test, fine labels. Files are compared with their published MD5.

    Raises:
        DataError: it is missing or damaged.
    """
    return _cifar("cifar100", _torchvision().CIFAR100, root, download)


def _cifar(name: str, kind: Callable[..., Any], root: Path, download: bool) -> ImageSplits:
    parts = []
    for split in ("train", "test"):
        found = _opened(kind, root, download, train=split == "train")
        images = PixelArray(split, np.ascontiguousarray(found.data))
        labels = np.array(found.targets, dtype=np.int64)
        parts.append(LabelledImages(f"{name}_{split}", images, labels, tuple(found.classes)))
    return ImageSplits(parts[0], None, parts[1])
