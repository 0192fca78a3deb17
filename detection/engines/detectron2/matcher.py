"""Which box an anchor or a region learns, by MMDetection's rule, for recipes that were published with it."""

from __future__ import annotations

from typing import Any

from detectron2.modeling.matcher import Matcher
from torch import Tensor, nn

from detection.recipe import BEST_ANCHOR, BEST_REGION


class MaxIoUMatcher(Matcher):  # type: ignore[misc]  # Detectron2 is untyped
    """As `MaxIoUAssigner` (open-mmlab/mmdetection: mmdet/models/task_modules/assigners/max_iou_assigner.py).

    What overlaps a box most learns that box, also if it overlaps another one more, but from an IoU of `least` on alone.
    Detectron2's own makes it a positive sample however small the IoU is, and of the box that it overlaps most.
    """

    def __init__(self, thresholds: list[float], labels: list[int], least: float) -> None:
        super().__init__(thresholds, labels, allow_low_quality_matches=False)
        self.least = least

    def __call__(self, match_quality_matrix: Tensor) -> tuple[Tensor, Tensor]:
        """IoU [boxes, candidates] → box of each candidate, and 1 (learns it), 0 (background), −1 (neither)."""
        matches, labels = super().__call__(match_quality_matrix)
        if not len(matches):
            return matches, labels
        for box, overlaps in enumerate(match_quality_matrix):  # a later box takes what an earlier one wanted, too
            best = overlaps.max()
            if best >= self.least:
                matches[overlaps == best] = box
                labels[overlaps == best] = 1
        return matches, labels


def match_as_mmdetection(model: nn.Module) -> None:
    """Give a two-stage detector this rule in both stages, with the thresholds of its config."""
    places = ("proposal_generator", "anchor_matcher", BEST_ANCHOR), ("roi_heads", "proposal_matcher", BEST_REGION)
    for module, name, least in places:
        part: Any = model.get_submodule(module)
        own = getattr(part, name)
        setattr(part, name, MaxIoUMatcher(own.thresholds[1:-1], own.labels, least))
