"""`DetectionImage` → what MMDetection's models take, for training and for prediction.

The transforms are mmcv's. `mmdet.datasets` stays out: some releases of it import packages that they do not declare.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from mmcv.transforms import Compose, RandomChoiceResize, RandomFlip, Resize
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch.utils.data import DataLoader

from transfer.datasets.detection import DetectionImage
from transfer.datasets.pixels import read_pixels
from transfer.detector import DetectorRecipe
from transfer.errors import DataError

Sample = dict[str, Any]  # "inputs": uint8 [3, H, W] in BGR; "data_samples": DetDataSample
Loaded = Sample | DataError
_META = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "flip", "flip_direction")


def training_pipeline(recipe: DetectorRecipe) -> Callable[[DetectionImage], Loaded]:
    """Read, resize the shorter side to one of `train_sizes`, flip."""
    scales = [_scale(recipe, size) for size in recipe.train_sizes]
    transforms = [
        # Pillow's bilinear filter, as Detectron2 uses: it averages when it shrinks, OpenCV's does not.
        RandomChoiceResize(scales=scales, resize_type=Resize, keep_ratio=True, backend="pillow"),
        RandomFlip(prob=float(recipe.flip), direction="horizontal"),
    ]
    return partial(_load, Compose(transforms))


def test_pipeline(recipe: DetectorRecipe) -> Callable[[DetectionImage], Loaded]:
    """Read and resize the shorter side to `test_size`."""
    resize = Resize(scale=_scale(recipe, recipe.test_size), keep_ratio=True, backend="pillow")
    return partial(_load, Compose([resize]))


def collate(samples: Sequence[Loaded]) -> Sample | DataError:
    """A batch as MMDetection's preprocessor takes it, or the first image's error."""
    for sample in samples:
        if isinstance(sample, DataError):
            return sample
    return {key: [sample[key] for sample in samples if isinstance(sample, dict)] for key in ("inputs", "data_samples")}


def deliver(loader: DataLoader[Any]) -> Iterator[Sample]:
    """The loader's batches; raises the `DataError` that stands in for one.

    Errors travel as values because a `DataLoader` rewrites exceptions of its workers, traceback and all.
    """
    for batch in loader:
        if isinstance(batch, DataError):
            raise batch
        yield batch


def test_loader(images: Sequence[DetectionImage], recipe: DetectorRecipe, workers: int) -> DataLoader[Any]:
    """One image per batch, in order."""
    load = test_pipeline(recipe)
    return DataLoader(list(images), batch_size=1, num_workers=workers, collate_fn=partial(_load_all, load))  # type: ignore[arg-type]


def _load_all(load: Callable[[DetectionImage], Loaded], images: Sequence[DetectionImage]) -> Sample | DataError:
    return collate([load(image) for image in images])


def _load(transforms: Callable[[Sample], Sample], image: DetectionImage) -> Loaded:
    try:
        pixels = read_pixels(image, "BGR")
    except DataError as error:
        return error
    return _pack(
        transforms(
            {
                "img": pixels,
                "img_id": image.image_id,
                "img_path": str(image.path),
                "img_shape": pixels.shape[:2],
                "ori_shape": pixels.shape[:2],
                "gt_bboxes": image.boxes.copy(),
                "gt_bboxes_labels": image.labels.copy(),
            }
        )
    )


def _pack(results: Sample) -> Sample:
    boxes = torch.from_numpy(np.asarray(results["gt_bboxes"], dtype=np.float32))
    labels = torch.from_numpy(np.asarray(results["gt_bboxes_labels"], dtype=np.int64))
    sample = DetDataSample(metainfo={key: results[key] for key in _META if key in results})
    sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
    sample.ignored_instances = InstanceData(bboxes=boxes[:0], labels=labels[:0])
    pixels = torch.from_numpy(np.ascontiguousarray(results["img"].transpose(2, 0, 1)))
    return {"inputs": pixels, "data_samples": sample}


def _scale(recipe: DetectorRecipe, size: int) -> tuple[int, int]:
    """(longest side allowed, shorter side wanted); mmcv takes the larger of the two for the longest."""
    return recipe.max_size, min(size, recipe.max_size)
