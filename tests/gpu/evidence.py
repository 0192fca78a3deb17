"""What the tests of this folder saw, line by line, kept in `evidence.json`.

A line is a test. It keeps its outcome, its seconds, what it measured, and the run that saw it: GPU, versions, commit,
date. A later run replaces the lines that it comes to and leaves the others, so a run that was cut short still tells.
"""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FILE = HERE / "evidence.json"
PACKAGES = (
    *("torch", "torchvision", "triton", "numpy", "detectron2", "onedl-mmdetection", "onedl-mmcv", "onedl-mmengine"),
    "timm",
)


@dataclass(frozen=True)
class Line:
    """One test, which parameters may multiply.

    Attributes:
        test: "file::function".
        title: first line of its docstring.
    """

    test: str
    title: str


def lines() -> list[Line]:
    """All lines, in the order in which they run, read from the files without importing them."""
    found = []
    for path in sorted(HERE.glob("test_[0-9]*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                title = (ast.get_docstring(node) or "").partition("\n")[0]
                found.append(Line(f"{path.name}::{node.name}", title))
    return found


def machine(device: str) -> dict[str, Any]:
    """GPU, versions, commit and date of this run."""
    import torch

    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    gpu = torch.cuda.get_device_name() if device == "cuda" else ""
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30 if gpu else 0.0
    return {
        "gpu": gpu,
        "gib": round(memory),
        "cuda": torch.version.cuda or "",
        "commit": _commit(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "versions": versions,
    }


def _commit() -> str:
    """Twelve characters, "+" behind them if the tree differs; empty outside a checkout of git."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except FileNotFoundError:  # no git
        return ""


def read(path: Path = FILE) -> dict[str, Any]:
    """{"runs": […], "lines": {test: {…}}}; both empty where there is no file."""
    if not path.exists():
        return {"runs": [], "lines": {}}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def keep(path: Path, run: dict[str, Any], test: str, seen: dict[str, Any]) -> None:
    """Put one line into the file; runs that no line points to any more go."""
    content = read(path)
    numbered = [*content["runs"], run] if run not in content["runs"] else content["runs"]
    content["lines"][test] = seen | {"run": numbered.index(run)}
    used = sorted({line["run"] for line in content["lines"].values()})
    for line in content["lines"].values():
        line["run"] = used.index(line["run"])
    content["runs"] = [numbered[number] for number in used]
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, path)
