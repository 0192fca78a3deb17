"""Time and memory of the VOC evaluator beside Detectron2's own, on data of the size of VOC2007 test.

    PYTHONPATH=. python tests/benchmarks/bench_voc_ap.py [--images 4952] [--detections 100] [--pairs 3]

Both get the same detections in the same process, one after the other. Detectron2's `evaluate()` is its whole
evaluation after the last `process()`: writing result files, reading them back once per threshold, parsing the XML
files (once, they are cached) and `voc_eval` for 20 classes × 10 thresholds. `voc_eval` alone is timed inside it,
annotations already parsed and result files already written. Ours is `evaluate_voc` on the arrays; the time of
`process()` (formatting the lines) is counted to neither and shown for completeness, and so is that of `read_voc`.
"""

from __future__ import annotations

import argparse
import os
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
from PIL import Image

from detection.score.voc_ap import VocResult, evaluate_voc
from transfer.datasets.boxes.detection import DetectionDataset, Detections
from transfer.datasets.boxes.voc import VOC_CLASSES, read_voc


def make_voc(root: Path, images: int, seed: int = 0) -> None:
    """Annotations with VOC2007 test's average of about 3 objects an image (14,976 in 4,952), no two images alike."""
    rng = np.random.default_rng(seed)
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    Image.new("RGB", (500, 375)).save(root / "blank.jpg")
    names = [f"{index:06d}" for index in range(images)]
    for name in names:
        os.link(root / "blank.jpg", root / "JPEGImages" / f"{name}.jpg")
        objects = []
        for _ in range(1 + rng.poisson(2)):
            x, y = rng.integers(1, 400), rng.integers(1, 280)
            w, h = rng.integers(20, 100), rng.integers(20, 95)
            objects.append(
                f"<object><name>{VOC_CLASSES[rng.integers(20)]}</name><pose>Frontal</pose><truncated>0</truncated>"
                f"<difficult>{int(rng.random() < 0.15)}</difficult><bndbox><xmin>{x}</xmin><ymin>{y}</ymin>"
                f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
            )
        size = "<size><width>500</width><height>375</height><depth>3</depth></size>"
        (root / "Annotations" / f"{name}.xml").write_text(
            f"<annotation>{size}{''.join(objects)}</annotation>", encoding="utf-8"
        )
    (root / "ImageSets" / "Main" / "test.txt").write_text("\n".join(names) + "\n", encoding="utf-8")


def detections_for(dataset: DetectionDataset, per_image: int, seed: int = 1) -> Detections:
    """`per_image` boxes an image: some around each object, the rest anywhere; scores unrounded."""
    rng = np.random.default_rng(seed)
    parts = []
    for image in dataset.images:
        near = min(per_image, 3 * len(image.boxes))
        target = rng.integers(len(image.boxes), size=near)
        shaken = image.boxes[target] + rng.normal(0, 4, (near, 4))
        corner = rng.uniform(0, 300, (per_image - near, 2))
        anywhere = np.concatenate([corner, corner + rng.uniform(10, 70, (per_image - near, 2))], axis=1)
        scores = np.concatenate([rng.beta(4, 2, near), rng.beta(1, 6, per_image - near)]).astype(np.float32)
        labels = np.concatenate([image.labels[target], rng.integers(len(dataset.classes), size=per_image - near)])
        boxes = np.concatenate([shaken, anywhere]).astype(np.float32)
        parts.append(Detections(np.full(per_image, image.image_id), labels, boxes, scores))
    return Detections.concatenate(parts)


def detectron2_evaluator(
    root: Path, dataset: DetectionDataset, detections: Detections, year: int = 2007
) -> tuple[Any, float]:
    """Detectron2's evaluator after `process()` of every image, and the seconds that took; 2012 is the area mode."""
    import torch
    from detectron2.data import MetadataCatalog
    from detectron2.evaluation import PascalVOCDetectionEvaluator
    from detectron2.structures import Boxes, Instances

    name = f"voc_ap_of_{root}"
    MetadataCatalog.get(name).set(thing_classes=list(dataset.classes), dirname=str(root), year=year, split="test")
    evaluator = PascalVOCDetectionEvaluator(name)
    evaluator.reset()
    ends = np.searchsorted(detections.image_ids, np.arange(1, len(dataset) + 2))
    outputs = []
    for image, start, end in zip(dataset.images, ends[:-1], ends[1:], strict=True):
        instances = Instances((image.height, image.width))
        instances.pred_boxes = Boxes(torch.from_numpy(detections.boxes[start:end]))
        instances.scores = torch.from_numpy(detections.scores[start:end])
        instances.pred_classes = torch.from_numpy(detections.labels[start:end])
        outputs.append(({"image_id": image.path.stem}, {"instances": instances}))
    began = time.perf_counter()
    for inputs, output in outputs:
        evaluator.process([inputs], [output])
    return evaluator, time.perf_counter() - began


def seconds_of_parsing(root: Path, dataset: DetectionDataset) -> float:
    """What Detectron2 spends on XML in one evaluation; it caches the parsed files."""
    from detectron2.evaluation.pascal_voc_evaluation import parse_rec

    parse_rec.cache_clear()
    began = time.perf_counter()
    for image in dataset.images:
        parse_rec(str(root / "Annotations" / f"{image.path.stem}.xml"))
    return time.perf_counter() - began


def timed_detectron2(evaluator: Any) -> tuple[dict[str, float], float, float]:
    """(its numbers, seconds of `evaluate()`, seconds of that inside `voc_eval`), with nothing parsed before."""
    from detectron2.evaluation import pascal_voc_evaluation as module

    inside = 0.0
    evaluate = module.voc_eval

    def clocked(*args: Any, **kwargs: Any) -> Any:
        nonlocal inside
        began = time.perf_counter()
        result = evaluate(*args, **kwargs)
        inside += time.perf_counter() - began
        return result

    module.parse_rec.cache_clear()
    with mock.patch.object(module, "voc_eval", clocked):
        began = time.perf_counter()
        numbers = evaluator.evaluate()["bbox"]
        seconds = time.perf_counter() - began
    return {name: float(value) for name, value in numbers.items()}, seconds, inside


def timed(function: Callable[[], VocResult]) -> tuple[VocResult, float]:
    began = time.perf_counter()
    result = function()
    return result, time.perf_counter() - began


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4952)
    parser.add_argument("--detections", type=int, default=100, help="per image")
    parser.add_argument("--pairs", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "VOC"
        make_voc(root, arguments.images)
        began = time.perf_counter()
        dataset = read_voc([(root, "test")], "benchmark", VOC_CLASSES)
        print(f"read_voc: {time.perf_counter() - began:.2f} s for {len(dataset)} images")
        detections = detections_for(dataset, arguments.detections)
        before = peak_mib()
        first, seconds = timed(lambda: evaluate_voc(dataset, detections))
        print(f"first call: {seconds:.2f} s; peak memory {before:.0f} → {peak_mib():.0f} MiB; {first.metrics()}")
        evaluator, processing = detectron2_evaluator(root, dataset, detections)
        print(f"Detectron2 process(): {processing:.1f} s for {len(detections)} detections")
        rows = []
        for pair in range(arguments.pairs):
            ours, our_seconds = timed(lambda: evaluate_voc(dataset, detections))
            theirs, whole, inside = timed_detectron2(evaluator)
            inner = inside - seconds_of_parsing(root, dataset)
            rows.append((our_seconds, whole, inner))
            print(f"pair {pair}: ours {our_seconds:.3f} s, evaluate() {whole:.1f} s, voc_eval alone {inner:.1f} s")
            sys.stdout.flush()
        print(f"ours {ours.metrics()}\nDetectron2 {theirs} (ties in rounded scores are in no defined order there)")
        ratios = [(whole / mine, inner / mine) for mine, whole, inner in rows]
        medians = [statistics.median(column) for column in zip(*rows, strict=True)]
        print("medians: ours {:.3f} s, evaluate() {:.1f} s, voc_eval alone {:.1f} s".format(*medians))
        whole_ratio, inner_ratio = (statistics.median(column) for column in zip(*ratios, strict=True))
        print(f"ratio (median of pairs): {whole_ratio:.0f}× to evaluate(), {inner_ratio:.0f}× to voc_eval alone")


if __name__ == "__main__":
    main()
