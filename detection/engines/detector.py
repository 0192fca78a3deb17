"""What a detection task asks for, and what an engine contributes to it: a native detector, and nothing of its life.

Whatever does not depend on the library stands in `detection.engines.run`. Knows neither Detectron2 nor MMDetection.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from detection.backbones import notes
from detection.engines.differences import differences
from detection.recipe import DetectorRecipe, OnTrunk
from transfer.datasets.boxes.detection import DetectionDataset, DetectionImage, Detections
from transfer.runtime.errors import EngineError
from transfer.runtime.provenance import Difference

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from transfer.checkpoints.backbone import Backbone
    from transfer.checkpoints.verify import Verification
    from transfer.runtime.world import World
    from transfer.task import Run


def _alone() -> World:
    from transfer.runtime.world import World  # needs torch, which a recipe does not

    return World()


@dataclass(frozen=True, eq=False)
class DetectionJob:
    """One run for an engine.

    Attributes:
        backbone: the initial weights.
        recipe: what to train.
        train: `DetectionDataset.for_training`: images with at least one box each, no crowds.
        test: images to predict on.
        seed: decides initial heads, image order, augmentation and sampling.
        workdir: where checkpoints, `metrics.jsonl` and logs go; an unfinished run found there is resumed.
        device: "cpu" or "cuda".
        workers: data-loading processes (0: in the main process); does not change any number.
        checkpoint_every: iterations between checkpoints.
        world: this process among those that train together; `recipe.batch` is the batch of all of them.
        recompute: blocks of the backbone are computed again in the backward pass, see `detection.engines.recompute`.
        score: detections on `test` → numbers in percent, for the curve that `recipe.evaluate_every` asks for.
    """

    backbone: Backbone
    recipe: DetectorRecipe
    train: DetectionDataset
    test: DetectionDataset
    seed: int
    workdir: Path
    device: str = "cpu"
    workers: int = 0
    checkpoint_every: int = 500
    world: World = field(default_factory=_alone)
    recompute: bool = False
    score: Callable[[Detections], dict[str, float]] | None = None

    @classmethod
    def of(
        cls,
        run: Run,
        recipe: DetectorRecipe,
        train: DetectionDataset,
        test: DetectionDataset,
        score: Callable[[Detections], dict[str, float]],
    ) -> DetectionJob:
        """What a run asks of its engine."""
        return cls(
            backbone=run.backbone,
            recipe=recipe,
            train=train.for_training(),
            test=test,
            seed=run.seed,
            workdir=run.workdir,
            device=run.device,
            workers=run.workers,
            checkpoint_every=max(25, min(2_000, recipe.iterations // 10)),
            world=run.world,
            recompute=run.recompute,
            score=score,
        )

    @property
    def images_per_process(self) -> int:
        """Images of a batch that this process sees; `check_detector` has seen to it that they are equally many."""
        return self.recipe.batch // self.world.size


@dataclass(frozen=True, eq=False)
class DetectionOutcome:
    """What an engine hands back: detections on the test images, and how it got them."""

    detections: Detections
    verification: Verification | None  # None: taken up from a checkpoint of an older version, which kept no proof
    differences: tuple[tuple[str, str, str], ...] = ()  # (what, published protocol, this run)
    notes: tuple[str, ...] = field(default=())


def demand_masks(job: DetectionJob) -> None:
    """What an engine asks of the training images.

    Raises:
        EngineError: masks are to be learnt from images without any.
    """
    if job.recipe.masks and job.recipe.iterations and not job.train.has_masks:
        raise EngineError(
            "a Mask R-CNN is trained on masks",
            found=f"{job.train.name} has images without any",
            todo="give a data set with masks, or choose a task of boxes alone: detection/run_coco.sh",
        )


class Schedule(Protocol):
    """Of a learning rate, by the library's own class."""

    def step(self) -> None:
        """To the rate of the next iteration."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All of it, as plain values."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What `state_dict` gave."""
        ...


class Detector(ABC):
    """One detector of a library, on its device, with fresh heads and the checkpoint's weights.

    Attributes:
        name: of the engine.
        resnet_blocks: the library's classes of a ResNet's blocks, for --recompute.
        job: what it was built for.
        model: the library's own module.
        config: (file name, text) of the native config, kept beside the results.
    """

    name: ClassVar[str]
    resnet_blocks: ClassVar[tuple[type, ...]]
    model: nn.Module
    config: tuple[str, str]

    def __init__(self, job: DetectionJob) -> None:
        self.job = job
        self.amp, self.precise_bn = job.recipe.amp if job.recipe.iterations else "off", job.recipe.precise_bn
        self.evaluate_every, self.checkpoint_every = job.recipe.evaluate_every, job.checkpoint_every

    @property
    def blocks(self) -> tuple[type, ...]:
        """Classes of the backbone's blocks, for --recompute."""
        if not isinstance(self.job.recipe, OnTrunk):
            return self.resnet_blocks
        from detection.engines.forms import trunk_class  # timm, which other detectors do not need

        return trunk_class(self.job.recipe).recomputed

    def verify(self) -> Verification:
        """Compare every tensor and every stage's output with the Backbone, also in the precision that it trains in.

        Raises:
            EngineError: something did not arrive, or is computed differently.
        """
        if not isinstance(self.job.recipe, OnTrunk):
            return self.verify_resnet()
        from detection.engines.trunk import PLACE, verify_trunk

        trunk = self.model.get_submodule(PLACE)
        return verify_trunk(trunk, self.job.backbone, self.name, self.presented, self.amp)

    def optimisation(self) -> tuple[Optimizer, Schedule]:
        """The library's own optimiser, as its config states it, and schedule; of a trunk AdamW, the same in all."""
        if not isinstance(self.job.recipe, OnTrunk):
            optimizer = self.descent()
        else:
            from detection.engines.trunk import adamw

            optimizer = adamw(self.model, self.job.recipe)
        return optimizer, self.schedule(optimizer)

    @abstractmethod
    def presented(self, image: NDArray[np.uint8]) -> Tensor:
        """RGB uint8 [H, W, 3] → [1, 3, H', W'], by the way of every other image."""

    @abstractmethod
    def verify_resnet(self) -> Verification:
        """`verify`, of a ResNet of the library's own."""

    @abstractmethod
    def descent(self) -> Optimizer:
        """The library's own optimiser, as its config states it."""

    @abstractmethod
    def schedule(self, optimizer: Optimizer) -> Schedule:
        """The library's own schedule, as its config states it."""

    @abstractmethod
    def batches(self, seed: int, start: int, stop: int) -> Iterable[Any]:
        """This process's share of the batches of iterations `start` … `stop` − 1 of the plan under `seed`.

        Raises:
            DataError: an image cannot be read, on any process; then all of them raise.
        """

    @abstractmethod
    def losses(self, batch: Any) -> Mapping[str, Tensor]:
        """The terms of the training loss of a batch, by the library's names; the loss is their sum."""

    @abstractmethod
    def detect(self, images: Sequence[DetectionImage]) -> Iterator[Detections]:
        """Detections of each image, in pixels of the original.

        Raises:
            DataError: an image cannot be read.
        """

    @abstractmethod
    def demand_read(self) -> None:
        """Asked when everything is built, before anything is trained.

        Raises:
            EngineError: a key of the native config was set, and nothing has read it.
        """

    def memory(self) -> Any:
        """What the model remembers beside its state dict, as a plain value; each process has its own."""
        return None

    def remember(self, memory: Any) -> None:
        """Put back what `memory` gave."""
        assert memory is None

    def differences(self) -> tuple[Difference, ...]:
        """What is done otherwise than as published: (what, theirs, here)."""
        return differences(self.job.recipe, self.name, self.job.world.size)

    def notes(self) -> tuple[str, ...]:
        """What a reader of the number should know of how the weights were taken."""
        return notes(self.job.recipe, self.job.backbone.arch)
