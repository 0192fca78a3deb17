"""One small training step and prediction before the first, to see that every key of the config is read."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import PolygonMasks
from mmengine.structures import InstanceData

from detection.engines.mmdet.watched import demand_read
from detection.engines.precise_bn import put_back

# Pixels: norms need more than one position in the smallest map, stage 4's or p7's; more regions would take their time.
SIDE_REGIONS, SIDE_DENSE = 64, 256


@torch.no_grad()
def rehearse(model: Any) -> None:
    """Compute losses and predictions on a grey image; weights and statistics stay as they are.

    Raises:
        EngineError: a key of the config was read by nobody.
    """
    side = SIDE_REGIONS if hasattr(model, "roi_head") else SIDE_DENSE
    with put_back(model):
        model.train()
        model(**model.data_preprocessor(_batch(side), True), mode="loss")
        model.eval()
        scores = model.test_cfg.get("rcnn", model.test_cfg)
        threshold = dict.__getitem__(scores, "score_thr")  # looking is not reading
        scores["score_thr"] = 0.0  # an untrained detector finds nothing above it, and would not get to the rest
        try:
            model(**model.data_preprocessor(_batch(side), False), mode="predict")
        finally:
            scores["score_thr"] = threshold
    demand_read(model)


def _batch(side: int) -> dict[str, Any]:
    """One image with one square object."""
    corners, shape = (8.0, 8.0, 40.0, 40.0), (side, side)
    meta = {"img_shape": shape, "ori_shape": shape, "scale_factor": (1.0, 1.0)}
    sample = DetDataSample(metainfo=meta)
    polygon = np.array([8.0, 8.0, 40.0, 8.0, 40.0, 40.0, 8.0, 40.0])
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([corners]),
        labels=torch.zeros(1, dtype=torch.int64),
        masks=PolygonMasks([[polygon]], *shape),
    )
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    return {"inputs": [torch.full((3, *shape), 128, dtype=torch.uint8)], "data_samples": [sample]}
