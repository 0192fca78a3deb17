"""Detections on the test images."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import nn
from tqdm import tqdm

from transfer.datasets.detection import Detections
from transfer.detector import DetectionJob
from transfer.engines.detectron2.data import prediction_items

logger = logging.getLogger(__name__)

_LOG_EVERY_SECONDS = 30.0


@torch.no_grad()
def predict(cfg: CfgNode, job: DetectionJob, model: nn.Module) -> Detections:
    """Detections on every image of `job.test`, one at a time, in pixels of the original images.

    Raises:
        DataError: an image cannot be read.
    """
    model.eval()
    parts: list[Detections] = []
    total, logged = len(job.test), time.monotonic()
    bar = tqdm(total=total, unit="image", desc="predict", disable=not sys.stderr.isatty())
    for item in prediction_items(cfg, job):
        parts.append(_detections(item["image_id"], model([item])[0]["instances"].to("cpu")))
        bar.update(1)
        if bar.disable and time.monotonic() - logged > _LOG_EVERY_SECONDS:
            logged = time.monotonic()
            logger.info("predicted %d of %d images", len(parts), total)
    bar.close()
    return Detections.concatenate(parts)


def _detections(image_id: int, instances: Any) -> Detections:
    count = len(instances)
    return Detections(
        image_ids=np.full(count, image_id, np.int64),
        labels=instances.pred_classes.numpy().astype(np.int64),
        boxes=instances.pred_boxes.tensor.numpy().astype(np.float32).reshape(count, 4),
        scores=instances.scores.numpy().astype(np.float32),
    )
