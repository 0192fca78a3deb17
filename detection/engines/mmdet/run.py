"""One detection run: build, verify, train or resume, renew the batch norms' statistics, predict."""

from __future__ import annotations

import logging

from detection.engines.mmdet.config import build_config, differences
from detection.engines.mmdet.model import BLOCKS, build_detector, verify_detector
from detection.engines.mmdet.prediction import predict
from detection.engines.mmdet.rehearsal import rehearse
from detection.engines.mmdet.statistics import renew_statistics
from detection.engines.mmdet.training import train
from detection.engines.recompute import recompute_blocks
from detection.recipe import DetectionJob, DetectionOutcome, demand_buildable, demand_masks
from transfer.checkpoints.verify import Verification

logger = logging.getLogger(__name__)


def run(job: DetectionJob) -> DetectionOutcome:
    """Carry out the job; see `detection.recipe.DetectionEngine.run`.

    With 0 iterations nothing is trained: the fresh heads predict on the checkpoint's own batch-norm statistics.
    """
    recipe = job.recipe
    demand_buildable(recipe, job.device)
    demand_masks(job)
    config = build_config(recipe, job.backbone, job.train.classes, job.world.size)
    model = build_detector(config, job.backbone, job.seed)
    model.to(job.device)
    notes: tuple[str, ...] = ()
    # Before anything is written; what trains is proved once more when the Runner has wrapped and moved it.
    early = job.world.together(lambda: verify_detector(model, job.backbone))
    logger.info("mmdet %s", early.line())
    verification: Verification | None = early
    if recipe.iterations:
        rehearse(model)
        if job.recompute:
            logger.info("%d blocks are computed again in the backward pass", recompute_blocks(model, BLOCKS))
        began, verification = train(job, config, model)
        if began:
            notes = (f"training was taken up after {began} of {recipe.iterations} iterations",)
        renewed = renew_statistics(job, model)
        logger.info("PreciseBN: %d layers from %d batches", renewed, recipe.precise_bn)
    return DetectionOutcome(predict(job, model), verification, differences(recipe), notes)
