"""Tiny detectors, their images and weights, shared by the tests of the Detectron2 engine; imports no Detectron2.

Also a program that trains one of them, to be started by `torchrun`: python detectron2_toy.py FOLDER --family NAME
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detection.engines.detector import DetectionJob
from detection.recipe import (
    FCOS,
    AnchoredRecipe,
    DenseRecipe,
    DetectorRecipe,
    FasterRcnnC4,
    FasterRcnnFPN,
    MaskRcnnC4,
    MaskRcnnFPN,
    RetinaNet,
    turned_into,
)
from transfer.checkpoints.backbone import Backbone, random_backbone
from transfer.checkpoints.verify import Verification
from transfer.datasets.boxes.detection import DetectionDataset, DetectionImage
from transfer.datasets.boxes.masks import Mask
from transfer.runtime.world import ALONE, World, world

TINY = FasterRcnnFPN(
    norm="BN",
    fpn_channels=32,  # this and the next keep the checkpoints small
    roi_resolution=2,
    anchor_sizes=(8, 16, 32, 64, 128),
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
TINY_C4 = turned_into(TINY, FasterRcnnC4, roi_resolution=4)
FAMILIES = {
    "faster_rcnn": TINY,
    "faster_rcnn_c4": TINY_C4,
    "mask_rcnn": turned_into(TINY, MaskRcnnFPN, mask_resolution=4, mask_convs=1),
    "mask_rcnn_c4": turned_into(TINY_C4, MaskRcnnC4),
    "retinanet": turned_into(TINY, RetinaNet, dense=AnchoredRecipe(convs=1)),
    # Group norms of 32 groups want more than one value in each, also on a map of one position.
    "fcos": turned_into(TINY, FCOS, fpn_channels=64, dense=DenseRecipe(convs=1), score_threshold=0.02, nms=0.6),
}


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
    return toy_images(tmp_path_factory.mktemp("images"))


def toy_images(folder: Path) -> DetectionDataset:
    """Four images, 96×64 or 64×80, with two objects each: a box, and a triangle in the other."""
    random = np.random.default_rng(0)
    made = []
    for index in range(4):
        width, height = (96, 64) if index % 2 == 0 else (64, 80)
        pixels = random.integers(0, 90, (height, width, 3), dtype=np.uint8)
        pixels[20:50, 10:40] = (250, 40, 60)
        path = folder / f"{index}.png"
        if not path.exists():
            Image.fromarray(pixels).save(path)
        outlines = ([10, 20, 40, 20, 40, 50, 10, 50], [30, 5, 60, 5, 60, 30])
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
                masks=tuple(Mask(height, width, (np.array(outline, np.float64),)) for outline in outlines),
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


class Interruption(Exception):
    """Stands for a kill."""


def build_verified_model(cfg: Any, backbone: Backbone, seed: int, world: World = ALONE) -> tuple[Any, Verification]:
    """Detectron2's model with the backbone's weights, and the proof."""
    from detection.engines.detectron2.model import build_with_weights, verify_model

    model = build_with_weights(cfg, backbone, seed, world)
    return model, verify_model(model, backbone)


def trained(job: DetectionJob, stop_after: int | None = None) -> Any:
    """The model after training and PreciseBN; or killed when `stop_after` iterations are logged."""
    return trained_detector(job, stop_after).model


def trained_detector(job: DetectionJob, stop_after: int | None = None) -> Any:
    from detection.engines.detectron2.detector import Detectron2Detector
    from detection.engines.progress import TrainingLog
    from detection.engines.run import renew_statistics, train

    def interrupted(log: TrainingLog, iteration: int, *rest: Any) -> None:
        step(log, iteration, *rest)
        if stop_after is not None and iteration + 1 > stop_after:
            raise Interruption

    detector = Detectron2Detector(job)
    step = TrainingLog.step
    TrainingLog.step = interrupted  # type: ignore[method-assign]
    try:
        train(detector)
    finally:
        TrainingLog.step = step  # type: ignore[method-assign]
    renew_statistics(detector)
    return detector


def one_step(job: DetectionJob) -> DetectionJob:
    """The job that is compared with gradients computed by hand: one iteration of plain descent, frozen norms."""
    recipe = dataclasses.replace(
        job.recipe, norm="FrozenBN", iterations=1, warmup_iterations=0, steps=(), momentum=0.0, weight_decay=0.0
    )
    return dataclasses.replace(job, recipe=dataclasses.replace(recipe, precise_bn=0))


def untrained(job: DetectionJob) -> DetectionJob:
    """The job that only predicts."""
    return dataclasses.replace(job, recipe=dataclasses.replace(job.recipe, iterations=0, max_detections=5))


def two_process_jobs(folder: Path, processes: World) -> dict[str, DetectionJob]:
    """What `main` trains, by name."""
    dataset = toy_images(folder)
    recipes = {
        "one step": FAMILIES["faster_rcnn"],
        "untrained": dataclasses.replace(FAMILIES["mask_rcnn"], score_threshold=0.0),
        "synchronised": dataclasses.replace(FAMILIES["mask_rcnn_c4"], norm="SyncBN"),
        "left to themselves": dataclasses.replace(FAMILIES["retinanet"], evaluate_every=1),
        "interrupted": FAMILIES["retinanet"],
        "whole": FAMILIES["retinanet"],
        "diverging": FAMILIES["fcos"],
    }
    jobs = {
        name: DetectionJob(
            trained_looking(random_backbone("resnet18", 0)),
            recipe,
            *(dataset, dataset, 5, folder / name),
            checkpoint_every=2,
            world=processes,
            score=lambda detections: {"boxes": float(len(detections))},
        )
        for name, recipe in recipes.items()
    }
    return jobs | {"one step": one_step(jobs["one step"]), "untrained": untrained(jobs["untrained"])}


def states(folder: Path, processes: World) -> dict[str, Any]:
    """Everything that `main` has done, for `test_two_processes_train_as_one`."""
    from detection.engines.detectron2 import ENGINE
    from transfer.runtime.errors import TrainingError

    jobs = two_process_jobs(folder, processes)
    found: dict[str, Any] = {"untrained": ENGINE.run(jobs["untrained"]).detections.to_coco(jobs["untrained"].test)}
    for name in ("one step", "synchronised", "left to themselves", "whole"):
        found[name] = trained(jobs[name]).state_dict()
    try:
        trained(jobs["interrupted"], stop_after=2)
    except Interruption:
        resumed = trained_detector(jobs["interrupted"])
        found["interrupted"], found["normalizer"] = resumed.model.state_dict(), resumed.memory()

    from detectron2.modeling.meta_arch.fcos import FCOS

    losses = FCOS.losses
    if processes.rank == 1:
        FCOS.losses = lambda *given: {name: loss * float("nan") for name, loss in losses(*given).items()}
    try:
        trained(jobs["diverging"])
    except TrainingError as error:
        found["diverging"] = error.what
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    torch.set_num_threads(1)
    with world(torch.device("cpu")) as (processes, _):
        torch.save(states(folder, processes), folder / f"states{processes.rank}.pth")


if __name__ == "__main__":
    main()
