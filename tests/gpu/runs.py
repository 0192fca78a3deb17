"""Whole runs as they are typed, on sets that are made for them: no image set travels to a machine with a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detection.engines.progress import TrainingLog
from transfer.__main__ import main
from transfer.datasets.toy import ToySizes, make_toy
from transfer.record import read_record

ROOT = Path(__file__).resolve().parents[2]
# The protocols resize images to 480 … 800 pixels, so small pictures cost a GPU as much as large ones.
SIZES = ToySizes(voc_train=32, voc_val=4, voc_test=8, coco_train=32, coco_val=8, per_class_train=8, per_class_val=4)


@dataclass(frozen=True)
class Found:
    """What a finished run left behind."""

    metrics: Mapping[str, float]
    verification: Mapping[str, Any]
    notes: tuple[str, ...]
    seconds_an_iteration: float


def voc_set(folder: Path) -> list[str]:
    """Options that name a VOC set, made in `folder`."""
    make_toy(folder / "toy", sizes=SIZES)
    return ["--voc-root", str(folder / "toy" / "voc"), "--train", "train", "--test", "test"]


def coco_set(folder: Path) -> list[str]:
    """Options that name a COCO set with masks, made in `folder`."""
    make_toy(folder / "toy", sizes=SIZES)
    root = folder / "toy" / "coco"
    options = []
    for split, year in (("train", "train2017"), ("test", "val2017")):
        options += [f"--{split}-json", str(root / "annotations" / f"instances_{year}.json")]
        options += [f"--{split}-images", str(root / year)]
    return options


def pictures(folder: Path, count: int, side: int) -> Path:
    """A folder of noise, no two pictures alike."""
    for index in range(count):
        pixels = np.random.default_rng(index).integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((side, side)).save(folder / f"{index}.jpg", quality=90)
    return folder


def run(device: torch.device, folder: Path, *typed: str) -> tuple[int, Found | None]:
    """`python -m transfer run …` in this process: its exit status, and what it left if it finished."""
    runs = folder / "runs"
    workers = "8" if device.type == "cuda" else "0"
    status = main(["run", *typed, "--device", device.type, "--workers", workers, "--runs", str(runs)])
    if status != 0:
        return status, None
    (path,) = (runs / "records" / typed[0]).glob("*.json")
    record = read_record(path)
    assert record.status == "finished", record.failure
    assert all(np.isfinite(value) for value in record.metrics.values() if value is not None)
    curves = sorted((runs / "work" / typed[0] / record.run_id).rglob("metrics.jsonl"))
    rows = [json.loads(line) for line in curves[0].read_text(encoding="utf-8").splitlines()]
    assert all(np.isfinite(row["loss"]) for row in rows if "loss" in row)
    seconds = [row["seconds"] for row in rows if "seconds" in row]
    return 0, Found(record.metrics, record.verification, tuple(record.notes), seconds[-1])


def program(*words: str, status: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python WORDS…` at the root of the checkout, which must end with `status`."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == status, done.stderr[-2000:]
    return done


@contextmanager
def interrupted_at(iteration: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ctrl-C in the given iteration of whichever engine trains."""
    log = TrainingLog.step

    def step(self: TrainingLog, now: int, *rest: Any) -> None:
        if now == iteration:
            raise KeyboardInterrupt
        log(self, now, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLog, "step", step)
        yield
