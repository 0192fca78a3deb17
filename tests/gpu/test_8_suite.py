"""A suite on the device: places, memory and speed of the GPUs are asked in processes of their own."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transfer.__main__ import main
from transfer.record import read_record

pytestmark = [pytest.mark.gpu, pytest.mark.slow]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Eighty of two classes."""
    draw = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("one", "two"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(20):
                pixels = draw.integers(0, 255, (64, 64, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{number}.png")
    return tmp_path


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
