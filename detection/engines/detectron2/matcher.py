"""Which box an anchor or a region learns, by MMDetection's rule, for recipes that were published with it."""

from __future__ import annotations

from typing import Any

from detectron2.modeling.matcher import Matcher
from torch import Tensor, nn

RPN, ROI = 0.3, 0.5  # IoU from which the best of a box learns it, in mmdetection: configs/_base_/models/*_rcnn_*_fpn.py


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
        for box, overlaps in enumerate(match_quality_matrix):  # a later box takes what an earlier one wanted, too
            best = overlaps.max() if len(overlaps) else overlaps.new_zeros(())
            if best >= self.least:
                matches[overlaps == best] = box
                labels[overlaps == best] = 1
        return matches, labels


def match_as_mmdetection(model: nn.Module) -> None:
    """Give a two-stage detector this rule in both stages, with the thresholds of its config."""
    for module, name, least in (("proposal_generator", "anchor_matcher", RPN), ("roi_heads", "proposal_matcher", ROI)):
        part: Any = model.get_submodule(module)
        own = getattr(part, name)
        setattr(part, name, MaxIoUMatcher(own.thresholds[1:-1], own.labels, least))
