"""Toy data sets: real enough in layout and difficulty to try everything on, made in seconds from a seed."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from transfer.datasets.toy.layouts import write_coco, write_folders, write_voc
from transfer.datasets.toy.scene import CLASSES, COLOURED, TEXTURED, Look, Scene, draw_scene, draw_single
from transfer.runtime.errors import DataError, UserError

VERSION = 1  # raise it with every change that changes a pixel or an annotation
MARKER = "toy.json"


@dataclass(frozen=True)
class ToySizes:
    """How much of everything.

    Attributes:
        voc_train, voc_val, voc_test: images of the detection set; `trainval` is the first two together.
        coco_train, coco_val: images of the set with masks.
        per_class_train, per_class_val: images per class of the classification set.
        detection_sides: smallest and largest width and height of detection images, pixels.
        classification_side: width and height of classification images, pixels.
    """

    voc_train: int = 120
    voc_val: int = 40
    voc_test: int = 60
    coco_train: int = 60
    coco_val: int = 30
    per_class_train: int = 100
    per_class_val: int = 20
    detection_sides: tuple[int, int] = (160, 192)
    classification_side: int = 96


EASY_SIZES = ToySizes(
    voc_train=240,
    voc_val=20,
    voc_test=100,
    coco_train=20,
    coco_val=10,
    detection_sides=(88, 96),
    classification_side=64,
)


def make_toy(
    folder: Path, seed: int = 0, overwrite: bool = False, sizes: ToySizes = ToySizes(), look: Look = TEXTURED
) -> str:
    """Write the toy data sets into `folder`: complete, or not at all.

    - `voc/`: detection in VOC layout, splits train, val, trainval, test; some objects are difficult;
    - `coco/`: detection with masks in COCO layout, polygons, and one crowd per split as RLE;
    - `images/train|val/<class>/`: classification; the pictures below `images/train` also serve for pretraining.

    No picture is in two of them. The same seed gives the same bytes (under the same numpy and Pillow). A folder that
    holds the same toy data already is left as it is.

    Returns:
        What was made, in a few lines.

    Raises:
        DataError: `folder` holds something else, or toy data of another seed, version or size without `overwrite`.
        UserError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    folder = Path(folder).absolute()
    identity = {
        "toy": VERSION,
        "seed": seed,
        "sizes": json.loads(json.dumps(asdict(sizes))),
        "classes": list(look.names),
    }
    if _is_there(folder, identity, overwrite):
        return f"{folder} holds this toy data already (seed {seed})"
    part = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.part"
    try:
        part.mkdir(parents=True)
        _build(part, seed, sizes, look)
        files = _count_files(part)
        (part / MARKER).write_text(json.dumps({**identity, "files": files}, indent=1) + "\n", encoding="utf-8")
        _put_in_place(part, folder)
    except OSError as error:
        raise UserError(
            f"cannot write toy data to {folder}",
            found=error.strerror or str(error),
            todo="choose a folder that you can write, or free some space",
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return _summary(folder, seed, sizes, look, files)


def _is_there(folder: Path, identity: dict[str, object], overwrite: bool) -> bool:
    """True if nothing is to be done; raises where something would be lost."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    marker = folder / MARKER
    if not marker.is_file():
        # Not even with `overwrite`: whatever this is, it was not made here.
        raise DataError(
            f"{folder} exists and is no toy data",
            found=f"no {MARKER} in it",
            todo="choose a folder that does not exist",
        )
    if overwrite:
        return False
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"broken {marker}", found=str(error), todo="make it anew with --overwrite") from error
    if isinstance(found, dict):
        found = {"classes": list(CLASSES), **found}  # there was one look before markers named the classes
    if not isinstance(found, dict) or {key: found.get(key) for key in identity} != identity:
        raise DataError(
            f"{folder} holds other toy data",
            found=f"{found}\nwanted {identity}",
            todo="make it anew with --overwrite, or choose another folder",
        )
    files = _count_files(folder) - 1
    if files != found.get("files"):
        raise DataError(
            f"the toy data in {folder} is not complete any more",
            found=f"{files} files instead of {found.get('files')}",
            todo="make it anew with --overwrite",
        )
    return True


def _put_in_place(part: Path, folder: Path) -> None:
    old = part.with_suffix(".old")
    if folder.exists():
        os.rename(folder, old)
    os.rename(part, folder)
    shutil.rmtree(old, ignore_errors=True)


def _build(root: Path, seed: int, sizes: ToySizes, look: Look) -> None:
    voc = {"train": sizes.voc_train, "val": sizes.voc_val, "test": sizes.voc_test}
    coco = {"train": sizes.coco_train, "val": sizes.coco_val}
    folders = {"train": sizes.per_class_train, "val": sizes.per_class_val}
    for write, kind, counts in ((write_voc, "voc", voc), (write_coco, "coco", coco)):
        scenes = {split: _scenes(seed, sizes, look, kind, split, count) for split, count in counts.items()}
        write(root / kind, scenes, look.names)
    side = sizes.classification_side
    write_folders(
        root / "images",
        {
            split: [
                (name, f"{name}_{index:04d}", draw_single(_rng(seed, "images", split, index, label), side, label, look))
                for label, name in enumerate(look.names)
                for index in range(count)
            ]
            for split, count in folders.items()
        },
    )


def _scenes(seed: int, sizes: ToySizes, look: Look, kind: str, split: str, count: int) -> list[tuple[str, Scene]]:
    """Named scenes of one to four objects; the first one of a COCO split has a crowd."""
    scenes = []
    for index in range(count):
        rng = _rng(seed, kind, split, index)
        low, high = sizes.detection_sides
        width, height = rng.integers(low, high + 1, 2).tolist()
        crowd = kind == "coco" and index == 0
        scenes.append((f"{split}_{index:04d}", draw_scene(rng, width, height, int(rng.integers(1, 5)), crowd, look)))
    return scenes


def _rng(seed: int, kind: str, split: str, *numbers: int) -> np.random.Generator:
    """One stream per picture: how many of one kind are made does not change the others."""
    return np.random.default_rng([seed, *f"{kind}/{split}".encode(), *numbers])


def _count_files(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


def _summary(folder: Path, seed: int, sizes: ToySizes, look: Look, files: int) -> str:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return (
        f"{folder}: toy data of seed {seed}, {files} files, {size / 2**20:.1f} MB, {len(look.names)} classes\n"
        f"  voc     {sizes.voc_train} train, {sizes.voc_val} val, {sizes.voc_test} test images (VOC layout)\n"
        f"  coco    {sizes.coco_train} train, {sizes.coco_val} val images with masks (COCO layout)\n"
        f"  images  {sizes.per_class_train} train, {sizes.per_class_val} val images for each class"
    )


__all__ = ["CLASSES", "COLOURED", "EASY_SIZES", "TEXTURED", "ToySizes", "make_toy"]
