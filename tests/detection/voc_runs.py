"""Shared by the tests of whole runs: the smallest detector that goes through every step, and how to start it."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# 64-pixel images and a handful of regions: a training iteration takes a fraction of a second.
TINY = [
    *("--preset", "smoke"),
    *("--detector.train-sizes", "64"),
    *("--detector.test-size", "64"),
    *("--detector.max-size", "96"),
    *("--detector.precise-bn", "2"),
    *("--detector.roi-batch", "16"),
    *("--detector.rpn-post-nms-train", "50"),
    *("--detector.rpn-post-nms-test", "20"),
    *("--detector.warmup-iterations", "2"),
    *("--device", "cpu"),
]


def tiny(voc: Path, runs: Path, *more: str, iterations: int = 4) -> list[str]:
    """Options of a tiny run on the toy data."""
    return [
        *TINY,
        *("--voc-root", str(voc), "--train", "train", "--test", "val", "--runs", str(runs)),
        *("--detector.iterations", str(iterations), "--detector.steps", str(max(1, iterations - 1))),
        *more,
    ]


def script(*arguments: str, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    """Start `bash detection/run_voc.sh` as a user would, from another folder."""
    return subprocess.Popen(
        ["bash", str(ROOT / "detection" / "run_voc.sh"), *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHON": sys.executable, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def records(runs: Path) -> list[Path]:
    """All files under the records folder, whole or not."""
    return [path for path in (runs / "records").rglob("*") if path.is_file()]
