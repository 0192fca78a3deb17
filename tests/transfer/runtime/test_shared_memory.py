"""What PyTorch and the system say when /dev/shm is full, and what a person is told."""

from __future__ import annotations

import errno
import re
import shutil
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from transfer.runtime import shared_memory
from transfer.runtime.errors import TrainingError
from transfer.runtime.loader import Loader
from transfer.runtime.shared_memory import demand_shared_memory, out_of_shared_memory

ROOT = Path(__file__).resolve().parents[3]
# As PyTorch words them: torch/utils/data/_utils/signal_handling.py, torch/csrc/DataLoader.cpp, aten MapAllocator.cpp.
FULL = (
    RuntimeError(
        "DataLoader worker (pid 51) is killed by signal: Bus error. It is possible that dataloader's workers are out "
        "of shared memory. Please try to raise your shared memory limit."
    ),
    RuntimeError("unable to write to file </torch_51_2043_0>: No space left on device (28)"),
    RuntimeError("unable to allocate shared memory(shm) for file </torch_9_1_0>: Cannot allocate memory (12)"),
    OSError(errno.ENOSPC, "No space left on device", "/dev/shm/pym-51-x"),
)
OTHER = (
    RuntimeError("DataLoader worker (pid 51) is killed by signal: Killed."),
    OSError(errno.ENOSPC, "No space left on device", "/data/runs/x.json"),
    RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ValueError("/dev/shm"),
)


@pytest.mark.parametrize("error", FULL)
def test_a_full_dev_shm_is_named_with_the_way_out(error):
    wrapped = RuntimeError("DataLoader worker (pid(s) 51) exited unexpectedly")
    wrapped.__cause__ = error
    for each in (error, wrapped):
        text = str(out_of_shared_memory(each))
        assert "--workers 0" in text
        assert "--shm-size" in text


@pytest.mark.parametrize("error", OTHER)
def test_other_errors_are_left_alone(error):
    assert out_of_shared_memory(error) is None


def test_workers_are_not_started_where_there_is_no_room(monkeypatch, tmp_path):
    monkeypatch.setattr(shared_memory, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**16, 0, 2**16))
    demand_shared_memory(0)
    with pytest.raises(TrainingError, match=r"2 data-loading processes") as caught:
        demand_shared_memory(2)
    assert "--workers 0" in str(caught.value)


def test_a_semaphore_that_cannot_be_made_tells_a_disk_from_shared_memory(monkeypatch):
    error = OSError(errno.ENOSPC, "No space left on device")
    for free, found in ((2**12, True), (2**30, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: shutil._ntuple_diskusage(2**31, 0, free))
        assert (out_of_shared_memory(error) is not None) == found


def test_every_loader_asks_for_room_first(monkeypatch):
    used = [path for room in ("pretrain", "transfer") for path in (ROOT / room).rglob("*.py")]
    assert [
        p.name for p in used if re.search(r"import .*\bDataLoader\b|data\.DataLoader\b", p.read_text(encoding="utf-8"))
    ] == ["loader.py"]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**16, 0, 2**12))
    with pytest.raises(TrainingError, match="need room in shared memory"):
        iter(Loader([1, 2], num_workers=2))
    assert list(Loader([1, 2], num_workers=0, batch_size=None)) == [1, 2]


def test_a_worker_that_cannot_hand_over_its_batch_ends_the_loading(monkeypatch):
    def full(storage):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_9_1_0>: try again (11)")

    demand_shared_memory(1)
    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", full)
    loader = DataLoader([torch.zeros(4)] * 8, num_workers=1, timeout=20)
    with pytest.raises(RuntimeError) as caught:
        list(loader)
    assert out_of_shared_memory(caught.value), f"waits for ever: {caught.value}"
