"""ViTDet at its published canvas in mixed precision."""

from __future__ import annotations

import pytest
from runs import coco_set, run

pytestmark = [pytest.mark.gpu, pytest.mark.slow]


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
@pytest.mark.parametrize("engine", ["mmdet", "detectron2"])
def test_vitdet_in_mixed_precision(engine, amp, device, pick, tmp_path, measured, peak):
    """Mask R-CNN ViTDet-B, 1024 pixels, batch 4, in bf16 and in fp16: proved in that precision, 20 iterations."""
    pytest.importorskip(engine)
    typed = [
        *("segmentation.coco_vitdet", pick("random:vit_base_patch16_224", "random:vit_64x12_patch16_64")),
        *("--engine", engine),
        *coco_set(tmp_path),
        *pick(("--detector.batch", "4"), ("--preset", "smoke")),
        *("--detector.amp", amp, "--detector.iterations", pick("20", "3"), "--detector.steps", pick("15", "2")),
        *("--detector.warmup-iterations", pick("10", "2")),
        *("--detector.score-threshold", "0", "--detector.max-detections", "5"),
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
