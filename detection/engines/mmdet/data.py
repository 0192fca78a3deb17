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
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine.structures import InstanceData

from detection.engines.detector import DetectionJob
from detection.engines.jitter import jittered
from detection.engines.mmdet.masks import MaskFormat, mask_format, training_masks
from detection.engines.plan import plan_batches, planned_loader
from detection.recipe import DetectorRecipe, OnTrunk
from transfer.datasets.boxes.detection import DetectionImage
from transfer.datasets.boxes.pixels import read_pixels
from transfer.runtime.errors import DataError
from transfer.runtime.loader import Loader
from transfer.runtime.world import World

Sample = dict[str, Any]  # "inputs": uint8 [3, H, W] in BGR; "data_samples": DetDataSample
Loaded = Sample | DataError
SMALLEST_SIDE = 1e-5  # pixels; Detectron2: detectron2/data/detection_utils.py, filter_empty_instances
_META = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "flip", "flip_direction")


def training_pipeline(recipe: DetectorRecipe, masks: MaskFormat | None = None) -> Callable[[DetectionImage], Loaded]:
    """Read, resize the shorter side to one of `train_sizes`, flip; with `masks`, these too."""
    scales = [_scale(recipe, size) for size in recipe.train_sizes]
    transforms = [
        # Pillow's bilinear filter, as Detectron2 uses: it averages when it shrinks, OpenCV's does not.
        RandomChoiceResize(scales=scales, resize_type=Resize, keep_ratio=True, backend="pillow"),
        RandomFlip(prob=float(recipe.flip), direction="horizontal"),
    ]
    return partial(_load, Compose(transforms), masks)


def jittering_pipeline(recipe: OnTrunk, masks: MaskFormat | None = None) -> Callable[[DetectionImage], Loaded]:
    """Read, flip, resize and cut at random, see `detection.engines.jitter`."""
    return partial(_load_jittered, recipe, masks)


def test_pipeline(recipe: DetectorRecipe) -> Callable[[DetectionImage], Loaded]:
    """Read and resize the shorter side to `test_size`."""
    resize = Resize(scale=_scale(recipe, recipe.test_size), keep_ratio=True, backend="pillow")
    return partial(_load, Compose([resize]), None)


def training_batches(job: DetectionJob, seed: int, start: int, iterations: int) -> Loader[Any]:
    """This process's share of the batches of iterations `start` … `iterations` − 1 of the plan under `seed`."""
    plan = plan_batches(job.train, iterations, job.recipe.batch, seed, job.images_per_process)
    masks = mask_format(job.train) if job.recipe.masks else None
    pipeline = jittering_pipeline if isinstance(job.recipe, OnTrunk) else training_pipeline
    load = pipeline(job.recipe, masks)  # type: ignore[arg-type]
    return planned_loader(job.train, load, plan, seed, start, job.workers, collate, job.world)


def collate(samples: Sequence[Loaded]) -> Sample | DataError:
    """A batch as MMDetection's preprocessor takes it, or the first image's error."""
    for sample in samples:
        if isinstance(sample, DataError):
            return sample
    return {key: [sample[key] for sample in samples if isinstance(sample, dict)] for key in ("inputs", "data_samples")}


def deliver(loader: Loader[Any]) -> Iterator[Sample]:
    """The loader's batches; raises the `DataError` that stands in for one.

    Errors travel as values because a `Loader` rewrites exceptions of its workers, traceback and all.
    """
    for batch in loader:
        yield _or_raise(batch)


def deliver_together(loader: Loader[Any], world: World, device: str) -> Iterator[Sample]:
    """The same on all processes, which have equally many batches; an error of one is raised by all of them."""
    for batch in loader:
        if world.any(isinstance(batch, DataError), torch.device(device)):
            world.together(partial(_or_raise, batch))
        yield batch


def test_loader(images: Sequence[DetectionImage], recipe: DetectorRecipe, workers: int) -> Loader[Any]:
    """One image per batch, in order."""
    load = test_pipeline(recipe)
    return Loader(list(images), batch_size=1, num_workers=workers, collate_fn=partial(_load_all, load))  # type: ignore[arg-type]


def _or_raise(batch: Sample | DataError) -> Sample:
    if isinstance(batch, DataError):
        raise batch
    return batch


def _load_all(load: Callable[[DetectionImage], Loaded], images: Sequence[DetectionImage]) -> Sample | DataError:
    return collate([load(image) for image in images])


def _load(transforms: Callable[[Sample], Sample], masks: MaskFormat | None, image: DetectionImage) -> Loaded:
    try:
        pixels = read_pixels(image, "BGR")
    except DataError as error:
        return error
    results = transforms(
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
    objects = {
        "bboxes": torch.from_numpy(np.asarray(results["gt_bboxes"], dtype=np.float32)),
        "labels": torch.from_numpy(np.asarray(results["gt_bboxes_labels"], dtype=np.int64)),
    }
    if masks:
        shape, flipped = results["img_shape"][:2], bool(results["flip"])
        objects["masks"] = training_masks(image.masks or (), shape, flipped, masks)
    return _pack(results, InstanceData(**objects))


def _load_jittered(recipe: OnTrunk, masks: MaskFormat | None, image: DetectionImage) -> Loaded:
    try:
        pixels = read_pixels(image, "BGR")
    except DataError as error:
        return error
    made = jittered(image, pixels, recipe, bool(masks))
    shape = made.pixels.shape[:2]
    objects = {"bboxes": torch.from_numpy(made.boxes), "labels": torch.from_numpy(made.labels)}
    if masks == "polygon":
        objects["masks"] = PolygonMasks([list(mask.polygons) for mask in made.masks], *shape)
    elif masks:
        drawn = np.array([mask.pixels() for mask in made.masks], np.uint8).reshape(-1, *shape)
        objects["masks"] = BitmapMasks(drawn, *shape)
    results = {
        "img": made.pixels,
        "img_id": image.image_id,
        "img_path": str(image.path),
        "img_shape": shape,
        "ori_shape": pixels.shape[:2],
        "flip": made.flipped,
    }
    return _pack(results, InstanceData(**objects))


def _pack(results: Sample, objects: InstanceData) -> Sample:
    sample = DetDataSample(metainfo={key: results[key] for key in _META if key in results})
    sample.gt_instances = objects[_something_left(objects)]
    sample.ignored_instances = InstanceData(bboxes=objects.bboxes[:0], labels=objects.labels[:0])
    pixels = torch.from_numpy(np.ascontiguousarray(results["img"].transpose(2, 0, 1)))
    return {"inputs": pixels, "data_samples": sample}


def _something_left(objects: InstanceData) -> torch.Tensor:
    """Bool [n]: objects that resizing has left a box and, of a bit mask, a pixel; as `filter_empty_instances` does."""
    sides = objects.bboxes[:, 2:] - objects.bboxes[:, :2]
    left: torch.Tensor = (sides > SMALLEST_SIDE).all(dim=1)
    pixels = getattr(objects.get("masks"), "masks", None)
    if isinstance(pixels, np.ndarray):
        left = left & torch.from_numpy(pixels.any(axis=(1, 2)))
    return left


def _scale(recipe: DetectorRecipe, size: int) -> tuple[int, int]:
    """(longest side allowed, shorter side wanted); mmcv takes the larger of the two for the longest."""
    return recipe.max_size, min(size, recipe.max_size)
