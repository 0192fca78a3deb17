"""Every test of this folder takes its device from `--device`; on a GPU it keeps what it saw as evidence."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch

sys.path.append(str(Path(__file__).parent))

import evidence

T = TypeVar("T")
_RUN = pytest.StashKey[dict[str, Any]]()
_MEASURED = pytest.StashKey[dict[str, str]]()


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """Where the test computes."""
    name: str = request.config.getoption("--device")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.fail("--device cuda, but PyTorch sees no GPU; `make gpu DEVICE=cpu` runs the same at small sizes")
    return torch.device(name)


@pytest.fixture(scope="session")
def pick(device: torch.device) -> Callable[[T, T], T]:
    """`pick(real, tiny)`: the size for a GPU, or the one for a CPU."""
    return lambda real, tiny: real if device.type == "cuda" else tiny


@pytest.fixture
def measured(request: pytest.FixtureRequest, device: torch.device) -> Callable[..., None]:
    """`measured("seconds an iteration", 0.41, "s")` puts a number into the evidence."""
    kept: dict[str, str] = request.node.stash.setdefault(_MEASURED, {})

    def keep(name: str, value: float, unit: str = "") -> None:
        kept[name] = f"{value:.4g}{f' {unit}' if unit else ''}"

    return keep


@pytest.fixture(autouse=True)
def _own_memory(device: torch.device) -> Iterator[None]:
    """Peaks are this test's."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    yield
    if device.type == "cuda":
        torch.cuda.empty_cache()


@pytest.fixture
def peak(device: torch.device, measured: Callable[..., None]) -> Callable[[], None]:
    """Puts the largest memory that PyTorch held on the GPU into the evidence; nothing on a CPU."""

    def keep() -> None:
        if device.type == "cuda":
            measured("peak memory", torch.cuda.max_memory_allocated() / 2**30, "GiB")

    return keep


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[Any]:
    """After every test: its line, so that a run that is cut short still tells."""
    report: pytest.TestReport = yield
    config = item.config
    path: Path | None = config.getoption("--evidence")
    if path is None and config.getoption("--device") == "cuda":
        path = evidence.FILE
    if path is None or (report.when != "call" and report.passed) or item.get_closest_marker("gpu") is None:
        return report
    run = config.stash.setdefault(_RUN, {}) or evidence.machine(config.getoption("--device"))
    config.stash[_RUN] = run
    said = "" if report.passed else (str(call.excinfo.value).partition("\n")[0][:160] if call.excinfo else "")
    seen = {
        "outcome": report.outcome,
        "seconds": round(call.duration, 1),
        "measured": item.stash.get(_MEASURED, {}),
        "said": said,
    }
    evidence.keep(path, run, item.nodeid.rpartition("/")[2], seen)
    return report
