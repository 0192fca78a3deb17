"""`python -m transfer doctor`: what of this machine a run would stumble over, and for each what to type.

Looked at are packages, engines, the processor or GPU, folders and the data of the tasks; nothing is read or trained.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from transfer.cli import gpu_gigabytes
from transfer.datasets.labels.catalogue import data_root as place_of_data
from transfer.runtime.command import Debug
from transfer.runtime.conditions import THREADS, settle
from transfer.runtime.files import ROOT
from transfer.runtime.provenance import device_name
from transfer.runtime.shared_memory import LEAST_PER_WORKER, SHARED_MEMORY
from transfer.task import load_task, task_names

# What numbers depend on; constraints.txt names the versions that are tested.
PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow", "scikit-learn", "safetensors", "faster-coco-eval")
ENGINES = "detection.engines.choose"  # of the room above, found by its name as tasks are
LEAST_GB = 20.0  # features of ImageNet for one ResNet-50: 1.28 million × 2,048 × float32 = 10.5 GB

State = Literal["ok", "note", "MISSING"]


@dataclass(frozen=True)
class Finding:
    """One line of the listing.

    Attributes:
        state: ok; note: works, but read it; MISSING: what needs it will not run.
        what: it is.
        todo: what to type, or what it means.
    """

    state: State
    what: str
    todo: str = ""

    def line(self) -> str:
        """For people."""
        return f"  {self.state:<8}{self.what}" + (f"\n          → {self.todo}" if self.todo else "")


@dataclass(frozen=True)
class Doctor(Debug):
    """Look at packages, engines, machine, folders and data, and say what to type about what is missing.

    Exit status 1 if no task could run here.

    Attributes:
        data_root: folder that holds the official sets (default: $DETECTRON2_DATASETS, else datasets/ here).
        runs: where records and everything else would be written.
        tasks: look at the data of these only.
    """

    data_root: Path | None = None
    runs: Path = ROOT / "runs"
    tasks: tuple[str, ...] = ()


def doctor_command(arguments: Sequence[str]) -> tuple[str, int]:
    """The listing, and the exit status.

    Raises:
        UserError: no such task.
    """
    options = tyro.cli(Doctor, args=arguments, prog="python -m transfer doctor")
    root = place_of_data(options.data_root)
    parts: dict[str, list[Finding]] = {
        "packages": list(packages(tested_versions(ROOT / "constraints.txt"))),
        "engines, for detection and segmentation": list(engines()),
        "machine": list(machine()),
        "folders": [folder(options.runs)],
        f"official data below {root}": list(data(root, options.tasks or tuple(task_names()))),
    }
    blocked = any(finding.state == "MISSING" for name in ("packages", "folders") for finding in parts[name])
    lines = [line for name, found in parts.items() for line in (name, *(finding.line() for finding in found), "")]
    lines.append("a set of your own needs no official data: `python -m transfer run TASK --help`")
    return "\n".join(lines), int(blocked)


def tested_versions(file: Path) -> dict[str, str]:
    """Package → version, of constraints.txt."""
    pinned = re.findall(r"^([\w.-]+)==(\S+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {name.lower(): version for name, version in pinned}


def packages(tested: Mapping[str, str]) -> Iterator[Finding]:
    """Python and what numbers depend on, against the tested versions."""
    version = sys.version_info
    python = f"python {version.major}.{version.minor}.{version.micro}"
    if (3, 11) <= version[:2] <= (3, 13):
        yield Finding(
            "ok" if version[:2] == (3, 11) else "note", python, "" if version[:2] == (3, 11) else "tested: 3.11"
        )
    else:
        yield Finding("MISSING", python, "make setup PYTHON=python3.11")
    for name in PACKAGES:
        yield _package(name, tested[name])


def _package(name: str, tested: str) -> Finding:
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding("MISSING", f"{name} (tested: {tested})", "make setup")
    if found.partition("+")[0] == tested:
        return Finding("ok", f"{name} {found}")
    return Finding("note", f"{name} {found}", f"tested: {tested}; last digits may move. `make setup` installs that")


def engines() -> Iterator[Finding]:
    """Detectron2 and MMDetection: usable, or why not."""
    choose: Any = importlib.import_module(ENGINES)
    usable = False
    for name in choose.ENGINES:
        engine = choose.load_engine(name)
        problem = engine.missing()
        usable |= problem is None
        if problem is None:
            yield Finding("ok", f"{name}: " + ", ".join(f"{key} {value}" for key, value in engine.versions().items()))
        else:
            yield Finding("note", f"{name}: {problem}")
    if not usable:
        yield Finding("MISSING", "no engine: detection and segmentation cannot run", "make setup")


def machine() -> Iterator[Finding]:
    """Processor or GPUs, threads, shared memory."""
    import torch

    memory = gpu_gigabytes()
    if memory is not None:
        yield Finding("ok", f"{device_name('cuda')}, {memory:.0f} GB each, CUDA {torch.version.cuda}")
        yield Finding("ok", f"computes with: {settle('cuda', THREADS).line()}")
    else:
        yield Finding(
            "note",
            "no GPU that PyTorch sees: published recipes would take days and are refused",
            "--preset cpu makes small sets possible (`python -m transfer tasks NAME` lists presets)",
        )
    yield Finding("ok", f"computes with: {settle('cpu', THREADS).line()}")
    if SHARED_MEMORY.is_dir():
        free = shutil.disk_usage(SHARED_MEMORY).free
        workers = free // LEAST_PER_WORKER
        state: State = "ok" if workers >= (os.cpu_count() or 1) else "note"
        yield Finding(state, f"{SHARED_MEMORY}: {free / 2**30:.1f} GiB free, room for {workers} data-loading processes")


def folder(runs: Path) -> Finding:
    """Whether runs can be written, and the room there."""
    place = runs
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        return Finding("MISSING", f"{runs} cannot be written", "name a folder of your own: --runs DIR")
    free = shutil.disk_usage(place).free / 1e9
    if free < LEAST_GB:
        return Finding(
            "note", f"{runs}: {free:.1f} GB free", f"features of ImageNet take {LEAST_GB / 2:.0f} GB a checkpoint"
        )
    return Finding("ok", f"{runs}: {free:.0f} GB free")


def data(root: Path, names: Sequence[str]) -> Iterator[Finding]:
    """For each task whether its official data are there; sets that several tasks share are said once."""
    lacking: dict[tuple[str, ...], list[str]] = {}
    there = []
    for name in names:
        needs = load_task(name).needs
        missing = tuple(part for part in needs if not (root / part).exists())
        if missing:
            lacking.setdefault(missing, []).append(name)
        elif needs:
            there.append(name)
    if there:
        yield Finding("ok", ", ".join(there))
    for missing, tasks in lacking.items():
        yield Finding("MISSING", f"{', '.join(missing)}, for {', '.join(tasks)}", load_task(tasks[0]).how)
