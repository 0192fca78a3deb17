"""Processes that have worked together leave nothing of each other behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
WORK = r"""
import os
from pathlib import Path
import torch
from transfer.runtime.world import world

with world(torch.device("cpu")) as (processes, _):
    weight = torch.nn.Parameter(torch.ones(3))
    torch.optim.SGD([weight], lr=0.1)  # imports what would hold the group
    processes.add_up([weight.data])
left = sum("gloo" in (task / "comm").read_text() for task in Path("/proc/self/task").iterdir())
os.write(1, f"left {left}\n".encode())
"""


@pytest.mark.slow
def test_no_thread_of_gloo_outlives_the_group(tmp_path: Path) -> None:
    """A thread that lets go of a tensor while Python ends aborts the process: one finished run in forty was lost so."""
    script = tmp_path / "work.py"
    script.write_text(WORK, encoding="utf-8")
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(start, env=environment, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines() == ["left 0", "left 0"]
