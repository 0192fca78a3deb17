"""A random part of a training set, for the rows with 1 % and 10 % of the labels.

Such subsets of COCO are customary since STAC (Sohn et al. 2020, arXiv 2005.04757), whose lists are random, one for each
of five folds. The parts here are our own draws: compare them with each other, not image by image with published lists.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging

from transfer.datasets.boxes.detection import DetectionDataset
from transfer.datasets.wording import counted, few
from transfer.runtime.errors import UserError

logger = logging.getLogger(__name__)


def part_of(dataset: DetectionDataset, fraction: float, seed: int) -> DetectionDataset:
    """A random `fraction` of the images that have an object to train on (one that is no crowd), at least one image.

    An image's place in the draw depends on its name and the seed alone. So for one seed 1 % lies in 10 %, and neither
    the order of the images nor the machine matters.

    Args:
        dataset: what to draw from.
        fraction: above 0, 1 at most, of the annotated images; the number is rounded.
        seed: of the draw.

    Returns:
        The images drawn, sorted and numbered anew (`source_id` stays); the name says fraction and seed, a note says how
        much is left and which classes have lost all their boxes.

    Raises:
        UserError: the fraction is out of range, or no image is annotated.
    """
    annotated = [image for image in dataset.images if not image.crowd.all()]  # of no object, all are crowds
    if not 0 < fraction <= 1:
        raise UserError("no such part of a data set", found=f"fraction {fraction}", todo="above 0 and at most 1")
    if not annotated:
        raise UserError(f"nothing to draw from {dataset.name}", found="no annotated image", todo="check the split")
    draw = sorted(annotated, key=lambda image: (hashlib.sha256(f"{seed} {image.name}".encode()).digest(), image.name))
    count = max(1, round(fraction * len(annotated)))
    drawn = sorted(draw[:count], key=lambda image: image.name)
    images = tuple(dataclasses.replace(image, image_id=place) for place, image in enumerate(drawn, 1))
    part = dataclasses.replace(dataset, name=f"{dataset.name}_{100 * fraction:g}percent_seed{seed}", images=images)
    note = _note(dataset, part, len(annotated), f"{100 * fraction:g} % of the annotated images, seed {seed}")
    logger.info("%s: %s", part.name, note)
    return dataclasses.replace(part, notes=(*dataset.notes, note))


def _note(whole: DetectionDataset, part: DetectionDataset, annotated: int, what: str) -> str:
    before, after = whole.for_training().box_counts(), part.for_training().box_counts()
    lost = [name for name, boxes in before.items() if boxes and not after[name]]
    return (
        f"{what}: {len(part):,} of {annotated:,} images, {sum(after.values()):,} of {sum(before.values()):,} boxes; "
        + (f"{counted(len(lost), 'class has', 'classes have')} no box left: {few(lost, 10)}" if lost else "all classes")
    )
