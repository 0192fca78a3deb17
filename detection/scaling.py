"""A published recipe on other hardware: what changes by rule, what that costs, and what does not stay the same."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from detection.recipe import DetectorRecipe
from transfer.checkpoints.families import family_of
from transfer.runtime.provenance import Difference


@dataclass(frozen=True)
class Zoo:
    """A row of Detectron2's model zoo (MODEL_ZOO.md): ResNet-50, 1×, 8 V100s, 2 images each, FrozenBN; or of ViTDet's.

    Attributes:
        seconds: per training iteration.
        gigabytes: of GPU memory in training, for the images of a GPU.
        images: on each GPU.
        gpu: which.
        arch: of the backbone.
        page: where it stands.
    """

    seconds: float
    gigabytes: float
    images: int = 2
    gpu: str = "V100"
    arch: str = "resnet50"
    page: str = "MODEL_ZOO.md"


ZOO: dict[tuple[str, str], Zoo] = {
    ("faster_rcnn", "c4"): Zoo(0.551, 4.8),
    ("faster_rcnn", "fpn"): Zoo(0.210, 3.0),
    ("mask_rcnn", "c4"): Zoo(0.584, 5.2),
    ("mask_rcnn", "fpn"): Zoo(0.261, 3.4),
    ("retinanet", "fpn"): Zoo(0.205, 4.1),
    ("mask_rcnn", "simple_fpn"): Zoo(0.314, 10.9, 1, "A100", "vit_base_patch16_224", "projects/ViTDet/README.md"),
}
# The zoo's own pair of 3× Mask R-CNN R50-FPN runs, with and without SyncBN: 0.261 → 0.345 s, 3.4 → 5.5 GB.
TRAINED_NORM_SECONDS, TRAINED_NORM_MEMORY = 0.345 / 0.261, 5.5 / 3.4
BATCH = "detector.batch"


@dataclass(frozen=True)
class Expectation:
    """What a run should take; an estimate from others' measurements, not from this machine.

    Attributes:
        hours: of training.
        gigabytes: per GPU.
        gpu: which that is.
        source: how it was arrived at.
    """

    hours: float
    gigabytes: float
    gpu: str
    source: str


def rescaled(recipe: DetectorRecipe, processes: int, batch: int | None = None) -> DetectorRecipe:
    """The recipe for fewer processes, by the linear scaling rule (Goyal et al., arXiv 1706.02677).

    Without a `batch`, images per process stay as published: the memory of a GPU decides that number. The learning rate
    changes in proportion to the batch, AdamW's too, as MAE's authors scale it (facebookresearch/mae: main_finetune.py,
    --blr); iterations, steps and warm-up in inverse proportion, so as many images are seen. More processes than
    published change nothing.
    """
    published = recipe.published_processes()
    if batch is None:
        batch = recipe.batch if processes >= published else max(1, round(recipe.batch * processes / published))
    if batch == recipe.batch:
        return recipe
    grow = recipe.batch / batch
    return dataclasses.replace(
        recipe,
        batch=batch,
        lr=recipe.lr / grow,
        iterations=round(recipe.iterations * grow),
        steps=tuple(round(step * grow) for step in recipe.steps),
        warmup_iterations=round(recipe.warmup_iterations * grow),
        evaluate_every=round(recipe.evaluate_every * grow),
    )


SPARE = 0.9  # of a GPU's memory: the rest is the driver's, and what an allocator wastes


def fitted(
    recipe: DetectorRecipe, processes: int, gigabytes: float | None, arch: str = "resnet50"
) -> tuple[DetectorRecipe, str]:
    """The published batch at once, with its schedule, on fewer GPUs where their memory holds it; rescaled otherwise.

    A batch norm that sees 16 images gives another number than one that sees 2 (facebookresearch/moco#11), and adding up
    the gradients of small batches changes nothing about that. What a batch takes is reckoned by `expectation`.

    Args:
        gigabytes: memory of each GPU; None: not known.
        arch: of the backbone.

    Returns:
        The recipe, and why, in a line; no line where there are as many GPUs as published.
    """
    if processes >= recipe.published_processes():
        return recipe, ""
    smaller = rescaled(recipe, processes)
    instead = f"rescaled to a batch of {smaller.batch} and {smaller.iterations:,} iterations"
    if gigabytes is None:
        return smaller, f"{instead}: the memory of the GPUs is not known (--memory GB)"
    whole = expectation(recipe, arch, processes)
    if whole is None:
        return smaller, f"{instead}: what a batch of {recipe.batch} takes of this detector was never published"
    needed = f"about {whole.gigabytes:.0f} GB with a {arch}, of the {gigabytes:.0f} GB of a GPU"
    if whole.gigabytes <= SPARE * gigabytes:
        return recipe, f"the published batch of {recipe.batch} at once and its schedule: {needed}, an estimate"
    return smaller, (
        f"{instead}: a batch of {recipe.batch} would take {needed}, an estimate; "
        f"--{BATCH} {recipe.batch} tries it all the same, --detector.amp bf16 and --recompute take less"
    )


def images_normalised(recipe: DetectorRecipe, processes: int) -> int:
    """Images whose statistics a batch norm sees together in training; 0 if it is frozen, or there is none."""
    if recipe.norm in ("FrozenBN", "LN"):
        return 0
    return recipe.batch if recipe.norm == "SyncBN" else recipe.batch // processes


def norm_in_words(recipe: DetectorRecipe, processes: int) -> str:
    """For example "SyncBN over 16 images"; on one process that is plain BN over its batch."""
    images = images_normalised(recipe, processes)
    if not images:
        return "FrozenBN" if recipe.norm == "FrozenBN" else f"none ({recipe.norm})"
    name = "SyncBN" if recipe.norm == "SyncBN" and processes > 1 else "BN"
    return f"{name} over {images} images"


def norm_differences(published: DetectorRecipe, recipe: DetectorRecipe, processes: int) -> tuple[Difference, ...]:
    """(what, published, here) if other numbers of images are normalised together than in the published runs."""
    theirs = images_normalised(published, published.published_processes())
    ours = images_normalised(recipe, processes)
    if theirs == ours:
        return ()
    return (
        (
            "images normalised together",
            norm_in_words(published, published.published_processes()),
            norm_in_words(recipe, processes),
        ),
    )


def expectation(recipe: DetectorRecipe, arch: str, processes: int) -> Expectation | None:
    """Hours and memory from Detectron2's model zoo, in proportion to images per process and the backbone's cost.

    None for a detector that the zoo has no row of (FCOS, ViTDet without masks), and for backbones of another family.
    """
    row = ZOO.get((recipe.family, recipe.neck))
    if row is None or family_of(arch) is not family_of(row.arch):
        return None
    images = recipe.batch / processes / row.images
    trained = recipe.norm not in ("FrozenBN", "LN")
    size = family_of(arch).gmacs(arch) / family_of(arch).gmacs(row.arch)
    seconds = row.seconds * images * size * (TRAINED_NORM_SECONDS if trained else 1.0)
    gigabytes = row.gigabytes * images * size * (TRAINED_NORM_MEMORY if trained else 1.0)
    source = (
        f"Detectron2's {row.page} ({row.seconds} s and {row.gigabytes} GB for {row.images} image"
        f"{'s' if row.images > 1 else ''} on {'an' if row.gpu[0] == 'A' else 'a'} {row.gpu}), in proportion to "
        "images per GPU and the backbone's multiply–accumulates"
        + (", with the zoo's own factors for trained batch norms" if trained else "")
    )
    return Expectation(seconds * recipe.iterations / 3600, gigabytes, row.gpu, source)
