"""One run of the Detectron2 engine, from the Backbone to detections."""

from __future__ import annotations

import logging

from transfer.atomic import write_text
from transfer.detector import DetectionJob, DetectionOutcome
from transfer.engines.detectron2.config import build_cfg, norm_differences
from transfer.engines.detectron2.logs import quiet
from transfer.engines.detectron2.model import build_verified_model
from transfer.engines.detectron2.prediction import predict
from transfer.engines.detectron2.training import renew_statistics, train

logger = logging.getLogger(__name__)


def run(job: DetectionJob) -> DetectionOutcome:
    """Build, verify, train (or resume), renew the batch-norm statistics, predict.

    With `recipe.iterations` 0 nothing is trained and every statistic stays the checkpoint's. The native config is
    kept beside the results as `config.yaml`.

    Raises:
        EngineError: the model does not hold the backbone's weights; nothing was trained.
        TrainingError: the loss stopped being finite, or `checkpoint.pth` cannot be used.
        DataError: an image cannot be read.
    """
    with quiet():
        cfg = build_cfg(job)
        write_text(job.workdir / "config.yaml", cfg.dump())
        model, verification = build_verified_model(cfg, job.backbone, job.seed)
        logger.info("detectron2 %s", verification.line())
        notes: tuple[str, ...] = ()
        if job.recipe.iterations > 0:
            began = train(cfg, job, model)
            if began:
                notes = (f"training was taken up after {began} of {job.recipe.iterations} iterations",)
                logger.info(notes[0])
            renewed = renew_statistics(cfg, job, model)
            logger.info("PreciseBN: %d layers from %d batches", renewed, job.recipe.precise_bn)
        detections = predict(cfg, job, model)
    return DetectionOutcome(detections, verification, norm_differences(job.recipe), notes)
