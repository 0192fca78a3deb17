"""Conditions: what is set, what is told, and that the digest of the arithmetic tells one arithmetic from another."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from transfer.runtime.conditions import THREADS, differences, observed, settle
from transfer.runtime.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = """
import json, sys
from transfer.runtime.conditions import observed, settle
print(json.dumps((settle("cpu", int(sys.argv[1])) if len(sys.argv) > 1 else observed("cpu")).plain()))
"""


def elsewhere(*threads: str, **environment: str) -> dict:
    """The conditions of another process."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *threads],
        env=os.environ | environment, cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_threads_are_those_of_the_run_whatever_the_environment_says():
    torch.set_num_threads(3)
    assert settle("cpu").threads == torch.get_num_threads() == THREADS
    with pytest.raises(UserError, match="--threads 0"):
        settle("cpu", 0)


def test_what_is_told_is_what_pytorch_says():
    found = settle("cpu", 2)
    assert (found.threads, found.instructions) == (2, torch.backends.cpu.get_cpu_capability())
    assert found.matmul == "highest"
    assert found.tf32 == found.cudnn == ""  # a GPU's
    torch.use_deterministic_algorithms(True)
    try:
        now = observed("cpu")
    finally:
        torch.use_deterministic_algorithms(False)
    assert differences(found.plain(), now.plain()) == [
        "the demand for deterministic algorithms was False and is now True"
    ]


@pytest.mark.slow
def test_equal_conditions_give_the_same_digest_in_every_process_and_draw_no_number():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    here = settle("cpu").plain()
    assert torch.rand(1) == expected
    assert differences(here, elsewhere(str(THREADS), OMP_NUM_THREADS="3")) == []
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert observed("cpu").plain() == here


@pytest.mark.slow
@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="this CPU has no vector instructions")
def test_other_vector_instructions_are_another_digest():
    here = settle("cpu").plain()
    kernels = elsewhere("1", ATEN_CPU_CAPABILITY="default")
    assert kernels["instructions"] == "DEFAULT"
    assert kernels["arithmetic"] != here["arithmetic"]
    # oneDNN chooses for itself, and PyTorch's word for the CPU does not change with it: the digest does
    convolutions = elsewhere("1", ONEDNN_MAX_CPU_ISA="SSE41")
    assert convolutions["instructions"] == here["instructions"]
    assert convolutions["arithmetic"] != here["arithmetic"]


def test_the_line_for_the_log_names_idle_cores(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert "1 thread on 64 cores (--threads is faster" in settle("cpu").line()
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    line = settle("cpu", 2).line()
    assert "2 threads, " in line
    assert "--threads" not in line


def test_differences_in_words():
    then = {"threads": 2, "instructions": "AVX512", "cudnn": ""}
    assert differences(then, {"threads": 1, "instructions": "AVX2", "cudnn": ""}) == [
        "the number of CPU threads was 2 and is now 1",
        "the CPU's instruction set was AVX512 and is now AVX2",
    ]
    assert differences({"threads": 1}, {"threads": 1, "batch": 8}) == ["batch was not recorded and is now 8"]
    assert differences({}, then) == ["its threads, instruction set and arithmetic were not recorded"]
    assert differences({}, {}) == []
