"""`DetectionImage` → what Detectron2's models take, through Detectron2's own augmentations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks
from numpy.typing import NDArray

from detection.engines.detector import DetectionJob
from detection.engines.jitter import jittered
from detection.engines.plan import plan_batches, planned_loader
from detection.recipe import OnTrunk
from transfer.datasets.boxes.detection import DetectionImage
from transfer.datasets.boxes.masks import Mask, sized
from transfer.datasets.boxes.pixels import read_pixels
from transfer.runtime.errors import DataError
from transfer.runtime.loader import Loader


def dataset_dict(image: DetectionImage, masks: bool = False) -> dict[str, Any]:
    """The image in Detectron2's dataset form; boxes marked `difficult` are in it, as with Detectron2's VOC reader."""
    annotations: list[dict[str, Any]] = [
        {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": label}
        for box, label in zip(image.boxes.tolist(), image.labels.tolist(), strict=True)
    ]
    if masks:
        for annotation, mask in zip(annotations, image.masks or (), strict=True):
            annotation["segmentation"] = _segmentation(mask)
    return {
        "file_name": str(image.path),
        "image_id": image.image_id,
        "height": image.height,
        "width": image.width,
        "annotations": annotations,
    }


def train_augmentations(cfg: CfgNode, flip: float) -> list[T.Augmentation]:
    """Detectron2's own list, with an explicit flip for probabilities that its config cannot express."""
    augmentations: list[T.Augmentation] = detection_utils.build_augmentation(cfg, is_train=True)
    if flip not in (0.0, 0.5):
        augmentations.append(T.RandomFlip(prob=flip))
    return augmentations


class TrainMapper:
    """Maps a `DetectionImage` to a training item: "image" uint8 [3, H, W] and "instances", resized and flipped alike.

    A `DataError` is handed on as the item: raised in a worker process, it would arrive as a text with a traceback.
    """

    def __init__(self, cfg: CfgNode, flip: float) -> None:
        self.channels: str = cfg.INPUT.FORMAT
        self.masks: bool = cfg.MODEL.MASK_ON
        self.mask_format: str = cfg.INPUT.MASK_FORMAT
        self.augmentations = T.AugmentationList(train_augmentations(cfg, flip))

    def __call__(self, image: DetectionImage) -> dict[str, Any] | DataError:
        """The item of one image; draws from numpy's global generator."""
        item = dataset_dict(image, self.masks)
        try:
            augmented = T.AugInput(read_pixels(image, self.channels))
        except DataError as error:
            return error
        transforms = self.augmentations(augmented)
        shape = augmented.image.shape[:2]
        objects = [
            detection_utils.transform_instance_annotations(entry, transforms, shape)
            for entry in item.pop("annotations")
        ]
        instances = detection_utils.annotations_to_instances(objects, shape, self.mask_format)
        item["instances"] = detection_utils.filter_empty_instances(instances)
        item["image"] = _planes(augmented.image)
        return item


class JitterMapper:
    """The same for images that are flipped, resized and cut by `detection.engines.jitter`, which all engines share.

    A `DataError` is handed on as the item, see `TrainMapper`.
    """

    def __init__(self, cfg: CfgNode, job: DetectionJob) -> None:
        self.channels: str = cfg.INPUT.FORMAT
        self.mask_format: str | None = cfg.INPUT.MASK_FORMAT if cfg.MODEL.MASK_ON else None
        assert isinstance(job.recipe, OnTrunk)
        self.recipe = job.recipe

    def __call__(self, image: DetectionImage) -> dict[str, Any] | DataError:
        """The item of one image; draws from numpy's global generator."""
        try:
            pixels = read_pixels(image, self.channels)
        except DataError as error:
            return error
        made = jittered(image, pixels, self.recipe, bool(self.mask_format))
        instances = Instances(made.pixels.shape[:2])
        instances.gt_boxes, instances.gt_classes = Boxes(torch.from_numpy(made.boxes)), torch.from_numpy(made.labels)
        if self.mask_format == "polygon":
            instances.gt_masks = PolygonMasks([list(mask.polygons) for mask in made.masks])
        elif self.mask_format:
            shape = made.pixels.shape[:2]
            drawn = np.array([mask.pixels() for mask in made.masks], np.bool_).reshape(-1, *shape)
            instances.gt_masks = BitMasks(torch.from_numpy(drawn))
        return {
            "file_name": str(image.path),
            "image_id": image.image_id,
            "height": image.height,
            "width": image.width,
            "image": _planes(made.pixels),
            "instances": instances,
        }


class PredictionImages:
    """Maps a `DetectionImage` to a test item: "image" uint8 [3, H, W] at test size, "height" and "width" as stored.

    A `DataError` is handed on as the item, see `TrainMapper`.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.channels: str = cfg.INPUT.FORMAT
        self.augmentations = T.AugmentationList(detection_utils.build_augmentation(cfg, is_train=False))

    def __call__(self, image: DetectionImage) -> dict[str, Any] | DataError:
        """The item of one image."""
        try:
            augmented = T.AugInput(read_pixels(image, self.channels))
        except DataError as error:
            return error
        self.augmentations(augmented)
        return {
            "image": _planes(augmented.image),
            "image_id": image.image_id,
            "height": image.height,
            "width": image.width,
        }


def train_batches(
    load: Callable[[DetectionImage], Any], batch: int, job: DetectionJob, seed: int, start: int, iterations: int
) -> Iterator[list[Any]]:
    """This process's share of the batches of iterations `start` … `iterations` − 1 of the plan under `seed`.

    Raises:
        DataError: an image cannot be read, on any process; then all of them raise.
    """
    world = job.world
    plan = plan_batches(job.train, iterations, batch, seed, job.images_per_process)
    for items in planned_loader(job.train, load, plan, seed, start, job.workers, _as_list, world):
        failed = any(isinstance(item, DataError) for item in items)
        if world.any(failed, torch.device(job.device)):
            world.together(partial(_raise_first, items))
        yield items


def test_items(load: PredictionImages, images: Sequence[DetectionImage], workers: int) -> Iterator[dict[str, Any]]:
    """The items of images, one by one and in order.

    Raises:
        DataError: an image cannot be read.
    """
    for item in Loader(list(images), batch_size=None, num_workers=workers, collate_fn=load):  # type: ignore[arg-type]
        yield _or_raise(item)


def _segmentation(mask: Mask) -> list[NDArray[np.float64]] | dict[str, Any]:
    """The mask in Detectron2's dataset form; polygons are copied because its transforms work in place."""
    if mask.polygons:
        return [polygon.copy() for polygon in mask.polygons]
    return sized(mask.counts, mask.height, mask.width)


def _planes(image: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def _as_list(items: Sequence[Any]) -> list[Any]:
    return list(items)


def _raise_first(batch: list[dict[str, Any] | DataError]) -> None:
    for item in batch:
        _or_raise(item)


def _or_raise(item: dict[str, Any] | DataError) -> dict[str, Any]:
    if isinstance(item, DataError):
        raise item
    return item
