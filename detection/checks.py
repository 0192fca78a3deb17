"""What a detector's recipe must fulfil, asked before anything is read or built, and once more by the engines."""

from __future__ import annotations

from collections.abc import Sequence

from detection.recipe import DetectionJob, DetectorRecipe, unread
from transfer.checkpoints.architectures import STAGES
from transfer.protocol import flatten
from transfer.runtime.errors import EngineError

LEVELS = 5  # of every pyramid here: p2 … p6, or p3 … p7
GROUPS = 32  # of FCOS's group norms (Detectron2, configs/common/models/fcos.py)

_AT_LEAST_ONE = (
    *("batch", "test_size", "max_size", "fpn_channels", "roi_resolution", "mask_resolution", "max_detections"),
    *("rpn_pre_nms_train", "rpn_post_nms_train", "rpn_pre_nms_test", "rpn_post_nms_test", "rpn_batch", "roi_batch"),
    *("dense.octaves", "dense.candidates"),
)
_AT_LEAST_ZERO = (
    *("iterations", "warmup_iterations", "precise_bn", "freeze_at", "evaluate_every", "clip_gradients"),
    *("weight_decay", "weight_decay_norm", "rpn_loss_weight", "mask_convs", "dense.convs", "dense.focal_gamma"),
)
_SHARES = (
    *("flip", "gamma", "momentum", "warmup_factor", "rpn_positive", "roi_positive", "rpn_nms", "nms"),
    *("score_threshold", "dense.prior", "dense.focal_alpha", "dense.foreground_iou", "dense.background_iou"),
)


def out_of_range(recipe: DetectorRecipe, processes: int) -> list[str]:
    """Values that mean nothing; comparisons are such that NaN is found too."""
    values = flatten(recipe)
    problems = [f"{name} is {values[name]}, at least 1 is needed" for name in _AT_LEAST_ONE if not values[name] >= 1]
    problems += [f"{name} is {values[name]}, below 0" for name in _AT_LEAST_ZERO if not values[name] >= 0]
    problems += [f"{name} is {values[name]}, not between 0 and 1" for name in _SHARES if not 0 <= values[name] <= 1]
    for name in ("train_sizes", "anchor_sizes", "anchor_ratios"):
        if not values[name] or not all(value > 0 for value in values[name]):
            problems.append(f"{name} is {values[name]}")
    if recipe.freeze_at > len(STAGES) + 1:
        problems.append(f"freeze_at is {recipe.freeze_at}, a ResNet has a stem and {len(STAGES)} stages")
    if not recipe.lr > 0:
        problems.append(f"lr is {recipe.lr}")
    if list(recipe.steps) != sorted(recipe.steps):
        problems.append(f"steps {recipe.steps} are not in order")
    if recipe.batch % processes:
        problems.append(
            f"a batch of {recipe.batch} cannot be shared by {processes} processes: give --detector.batch a multiple"
        )
    return problems


def unbuildable(recipe: DetectorRecipe, device: str) -> list[str]:
    """Combinations that no engine has."""
    problems = []
    if recipe.neck == "fpn" and len(recipe.anchor_sizes) != LEVELS:
        problems.append(
            f"FPN wants five anchor_sizes, one anchor size per level, finest first, got {len(recipe.anchor_sizes)}"
        )
    if recipe.neck == "c4" and not recipe.regions:
        problems.append(f"there is no {recipe.family} without a pyramid: give --detector.neck fpn")
    if recipe.family == "fcos" and recipe.fpn_channels % GROUPS:
        problems.append(
            f"fpn_channels is {recipe.fpn_channels}, FCOS's heads have group norms of {GROUPS} groups: "
            f"give --detector.fpn-channels a multiple of {GROUPS}"
        )
    if recipe.amp == "fp16" and device == "cpu":
        problems.append("fp16 on GPUs only: --detector.amp bf16 or off works on a CPU")
    return problems


def dead(recipe: DetectorRecipe, offered: Sequence[DetectorRecipe]) -> list[str]:
    """Values that were typed and that nothing would read: a wrong recipe, or a misunderstanding.

    `offered` are the task's protocols and presets; what they hold is nobody's typing error.
    """
    ours, known = flatten(recipe), [flatten(DetectorRecipe()), *(flatten(one) for one in offered)]
    return [
        f"{name} is {ours[name]}, but nothing reads it in a {recipe.family} with {recipe.neck}"
        for name in unread(recipe)
        if all(ours[name] != other[name] for other in known)
    ]


def demand_buildable(recipe: DetectorRecipe, device: str = "") -> None:
    """What an engine asks of a recipe before it builds anything; without a device, those are left out that need one.

    Raises:
        EngineError: there is no such detector.
    """
    problems = unbuildable(recipe, device)
    if problems:
        raise EngineError("this detector cannot be built", found="\n".join(problems))


def demand_masks(job: DetectionJob) -> None:
    """What an engine asks of the training images.

    Raises:
        EngineError: masks are to be learnt from images without any.
    """
    if job.recipe.masks and job.recipe.iterations and not job.train.has_masks:
        raise EngineError(
            "a Mask R-CNN is trained on masks",
            found=f"{job.train.name} has images without any",
            todo="give a data set with masks, or choose --detector.family faster_rcnn",
        )
