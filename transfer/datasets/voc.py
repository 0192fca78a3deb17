"""VOC XML → `DetectionDataset`: strict about what cannot be trusted, explicit about what it mended.

Layout (PASCAL VOC devkit, also what Detectron2 and MMDetection document): `ROOT/Annotations/<name>.xml`,
`ROOT/ImageSets/Main/<split>.txt` with one name a line, `ROOT/JPEGImages/<name>.jpg`.
"""

from __future__ import annotations

import logging
import math
import os
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from transfer.datasets.box_limits import BoxLimits, Corners
from transfer.datasets.detection import DetectionDataset, DetectionImage
from transfer.datasets.headers import READERS, image_size
from transfer.datasets.voc_masks import Objects, VocMasks
from transfer.datasets.wording import counted, few
from transfer.errors import DataError

logger = logging.getLogger(__name__)

Part = tuple[Path, str]  # (root of one VOC folder, split)

# The devkit's order (VOCinit.m), alphabetical but for its own spelling of "diningtable" and "pottedplant".
VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)

# Images per official split, from the challenge's database statistics (host.robots.ox.ac.uk/pascal/VOC).
OFFICIAL_COUNTS = {
    ("VOC2007", "train"): 2_501,
    ("VOC2007", "val"): 2_510,
    ("VOC2007", "trainval"): 5_011,
    ("VOC2007", "test"): 4_952,
    ("VOC2012", "train"): 5_717,
    ("VOC2012", "val"): 5_823,
    ("VOC2012", "trainval"): 11_540,
}

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")  # in order of preference if one name has several files

LAYOUT = (
    "a VOC folder holds Annotations/*.xml, ImageSets/Main/<split>.txt and JPEGImages/*.jpg\n"
    "--data-root DIR names the folder in which VOC2007 and VOC2012 lie, --voc-root DIR any one folder in this layout"
)


@dataclass(frozen=True)
class _Entry:
    name: str
    xml: Path
    image: Path


@dataclass(frozen=True)
class _Object:
    label: str
    corners: Corners  # as annotated: 1-based, inclusive
    difficult: bool


@dataclass(frozen=True)
class _Annotation:
    width: int
    height: int
    objects: tuple[_Object, ...]


def read_voc(
    parts: Sequence[Part],
    name: str,
    classes: tuple[str, ...] | None = None,
    clip_boxes: bool = False,
    *,
    masks: bool = False,
) -> DetectionDataset:
    """One data set from one or several VOC folders and splits.

    Boxes are converted from VOC's 1-based inclusive corners as in Detectron2
    (facebookresearch/detectron2: detectron2/data/datasets/pascal_voc.py): (xmin − 1, ymin − 1, xmax, ymax).
    Boxes with xmax ≤ xmin or ymax ≤ ymin are dropped, boxes at most one pixel beyond the image are clipped; both are
    logged and listed in the data set's notes, and so is a number of images other than the official split's.

    Args:
        parts: (root, split) pairs, for example VOC2007 trainval and VOC2012 trainval. Image names are prefixed with
            the root folder's name.
        name: what the data set is called.
        classes: class names in the order of the labels; None takes those in the annotations, sorted.
        clip_boxes: clip boxes that reach further beyond the image instead of refusing them.
        masks: read masks too (`transfer/datasets/voc_masks.py` has the layout); `areas` are then those of the masks.

    Raises:
        DataError: folder, split, image, annotation or mask missing or malformed, unknown class, box outside the image.
    """
    entries = _entries(parts)
    annotations = _read_all(entries)
    names = classes if classes is not None else _class_names(annotations, parts)
    limits, mask_reader = BoxLimits(clip_boxes), VocMasks() if masks else None
    if mask_reader is not None:
        mask_reader.demand_files(_objects(*both) for both in zip(entries, annotations, strict=True))
    order = sorted(range(len(entries)), key=lambda index: entries[index].name)
    images = tuple(
        _image(position + 1, entries[index], annotations[index], names, limits, mask_reader)
        for position, index in enumerate(order)
    )
    notes = (*_wrong_counts(parts), *limits.notes(), *(mask_reader.notes() if mask_reader is not None else ()))
    for note in notes:
        logger.warning("%s: %s", name, note)
    return DetectionDataset(name=name, classes=tuple(names), images=images, notes=notes)


def voc_classes(parts: Sequence[Part]) -> tuple[str, ...]:
    """The class names that occur in the annotations of `parts`, sorted; give it training and test parts together.

    Raises:
        DataError: as `read_voc`, or there is no object at all.
    """
    return _class_names(_read_all(_entries(parts)), parts)


def _class_names(annotations: Iterable[_Annotation], parts: Sequence[Part]) -> tuple[str, ...]:
    names = tuple(sorted({item.label for annotation in annotations for item in annotation.objects}))
    if not names:
        raise DataError(
            "class names cannot be read from annotations without objects",
            found=", ".join(f"{root} {split}" for root, split in parts),
            todo="check that the split names annotated images",
        )
    return names


# -- which files -------------------------------------------------------------------------------------------------


def _entries(parts: Sequence[Part]) -> list[_Entry]:
    """All images of all parts; every missing file is found here, before anything is parsed."""
    entries = [entry for root, split in parts for entry in _entries_of(_absolute(root), split)]
    seen = Counter(entry.name for entry in entries)
    twice = [name for name, times in seen.items() if times > 1]
    if twice:
        raise DataError(
            f"{counted(len(twice), 'image is', 'images are')} listed more than once",
            found=f"{few(twice)}\nin {', '.join(f'{root} {split}' for root, split in parts)}",
            todo="list every image once; folders read together need different names and splits without overlap",
        )
    return entries


def _entries_of(root: Path, split: str) -> list[_Entry]:
    names = _split_names(root, split)
    images = _files_by_stem(root / "JPEGImages", IMAGE_SUFFIXES)
    annotations = _files_by_stem(root / "Annotations", (".xml",))
    for kind, files, folder in (("images", images, "JPEGImages"), ("annotations", annotations, "Annotations")):
        missing = [name for name in names if name not in files]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(names)} {kind} of split {split!r} are missing in {root / folder}",
                found=f"no file for {few(missing)}",
                todo="complete the folder or take the names out of "
                f"{_split_file(root, split)} (names have no suffix there)",
            )
    return [_Entry(f"{root.name}/{name}", annotations[name], images[name]) for name in names]


def _split_names(root: Path, split: str) -> list[str]:
    """Names in a split file; the −1/0/1 column of per-class files, blank lines and a byte-order mark are ignored."""
    lists = root / "ImageSets" / "Main"
    if not lists.is_dir() or not (root / "Annotations").is_dir() or not (root / "JPEGImages").is_dir():
        raise DataError(f"no VOC data set in {root}", found=_what_is_there(root), todo=LAYOUT)
    path = _split_file(root, split)
    if not path.is_file():
        splits = sorted(file.stem for file in lists.glob("*.txt"))
        raise DataError(
            f"no split {split!r} in {root}",
            found=f"splits there: {few(splits, 20)}" if splits else f"no .txt file in {lists}",
            todo=f"choose one of these, or write {path} with one image name a line",
        )
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}", found=str(error), todo="one image name a line, UTF-8") from error
    names = [re.sub(r"\s+(-1|0|1)$", "", line.strip()) for line in lines if line.strip()]
    if not names:
        raise DataError(f"split {split!r} is empty", found=f"no names in {path}", todo="one image name a line")
    return names


def _absolute(root: Path) -> Path:
    # Not `Path.absolute`, which keeps ".." as the folder's name.
    return Path(os.path.abspath(root))


def _split_file(root: Path, split: str) -> Path:
    return root / "ImageSets" / "Main" / f"{split}.txt"


def _files_by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Stem → file; one listing of the folder instead of one look-up per image."""
    ranked = [
        (suffixes.index(path.suffix.lower()), path) for path in folder.iterdir() if path.suffix.lower() in suffixes
    ]
    return {path.stem: path for _, path in sorted(ranked, reverse=True)}


def _what_is_there(root: Path) -> str:
    if not root.exists():
        nearest = next(parent for parent in root.parents if parent.exists())
        return f"the folder does not exist; {nearest} holds {few(sorted(p.name for p in nearest.iterdir()), 12)}"
    if not root.is_dir():
        return "a file, not a folder"
    inside = [path for path in sorted(root.iterdir()) if path.is_dir() and (path / "ImageSets" / "Main").is_dir()]
    hint = f"\nin VOC layout are: {few([str(path) for path in inside])}" if inside else ""
    return f"it holds {few(sorted(path.name for path in root.iterdir()), 12) or 'nothing'}{hint}"


def _wrong_counts(parts: Sequence[Part]) -> list[str]:
    notes = []
    for root, split in parts:
        folder = _absolute(root)
        official = OFFICIAL_COUNTS.get((folder.name, split))
        found = len(_split_names(folder, split)) if official else None
        if found != official:
            notes.append(f"{folder.name} {split} has {found} images here, the official split has {official}")
    return notes


# -- what is in them ---------------------------------------------------------------------------------------------


def _read_all(entries: Sequence[_Entry]) -> list[_Annotation]:
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(_read_annotation, entries))


def _read_annotation(entry: _Entry) -> _Annotation:
    try:
        tree = ET.parse(entry.xml).getroot()
    except (ET.ParseError, ValueError, LookupError) as error:  # the latter two: undeclared or unknown encodings
        raise DataError(f"broken XML in {entry.xml}", found=str(error), todo="repair or re-export this file") from error
    except OSError as error:
        raise DataError(f"cannot read {entry.xml}", found=str(error), todo="check the file's permissions") from error
    if tree.tag != "annotation":
        raise DataError(f"{entry.xml} is no VOC annotation", found=f"<{tree.tag}> instead of <annotation>", todo=LAYOUT)
    objects = tuple(_object(entry.xml, number, node) for number, node in enumerate(tree.findall("object"), 1))
    width, height = image_size(entry.image)
    annotated = tuple(_number(entry.xml, f"size/{side}", tree.findtext(f"size/{side}")) for side in ("width", "height"))
    # Some tools leave the size out or write zeros; then the image alone decides.
    if all(annotated) and annotated != (width, height):
        raise DataError(
            f"{entry.xml} was made for an image of another size",
            found=f"size {annotated[0]:g} × {annotated[1]:g} in the XML, {width} × {height} in {entry.image}",
            todo="put back the image that was annotated, or correct <size> if the boxes fit this one",
        )
    return _Annotation(width, height, objects)


def _number(xml: Path, what: str, text: str | None) -> float:
    """0 for a tag that is absent or empty."""
    try:
        value = float(text) if text and text.strip() else 0.0
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{what} is not a number in {xml}", found=repr(text), todo="correct this annotation")
    return value


def _object(xml: Path, number: int, node: ET.Element) -> _Object:
    label, box = (node.findtext("name") or "").strip(), node.find("bndbox")
    if not label or box is None:
        missing = "bndbox" if label else "name"
        raise DataError(
            f"object {number} in {xml} has no <{missing}>",
            found=f"<object> with {', '.join(f'<{child.tag}>' for child in node) or 'nothing in it'}",
            todo="complete or remove this object",
        )
    corners = []
    for tag in ("xmin", "ymin", "xmax", "ymax"):
        text = box.findtext(tag)
        if not text or not text.strip():
            raise DataError(f"object {number} ({label}) in {xml} has no <{tag}>", todo="complete or remove this object")
        corners.append(_number(xml, f"{tag} of object {number} ({label})", text))
    difficult = _number(xml, f"difficult of object {number} ({label})", node.findtext("difficult"))
    return _Object(label, (corners[0], corners[1], corners[2], corners[3]), bool(difficult))


# -- from annotation to arrays -----------------------------------------------------------------------------------


def _objects(entry: _Entry, annotation: _Annotation) -> Objects:
    return Objects(entry.image, annotation.width, annotation.height, len(annotation.objects))


def _image(
    image_id: int,
    entry: _Entry,
    annotation: _Annotation,
    classes: tuple[str, ...],
    limits: BoxLimits,
    mask_reader: VocMasks | None,
) -> DetectionImage:
    boxes, labels, difficult, numbers = [], [], [], []
    for number, item in enumerate(annotation.objects, 1):
        if item.label not in classes:
            raise DataError(
                f"unknown class {item.label!r} in {entry.xml}",
                found=f"expected one of {', '.join(classes)}",
                todo="correct the name, or read class names from the annotations by naming the folder with --voc-root",
            )
        box = _box(entry, annotation, item, limits)
        if box is not None:
            boxes.append(box)
            labels.append(classes.index(item.label))
            difficult.append(item.difficult)
            numbers.append(number)
    image = DetectionImage(
        image_id=image_id,
        name=entry.name,
        path=entry.image,
        width=annotation.width,
        height=annotation.height,
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        labels=np.array(labels, dtype=np.int64),
        difficult=np.array(difficult, dtype=np.bool_),
    )
    return image if mask_reader is None else mask_reader.added(image, _objects(entry, annotation), numbers)


def _box(entry: _Entry, annotation: _Annotation, item: _Object, limits: BoxLimits) -> Corners | None:
    """0-based corners with exclusive ends inside the image, or None for a box with nothing in it."""
    xmin, ymin, xmax, ymax = item.corners
    text = f"{entry.name} ({xmin:g}, {ymin:g}, {xmax:g}, {ymax:g})"
    if xmax <= xmin or ymax <= ymin:
        limits.empty.append(text)
        return None
    corners = (xmin - 1, ymin - 1, xmax, ymax)
    return limits.inside(corners, annotation.width, annotation.height, text, str(entry.xml))
