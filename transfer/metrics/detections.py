"""What detections must be before any evaluator may give them a number."""

from __future__ import annotations

import numpy as np

from transfer.datasets.detection import DetectionDataset, Detections
from transfer.errors import EngineError


def demand_scorable(dataset: DetectionDataset, detections: Detections) -> None:
    """Refuse what would otherwise be scored as if it were a result.

    Raises:
        EngineError: NaN or infinity, images or classes that the data set does not have, masks that are too few.
    """
    finite = np.isfinite(detections.scores) & np.isfinite(detections.boxes).all(axis=1)
    known_image = np.isin(detections.image_ids, [image.image_id for image in dataset.images])
    known_class = (detections.labels >= 0) & (detections.labels < len(dataset.classes))
    for good, problem, todo in (
        (finite, "NaN or infinite boxes or scores", "the training diverged: lower the learning rate and train again"),
        (known_image, "image ids that the data set does not have", f"evaluate on the images of {dataset.name} alone"),
        (known_class, "labels that the data set does not have", f"it has {len(dataset.classes)} classes, from 0"),
    ):
        if not good.all():
            first = int(np.flatnonzero(~good)[0])
            raise EngineError(
                f"detections on {dataset.name} cannot be scored: {problem}",
                found=f"{int((~good).sum())} of {len(good)}, the first: image id {detections.image_ids[first]}, label "
                f"{detections.labels[first]}, box {detections.boxes[first].tolist()}, score {detections.scores[first]}",
                todo=todo,
            )
    if detections.masks is not None and len(detections.masks) != len(detections):
        raise EngineError(
            f"detections on {dataset.name} cannot be scored",
            found=f"{len(detections.masks)} masks for {len(detections)} boxes",
        )
