"""VOC detection by its published protocol, Faster R-CNN R50-C4, batch 16: the main command of this project."""

from __future__ import annotations

import pytest
from runs import interrupted_at, run, voc_set

pytestmark = [pytest.mark.gpu, pytest.mark.slow]
ITERATIONS, STOP = 30, 27  # a checkpoint is written after 25


@pytest.mark.parametrize("engine", ["mmdet", "detectron2"])
def test_thirty_iterations_stopped_and_resumed(engine, device, pick, tmp_path, measured, peak, monkeypatch):
    """R50-C4 as published, batch 16: weights proved on the device, 30 iterations, stopped at 27, taken up at 25."""
    pytest.importorskip(engine)
    typed = [
        *("detection.voc", pick("random:resnet50", "random:resnet18"), "--engine", engine),
        *voc_set(tmp_path),
        *pick(("--detector.batch", "16"), ("--preset", "smoke")),
        *("--detector.iterations", str(ITERATIONS), "--detector.steps", "20", "25", "--detector.precise-bn", "5"),
        *pick(("--detector.warmup-iterations", "20"), ("--detector.warmup-iterations", "2")),
        *pick((), ("--detector.train-sizes", "64", "--detector.test-size", "64", "--detector.max-size", "96")),
    ]
    with interrupted_at(STOP, monkeypatch):
        assert run(device, tmp_path, *typed) == (130, None)
    status, found = run(device, tmp_path, *typed)
    assert status == 0
    assert found.verification["device"] == device.type
    assert found.verification["tensors"] == found.verification["expected"] > 0
    assert any("taken up after 25" in note for note in found.notes)
    measured("seconds an iteration", found.seconds_an_iteration, "s")
    measured("worst stage error", max(found.verification["stage_error"].values()))
    peak()
