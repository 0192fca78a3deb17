"""A small data set and small recipes for the tests of the MMDetection engine; skips them where it is not usable."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transfer.backbone import random_backbone
from transfer.datasets.detection import DetectionDataset, DetectionImage
from transfer.detector import DetectionJob, DetectorRecipe
from transfer.engines.mmdet import ENGINE

if ENGINE.missing():
    pytest.skip(f"MMDetection: {ENGINE.missing()}", allow_module_level=True)

from transfer.engines.mmdet.config import build_config
from transfer.engines.mmdet.model import build_detector

CLASSES = ("red", "green")
TINY = DetectorRecipe(
    neck="fpn",
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
TINY_C4 = replace(TINY, neck="c4", roi_resolution=14)
BACKBONE = random_backbone("resnet18", 1)


def toy_dataset(folder: Path) -> DetectionDataset:
    """Five images, 96 × 64 or 64 × 96, black with one or two coloured rectangles."""
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
        images.append(annotated(path, number + 1, width, height, boxes, labels))
    return DetectionDataset("toy", CLASSES, tuple(images))


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


def job_of(dataset, workdir, recipe=TINY, seed=3, checkpoint_every=2):
    return DetectionJob(BACKBONE, recipe, dataset, dataset, seed, workdir, checkpoint_every=checkpoint_every)


def detector(recipe, backbone=BACKBONE, seed=0):
    return build_detector(build_config(recipe, backbone, CLASSES), backbone, seed)
