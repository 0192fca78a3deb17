"""Detectors without regions of interest, and the focal loss that stands in for mmcv's kernel."""

from __future__ import annotations

import pytest
import torch
from runs import coco_set, run

from detection.engines import mmcv_ops

pytestmark = [pytest.mark.gpu, pytest.mark.slow]


@pytest.mark.parametrize("family", ["retinanet", "fcos"])
@pytest.mark.parametrize("engine", ["mmdet", "detectron2"])
def test_dense_detectors(engine, family, device, pick, tmp_path, measured, peak):
    """RetinaNet and FCOS R50-FPN, batch 16, 20 iterations, in both engines."""
    pytest.importorskip(engine)
    typed = [
        *(f"detection.coco_{family}", pick("random:resnet50", "random:resnet18"), "--engine", engine),
        *coco_set(tmp_path),
        *pick(("--detector.batch", "16"), ("--preset", "smoke")),
        *("--detector.iterations", pick("20", "4"), "--detector.steps", pick("15", "3")),
        *("--detector.warmup-iterations", pick("10", "2")),
        *pick((), ("--detector.train-sizes", "64", "--detector.test-size", "64", "--detector.max-size", "96")),
    ]
    status, found = run(device, tmp_path, *typed)
    assert status == 0
    measured("seconds an iteration", found.seconds_an_iteration, "s")
    peak()


def test_focal_loss_and_its_gradient(device, measured):
    """The stand-in for mmcv's focal loss equals a plain computation in float64, forward and backward."""
    random = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(500, 7, generator=random)).to(device)
    target = torch.randint(0, 8, (500,), generator=random).to(device)
    weight, gamma, alpha = logits.new_empty(0), 2.0, 0.25
    loss, slope = torch.empty_like(logits), torch.empty_like(logits)
    mmcv_ops.sigmoid_focal_loss_forward(logits, target, weight, loss, gamma, alpha)
    mmcv_ops.sigmoid_focal_loss_backward(logits, target, weight, slope, gamma, alpha)
    x = logits.double().cpu().requires_grad_()
    positive = target.cpu()[:, None] == torch.arange(7)
    p = x.sigmoid()
    wanted = torch.where(positive, -alpha * (1 - p) ** gamma * p.log(), -(1 - alpha) * p**gamma * (1 - p).log())
    (by_autograd,) = torch.autograd.grad(wanted.sum(), x)
    differences = [
        float((ours.cpu() - theirs.detach()).abs().max()) for ours, theirs in ((loss, wanted), (slope, by_autograd))
    ]
    measured("largest difference", max(differences))
    assert max(differences) < 1e-5
