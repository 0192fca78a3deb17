"""`DetectionImage` → what Detectron2's models take, through Detectron2's own augmentations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from numpy.typing import NDArray
from torch.utils.data import Dataset, Subset

from detection.engines.plan import plan_batches, planned_loader, seed_for_iteration
from detection.recipe import DetectionJob
from transfer.datasets.boxes.detection import DetectionDataset, DetectionImage
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


class PredictionImages(Dataset[Any]):
    """The test images as items: "image" uint8 [3, H, W] at test size, "height" and "width" of the original."""

    def __init__(self, cfg: CfgNode, dataset: DetectionDataset) -> None:
        self.channels: str = cfg.INPUT.FORMAT
        self.augmentations = T.AugmentationList(detection_utils.build_augmentation(cfg, is_train=False))
        self.images = dataset.images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any] | DataError:
        image = self.images[index]
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


def train_batches(cfg: CfgNode, job: DetectionJob, seed: int, start: int, iterations: int) -> Iterator[list[Any]]:
    """This process's share of the batches of iterations `start` … `iterations` − 1 of the plan under `seed`.

    The generators are seeded for an iteration when its batch is handed out, so what the model samples does not depend
    on where a run was taken up.

    Raises:
        DataError: an image cannot be read, on any process; then all of them raise.
    """
    world = job.world
    plan = plan_batches(job.train, iterations, cfg.SOLVER.IMS_PER_BATCH, seed, job.images_per_process)
    load = TrainMapper(cfg, job.recipe.flip)
    loader = planned_loader(job.train, load, plan, seed, start, job.workers, _as_list, world)

    def batches() -> Iterator[list[Any]]:
        for iteration, batch in enumerate(loader, start):
            failed = any(isinstance(item, DataError) for item in batch)
            if world.any(failed, torch.device(job.device)):
                world.together(partial(_raise_first, batch))
            seed_for_iteration(seed, iteration, world.rank)
            yield batch

    return batches()


def prediction_items(images: PredictionImages, job: DetectionJob) -> Iterator[dict[str, Any]]:
    """This process's share of the test images, every `world.size`-th, one by one and in order.

    Raises:
        DataError: an image cannot be read.
    """
    share = Subset(images, range(job.world.rank, len(images), job.world.size))
    for item in Loader(share, batch_size=None, num_workers=job.workers):
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
