"""One run of the Detectron2 engine, from the Backbone to detections."""

from __future__ import annotations

import logging

from detection.engines.detectron2.config import build_cfg
from detection.engines.detectron2.data import PredictionImages
from detection.engines.detectron2.logs import quiet
from detection.engines.detectron2.model import BLOCKS, build_verified_model, build_with_weights
from detection.engines.detectron2.prediction import predict
from detection.engines.detectron2.statistics import renew_statistics
from detection.engines.detectron2.training import train
from detection.engines.recompute import recompute_blocks
from detection.recipe import DetectionJob, DetectionOutcome
from transfer.checkpoints.verify import Verification
from transfer.runtime.files import write_text

logger = logging.getLogger(__name__)


def run(job: DetectionJob) -> DetectionOutcome:
    """Build, verify, train (or resume), renew the batch-norm statistics, predict.

    With `recipe.iterations` 0 nothing is trained and every statistic stays the checkpoint's. The native config is
    kept beside the results as `config.yaml`.

    Raises:
        EngineError: the model does not hold the backbone's weights, or the config asks for what nothing does; nothing
            was trained.
        TrainingError: the loss stopped being finite, or `checkpoint.pth` cannot be used.
        DataError: an image cannot be read.
    """
    world = job.world
    with quiet():
        cfg = build_cfg(job)
        world.together(lambda: write_text(job.workdir / "config.yaml", cfg.dump()) if world.leads else None)
        images = PredictionImages(cfg, job.test)
        notes: tuple[str, ...] = ()
        verification: Verification | None
        if job.recipe.iterations == 0:
            model, verification = build_verified_model(cfg, job.backbone, cfg.SEED, world)
            logger.info("detectron2 %s", verification.line())
        else:
            model = build_with_weights(cfg, job.backbone, cfg.SEED, world)
            if job.recompute:
                logger.info("%d blocks are computed again in the backward pass", recompute_blocks(model, BLOCKS))
            began, verification = train(cfg, job, model)
            if began:
                notes = (f"training was taken up after {began} of {job.recipe.iterations} iterations",)
                logger.info(notes[0])
            renewed = renew_statistics(cfg, job, model)
            logger.info("PreciseBN: %d layers from %d batches", renewed, job.recipe.precise_bn)
        cfg.demand_read()
        detections = predict(images, job, model)
    return DetectionOutcome(detections, verification, notes=notes)
