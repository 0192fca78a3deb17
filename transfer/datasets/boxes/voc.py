"""VOC XML → `DetectionDataset`: strict about what cannot be trusted, explicit about what it mended.

`transfer/datasets/boxes/voc_layout.py` says which files are read, this module what is in them.
"""

from __future__ import annotations

import logging
import math
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from transfer.datasets.boxes.box_limits import BoxLimits, Corners
from transfer.datasets.boxes.detection import DetectionDataset, DetectionImage
from transfer.datasets.boxes.orientation import ExifFrame, Frames, as_seen
from transfer.datasets.boxes.voc_layout import Part, SplitImage, absolute, entries_of, voc_splits
from transfer.datasets.boxes.voc_masks import Objects, VocMasks
from transfer.datasets.boxes.voc_xml import only, only_text, read_tree
from transfer.datasets.headers import READERS
from transfer.datasets.images import Header, read_header
from transfer.datasets.wording import counted, few, raise_together
from transfer.runtime.errors import DataError

__all__ = ["VOC_CLASSES", "Part", "read_voc", "read_voc_sets", "voc_splits"]

logger = logging.getLogger(__name__)

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

# Words for flags that tools write beside 0 and 1 (`Unspecified`: the development kit's own).
FLAGS = {"": False, "unspecified": False, "false": False, "no": False, "true": True, "yes": True}


@dataclass(frozen=True)
class _Object:
    label: str
    corners: Corners  # as annotated: 1-based, inclusive
    difficult: bool


@dataclass(frozen=True)
class _Annotation:
    header: Header
    size: tuple[float, float] | None  # (width, height) as annotated
    objects: tuple[_Object, ...]
    other: str  # another picture beside this one that <filename> names, or ""
    turn: int = 1  # see `Frames.turn`

    @property
    def frame(self) -> tuple[int, int]:
        """(width, height) of what the boxes were drawn on."""
        return self.header.seen if self.turn == 1 else self.header.stored


def read_voc(
    parts: Sequence[Part],
    name: str,
    classes: tuple[str, ...] | None = None,
    clip_boxes: bool = False,
    *,
    masks: bool = False,
    exif: ExifFrame | None = None,
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
        masks: read masks too (`voc_masks.py` has the layout); `areas` are then those of the masks.
        exif: whether boxes are on the picture as seen or as stored where its size cannot tell (`orientation.py`).

    Raises:
        DataError: folder, split, image, annotation or mask missing or malformed, unknown class, box outside the image.
    """
    return read_voc_sets([(name, parts)], classes, clip_boxes, masks=masks, exif=exif)[0]


def read_voc_sets(
    sets: Sequence[tuple[str, Sequence[Part]]],
    classes: tuple[str, ...] | None = None,
    clip_boxes: bool = False,
    *,
    masks: bool = False,
    exif: ExifFrame | None = None,
) -> list[DetectionDataset]:
    """Several data sets, (name, parts) each, with the same classes: without `classes` those in any of them, sorted.

    The other arguments are those of `read_voc`.

    Raises:
        DataError: as `read_voc`; what is wrong with several files is said in one message.
    """
    listed = [entries_of(parts) for _, parts in sets]
    entries = [sorted((entry for part in found for entry in part), key=lambda entry: entry.name) for found in listed]
    read = [_read_all(own) for own in entries]
    problems = [problem for own in read for problem in own if isinstance(problem, DataError)]
    what = (
        f"of {counted(sum(map(len, entries)), 'image', 'images')} have a broken file or an annotation that does not fit"
    )
    usable = [
        [(entry, found) for entry, found in zip(*both, strict=True) if not isinstance(found, DataError)]
        for both in zip(entries, read, strict=True)
    ]
    if masks or (classes is None and not any(annotation.objects for own in usable for _, annotation in own)):
        raise_together(problems, what)  # masks or classes may be missing because of these files
    names = classes if classes is not None else _class_names(usable, [part for _, parts in sets for part in parts])
    datasets = []
    for (name, parts), found, own in zip(sets, listed, usable, strict=True):
        frames = Frames(exif)
        own = [
            (entry, replace(read, turn=frames.turn(entry.name, read.header, read.size, bool(read.objects))))
            for entry, read in own
        ]
        try:
            frames.demand_clear(name)
        except DataError as error:
            problems.append(error)
        limits, mask_reader = BoxLimits(clip_boxes), VocMasks() if masks else None
        if mask_reader is not None:
            mask_reader.demand_files(_objects(*both) for both in own)
        images = []
        for position, (entry, annotation) in enumerate(own, 1):
            try:
                images.append(_image(position, entry, annotation, names, limits, mask_reader))
            except DataError as error:
                problems.append(error)
        notes = (
            *_wrong_counts(parts, list(map(len, found))),
            *_other_pictures(own),
            *frames.notes(),
            *limits.notes(),
            *(mask_reader.notes() if mask_reader is not None else ()),
        )
        counts = limits.counts(len(mask_reader.hidden) if mask_reader is not None else 0)
        datasets.append(DetectionDataset(name=name, classes=tuple(names), images=tuple(images), notes=notes, **counts))
    raise_together(problems, what)
    for dataset in datasets:
        for note in dataset.notes:
            logger.warning("%s: %s", dataset.name, note)
    return datasets


def _class_names(sets: Iterable[Iterable[tuple[SplitImage, _Annotation]]], parts: Sequence[Part]) -> tuple[str, ...]:
    names = tuple(sorted({item.label for own in sets for _, annotation in own for item in annotation.objects}))
    if not names:
        raise DataError(
            "class names cannot be read from annotations without objects",
            found=", ".join(f"{root} {split}" for root, split in parts),
            todo="check that the split names annotated images",
        )
    return names


def _wrong_counts(parts: Sequence[Part], counts: Sequence[int]) -> list[str]:
    notes = []
    for (root, split), found in zip(parts, counts, strict=True):
        folder = absolute(root)
        official = OFFICIAL_COUNTS.get((folder.name, split), found)
        if found != official:
            notes.append(f"{folder.name} {split} has {found} images here, the official split has {official}")
    return notes


def _other_pictures(read: Sequence[tuple[SplitImage, _Annotation]]) -> list[str]:
    """One note for images left out beside one of the same name, one for annotations that name another image."""
    notes = []
    twins = [f"{name} ({entry.image.name} is read)" for entry, _ in read for name in entry.twins]
    if twins:
        which = counted(len(twins), "image", "images")
        notes.append(f"{which} of the same name as another left out, as <filename> says: {few(twins)}")
    others = [f"{entry.xml.name} names {found.other}" for entry, found in read if found.other]
    if others:
        which = counted(len(others), "annotation names", "annotations name")
        notes.append(
            f"{which} in <filename> another image that is there; read is the one of the XML's own name: {few(others)}"
        )
    return notes


# -- what is in them ---------------------------------------------------------------------------------------------


def _read_all(entries: Sequence[SplitImage]) -> list[_Annotation | DataError]:
    """What is in each file, or what is wrong with it."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(_read_or_problem, entries))


def _read_or_problem(entry: SplitImage) -> _Annotation | DataError:
    try:
        return _read_annotation(entry)
    except DataError as error:
        return error


def _read_annotation(entry: SplitImage) -> _Annotation:
    tree, xml = read_tree(entry.xml), str(entry.xml)
    nodes = tree.findall("object")
    deeper = sum(1 for tag in ("object", "Object", "OBJECT") for _ in tree.iter(tag)) - len(nodes)
    if deeper:
        raise DataError(
            f"{xml} has objects where VOC has none",
            found=f"{counted(deeper, '<object>', '<object>')} not directly below <annotation>, or in capitals",
            todo="re-export this file as Pascal VOC XML",
        )
    objects = tuple(_object(xml, number, node) for number, node in enumerate(nodes, 1))
    header = read_header(entry.image)
    node = only(tree, "size", xml)
    annotated = tuple(
        _number(f"size/{side}", only_text(node, side, xml) if node is not None else "", xml)
        for side in ("width", "height")
    )
    # Some tools leave the size out or write zeros; then the image alone decides.
    size = (annotated[0], annotated[1]) if all(annotated) else None
    frames = (header.seen, header.stored)
    if not any(all(said in (0, real) for said, real in zip(annotated, frame, strict=True)) for frame in frames):
        raise DataError(
            f"{entry.xml} was made for an image of another size",
            found=f"size {annotated[0]:g} × {annotated[1]:g} in the XML, "
            f"{header.width} × {header.height} in {entry.image}",
            todo="put back the image that was annotated, or correct <size> if the boxes fit this one",
        )
    return _Annotation(header, size, objects, _other_picture(tree, entry))


def _other_picture(tree: ET.Element, entry: SplitImage) -> str:
    """A file beside the image that <filename> names instead; renamed sets have old names there, of files long gone."""
    said = re.split(r"[\\/]", tree.findtext("filename") or "")[-1].strip()
    if said in ("", entry.image.name):
        return ""
    # Not `Path.is_file`, which stops at a name that is too long or holds a zero byte.
    return said if os.path.isfile(entry.image.parent / said) else ""


def _number(tag: str, text: str, where: str) -> float:
    """0 for a tag that is absent or empty; `where` says whose it is."""
    try:
        value = float(text) if text and "_" not in text else (math.nan if text else 0.0)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{tag} of {where} is not a number", found=repr(text), todo="correct this annotation")
    return value


def _flag(tag: str, text: str, where: str) -> bool:
    """0 or 1 as a number or a word; False for a tag that is absent or empty."""
    if text.lower() in FLAGS:
        return FLAGS[text.lower()]
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if value not in (0.0, 1.0):
        raise DataError(
            f"{tag} of {where} is no flag",
            found=repr(text),
            todo="write 1 or 0 (read as well: True, False, yes, no, Unspecified)",
        )
    return bool(value)


def _object(xml: str, number: int, node: ET.Element) -> _Object:
    where = f"object {number} in {xml}"
    label, box = only_text(node, "name", where), only(node, "bndbox", where)
    if not label or box is None:
        missing = "bndbox" if label else "name"
        raise DataError(
            f"{where} has no <{missing}>",
            found=f"<object> with {', '.join(f'<{child.tag}>' for child in node) or 'nothing in it'}",
            todo="complete or remove this object"
            + ("; polygons and rotated boxes are not read, export upright boxes" if label else ""),
        )
    where = f"object {number} ({label}) in {xml}"
    corners = []
    for tag in ("xmin", "ymin", "xmax", "ymax"):
        text = only_text(box, tag, where)
        if not text:
            raise DataError(f"{where} has no <{tag}>", todo="complete or remove this object")
        corners.append(_number(tag, text, where))
    difficult = _flag("difficult", only_text(node, "difficult", where), where)
    return _Object(label, (corners[0], corners[1], corners[2], corners[3]), difficult)


# -- from annotation to arrays -----------------------------------------------------------------------------------


def _objects(entry: SplitImage, annotation: _Annotation) -> Objects:
    return Objects(entry, *annotation.frame, len(annotation.objects))


def _image(
    image_id: int,
    entry: SplitImage,
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
        width=annotation.frame[0],
        height=annotation.frame[1],
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        labels=np.array(labels, dtype=np.int64),
        difficult=np.array(difficult, dtype=np.bool_),
    )
    if mask_reader is not None:
        image = mask_reader.added(image, _objects(entry, annotation), numbers)
    return as_seen(image, annotation.header, annotation.turn)


def _box(entry: SplitImage, annotation: _Annotation, item: _Object, limits: BoxLimits) -> Corners | None:
    """0-based corners with exclusive ends inside the image, or None for a box with nothing in it."""
    xmin, ymin, xmax, ymax = item.corners
    text = f"{entry.name} ({xmin:g}, {ymin:g}, {xmax:g}, {ymax:g})"
    if xmax <= xmin or ymax <= ymin:
        limits.empty.append(text)
        return None
    corners = (xmin - 1, ymin - 1, xmax, ymax)
    return limits.inside(corners, *annotation.frame, text, str(entry.xml))
