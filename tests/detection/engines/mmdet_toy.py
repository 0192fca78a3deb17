"""A small data set and small recipes for the tests of the MMDetection engine; skips them where it is not usable.

As a program it carries out one small run, alone or as one of torchrun's processes, and keeps what came out:

    torchrun --nproc-per-node 2 mmdet_toy.py FAMILY NECK ITERATIONS NORM FOLDER [--recompute]
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detection.engines.detector import DetectionJob
from detection.engines.mmdet import ENGINE
from detection.recipe import (
    FCOS,
    DetectorRecipe,
    FasterRcnnC4,
    FasterRcnnFPN,
    MaskRcnnC4,
    MaskRcnnFPN,
    RetinaNet,
    turned_into,
)
from transfer.checkpoints.backbone import random_backbone
from transfer.datasets.boxes.detection import DetectionDataset, DetectionImage
from transfer.datasets.boxes.masks import Mask
from transfer.runtime.world import ALONE, World, world

if ENGINE.missing():
    pytest.skip(f"MMDetection: {ENGINE.missing()}", allow_module_level=True)

from detection.engines.mmdet.config import build_config
from detection.engines.mmdet.model import build_detector

CLASSES = ("red", "green")
TINY = FasterRcnnFPN(
    norm="BN",
    roi_resolution=2,  # keeps the hidden layers, and with them the checkpoints, small
    train_sizes=(64, 80),
    test_size=64,
    max_size=100,
    iterations=6,
    batch=2,
    lr=0.01,
    steps=(4,),
    warmup_iterations=2,
    precise_bn=2,
    rpn_pre_nms_train=100,
    rpn_post_nms_train=50,
    rpn_pre_nms_test=100,
    rpn_post_nms_test=20,
    rpn_batch=32,
    roi_batch=16,
)
TINY_C4 = turned_into(TINY, FasterRcnnC4, roi_resolution=4)
FAMILIES = {
    "faster_rcnn fpn": replace(TINY, fpn_norm=True, fpn_channels=32),
    "faster_rcnn c4": TINY_C4,
    "mask_rcnn fpn": turned_into(TINY, MaskRcnnFPN, fpn_channels=32, mask_resolution=4, mask_convs=1),
    "mask_rcnn c4": turned_into(TINY_C4, MaskRcnnC4),
    "retinanet fpn": turned_into(TINY, RetinaNet, fpn_norm=True, fpn_channels=32),
    "fcos fpn": turned_into(TINY, FCOS, fpn_norm=True, fpn_channels=64),  # p7 is one position, a group two channels
}
BACKBONE = random_backbone("resnet18", 1)


def toy_dataset(folder: Path, runs: bool = False) -> DetectionDataset:
    """Five images, 96 × 64 or 64 × 96, black with one or two coloured rectangles; their masks are polygons.

    With `runs` every second object's mask is given by run lengths.
    """
    rng, images = np.random.default_rng(0), []
    for number in range(5):
        width, height = (96, 64) if number % 2 else (64, 96)
        pixels = np.zeros((height, width, 3), np.uint8)
        boxes, labels = [], []
        for label in range(1 + number % 2):
            x, y = (int(value) for value in rng.integers(0, 30, 2))
            pixels[y : y + 28, x : x + 24, label] = 255
            boxes.append((x, y, x + 24, y + 28))
            labels.append(label)
        path = folder / f"{number}.png"
        Image.fromarray(pixels).save(path)
        image = annotated(path, number + 1, width, height, boxes, labels)
        masks = [rectangle(box, width, height) for box in boxes]
        masks = [Mask(height, width, counts=mask.rle()) if runs and i % 2 else mask for i, mask in enumerate(masks)]
        images.append(replace(image, masks=tuple(masks)))
    return DetectionDataset("toy", CLASSES, tuple(images))


def rectangle(box, width: int, height: int) -> Mask:
    x1, y1, x2, y2 = box
    return Mask(height, width, (np.array([x1, y1, x2, y1, x2, y2, x1, y2], np.float64),))


def annotated(path: Path, number: int, width: int, height: int, boxes, labels) -> DetectionImage:
    return DetectionImage(
        number,
        path.stem,
        path,
        width,
        height,
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(labels, np.int64),
        np.zeros(len(labels), bool),
    )


def job_of(dataset, workdir, recipe=TINY, seed=3, checkpoint_every=2, **more):
    return DetectionJob(BACKBONE, recipe, dataset, dataset, seed, workdir, checkpoint_every=checkpoint_every, **more)


def detector(recipe, backbone=BACKBONE, seed=0, processes=1):
    return build_detector(build_config(recipe, backbone, CLASSES, processes), backbone, seed)


def process_recipe(name: str, iterations: int, norm: str) -> DetectorRecipe:
    """What the tests of several processes train: a batch of two images, one for each process."""
    return replace(FAMILIES[name], iterations=iterations, norm=norm, steps=(), warmup_iterations=0, score_threshold=0.0)


def small_run(folder: Path, recipe: DetectorRecipe, processes: World = ALONE, recompute: bool = False) -> None:
    """Run and keep weights and detections of this process in `folder`."""
    torch.set_num_threads(1)
    pictures = folder / f"pictures{processes.rank}"  # equal on all processes
    pictures.mkdir(parents=True)
    dataset = toy_dataset(pictures)
    found = ENGINE.run(job_of(dataset, folder, recipe, world=processes, recompute=recompute)).detections
    arrays = {name: getattr(found, name) for name in ("image_ids", "labels", "boxes", "scores")}
    np.savez(folder / f"found{processes.rank}.npz", **arrays, masks=np.array(found.masks or (), dtype=bytes))


def main() -> None:
    family, neck, iterations, norm, folder, *recompute = sys.argv[1:]
    with world(torch.device("cpu")) as (processes, _):
        small_run(Path(folder), process_recipe(f"{family} {neck}", int(iterations), norm), processes, bool(recompute))


if __name__ == "__main__":
    main()
