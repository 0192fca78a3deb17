"""Detections on the test images."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from detection.engines.detectron2.data import PredictionImages, prediction_items
from detection.recipe import DetectionJob
from transfer.datasets.boxes.detection import Detections
from transfer.datasets.boxes.masks import Mask

logger = logging.getLogger(__name__)

_LOG_EVERY_SECONDS = 30.0


@torch.no_grad()
def predict(images: PredictionImages, job: DetectionJob, model: nn.Module) -> Detections:
    """Detections on every image of `job.test`, in order and in pixels of the original images, on every process.

    Each process looks at its share of the images, one at a time, with the batch-norm statistics of the leader.

    Raises:
        DataError: an image cannot be read, on any process; then all of them raise.
    """
    job.world.copy_from_leader(model.buffers())
    model.eval()
    mine = job.world.together(lambda: _share(images, job, model))
    shares: list[list[Detections]] = job.world.collect(mine)
    return Detections.concatenate([shares[index % len(shares)][index // len(shares)] for index in range(len(images))])


def _share(images: PredictionImages, job: DetectionJob, model: nn.Module) -> list[Detections]:
    """This process's detections, image by image."""
    parts: list[Detections] = []
    total, logged = len(range(job.world.rank, len(images), job.world.size)), time.monotonic()
    bar = tqdm(total=total, unit="image", desc="predict", disable=not (job.world.leads and sys.stderr.isatty()))
    for item in prediction_items(images, job):
        instances = model([item])[0]["instances"].to("cpu")
        parts.append(_detections(item["image_id"], instances, job.recipe.masks))
        bar.update(1)
        if job.world.leads and bar.disable and time.monotonic() - logged > _LOG_EVERY_SECONDS:
            logged = time.monotonic()
            logger.info("predicted %d of %d images", len(parts), total)
    bar.close()
    return parts


def _detections(image_id: int, instances: Any, masks: bool) -> Detections:
    count = len(instances)
    return Detections(
        image_ids=np.full(count, image_id, np.int64),
        labels=instances.pred_classes.numpy().astype(np.int64),
        boxes=instances.pred_boxes.tensor.numpy().astype(np.float32).reshape(count, 4),
        scores=instances.scores.numpy().astype(np.float32),
        # Encoded at once: a hundred masks of a photograph are 30 MB of pixels and a few kilobytes of run lengths.
        masks=tuple(Mask.from_pixels(mask.numpy()).counts for mask in instances.pred_masks) if masks else None,
    )
