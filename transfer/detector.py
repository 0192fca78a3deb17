"""What a detection task asks of an engine, and what it gets back. Knows neither Detectron2 nor MMDetection."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from transfer.backbone import Backbone
from transfer.datasets.detection import DetectionDataset, Detections


@dataclass(frozen=True)
class DetectorRecipe:
    """Everything that moves the number of a Faster R-CNN, in Detectron2's terms.

    The defaults are MoCo's VOC07+12 protocol (facebookresearch/moco: detection/configs/
    pascal_voc_R_50_C4_24k_moco.yaml, pascal_voc_R_50_C4_24k.yaml and Base-RCNN-C4-BN.yaml); values that those
    files leave open are Detectron2's (facebookresearch/detectron2: detectron2/config/defaults.py), marked D below.
    """

    # -- model
    neck: Literal["c4", "fpn"] = "c4"  # pascal_voc_R_50_C4_24k
    extra_norm: bool = True  # Res5ROIHeadsExtraNorm: one more norm after res5 (C4 only)
    norm: Literal["SyncBN", "BN", "FrozenBN"] = "SyncBN"  # RESNETS.NORM, used in backbone, res5 and extra norm
    freeze_at: int = 0  # BACKBONE.FREEZE_AT: 0 nothing, 1 the stem, 2 stem and res2, …
    fpn_channels: int = 256  # D: FPN.OUT_CHANNELS (FPN only)
    anchor_sizes: tuple[int, ...] = (32, 64, 128, 256, 512)  # D; with FPN one per level p2 … p6
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)  # D
    roi_resolution: int = 14  # D: ROI_BOX_HEAD.POOLER_RESOLUTION; 7 with FPN
    # -- input
    train_sizes: tuple[int, ...] = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)  # MIN_SIZE_TRAIN
    test_size: int = 800  # MIN_SIZE_TEST
    max_size: int = 1333  # D: MAX_SIZE_TRAIN and MAX_SIZE_TEST
    flip: float = 0.5  # D: RANDOM_FLIP horizontal
    # -- solver
    iterations: int = 24_000  # MAX_ITER; 0 evaluates the detector untrained
    batch: int = 16  # IMS_PER_BATCH, over all processes
    lr: float = 0.02  # BASE_LR
    steps: tuple[int, ...] = (18_000, 22_000)  # STEPS
    gamma: float = 0.1  # D
    momentum: float = 0.9  # D
    weight_decay: float = 1e-4  # D
    weight_decay_norm: float = 0.0  # D: WEIGHT_DECAY_NORM, norm layers' weights and biases
    warmup_iterations: int = 100  # WARMUP_ITERS
    warmup_factor: float = 1e-3  # D: linear from factor·lr to lr
    precise_bn: int = 200  # TEST.PRECISE_BN: iterations averaged before the evaluation; 0 is off. D: NUM_ITER
    # -- region proposals
    rpn_pre_nms_train: int = 12_000  # D: RPN.PRE_NMS_TOPK_TRAIN (per level with FPN)
    rpn_post_nms_train: int = 2_000  # D
    rpn_pre_nms_test: int = 6_000  # RPN.PRE_NMS_TOPK_TEST
    rpn_post_nms_test: int = 1_000  # RPN.POST_NMS_TOPK_TEST
    rpn_nms: float = 0.7  # D
    rpn_batch: int = 256  # D: RPN.BATCH_SIZE_PER_IMAGE
    rpn_positive: float = 0.5  # D
    rpn_loss_weight: float = 1.0  # D: classification and box; VICReg's VOC runs use 0.2
    # -- region of interest heads
    roi_batch: int = 512  # D: ROI_HEADS.BATCH_SIZE_PER_IMAGE
    roi_positive: float = 0.25  # D
    score_threshold: float = 0.05  # D: SCORE_THRESH_TEST
    nms: float = 0.5  # D: NMS_THRESH_TEST
    max_detections: int = 100  # D: DETECTIONS_PER_IMAGE

    def published_processes(self) -> int:
        """GPUs that the protocol was published for: MoCo's batch of 16 is 8 GPUs × 2 images."""
        return 8


@dataclass(frozen=True, eq=False)
class DetectionJob:
    """One run for an engine.

    Attributes:
        backbone: the initial weights.
        recipe: what to train.
        train: images with at least one box each.
        test: images to predict on.
        seed: decides initial heads, image order, augmentation and sampling.
        workdir: where checkpoints, `metrics.jsonl` and logs go; an unfinished run found there is resumed.
        device: "cpu" or "cuda".
        workers: data-loading processes (0: in the main process); does not change any number.
        checkpoint_every: iterations between checkpoints.
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


@dataclass(frozen=True)
class Verification:
    """Proof that the engine's model holds the checkpoint's weights and computes with them as torchvision does.

    Attributes:
        tensors: backbone tensors found in the engine's model and compared, all equal bit for bit.
        expected: tensors that the Backbone has (without `num_batches_tracked`).
        by_part: the same counts by place, for example {"backbone": 215, "roi_heads.res5": 50}.
        stage_error: largest absolute difference to torchvision's stage output relative to max(1, |output|), eval mode,
            the same raw image pushed through the engine's own normalisation.
    """

    tensors: int
    expected: int
    by_part: dict[str, int]
    stage_error: dict[str, float]

    def line(self) -> str:
        """One line for the log."""
        parts = ", ".join(f"{part} {count}" for part, count in self.by_part.items())
        worst = max(self.stage_error.values())
        return (
            f"verified: {self.tensors} of {self.expected} tensors equal ({parts}); "
            f"stage outputs within {worst:.1e} of torchvision's"
        )


@dataclass(frozen=True, eq=False)
class DetectionOutcome:
    """What an engine hands back: detections on the test images, and how it got them."""

    detections: Detections
    verification: Verification
    differences: tuple[tuple[str, str, str], ...] = ()  # (what, published protocol, this run)
    notes: tuple[str, ...] = field(default=())


class DetectionEngine(Protocol):
    """An engine is a module-level object in `transfer/engines/<name>.py` called ENGINE."""

    name: str

    def missing(self) -> str | None:
        """None if the engine can run here, otherwise one sentence: what is missing and how to get it."""
        ...

    def cannot_build(self, arch: str) -> str | None:
        """None if the engine has a backbone for this architecture, otherwise one sentence that says why not."""
        ...

    def versions(self) -> dict[str, str]:
        """Package name → version of what decides this engine's numbers."""
        ...

    def run(self, job: DetectionJob) -> DetectionOutcome:
        """Build, verify, train (or resume), predict.

        Raises:
            EngineError: the model does not hold the backbone's weights; nothing was trained.
            TrainingError: the loss stopped being finite.
        """
        ...
