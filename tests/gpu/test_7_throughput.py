"""What a step costs beside its networks alone, and an iteration beside the engine's own loop."""

from __future__ import annotations

import os
import re

import pytest
from runs import ROOT, program

pytestmark = [pytest.mark.gpu, pytest.mark.slow]


def said_by(*words: str) -> str:
    """Output of a benchmark, which imports the project from the checkout."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return program(*words, PYTHONPATH=path).stdout


@pytest.mark.parametrize("part", ["bare", "forces"])
def test_a_pretraining_step(part, device, pick, measured, peak):
    """A whole step of MSBReg beside forward and backward of its networks, and the share of its two forces."""
    text = said_by(
        *("tests/benchmarks/bench_pretraining.py", "--only", part, "--device", device.type),
        *("--arch", pick("resnet50", "resnet18"), "--batch", pick("128", "4"), "--crop", pick("224", "32")),
        *("--precision", pick("bf16", "fp32"), "--rounds", pick("5", "1"), "--steps", pick("5", "1")),
    )
    ratios = re.findall(r"^\s+(\S.*?)\s+[\d.]+ s\s+[\d.]+ images/s\s+time over \S+: ([\d.]+)", text, re.MULTILINE)
    assert ratios, text
    for name, ratio in ratios:
        measured(f"time of {name.strip()} over ours", float(ratio))


def test_an_iteration_of_each_engine(device, pick, measured):
    """An iteration of each engine beside the library's own loop, in turns."""
    if device.type == "cpu":
        pytest.skip("takes minutes on a CPU; tests/benchmarks/bench_detection_harness.py measures it there")
    text = said_by(
        *("tests/benchmarks/bench_detection_harness.py", "--device", "cuda", "--arch", "resnet50", "--side", "800"),
        *("--iterations", "25", "--pairs", "2"),
    )
    ratios = re.findall(r"^(\w+): .*ratio ([\d.]+)", text, re.MULTILINE)
    assert ratios, text
    for engine, ratio in ratios:
        measured(f"{engine}, ours over its own", float(ratio))
