"""Detections on the test images."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from detection.engines.mmdet.data import deliver, test_loader
from detection.recipe import DetectionJob
from transfer.datasets.boxes.detection import DetectionImage, Detections
from transfer.datasets.boxes.masks import Mask

logger = logging.getLogger(__name__)

_LOG_EVERY_SECONDS = 30.0


@torch.no_grad()
def predict(job: DetectionJob, model: Any) -> Detections:
    """Detections on every image of `job.test`, in order and in pixels of the original images, on every process.

    Each process looks at its share of the images, one at a time, with the batch-norm statistics of the leader.

    Raises:
        DataError: an image cannot be read, on any process; then all of them raise.
    """
    world = job.world
    world.copy_from_leader(model.buffers())
    model.eval()
    mine = job.test.images[world.rank :: world.size]
    shares: list[list[Detections]] = world.collect(world.together(lambda: _share(job, model, mine)))
    count = len(job.test.images)
    return Detections.concatenate([shares[index % world.size][index // world.size] for index in range(count)])


def _share(job: DetectionJob, model: Any, images: tuple[DetectionImage, ...]) -> list[Detections]:
    parts: list[Detections] = []
    loader, logged = test_loader(images, job.recipe, job.workers), time.monotonic()
    hidden = not (job.world.leads and sys.stderr.isatty())
    batches = tqdm(deliver(loader), total=len(images), desc="predict", unit="im", disable=hidden)
    for image, batch in zip(images, batches, strict=True):
        parts.append(_detections(image, model.test_step(batch)[0], job.recipe.masks))
        if job.world.leads and hidden and time.monotonic() - logged > _LOG_EVERY_SECONDS:
            logged = time.monotonic()
            logger.info("predicted %d of %d images", len(parts), len(images))
    return parts


def _detections(image: DetectionImage, sample: Any, masks: bool) -> Detections:
    """Clip to the image and drop what has no area left, as Detectron2's postprocessing does."""
    instances = sample.pred_instances
    boxes = instances.bboxes.cpu().numpy().clip(0, (image.width, image.height) * 2)
    kept = ((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])).nonzero()[0]
    return Detections(
        image_ids=np.full(len(kept), image.image_id, dtype=np.int64),
        labels=instances.labels.cpu().numpy()[kept].astype(np.int64),
        boxes=boxes[kept].astype(np.float32),
        scores=instances.scores.cpu().numpy()[kept].astype(np.float32),
        # Encoded at once: a hundred masks of a photograph are 30 MB of pixels and a few kilobytes of run lengths.
        masks=tuple(Mask.from_pixels(instances.masks[i].cpu().numpy()).counts for i in kept) if masks else None,
    )
