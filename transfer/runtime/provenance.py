"""Where and with what a run was made: commit, packages, device, time. Standard library only."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

logger = logging.getLogger(__name__)
Difference = tuple[str, str, str]  # (what, in the published protocol, in this run)


def git_state(folder: Path) -> tuple[str, bool]:
    """(commit, dirty) of the checkout that `folder` belongs to.

    Dirty: a file is changed, staged, or neither committed nor ignored. Outside a repository, or where git does not
    track `folder`, nothing vouches for the code: ("unknown", True).
    """
    commit, tracked, changes = (
        _git(folder, *words) for words in (("rev-parse", "HEAD"), ("ls-files", "."), ("status", "--porcelain"))
    )
    if not commit or not tracked or changes is None:
        return "unknown", True
    return commit, bool(changes)


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        logger.debug("git %s in %s: %s", words[0], folder, error)
        return None
    return done.stdout.strip()


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """Name → installed version, with Python's own; packages that are not installed are left out."""
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def device_name(device: str) -> str:
    """The device for people: "cpu: <model>, 2 cores", or "cuda: 8 × <model>"."""
    if device == "cpu":
        return f"cpu: {processor_name()}, {os.cpu_count()} cores"
    # Whoever ran on a GPU has torch loaded; importing it here would burden every reader of records.
    torch = sys.modules.get("torch")
    if torch is None or not device.startswith("cuda"):
        return device
    return f"cuda: {torch.cuda.device_count()} × {torch.cuda.get_device_name()}"


def processor_name() -> str:
    """The CPU's model, as the system names it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def utc_now() -> str:
    """Now, as "2026-01-31T12:00:00Z"."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
