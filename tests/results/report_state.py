"""Records for the report's tests: invented, with every kind of row and mark."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from sample_records import record

from transfer.record import Record

PROOF = {"expected": 100, "tensors": 100, "by_part": {"trunk": 100}, "stage_error": {"layer1": 1e-7, "layer4": 8e-7}}
# task, engine, its metrics (the primary one first)
TASKS = (
    ("transfer.imagenet_linear", "", ("top1", "top5")),
    ("transfer.imagenet_semi_1", "", ("top1", "top5")),
    ("transfer.imagenet_semi_10", "", ("top1", "top5")),
    ("transfer.places205_linear", "", ("top1",)),
    ("transfer.voc07_svm", "", ("mAP",)),
    ("finegrained.inat18_linear", "", ("top1",)),
    ("detection.voc", "detectron2", ("AP50", "AP", "AP75")),
    ("detection.voc", "mmdet", ("AP50", "AP", "AP75")),
    ("segmentation.coco_c4", "detectron2", ("box_AP", "box_AP50", "box_AP75", "mask_AP", "mask_AP50", "mask_AP75")),
    ("finegrained.cub200_linear", "", ("top1",)),
)
METHODS = ("MSBReg", "SwAV", "BYOL", "Barlow Twins", "VICReg", "MoCo v2", "SimCLR", "my-run", "supervised", "random")


def runs(methods: Sequence[str] = METHODS, seeds: int = 3, tasks: Sequence[Any] = TASKS) -> Iterator[Record]:
    """300 runs: ten checkpoints, ten tasks, three seeds. Methods fall by 1.5 points, noise is .3."""
    draw = random.Random(17)
    for task, engine, metrics in tasks:
        base = draw.uniform(40, 75)
        for place, label in enumerate(methods):
            for seed in range(seeds):
                values = {name: base - 1.5 * place - 4 * n + draw.gauss(0, 0.3) for n, name in enumerate(metrics)}
                yield run(label, seed, values, task, engine)


def run(label: str, seed: int, values: dict[str, float], task: str, engine: str = "", **changes: Any) -> Record:
    """One run; of no values a failed one."""
    failure = {} if values else {"kind": "OutOfMemory", "message": "no memory left\nmore", "traceback": "…"}
    data = {split: {"name": f"{task}_{split}", "sha256": task.encode().hex().ljust(64, "0")[:64], "images": 100}
            for split in ("train", "test")}  # fmt: skip
    said: dict[str, Any] = {
        "task": task,
        "engine": engine,
        "metrics": values,
        "primary_metric": next(iter(values), "AP50"),
        "status": "finished" if values else "failed",
        "failure": failure,
        "data": data,
        "recipe": {"lr": 0.1},
        "verification": PROOF,
        "checkpoint_format": "random" if label == "random" else "torchvision",
        "command": f"python -m transfer run {task} /home/someone/{label}.pth --seeds {seed} --runs '/data/my runs/x'",
    }
    return record(label, seed, 0.0, **(said | changes))
