"""How fast a machine computes: measured once, always by the same network, and remembered for the user's later runs."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

from transfer.checkpoints.families.resnet import gmacs_by_stage
from transfer.runtime.errors import UserError
from transfer.runtime.files import write_json
from transfer.runtime.provenance import processor_name, utc_now

logger = logging.getLogger(__name__)

ARCH = "resnet50"
TIMES = 3
IMAGES = {"cpu": 1, "cuda": 64}  # at once: on a CPU as before, on a GPU enough to keep it busy


class Speed(NamedTuple):
    """What a machine does.

    Attributes:
        gmacs: 10⁹ multiply–accumulates per second, of a ResNet-50's forward pass at 224 pixels in float32.
        utc: when that was measured.
        file: that remembered it; None: it was measured just now.
    """

    gmacs: float
    utc: str
    file: Path | None

    def line(self) -> str:
        """For people."""
        when = "measured just now"
        if self.file is not None:
            when = f"measured on {self.utc[:10]}, which {self.file} remembers until it is removed"
        return f"{self.gmacs:.0f} GMAC/s {when}"


def machine_file() -> Path | None:
    """Where speeds are remembered: in $XDG_CACHE_HOME, else in ~/.cache; None: the user has no home."""
    for folder in (os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache")):
        if os.path.isabs(folder):  # others are to be ignored, says the XDG base directory specification
            return Path(folder) / "msbreg-transfer" / "machine.json"
    return None


def speed(device: str, threads: int) -> float:
    """10⁹ multiply–accumulates per second, see `known_speed`."""
    return known_speed(device, threads).gmacs


def known_speed(device: str, threads: int) -> Speed:
    """The remembered speed, or the best of three forward passes now: on a CPU a second, on a GPU a few.

    A CPU that others keep busy looks slower than it is: that is not remembered. A file that cannot be read or written
    is done without. On a GPU this process holds a context from now on, as by anything that computes.

    Args:
        device: "cpu" or "cuda".
        threads: of PyTorch on the CPU.
    """
    import torch

    gpu = torch.device(device).type == "cuda"
    name = torch.cuda.get_device_name() if gpu else processor_name()
    key, file = f"{name}, {threads} threads, torch {torch.__version__}", machine_file()
    known = _read(file)
    if key in known:
        return Speed(known[key]["gmacs_per_second"], known[key]["utc"], file)
    found = Speed(_measured("cuda" if gpu else "cpu", threads), utc_now(), None)
    if file is not None and (gpu or not _busy()):
        try:
            write_json(file, known | {key: {"gmacs_per_second": found.gmacs, "utc": found.utc}})
        except UserError as error:
            logger.debug("the speed of this machine is not remembered: %s", error)
    return found


def _busy() -> bool:
    """Whether more wants to compute than there are cores."""
    try:
        return os.getloadavg()[0] > (os.cpu_count() or 1)
    except OSError:  # the system does not tell
        return False


def _read(file: Path | None) -> dict[str, dict[str, Any]]:
    """The whole entries; others are forgotten."""
    try:
        known = json.loads(file.read_bytes()) if file is not None else {}
    except (OSError, ValueError):
        return {}
    entries = known.items() if isinstance(known, dict) else ()
    return {key: entry for key, entry in entries if _whole(entry)}


def _whole(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("utc"), str):
        return False
    number = entry.get("gmacs_per_second")
    return isinstance(number, float) and 0 < number < math.inf


def _measured(device: str, threads: int) -> float:
    import torch

    from transfer.checkpoints.families.resnet import build_resnet

    before, seconds = torch.get_num_threads(), []
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            model = build_resnet(ARCH).eval().to(device)
            images = torch.randn(IMAGES[device], 3, 224, 224).to(device)
            for _ in range(TIMES):
                _wait(device)
                began = time.perf_counter()
                model(images)
                _wait(device)
                seconds.append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(before)
    return IMAGES[device] * sum(gmacs_by_stage(ARCH).values()) / min(seconds)


def _wait(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
