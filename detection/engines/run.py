"""The life of a detector, whatever its library: build, verify, train or take up, renew statistics, predict."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from detection.engines.checkpoint import CHECKPOINT_FILE, Training
from detection.engines.detector import DetectionJob, DetectionOutcome, Detector, demand_masks
from detection.engines.plan import seed_for_iteration
from detection.engines.precise_bn import put_back, update_bn_statistics
from detection.engines.progress import LOWER, TrainingLog
from detection.engines.recompute import recompute_blocks
from detection.recipe import demand_buildable
from transfer.checkpoints.verify import Verification, of_beginning
from transfer.datasets.boxes.detection import Detections
from transfer.runtime.curve import FILE
from transfer.runtime.errors import TrainingError
from transfer.runtime.files import write_text
from transfer.runtime.interrupts import asked, leave, saves_when_asked
from transfer.runtime.progress import Bar

logger = logging.getLogger(__name__)

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_LOG_EVERY_SECONDS = 30.0


def carry_out(job: DetectionJob, build: Callable[[DetectionJob], Detector]) -> DetectionOutcome:
    """Everything that `DetectionEngine.run` promises.

    With 0 iterations nothing is trained: the fresh heads predict on the checkpoint's own batch-norm statistics.
    """
    recipe = job.recipe
    demand_buildable(recipe, job.device)
    demand_masks(job)
    detector = build(job)
    notes = detector.notes()
    for note in notes:
        logger.info("%s", note)
    if recipe.iterations == 0:
        detector.demand_read()
        proof: Verification | None = prove(detector)
        _keep_config(detector)
    else:
        if job.recompute:
            count = recompute_blocks(detector.model, detector.blocks)
            logger.info("%d blocks are computed again in the backward pass", count)
        began, proof = train(detector)
        if began:
            notes += (f"training was taken up after {began} of {recipe.iterations} iterations",)
            logger.info(notes[-1])
        renewed = renew_statistics(detector)
        if detector.precise_bn:
            logger.info("PreciseBN: %d layers from %d batches", renewed, detector.precise_bn)
    return DetectionOutcome(predict(detector), proof, detector.differences(), notes)


def prove(detector: Detector) -> Verification:
    """The detector holds and computes the checkpoint, on every process.

    Raises:
        EngineError: it does not.
    """
    found = detector.job.world.together(detector.verify)
    logger.info("%s %s", detector.name, found.line())
    return found


@saves_when_asked()
def train(detector: Detector) -> tuple[int, Verification | None]:
    """Train for the recipe's iterations, from the checkpoint in the run's folder on where there is one.

    Returns:
        The iteration that training began with; and the proof of the model as it was before the first one, out of the
        checkpoint where there is one.

    Raises:
        EngineError: the model does not hold the backbone's weights, or a key of the config is read by nothing; nothing
            was trained.
        TrainingError: the loss is not finite, or the checkpoint cannot be used.
        DataError: an image cannot be read.
    """
    job, recipe, world = detector.job, detector.job.recipe, detector.job.world
    training, path = Training.of(detector), job.workdir / CHECKPOINT_FILE
    optimizer, schedule = training.optimizer, training.schedule
    start = training.take_up(path, job.device)
    detector.demand_read()
    if start == 0:  # hooked and in its place: the next to touch it is the first step
        training.proof = asdict(prove(detector))
        _keep_config(detector)
    proof = of_beginning({"proof": training.proof}, job.backbone)
    log = TrainingLog(job.workdir / FILE, start, recipe.iterations, world=world, device=job.device)
    logger.info("training from iteration %d of %d", start, recipe.iterations)
    detector.model.train()
    iteration = start
    try:
        for iteration, batch in _seeded(detector, job.seed, start, recipe.iterations):
            lr = optimizer.param_groups[0]["lr"]
            with torch.autocast(_kind(job.device), TYPES.get(detector.amp), detector.amp != "off"):
                losses = detector.losses(batch)
            take_step(training, sum(losses.values()), recipe.clip_gradients)
            log.step(iteration, lr, _numbers(losses))
            schedule.step()
            done = iteration + 1
            # After the curve's line: what is on it is not scored again after a resume.
            if detector.evaluate_every and done % detector.evaluate_every == 0 and done < recipe.iterations:
                _draw_curve(detector, log, iteration)
            leaving = world.any(asked(), torch.device(job.device))
            if leaving or done % detector.checkpoint_every == 0 or done == recipe.iterations:
                training.save(path, done)
            if leaving:
                leave()
    except FloatingPointError as error:  # Detectron2's own check of the region proposals
        raise TrainingError(f"training diverged at iteration {iteration}", found=str(error), todo=LOWER) from error
    finally:
        log.close()
    return start, proof


def take_step(training: Training, loss: Any, largest_norm: float) -> None:
    """From a loss to new weights, the same on all processes: the mean of their gradients, clipped together.

    In fp16 infinite gradients of one process make all of them leave the step out.
    """
    optimizer, scaler, world = training.optimizer, training.scaler, training.world
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    trained = [parameter for parameter in training.model.parameters() if parameter.requires_grad]
    if world.size > 1:
        for parameter in trained:
            if parameter.grad is None:  # not used by this process's images, perhaps by another's
                parameter.grad = torch.zeros_like(parameter)
        world.average([parameter.grad for parameter in trained if parameter.grad is not None])
    if largest_norm:
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(trained, largest_norm)
    scaler.step(optimizer)
    scaler.update()


def renew_statistics(detector: Detector) -> int:
    """PreciseBN: the statistics of every trained batch norm, averaged over training batches, in full precision.

    The batches come from a plan of their own, the same after every resume and for every engine.

    Returns:
        The number of layers renewed.
    """
    job, count = detector.job, detector.precise_bn
    if count == 0:
        return 0
    batches = (batch for _, batch in _seeded(detector, job.seed + 1, 0, count))
    detector.model.train()
    return update_bn_statistics(detector.model, batches, detector.losses, count, job.world)


@torch.no_grad()
def predict(detector: Detector) -> Detections:
    """Detections on every image of `job.test`, in order and in pixels of the original images, on every process.

    Each process looks at its share of the images, one at a time, with the batch-norm statistics of the leader.

    Raises:
        DataError: an image cannot be read, on any process; then all of them raise.
    """
    job, world = detector.job, detector.job.world
    world.copy_from_leader(detector.model.buffers())
    detector.model.eval()
    shares: list[list[Detections]] = world.collect(world.together(lambda: _share(detector)))
    count = len(job.test.images)
    return Detections.concatenate([shares[index % world.size][index // world.size] for index in range(count)])


def _share(detector: Detector) -> list[Detections]:
    """This process's detections, image by image."""
    world = detector.job.world
    images = detector.job.test.images[world.rank :: world.size]
    found: list[Detections] = []
    logged = time.monotonic()
    with Bar(len(images), unit="image", what="predict", shown=world.leads) as bar:
        for each in detector.detect(images):
            found.append(each)
            bar.update(1)
            if world.leads and not bar.shown and time.monotonic() - logged > _LOG_EVERY_SECONDS:
                logged = time.monotonic()
                logger.info("predicted %d of %d images", len(found), len(images))
    return found


def _seeded(detector: Detector, seed: int, start: int, stop: int) -> Iterator[tuple[int, Any]]:
    """Iterations and their batches; all generators are seeded anew for each.

    What the model samples (proposals, regions) does not depend on where a run was taken up.
    """
    batches: Iterable[Any] = detector.batches(seed, start, stop) if start < stop else ()
    for iteration, batch in enumerate(batches, start):
        seed_for_iteration(seed, iteration, detector.job.world.rank)
        yield iteration, batch


def _numbers(losses: Any) -> dict[str, float]:
    """In one transfer from the device."""
    values = torch.stack([loss.detach().float() for loss in losses.values()]).tolist()
    return dict(zip(losses, values, strict=True))


def _draw_curve(detector: Detector, log: TrainingLog, iteration: int) -> None:
    """Score the detector as if training ended here; training goes on as if it had not been looked at."""
    score, world = detector.job.score, detector.job.world
    if score is None:
        return
    memory = detector.memory()
    with put_back(detector.model):
        renew_statistics(detector)
        detections = predict(detector)
    detector.remember(memory)
    log.evaluation(iteration, world.together(lambda: score(detections) if world.leads else {}))


def _keep_config(detector: Detector) -> None:
    """The native config, beside the results."""
    name, text = detector.config
    world, path = detector.job.world, detector.job.workdir / name
    world.together(lambda: write_text(path, text) if world.leads else None)


def _kind(device: str) -> str:
    return torch.device(device).type
