"""A tiny detector, its images and its weights, shared by the tests of the Detectron2 engine; imports no Detectron2."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from transfer.backbone import Backbone, random_backbone
from transfer.datasets.detection import DetectionDataset, DetectionImage
from transfer.detector import DetectionJob, DetectorRecipe

TINY = DetectorRecipe(
    neck="fpn",
    extra_norm=False,
    norm="BN",
    anchor_sizes=(8, 16, 32, 64, 128),
    roi_resolution=2,  # keeps the box head, and with it the checkpoints, small
    train_sizes=(48, 64),
    test_size=64,
    max_size=96,
    iterations=4,
    batch=2,
    lr=0.01,
    steps=(3,),
    warmup_iterations=2,
    precise_bn=1,
    rpn_pre_nms_train=50,
    rpn_post_nms_train=20,
    rpn_pre_nms_test=50,
    rpn_post_nms_test=20,
    rpn_batch=16,
    roi_batch=8,
)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small tensors are slower on several threads, and results of one thread repeat bit for bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def r18() -> Backbone:
    return trained_looking(random_backbone("resnet18", 0))


@pytest.fixture(scope="session")
def r50() -> Backbone:
    return trained_looking(random_backbone("resnet50", 0))


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    made = []
    for index in range(4):
        width, height = (96, 64) if index % 2 == 0 else (64, 80)
        pixels = random.integers(0, 90, (height, width, 3), dtype=np.uint8)
        pixels[20:50, 10:40] = (250, 40, 60)
        path = folder / f"{index}.png"
        Image.fromarray(pixels).save(path)
        made.append(
            DetectionImage(
                image_id=index + 1,
                name=f"{index}",
                path=path,
                width=width,
                height=height,
                boxes=np.array([[10, 20, 40, 50], [30, 5, 60, 30]], np.float32),
                labels=np.array([0, 1]),
                difficult=np.array([False, True]),
            )
        )
    return DetectionDataset("toy", ("red", "other"), tuple(made))


@pytest.fixture
def make_job(images: DetectionDataset, r18: Backbone, tmp_path: Path) -> Callable[..., DetectionJob]:
    def make(backbone: Backbone = r18, recipe: DetectorRecipe = TINY, **changes: Any) -> DetectionJob:
        usual = {"train": images, "test": images, "seed": 5, "workdir": tmp_path / "run", "checkpoint_every": 2}
        return DetectionJob(backbone, recipe, **(usual | changes))

    return make


def trained_looking(backbone: Backbone) -> Backbone:
    """Batch norms that are no identities, so that a dropped or swapped one shows."""
    random = torch.Generator().manual_seed(1)
    state = dict(backbone.state)
    for name, tensor in state.items():
        if name.endswith(("running_var", "weight")) and tensor.ndim == 1:
            state[name] = 0.7 + 0.3 * torch.rand(tensor.shape, generator=random)
        elif name.endswith(("running_mean", "bias")):
            state[name] = 0.1 * torch.randn(tensor.shape, generator=random)
    return dataclasses.replace(backbone, state=state)
