"""Time and memory of the COCO evaluation beside the engines' own, on data of the size of COCO val2017.

    PYTHONPATH=. python tests/benchmarks/bench_coco_ap.py [--images 5000] [--detections 100] [--pairs 3]
        [--kind bbox|segm] [--against detectron2|mmdet|pycocotools]
    PYTHONPATH=. python tests/benchmarks/bench_coco_ap.py --memory

All get the same detections in the same process, one after the other, from arrays in memory to numbers. Detectron2's is
`COCOEvaluator` as its configurations build it, with the compiled evaluation where that is built: `process()` and
`evaluate()` for boxes; masks are handed over as run lengths, so that nobody's time includes encoding pixels. mmdet's is
`CocoMetric` (process and compute_metrics), which calls pycocotools by way of JSON files. Reading the annotations is
counted to nobody; ours makes them from the data set each time, which is counted.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import logging
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from detection.score.coco_ap import CocoApOptions, Kind, evaluate_coco
from detection.score.voc_ap import VocApOptions, evaluate_voc
from transfer.datasets.boxes.detection import DetectionDataset, DetectionImage, Detections
from transfer.datasets.boxes.masks import Mask

WIDTH, HEIGHT, CLASSES = 640, 480, 80
Numbers = dict[str, float]
Seconds = tuple[float, float]  # wall, processor: all threads together
Contestant = Callable[[], tuple[Numbers, Seconds]]  # → (AP and so on in percent, how long)


class Clock(contextlib.AbstractContextManager["Clock"]):
    """Adds up what its blocks take."""

    def __init__(self) -> None:
        self.wall = self.processor = 0.0

    def __enter__(self) -> Clock:
        self.began = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall += time.perf_counter() - self.began[0]
        self.processor += time.process_time() - self.began[1]

    @property
    def seconds(self) -> Seconds:
        return self.wall, self.processor


def ellipse(box: list[float]) -> Mask:
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    x1, y1, x2, y2 = box
    x, y = (x1 + x2) / 2 + (x2 - x1) / 2 * np.cos(angles), (y1 + y2) / 2 + (y2 - y1) / 2 * np.sin(angles)
    return Mask(HEIGHT, WIDTH, polygons=(np.stack([x, y], axis=1).ravel(),))


def make_boxes(rng: np.random.Generator, count: int) -> Any:
    """Sides from 8 to 300 pixels, small ones as frequent as large ones."""
    sides = np.exp(rng.uniform(np.log(8), np.log(300), (count, 2)))
    corners = rng.uniform(0, 1, (count, 2)) * (np.array([WIDTH, HEIGHT]) - sides)
    return np.concatenate([corners, corners + sides], axis=1).astype(np.float32)


def make_dataset(images: int, masks: bool, seed: int = 0) -> DetectionDataset:
    """7.3 objects an image as in val2017 (36,781 in 5,000), one in a hundred a crowd."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(1, images + 1):
        count = 1 + rng.poisson(6.3)
        boxes = make_boxes(rng, count)
        outlines = [ellipse(box) for box in boxes.tolist()] if masks else []
        rows.append(
            DetectionImage(
                image_id=number,
                name=f"{number:012d}",
                path=Path("none.jpg"),
                width=WIDTH,
                height=HEIGHT,
                boxes=boxes,
                labels=rng.integers(CLASSES, size=count),
                difficult=np.zeros(count, np.bool_),
                crowd=rng.random(count) < 0.01,
                masks=tuple(Mask(HEIGHT, WIDTH, counts=mask.rle()) for mask in outlines) if masks else None,
            )
        )
    return DetectionDataset("benchmark", tuple(f"class {index}" for index in range(CLASSES)), tuple(rows))


def make_detections(dataset: DetectionDataset, per_image: int, masks: bool, seed: int = 1) -> Detections:
    """`per_image` boxes an image: three around each object, the rest anywhere."""
    rng = np.random.default_rng(seed)
    parts = []
    for image in dataset.images:
        near = min(per_image, 3 * len(image.boxes))
        target = rng.integers(len(image.boxes), size=near)
        sides = (image.boxes[:, 2:] - image.boxes[:, :2])[target]
        shaken = image.boxes[target] + rng.normal(0, 0.08, (near, 4)) * np.tile(sides, 2)
        boxes = np.concatenate([shaken, make_boxes(rng, per_image - near)]).astype(np.float32)
        labels = np.concatenate([image.labels[target], rng.integers(CLASSES, size=per_image - near)])
        scores = np.concatenate([rng.beta(4, 2, near), rng.beta(1, 6, per_image - near)]).astype(np.float32)
        outlines = tuple(ellipse(box).rle() for box in boxes.clip(0, 640).tolist()) if masks else None
        parts.append(Detections(np.full(per_image, image.image_id), labels, boxes, scores, outlines))
    return Detections.concatenate(parts)


def write_annotations(dataset: DetectionDataset, path: Path) -> None:
    annotations: list[dict[str, Any]] = []
    for image in dataset.images:
        for index, (x1, y1, x2, y2) in enumerate(image.boxes.astype(float).tolist()):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image.source_id,
                    "category_id": int(image.labels[index]) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": float(image.areas[index]),
                    "iscrowd": int(image.crowd[index]),
                    **({} if image.masks is None else {"segmentation": image.masks[index].to_coco()}),
                }
            )
    images = [{"id": image.source_id, "width": image.width, "height": image.height} for image in dataset.images]
    categories = [
        {"id": number, "name": name} for number, name in zip(dataset.category_ids, dataset.classes, strict=True)
    ]
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories}), encoding="utf-8"
    )


# -- contestants -------------------------------------------------------------------------------------------------


def ours(dataset: DetectionDataset, detections: Detections, kind: Kind, options: CocoApOptions) -> Contestant:
    def turn() -> tuple[Numbers, Seconds]:
        with Clock() as clock:
            numbers = evaluate_coco(dataset, detections, kind, options).metrics()
        return numbers, clock.seconds

    return turn


def detectron2(dataset: DetectionDataset, detections: Detections, kind: Kind, annotations: Path) -> Contestant:
    import torch
    from detectron2.data import MetadataCatalog
    from detectron2.evaluation import COCOEvaluator
    from detectron2.structures import Boxes, Instances

    ids = {number: index for index, number in enumerate(dataset.category_ids)}
    MetadataCatalog.get(str(annotations)).set(json_file=str(annotations), thing_dataset_id_to_contiguous_id=ids)
    evaluator = COCOEvaluator(str(annotations), tasks=(kind,), distributed=False)
    print(f"Detectron2's compiled evaluation is {'' if evaluator._use_fast_impl else 'NOT '}in use")
    ends = np.searchsorted(detections.image_ids, np.arange(1, len(dataset) + 2))
    outputs = []
    for image, start, end in zip(dataset.images, ends[:-1], ends[1:], strict=True):
        instances = Instances((image.height, image.width))
        instances.pred_boxes = Boxes(torch.from_numpy(detections.boxes[start:end]))
        instances.scores = torch.from_numpy(detections.scores[start:end])
        instances.pred_classes = torch.from_numpy(detections.labels[start:end])
        outputs.append(({"image_id": image.source_id}, {"instances": instances}, start))

    def turn() -> tuple[Numbers, Seconds]:
        evaluator.reset()
        clock = Clock()
        with clock:
            for inputs, output, _ in outputs:
                evaluator.process([inputs], [output])
        if detections.masks is not None:
            for prediction, (_, _, start) in zip(evaluator._predictions, outputs, strict=True):
                for row, counts in zip(prediction["instances"], detections.masks[start:], strict=False):
                    row["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": counts.decode("ascii")}
        with clock, contextlib.redirect_stdout(io.StringIO()):
            numbers = evaluator.evaluate()[kind]
        return numbers, clock.seconds

    return turn


def mmdet(dataset: DetectionDataset, detections: Detections, kind: Kind, annotations: Path) -> Contestant:
    import torch

    # What mmdet's lane data sets import, and its environment here does not have; nothing in the evaluation uses it.
    absent = {name: mock.MagicMock() for name in ("imgaug", "imgaug.augmenters")}
    absent |= {f"imgaug.augmentables.{name}": mock.MagicMock() for name in ("lines", "segmaps")}
    with mock.patch.dict(sys.modules, absent | {"imgaug.augmentables": mock.MagicMock()}):
        from mmdet.evaluation import CocoMetric

    with contextlib.redirect_stdout(io.StringIO()):
        metric = CocoMetric(ann_file=str(annotations), metric=kind)
    metric.dataset_meta = {"classes": dataset.classes}
    ends = np.searchsorted(detections.image_ids, np.arange(1, len(dataset) + 2))

    def turn() -> tuple[Numbers, Seconds]:
        samples = []
        for image, start, end in zip(dataset.images, ends[:-1], ends[1:], strict=True):
            found: dict[str, Any] = {
                "bboxes": torch.from_numpy(detections.boxes[start:end]),
                "scores": torch.from_numpy(detections.scores[start:end]),
                "labels": torch.from_numpy(detections.labels[start:end]),
            }
            if detections.masks is not None:
                found["masks"] = [{"size": [HEIGHT, WIDTH], "counts": mask} for mask in detections.masks[start:end]]
            samples.append({"img_id": image.source_id, "ori_shape": (HEIGHT, WIDTH), "pred_instances": found})
        metric.results.clear()
        with Clock() as clock, contextlib.redirect_stdout(io.StringIO()):
            metric.process({}, samples)
            numbers = metric.compute_metrics(metric.results)
        return {name: 100 * value for name, value in numbers.items()}, clock.seconds

    return turn


# -- the two measurements ----------------------------------------------------------------------------------------


def compare(arguments: argparse.Namespace, folder: Path) -> None:
    kind: Kind = arguments.kind
    dataset = make_dataset(arguments.images, kind == "segm")
    detections = make_detections(dataset, arguments.detections, kind == "segm")
    objects = sum(len(image.labels) for image in dataset.images)
    print(f"{kind}: {len(dataset)} images, {objects} objects, {len(detections)} detections, {CLASSES} classes")
    annotations = folder / "annotations.json"
    write_annotations(dataset, annotations)
    mine = ours(dataset, detections, kind, CocoApOptions())
    if arguments.against == "pycocotools":
        theirs = ours(dataset, detections, kind, CocoApOptions("pycocotools"))
    else:
        make = detectron2 if arguments.against == "detectron2" else mmdet
        theirs = make(dataset, detections, kind, annotations)
    rows = []
    for pair in range(arguments.pairs):
        turns = {"ours": mine, arguments.against: theirs}
        names = list(turns) if pair % 2 == 0 else list(reversed(turns))
        found = {name: turns[name]() for name in names}
        rows.append((*found["ours"][1], *found[arguments.against][1]))
        texts = (f"{name} {wall:.2f} s (processor {cpu:.2f} s)" for name, (_, (wall, cpu)) in found.items())
        print(f"pair {pair}: {', '.join(texts)}", flush=True)
    for name, (numbers, _) in found.items():
        print(f"{name}: " + ", ".join(f"{key} {value:.3f}" for key, value in list(numbers.items())[:6]))
    for clock, own in (("wall", 0), ("processor", 1)):
        medians = [statistics.median(row[column] for row in rows) for column in (own, own + 2)]
        ratio = statistics.median(row[own + 2] / row[own] for row in rows)
        print(f"{clock}: medians {medians[0]:.2f} s and {medians[1]:.2f} s; median ratio {ratio:.2f}×")


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory(arguments: argparse.Namespace) -> None:
    """Peak of this process, which nothing else has used: the whole evaluation, boxes and masks, VOC and COCO."""
    dataset = make_dataset(arguments.images, masks=True)
    detections = make_detections(dataset, arguments.detections, masks=True)
    print(f"{len(dataset)} images, {len(detections)} detections with masks: {peak_mib():.0f} MiB before")
    for kind in ("bbox", "segm"):
        began = time.perf_counter()
        numbers = evaluate_coco(dataset, detections, kind).metrics()
        print(f"COCO {kind}: {time.perf_counter() - began:.1f} s, AP {numbers['AP']:.2f}, peak {peak_mib():.0f} MiB")
    for mode in ("11point", "area"):
        began = time.perf_counter()
        voc = evaluate_voc(dataset, dataclasses.replace(detections, masks=None), VocApOptions(mode=mode))
        print(f"VOC {mode}: {time.perf_counter() - began:.1f} s, AP {voc.ap:.2f}, peak {peak_mib():.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=100, help="per image")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--kind", choices=("bbox", "segm"), default="bbox")
    parser.add_argument("--against", choices=("detectron2", "mmdet", "pycocotools"), default="detectron2")
    parser.add_argument("--memory", action="store_true", help="peak memory of ours instead, in this process alone")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    if arguments.memory:
        memory(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        compare(arguments, Path(folder))


if __name__ == "__main__":
    main()
