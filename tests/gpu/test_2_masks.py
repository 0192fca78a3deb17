"""Mask R-CNN with a pyramid in mixed precision."""

from __future__ import annotations

import pytest
from runs import coco_set, run

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

# Detector → (backbone that it was published with, a small one)
TRUNKS = {
    "vitdet": ("vit_base_patch16_224", "vit_64x12_patch16_64"),
    "vit_fpn": ("vit_base_patch16_224", "vit_64x12_patch16_64"),
    "convnext_fpn": ("convnext_tiny", "convnext_atto"),
    "swin_fpn": ("swin_tiny_window7_224", "swin_tiny_window7_224"),
}


@pytest.fixture
def twenty_iterations(device, pick, tmp_path, measured, peak):
    """Of a detector with masks in mixed precision, proved in it; on a CPU three of a small one."""

    def carry_out(word, engine, archs, amp, batch, *more):
        pytest.importorskip(engine)
        sizes = ("--detector.train-sizes", "64", "--detector.test-size", "64", "--detector.max-size", "96")
        typed = [
            *(f"segmentation.coco_{word}", f"random:{pick(*archs)}", "--engine", engine),
            *coco_set(tmp_path),
            *pick(("--detector.batch", batch), ("--preset", "smoke")),
            *("--detector.amp", amp, "--detector.iterations", pick("20", "3"), "--detector.steps", pick("15", "2")),
            *("--detector.warmup-iterations", pick("10", "2")),
            *("--detector.score-threshold", "0", "--detector.max-detections", "5"),
            *pick((), () if word == "vitdet" else sizes),
            *pick((), ("--detector.roi-batch", "8", "--detector.rpn-post-nms-train", "20")),
            *pick((), ("--detector.rpn-post-nms-test", "10")),
            *more,
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

    return carry_out


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
@pytest.mark.parametrize("engine", ["mmdet", "detectron2"])
def test_mask_rcnn_in_mixed_precision(engine, amp, pick, twenty_iterations):
    """Mask R-CNN R50-FPN, batch 16, in bf16 and in fp16: proved in that precision, 20 iterations, masks predicted."""
    twenty_iterations("fpn", engine, ("resnet50", "resnet18"), amp, "16", "--detector.precise-bn", pick("10", "1"))


@pytest.mark.parametrize("word", TRUNKS)
@pytest.mark.parametrize("amp", ["bf16", "fp16"])
@pytest.mark.parametrize("engine", ["mmdet", "detectron2"])
def test_trunks_in_mixed_precision(engine, amp, word, twenty_iterations):
    """Mask R-CNN on ViT-B (ViTDet, four maps), ConvNeXt-T, Swin-T, batch 4, bf16 and fp16: proved, 20 iterations."""
    twenty_iterations(word, engine, TRUNKS[word], amp, "4")
