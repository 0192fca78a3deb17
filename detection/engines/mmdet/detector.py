"""A detector of MMDetection: its config, model, optimiser and schedule, as `detection.engines.run` drives them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from numpy.typing import NDArray
from torch import Tensor

from detection.engines.detector import DetectionJob, Detector, Schedule
from detection.engines.mmdet.config import build_config
from detection.engines.mmdet.data import deliver, deliver_together, test_loader, training_batches
from detection.engines.mmdet.model import BLOCKS, build_detector, presented, verify_detector
from detection.engines.mmdet.rehearsal import rehearse
from transfer.checkpoints.verify import Verification
from transfer.datasets.boxes.detection import DetectionImage, Detections
from transfer.datasets.boxes.masks import Mask


class MMDetector(Detector):
    """See `Detector`."""

    name = "mmdet"
    resnet_blocks = BLOCKS
    model: Any

    def __init__(self, job: DetectionJob) -> None:
        super().__init__(job)
        self.native = build_config(job.recipe, job.backbone, job.train.classes, job.world.size)
        self.config = "config.py", self.native.pretty_text
        self.model = build_detector(self.native, job.backbone, job.seed)
        self.model.to(job.device)
        if self.amp != "off" and job.recipe.iterations:
            keep_full_precision(self.model)

    def presented(self, image: NDArray[np.uint8]) -> Tensor:
        """See `Detector`."""
        return presented(self.model, image)

    def verify_resnet(self) -> Verification:
        """See `Detector`."""
        return verify_detector(self.model, self.job.backbone, self.amp)

    def descent(self) -> torch.optim.Optimizer:
        """See `Detector`."""
        optimizer: torch.optim.Optimizer = build_optim_wrapper(self.model, self.native.optim_wrapper).optimizer
        return optimizer

    def schedule(self, optimizer: torch.optim.Optimizer) -> Schedule:
        """See `Detector`."""
        return Schedules(optimizer, self.native.param_scheduler)

    def batches(self, seed: int, start: int, stop: int) -> Iterator[Any]:
        """See `Detector`."""
        return deliver_together(training_batches(self.job, seed, start, stop), self.job.world, self.job.device)

    def losses(self, batch: Any) -> Mapping[str, Tensor]:
        """See `Detector`."""
        data = self.model.data_preprocessor(batch, True)
        _, values = self.model.parse_losses(self.model(**data, mode="loss"))
        # "loss" is the sum of the others; accuracies are no losses.
        return {name: value for name, value in values.items() if "loss" in name and name != "loss"}

    def detect(self, images: Sequence[DetectionImage]) -> Iterator[Detections]:
        """See `Detector`."""
        loader = test_loader(images, self.job.recipe, self.job.workers)
        for image, batch in zip(images, deliver(loader), strict=True):
            yield _detections(image, self.model.test_step(batch)[0], self.job.recipe.masks)

    def demand_read(self) -> None:
        """See `Detector`."""
        if self.job.recipe.iterations:
            rehearse(self.model)


class Schedules:
    """mmengine's schedulers of a config, one after another: a warm-up and the steps."""

    def __init__(self, optimizer: torch.optim.Optimizer, configs: Sequence[Mapping[str, Any]]) -> None:
        self.parts = [PARAM_SCHEDULERS.build({**config, "optimizer": optimizer}) for config in configs]

    def step(self) -> None:
        """See `Schedule`."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """See `Schedule`."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `Schedule`."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)


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


def keep_full_precision(model: Any) -> None:
    """Let mixed precision stop at the heads' outputs and at the regions' features.

    mmdet makes anchors and regions of the type of the features beside them; bf16 knows numbers above 256 to the next
    even one, above 512 to the next multiple of 4 only.
    """
    names = ("rpn_head", "bbox_head", "roi_head.bbox_head", "roi_head.mask_head")
    inside = dict(model.named_modules())
    for name in names:
        if name in inside:
            inside[name].register_forward_hook(lambda module, arguments, output: _float(output))
    for name in ("roi_head.bbox_roi_extractor", "roi_head.mask_roi_extractor"):
        if name in inside:
            inside[name].register_forward_pre_hook(lambda module, given: (_float(given[0]), *given[1:]))


def _float(output: Any) -> Any:
    return output.float() if isinstance(output, Tensor) else tuple(_float(part) for part in output)
