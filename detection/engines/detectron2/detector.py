"""A detector of Detectron2: its config, model, optimiser and augmentations, as `detection.engines.run` drives them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils.events import EventStorage
from numpy.typing import NDArray
from torch import Tensor

from detection.engines.detector import DetectionJob, Detector, Schedule
from detection.engines.detectron2.config import build_cfg
from detection.engines.detectron2.data import JitterMapper, PredictionImages, TrainMapper, test_items, train_batches
from detection.engines.detectron2.matcher import match_as_mmdetection
from detection.engines.detectron2.model import BLOCKS, build_with_weights, presented, verify_model
from detection.recipe import OnTrunk
from transfer.checkpoints.verify import Verification
from transfer.datasets.boxes.detection import DetectionImage, Detections
from transfer.datasets.boxes.masks import Mask

# RetinaNet and FCOS divide their losses by a moving average of the number of positive anchors, which they keep as a
# plain attribute, in no state_dict (detectron2/modeling/meta_arch/dense_detector.py, `_ema_update`).
_NORMALIZER = "loss_normalizer"


class Detectron2Detector(Detector):
    """See `Detector`. What the run is told by its native config is read from there, so that no key is set in vain."""

    name = "detectron2"
    resnet_blocks = BLOCKS

    def __init__(self, job: DetectionJob) -> None:
        super().__init__(job)
        self.cfg = build_cfg(job)
        self.config = "config.yaml", self.cfg.dump()
        self.model = build_with_weights(self.cfg, job.backbone, self.cfg.SEED, job.world)
        if job.recipe.library == "mmdet":
            match_as_mmdetection(self.model)
        self.test_images = PredictionImages(self.cfg)
        if job.recipe.iterations:
            jitter = isinstance(job.recipe, OnTrunk)
            self.mapper = JitterMapper(self.cfg, job) if jitter else TrainMapper(self.cfg, job.recipe.flip)
            self.batch: int = self.cfg.SOLVER.IMS_PER_BATCH
            self.amp = job.recipe.amp if self.cfg.SOLVER.AMP.ENABLED else "off"
            self.precise_bn = self.cfg.TEST.PRECISE_BN.NUM_ITER if self.cfg.TEST.PRECISE_BN.ENABLED else 0
            self.evaluate_every, self.checkpoint_every = self.cfg.TEST.EVAL_PERIOD, self.cfg.SOLVER.CHECKPOINT_PERIOD

    def presented(self, image: NDArray[np.uint8]) -> Tensor:
        """See `Detector`."""
        return presented(self.model, image)

    def verify_resnet(self) -> Verification:
        """See `Detector`."""
        return verify_model(self.model, self.job.backbone, self.amp)

    def descent(self) -> torch.optim.Optimizer:
        """See `Detector`."""
        optimizer: torch.optim.Optimizer = build_optimizer(self.cfg, self.model)
        return optimizer

    def schedule(self, optimizer: torch.optim.Optimizer) -> Schedule:
        """See `Detector`."""
        schedule: Schedule = build_lr_scheduler(self.cfg, optimizer)
        return schedule

    def batches(self, seed: int, start: int, stop: int) -> Iterator[list[Any]]:
        """See `Detector`."""
        return train_batches(self.mapper, self.batch, self.job, seed, start, stop)

    def losses(self, batch: list[Any]) -> Mapping[str, Tensor]:
        """See `Detector`."""
        # TorchScript, in which the focal loss is written, computes otherwise in the last bits once it has optimised
        # itself after a few calls; a resumed training would not repeat the uninterrupted one. GPUs do not anyway.
        on_gpu = torch.device(self.job.device).type != "cpu"
        optimised = torch.jit.optimized_execution(on_gpu)  # type: ignore[attr-defined]
        with optimised, EventStorage():  # models report numbers to it, which nobody here reads
            losses: Mapping[str, Tensor] = self.model(batch)
        return losses

    def detect(self, images: Sequence[DetectionImage]) -> Iterator[Detections]:
        """See `Detector`."""
        for item in test_items(self.test_images, images, self.job.workers):
            yield _detections(item["image_id"], self.model([item])[0]["instances"].to("cpu"), self.job.recipe.masks)

    def demand_read(self) -> None:
        """See `Detector`."""
        self.cfg.demand_read()

    def memory(self) -> float | None:
        """The moving average that a dense detector divides its losses by; None before its first iteration."""
        value = getattr(self.model, _NORMALIZER, None)
        return None if value is None else float(value)

    def remember(self, memory: float | None) -> None:
        """See `Detector`."""
        if memory is not None:
            setattr(self.model, _NORMALIZER, memory)
        elif hasattr(self.model, _NORMALIZER):
            delattr(self.model, _NORMALIZER)


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
