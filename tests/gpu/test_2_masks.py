"""Mask R-CNN with a pyramid in mixed precision."""

from __future__ import annotations

import pytest
from runs import coco_set, run

pytestmark = [pytest.mark.gpu, pytest.mark.slow]


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
@pytest.mark.parametrize("engine", ["mmdet", "detectron2"])
def test_mask_rcnn_in_mixed_precision(engine, amp, device, pick, tmp_path, measured, peak):
    """Mask R-CNN R50-FPN, batch 16, in bf16 and in fp16: proved in that precision, 20 iterations, masks predicted."""
    pytest.importorskip(engine)
    typed = [
        *("segmentation.coco_fpn", pick("random:resnet50", "random:resnet18"), "--engine", engine),
        *coco_set(tmp_path),
        *pick(("--detector.batch", "16"), ("--preset", "smoke")),
        *("--detector.amp", amp, "--detector.iterations", pick("20", "3"), "--detector.steps", pick("15", "2")),
        *("--detector.warmup-iterations", pick("10", "2"), "--detector.precise-bn", pick("10", "1")),
        *("--detector.score-threshold", "0", "--detector.max-detections", "5"),
        *pick((), ("--detector.train-sizes", "64", "--detector.test-size", "64", "--detector.max-size", "96")),
        *pick((), ("--detector.roi-batch", "8", "--detector.rpn-post-nms-train", "20")),
        *pick((), ("--detector.rpn-post-nms-test", "10")),
    ]
    status, found = run(device, tmp_path, *typed)
    if device.type == "cpu" and amp == "fp16":
        assert status == 2  # refused: fp16 is for GPUs
        return
    assert status == 0
    assert found.verification["precision"] == amp
    assert "mask_AP" in found.metrics
    measured("seconds an iteration", found.seconds_an_iteration, "s")
    measured("worst stage error in this precision", max(found.verification["rounding"].values()))
    peak()
