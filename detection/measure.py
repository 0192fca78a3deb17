"""What a detection task is told: the detector, and how it is measured."""

from __future__ import annotations

from dataclasses import dataclass, field

from detection.recipe import DetectorRecipe
from detection.score.coco_ap import CocoApOptions
from detection.score.voc_ap import VocApOptions


@dataclass(frozen=True)
class DetectionRecipe:
    """The detector and how it is measured. Every run is measured in both ways, so that no number is ambiguous.

    Attributes:
        detector: what is trained.
        metric: how VOC's AP is computed; by default as in the published tables.
        coco_metric: how COCO's AP is computed.
        overfit: train and report on this many images with large objects, the same ones; 0 is the whole data set.
    """

    detector: DetectorRecipe = field(default_factory=DetectorRecipe)
    metric: VocApOptions = field(default_factory=VocApOptions)
    coco_metric: CocoApOptions = field(default_factory=CocoApOptions)
    overfit: int = 0
