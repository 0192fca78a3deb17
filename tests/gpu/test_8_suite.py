"""A suite on the device: places, memory and speed of the GPUs are asked in processes of their own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from noise_images import write_noise

from transfer.__main__ import main
from transfer.record import read_record

pytestmark = [pytest.mark.gpu, pytest.mark.slow]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Eighty of two classes."""
    return write_noise(tmp_path / "images", 20, 20, 64)


def test_two_checkpoints_one_after_the_other(images, tmp_path, device, pick, capfd, measured):
    size = pick("224", "32")
    runs = tmp_path / "runs"
    tasks = f"transfer.knn --ks 20 --view.crop {size} --view.resize {size} --image-folder {images}"
    checkpoints = [pick("random:resnet50", "random:resnet18"), pick("random:resnet50:1", "random:resnet18:1")]
    assert main(["suite", *checkpoints, "--tasks", tasks, "--device", device.type, "--runs", str(runs)]) == 0
    found = [read_record(file) for file in (runs / "records").glob("*/*.json")]
    assert [record.status for record in found] == ["finished"] * 2
    assert re.search(r"2 to do now, \d+ at a time: about", capfd.readouterr().out)
    measured("seconds of a run in the suite", max(record.seconds for record in found), "s")
