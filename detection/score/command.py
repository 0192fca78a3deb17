"""`python -m transfer score DETECTIONS.json …`: the project's evaluators on detections that were made elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from numpy.typing import NDArray
from tyro.conf import Positional

from detection.data import DetectionData, load_test
from detection.score import coco_ap, voc_ap
from detection.score.coco_ap import CocoApOptions, evaluate_coco
from detection.score.result_list import have_masks, load_results, match_results, with_last_pixel
from detection.score.voc_ap import VocApOptions, evaluate_voc
from transfer.datasets.boxes.detection import DetectionDataset, Detections
from transfer.datasets.boxes.orientation import ExifFrame
from transfer.datasets.wording import counted
from transfer.runtime.command import Debug
from transfer.runtime.errors import UserError
from transfer.runtime.files import write_json

logger = logging.getLogger(__name__)

Floats = NDArray[np.float64]
DEVKIT: dict[str, Any] = {"strict": False, "score_decimals": None, "box_decimals": None}
RULES = {
    "detectron2": "scores rounded to 3 decimals, boxes to 1, a match overlaps by more than the threshold",
    "devkit": "scores and boxes as written, a match overlaps by the threshold or more",
}
Mode = Literal["11point", "area"]
MODES: dict[Mode, str] = {"11point": "VOC AP, 11 points", "area": "VOC AP, all points"}


@dataclass(frozen=True)
class Score(Debug):
    """Score detections that were made elsewhere: VOC AP in both its forms and COCO AP, per class and by size.

    DETECTIONS.json is a COCO result list: [{image_id, category_id, bbox: [x, y, width, height], score}, …], for mask
    AP with segmentation {size, counts}. image_id is the annotation file's id or the name of the image, category_id its
    id or the name of the class. Of a set in VOC layout image_id may also be the position among the sorted names or the
    number in the name, category_id the position (from 1) in --classes or among the set's sorted class names.

    Attributes:
        detections: the result list.
        dataset: a data set, a folder in VOC or COCO layout; which of them is recognised and said.
        voc_root: the same, to be read in VOC layout.
        test: with --dataset or --voc-root: the split that the detector was run on (default: the one that is called so).
        test_json: a data set in COCO layout: its annotations.
        test_images: with --test-json: the folder of its images.
        clip_boxes: cut annotated boxes that reach beyond their image back to it, instead of stopping.
        exif: what the boxes were drawn on, where pictures have an EXIF orientation and no size tells: seen or stored.
            The detections are in the same frame.
        iou: overlaps that AP is reported at, besides the mean over .5:.05:.95.
        pixels: exclusive: bbox is COCO's, a box over a whole image is [0, 0, width, height]. inclusive: the box of
            corners x, y and x + width, y + height includes the pixels at its corners, so it is a pixel wider and
            higher than written, as in the VOC devkit; on a set in VOC layout x and y then count from 1 as its XML does.
            In COCO layout the annotated boxes are read in the same way.
        voc: whose rule VOC AP follows. detectron2: scores are rounded to 3 decimals and boxes to 1, and a match needs
            more than the threshold; so are the published tables and this project's records made. devkit: nothing is
            rounded and the threshold itself is enough (VOCevaldet.m).
        classes: of a set in VOC layout: the detector's class names in the order of its numbers from 1.
        boxes: score the boxes alone, whatever masks the list has.
        json: keep the numbers in this file.
    """

    detections: Positional[Path]
    dataset: Path | None = None
    voc_root: Path | None = None
    test: str | None = None
    test_json: Path | None = None
    test_images: Path | None = None
    clip_boxes: bool = False
    exif: ExifFrame | None = None
    iou: tuple[float, ...] = (0.5, 0.75)
    pixels: Literal["exclusive", "inclusive"] = "exclusive"
    voc: Literal["detectron2", "devkit"] = "detectron2"
    classes: tuple[str, ...] = ()
    boxes: bool = False
    json: Path | None = None


@dataclass(frozen=True)
class Measure:
    """One way of measuring.

    Attributes:
        title: for people.
        mean: over classes, in percent, by name ("AP30" at IoU .3, "AP" over .5:.95, "APs" of small objects, …); None
            where there is nothing to find.
        per_class: the same for each class.
    """

    title: str
    mean: dict[str, float | None]
    per_class: dict[str, dict[str, float | None]]


@dataclass(frozen=True)
class Scored:
    """What the command found out.

    Attributes:
        about: lines on top.
        objects: to be found, by class; without difficult ones and crowds.
        detections: by class.
        measures: by the name that they have in the JSON file.
        notes: what to know when reading the numbers.
    """

    about: tuple[str, ...]
    objects: dict[str, int]
    detections: dict[str, int]
    measures: dict[str, Measure]
    notes: tuple[str, ...] = field(default=())


def score_command(arguments: Sequence[str]) -> str:
    """Parse `DETECTIONS.json [options]`, score, and return the tables.

    Raises:
        UserError: options, data set or detections that cannot be used; see `match_results`.
    """
    options = tyro.cli(Score, args=arguments, prog="python -m transfer score")
    bad = [value for value in options.iou if not 0 < value < 1]
    if bad or not options.iou:
        raise UserError(f"--iou {' '.join(f'{value:g}' for value in bad)}", todo="give overlaps between 0 and 1")
    scored, data = score(options)
    if options.json is not None:
        write_json(options.json, _as_json(options, scored, data))
    return "\n".join(_tables(scored))


def score(options: Score) -> tuple[Scored, DetectionDataset]:
    """Read list and data set, and measure in every way."""
    rows = load_results(options.detections)
    masks = have_masks(rows) and not options.boxes
    if masks:
        logger.info("%s has masks, so the data set's are read too; --boxes leaves them out", options.detections)
    given = DetectionData(
        dataset=options.dataset,
        voc_root=options.voc_root,
        test=options.test,
        test_json=options.test_json,
        test_images=options.test_images,
        clip_boxes=options.clip_boxes,
        exif=options.exif,
    )
    dataset, layout = load_test(given, masks)
    inclusive = options.pixels == "inclusive"
    found = match_results(
        rows, options.detections, dataset, layout, classes=options.classes, last_pixel=inclusive, masks=masks
    )
    if inclusive and layout == "coco":
        dataset = with_last_pixel(dataset)
    measures, notes = _measures(dataset, found.detections, options)
    per_image_and_class = np.stack([found.detections.image_ids, found.detections.labels], axis=1)
    crowded = np.unique(per_image_and_class, axis=0, return_counts=True)[1] - coco_ap.MOST_DETECTIONS
    if (crowded > 0).any():
        beyond = int(crowded[crowded > 0].sum())
        notes.append(f"COCO's AP takes the best 100 of an image and class and leaves out {beyond:,} detections here")
    objects = _by_class(dataset, [image.labels[~(image.crowd | image.difficult)] for image in dataset.images])
    ignored = sum(int((image.crowd | image.difficult).sum()) for image in dataset.images)
    where = counted(len(dataset), "image", "images")
    about = (
        f"{options.detections}: {counted(len(found.detections), 'detection', 'detections')} on "
        f"{len(set(found.detections.image_ids.tolist())):,} of {where}",
        f"{dataset.name}: {counted(sum(objects.values()), 'object', 'objects')} to find"
        + (f", {ignored:,} more are ignored (difficult or crowd)" if ignored else ""),
        f"boxes: --pixels {options.pixels}; VOC AP: --voc {options.voc}, {RULES[options.voc]}",
    )
    counts = _by_class(dataset, [found.detections.labels])
    return Scored(about, objects, counts, measures, tuple(dict.fromkeys([*found.notes, *notes]))), dataset


def _by_class(dataset: DetectionDataset, labels: Sequence[NDArray[np.int64]]) -> dict[str, int]:
    counts = np.bincount(np.concatenate([np.zeros(0, np.int64), *labels]), minlength=len(dataset.classes))
    return dict(zip(dataset.classes, counts.tolist(), strict=True))


# -- measures ----------------------------------------------------------------------------------------------------


def _measures(
    dataset: DetectionDataset, detections: Detections, options: Score
) -> tuple[dict[str, Measure], list[str]]:
    measures: dict[str, Measure] = {}
    notes: list[str] = []
    for mode, title in MODES.items():
        by_rule = {rule: _voc(dataset, detections, mode, rule, options.iou) for rule in RULES}
        measures[f"voc_{mode}"], own = by_rule[options.voc]
        notes += own
        ((rule, (rival, _)),) = ((name, made) for name, made in by_rule.items() if name != options.voc)
        changed = [
            f"{name} {value:.2f} instead of {measures[f'voc_{mode}'].mean[name]:.2f}"
            for name, value in rival.mean.items()
            if f"{value:.2f}" != f"{measures[f'voc_{mode}'].mean[name]:.2f}"
        ]
        if changed:
            notes.append(f"{title} by --voc {rule} ({RULES[rule]}): {', '.join(changed)}")
    measures["coco_bbox"], own = _coco(dataset, detections, "bbox", options.iou)
    notes += own
    if detections.masks is not None:
        measures["coco_segm"], own = _coco(dataset, detections, "segm", options.iou)
        notes += own
    return measures, notes


def _voc(
    dataset: DetectionDataset, detections: Detections, mode: Mode, rule: str, asked: Sequence[float]
) -> tuple[Measure, tuple[str, ...]]:
    thresholds = _with(voc_ap.IOU_THRESHOLDS, asked)
    options = VocApOptions(mode=mode, **({} if rule == "detectron2" else DEVKIT))
    result = evaluate_voc(dataset, detections, options, thresholds)
    columns = {f"AP{100 * value:g}": result.by_class[:, _at(thresholds, value)] for value in asked}
    columns["AP"] = result.by_class[:, _all_at(thresholds, voc_ap.IOU_THRESHOLDS)].mean(axis=1)
    return _measure(MODES[mode], columns, dataset.classes), result.notes


def _coco(
    dataset: DetectionDataset, detections: Detections, kind: coco_ap.Kind, asked: Sequence[float]
) -> tuple[Measure, tuple[str, ...]]:
    thresholds = _with(coco_ap.IOU_THRESHOLDS, asked)
    result = evaluate_coco(dataset, detections, kind, CocoApOptions(), thresholds)
    standard = _all_at(thresholds, coco_ap.IOU_THRESHOLDS)
    by_class = result.precision.mean(axis=1)  # [thresholds, classes, sizes]; NaN is so at every recall
    columns = {f"AP{100 * value:g}": 100 * by_class[_at(thresholds, value), :, 0] for value in asked}
    columns["AP"] = 100 * by_class[standard, :, 0].mean(axis=0)
    for letter, size in zip("sml", (1, 2, 3), strict=True):
        columns[f"AP{letter}"] = 100 * by_class[standard, :, size].mean(axis=0)
    columns["AR100"] = 100 * result.recall[standard, :, 0].mean(axis=0)
    title = "COCO AP, masks" if kind == "segm" else "COCO AP, boxes"
    return _measure(title, columns, dataset.classes), result.notes


def _with(standard: Floats, asked: Sequence[float]) -> Floats:
    """The standard thresholds to the last bit, and those that are asked for besides."""
    more = [value for value in dict.fromkeys(asked) if not np.isclose(standard, value).any()]
    return np.sort(np.concatenate([standard, more]))


def _at(thresholds: Floats, value: float) -> int:
    return int(np.argmin(np.abs(thresholds - value)))


def _all_at(thresholds: Floats, values: Floats) -> list[int]:
    return [_at(thresholds, value) for value in values.tolist()]


def _measure(title: str, columns: dict[str, Floats], classes: Sequence[str]) -> Measure:
    """From values by class, NaN where a class has nothing to find."""
    mean = {
        name: _number(float(np.nanmean(values))) if np.isfinite(values).any() else None
        for name, values in columns.items()
    }
    rows = zip(classes, np.stack(list(columns.values()), axis=1), strict=True)
    return Measure(
        title, mean, {name: dict(zip(columns, map(_number, row.tolist()), strict=True)) for name, row in rows}
    )


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


# -- what is shown -----------------------------------------------------------------------------------------------


def _as_json(options: Score, scored: Scored, dataset: DetectionDataset) -> dict[str, Any]:
    """Everything that the tables show, unrounded, with the data set's fingerprint."""
    return {
        "list": str(options.detections),
        "data": dataset.fingerprint(),
        "pixels": options.pixels,
        "voc": options.voc,
        "iou": list(options.iou),
        "objects": scored.objects,
        "detections": scored.detections,
        "measures": {
            name: {"mean": measure.mean, "per_class": measure.per_class} for name, measure in scored.measures.items()
        },
        "notes": [*dataset.notes, *scored.notes],
    }


def _tables(scored: Scored) -> list[str]:
    """One table for each measure: the mean, then every class."""
    width = max(len("mean of classes"), *(len(name) for name in scored.objects))
    lines = list(scored.about)
    for measure in scored.measures.values():
        head = "".join(f"{name:>8}" for name in measure.mean)
        lines += ["", f"{measure.title:<{width}}  objects  detections{head}"]
        totals = sum(scored.objects.values()), sum(scored.detections.values())
        lines.append(_line("mean of classes", width, *totals, measure.mean))
        for name, values in measure.per_class.items():
            lines.append(_line(name, width, scored.objects[name], scored.detections[name], values))
    if scored.notes:
        lines += ["", "notes:", *(f"  {note}" for note in scored.notes)]
    lines += ["", "in percent; AP: mean over IoU .5:.05:.95, APs, APm, APl: of small, medium, large objects"]
    return lines


def _line(name: str, width: int, objects: int, detections: int, values: dict[str, float | None]) -> str:
    cells = "".join(f"{'–' if value is None else f'{value:.2f}':>8}" for value in values.values())
    return f"{name:<{width}}  {objects:>7}  {detections:>10}{cells}"
