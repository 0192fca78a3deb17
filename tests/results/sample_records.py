"""Builds records to make tables of."""

from __future__ import annotations

from typing import Any

from transfer.record import Record, run_id

RECIPE = {"lr": 0.02, "batch": 16, "steps": [18000, 22000]}
DATA = {
    "train": {"name": "BCCD_train", "sha256": "1a" * 32, "images": 205, "boxes": 2777},
    "test": {"name": "BCCD_test", "sha256": "2b" * 32, "images": 72, "boxes": 1000},
}


def record(label: str = "MSBReg", seed: int = 0, ap: float | None = 40.0, **changes: Any) -> Record:
    """A run of `label`; `ap` None is a failed one. Keys of `checkpoint` may be given as `checkpoint_<key>`."""
    checkpoint = {
        "path": f"{label}.pth",
        "sha256": label.encode().hex().ljust(64, "0"),
        "format": "msbreg",
        "branch": "online",
        "arch": "resnet18",
        "label": label,
    }
    for key in [key for key in changes if key.startswith("checkpoint_")]:
        checkpoint[key.removeprefix("checkpoint_")] = changes.pop(key)
    ok = ap is not None
    content: dict[str, Any] = {
        "task": "detection.voc",
        "task_version": 1,
        "checkpoint": checkpoint,
        "engine": "mmdet",
        "recipe": RECIPE,
        "protocol": "moco",
        "differences": [],
        "data": DATA,
        "seed": seed,
        "status": "finished" if ok else "failed",
        "primary_metric": "AP",
        "metrics": {"AP": ap, "AP50": ap + 20.0, "AP75": ap - 5.0} if ap is not None else {},
        "details": {},
        "verification": {"tensors": 100, "expected": 100, "by_part": {"trunk": 100}, "stage_error": {"layer1": 1e-6}},
        "notes": [],
        "failure": {} if ok else {"kind": "TrainingError", "message": "the loss is nan\nmore", "traceback": "…"},
        "command": "python -m transfer run detection.voc",
        "git_commit": "c" * 40,
        "git_dirty": False,
        "versions": {"torch": "2.11.0"},
        "conditions": {"threads": 1, "instructions": "AVX2"},
        "device": "cpu: some model, 2 cores",
        "seconds": 10.0,
        "utc": "2026-01-31T12:00:00Z",
    } | changes
    content["run_id"] = run_id(
        content["task"],
        content["task_version"],
        checkpoint["sha256"],
        checkpoint["branch"],
        content["engine"],
        content["recipe"],
        content["data"],
        content["seed"],
    )
    return Record(**content)
