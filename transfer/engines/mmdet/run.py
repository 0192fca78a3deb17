"""One detection run: build, verify, train or resume, refine the batch norms, predict."""

from __future__ import annotations

import logging
import sys
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from transfer.datasets.detection import DetectionImage, Detections
from transfer.detector import DetectionJob, DetectionOutcome
from transfer.engines.mmdet.config import build_config, differences
from transfer.engines.mmdet.data import deliver, test_loader
from transfer.engines.mmdet.model import build_detector, verify_detector
from transfer.engines.mmdet.training import refine_statistics, train

logger = logging.getLogger(__name__)


def run(job: DetectionJob) -> DetectionOutcome:
    """Carry out the job; see `transfer.detector.DetectionEngine.run`.

    With 0 iterations nothing is trained: the fresh heads predict on the checkpoint's own batch-norm statistics.
    """
    config = build_config(job.recipe, job.backbone, job.train.classes)
    model = build_detector(config, job.backbone, job.seed)
    verification = verify_detector(model, job.backbone)
    logger.info("mmdet %s", verification.line())
    model.to(job.device)
    notes: tuple[str, ...] = ()
    if job.recipe.iterations:
        began = train(job, config, model)
        if began:
            notes = (f"training was taken up after {began} of {job.recipe.iterations} iterations",)
        if job.recipe.precise_bn:
            refine_statistics(job, model)
    return DetectionOutcome(predict(job, model), verification, differences(job.recipe), notes)


@torch.no_grad()
def predict(job: DetectionJob, model: Any) -> Detections:
    """Detections on the test images, one image at a time, in pixels of the original image."""
    model.eval()
    loader = test_loader(job.test.images, job.recipe, job.workers)
    batches = tqdm(deliver(loader), total=len(job.test), desc="predict", unit="im", disable=not sys.stderr.isatty())
    found = zip(job.test.images, batches, strict=True)
    return Detections.concatenate([_detections(image, model.test_step(batch)[0]) for image, batch in found])


def _detections(image: DetectionImage, sample: Any) -> Detections:
    """Clip to the image and drop what has no area left, as Detectron2's postprocessing does."""
    instances = sample.pred_instances
    boxes = instances.bboxes.cpu().numpy().clip(0, (image.width, image.height) * 2)
    kept = ((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])).nonzero()[0]
    return Detections(
        image_ids=np.full(len(kept), image.image_id, dtype=np.int64),
        labels=instances.labels.cpu().numpy()[kept].astype(np.int64),
        boxes=boxes[kept].astype(np.float32),
        scores=instances.scores.cpu().numpy()[kept].astype(np.float32),
    )
