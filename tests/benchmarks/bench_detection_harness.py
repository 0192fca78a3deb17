"""What the harness adds to an engine's own training loop, per iteration, side by side in one process.

    PYTHONPATH=. python tests/benchmarks/bench_detection_harness.py [--engines mmdet] [--iterations 30] [--pairs 5]

Both train the same model (Faster R-CNN R18-FPN) from the same weights on the same image files, in turns, in
pairs. Detectron2's own: its `build_detection_train_loader` with its `DatasetMapper` and `SimpleTrainer` with the hooks
and writers of `DefaultTrainer` (timer, schedule, printer, JSON, TensorBoard). mmengine's own: its `Runner` with
`IterBasedTrainLoop` and default hooks on the same loader of ready samples (mmdet's data sets read through pycocotools
and OpenCV, which would compare readers, not loops). An iteration is the time from one forward pass to the next: data,
forward, backward, step and all bookkeeping. Printed is the median of the pairs' ratios, ours over theirs.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import itertools
import logging
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from detection.engines.choose import load_engine
from detection.engines.detector import DetectionJob
from detection.presets import CPU_FPN
from transfer.checkpoints.backbone import random_backbone
from transfer.datasets.boxes.detection import DetectionDataset, DetectionImage

_names = itertools.count()


def photographs(folder: Path, count: int = 16) -> DetectionDataset:
    """JPEG files of 640×480 with a few boxes each."""
    draw = np.random.default_rng(0)
    images = []
    for index in range(count):
        path = folder / f"{index}.jpg"
        pixels = draw.integers(0, 255, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((640, 480)).save(path, quality=90)
        corner = draw.uniform(0, 300, (4, 2))
        boxes = np.concatenate([corner, corner + draw.uniform(60, 170, (4, 2))], axis=1).astype(np.float32)
        labels = draw.integers(0, 3, 4)
        images.append(DetectionImage(index + 1, path.stem, path, 640, 480, boxes, labels, np.zeros(4, np.bool_)))
    return DetectionDataset("photographs", ("a", "b", "c"), tuple(images))


class Clock:
    """Seconds from each forward pass of a model in training mode to the next."""

    def __init__(self, model: nn.Module) -> None:
        self.began: list[float] = []
        self.handle = model.register_forward_pre_hook(lambda *_: self.began.append(time.perf_counter()))

    def seconds(self) -> float:
        """The median; the first few iterations warm caches up."""
        self.handle.remove()
        return statistics.median(later - one for one, later in itertools.pairwise(self.began[3:]))


def ours_detectron2(job: DetectionJob) -> float:
    from detection.engines.detectron2.detector import Detectron2Detector
    from detection.engines.run import train

    detector = Detectron2Detector(job)
    clock = Clock(detector.model)
    train(detector)
    return clock.seconds()


def theirs_detectron2(job: DetectionJob) -> float:
    from detectron2.data import DatasetMapper, build_detection_train_loader
    from detectron2.engine import SimpleTrainer, default_writers, hooks
    from detectron2.solver import build_lr_scheduler, build_optimizer

    from detection.engines.detectron2.config import build_cfg
    from detection.engines.detectron2.data import dataset_dict
    from detection.engines.detectron2.model import build_with_weights

    cfg = build_cfg(job)
    model = build_with_weights(cfg, job.backbone, job.seed)
    loader = build_detection_train_loader(
        [dataset_dict(image) for image in job.train.images],
        mapper=DatasetMapper(cfg, is_train=True),
        total_batch_size=job.recipe.batch,
        num_workers=0,
    )
    optimizer = build_optimizer(cfg, model)
    trainer = SimpleTrainer(model.train(), loader, optimizer)
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(optimizer, build_lr_scheduler(cfg, optimizer)),
            hooks.PeriodicWriter(default_writers(str(job.workdir), job.recipe.iterations), period=20),
        ]
    )
    clock = Clock(model)
    trainer.train(0, job.recipe.iterations)
    return clock.seconds()


def ours_mmdet(job: DetectionJob) -> float:
    from detection.engines.mmdet.detector import MMDetector
    from detection.engines.run import train

    detector = MMDetector(job)
    clock = Clock(detector.model.data_preprocessor)
    train(detector)
    return clock.seconds()


def theirs_mmdet(job: DetectionJob) -> float:
    from mmengine.runner import Runner

    from detection.engines.mmdet.config import build_config
    from detection.engines.mmdet.data import collate, training_pipeline
    from detection.engines.mmdet.model import build_detector

    config = build_config(job.recipe, job.backbone, job.train.classes)
    model = build_detector(config, job.backbone, job.seed)
    load = training_pipeline(job.recipe)
    loader = torch.utils.data.DataLoader(
        [*job.train.images],  # type: ignore[arg-type]
        batch_size=job.recipe.batch,
        shuffle=True,
        collate_fn=lambda images: collate([load(image) for image in images]),
    )
    runner = Runner(
        model=model,
        work_dir=str(job.workdir),
        train_dataloader=loader,
        train_cfg={"type": "IterBasedTrainLoop", "max_iters": job.recipe.iterations},
        optim_wrapper=config.optim_wrapper,
        param_scheduler=config.param_scheduler,
        default_hooks={"logger": {"type": "LoggerHook", "interval": 20}, "checkpoint": None},
        visualizer={"type": "Visualizer", "vis_backends": [{"type": "TensorboardVisBackend"}]},
        log_level="ERROR",
        experiment_name=f"theirs-{next(_names)}",
        cfg=config,
    )
    clock = Clock(model.data_preprocessor)
    runner.train()
    return clock.seconds()


CONTESTANTS = {"detectron2": (ours_detectron2, theirs_detectron2), "mmdet": (ours_mmdet, theirs_mmdet)}


def measure(engine: str, job: DetectionJob, pairs: int) -> None:
    """Print a line of medians for one engine; who begins a pair changes from pair to pair."""
    ratios, seconds = [], []
    for pair in range(pairs + 1):
        found: dict[Any, float] = {}
        order = CONTESTANTS[engine] if pair % 2 else CONTESTANTS[engine][::-1]
        for contestant in order:
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
                found[contestant] = contestant(dataclasses.replace(job, workdir=Path(folder)))
        if pair:  # the first is for caches
            ours, theirs = (found[contestant] for contestant in CONTESTANTS[engine])
            ratios.append(ours / theirs)
            seconds.append((ours, theirs))
    ours, theirs = (statistics.median(column) for column in zip(*seconds, strict=True))
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
    print(
        f"{engine}: ours {1000 * ours:.0f} ms, its own loop {1000 * theirs:.0f} ms an iteration; "
        f"ratio {statistics.median(ratios):.3f} ({spread}, {pairs} pairs)",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", default=list(CONTESTANTS))
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--side", type=int, default=256, help="shorter side of the images that the network sees")
    options = parser.parse_args()
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as folder:
        recipe = dataclasses.replace(
            CPU_FPN,
            train_sizes=(options.side,),
            max_size=2 * options.side,
            iterations=options.iterations,
            steps=(),
            warmup_iterations=5,
            precise_bn=0,
        )
        images = photographs(Path(folder))
        job = DetectionJob(
            *(random_backbone(options.arch, 0), recipe, images, images),
            seed=0,
            workdir=Path(folder),
            device=options.device,
            checkpoint_every=10**6,
        )
        for engine in options.engines:
            missing = load_engine(engine).missing()
            if missing:
                print(f"{engine}: {missing}")
            else:
                measure(engine, job, options.pairs)


if __name__ == "__main__":
    main()
