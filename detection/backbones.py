"""Which backbones a detector is built on: refused before anything is read, and said where something stays behind."""

from __future__ import annotations

from detection import maps, vitdet
from detection.recipe import DetectorRecipe, Maps, OnTrunk, ViTDet
from transfer.checkpoints.families import families, family_of
from transfer.runtime.errors import UserError


def _scripts(*words: str) -> str:
    named = "|".join(words)
    tasks = ", ".join(f"{room}_{word}" for word in words for room in ("detection.voc", "detection.coco"))
    masked = ", ".join(f"segmentation.coco_{word}" for word in words)
    return (
        f"bash detection/run_voc.sh {named} CKPT or bash detection/run_coco.sh {named} CKPT ({tasks}), or with masks "
        f"bash segmentation/run_coco.sh {named} CKPT ({masked})"
    )


# Family of backbones → its detectors, for a message; and the architecture that their numbers are published of
DETECTORS = {
    "resnet": "bash detection/run_voc.sh [fpn] CKPT (detection.voc, detection.voc_fpn), bash detection/run_coco.sh "
    "c4|fpn|retinanet|fcos CKPT (detection.coco_c4, …, detection.coco_retinanet), bash segmentation/run_coco.sh "
    "c4|fpn CKPT (segmentation.coco_c4, segmentation.coco_fpn)",
    "vit": _scripts("vitdet", "vit_fpn"),
    "convnext": _scripts("convnext_fpn"),
    "swin": _scripts("swin_fpn"),
    "beit": _scripts("vit_fpn"),
}
EACH_A_TASK = "each detector is a task of its own; " + "; ".join(
    f"of {families()[family].title}: {DETECTORS[family]}" for family in ("resnet", "vit", "convnext", "swin")
)
USUAL = {
    "resnet": "resnet50",
    "vit": "vit_base_patch16_224",
    "convnext": "convnext_tiny",
    "swin": "swin_tiny_window7_224",
}


def demand_taken(recipe: DetectorRecipe, arch: str) -> None:
    """Refuse a backbone of another family than the detector is built on, and what its form cannot hold.

    Raises:
        UserError: says what, and what to type.
    """
    given = family_of(arch).name
    if given not in recipe.takes:
        todo = DETECTORS.get(given)
        raise UserError(
            f"this detector is not built on a {arch}",
            found=f"its backbone is one of {', '.join(_fitting(recipe))}",
            todo=f"take a detector for this checkpoint: {todo}"
            if todo
            else "no detector here takes such a checkpoint; its frozen features are measured by "
            "bash transfer/run_knn.sh CKPT and the other tasks of `python -m transfer tasks`",
        )
    _demand_fitting(recipe, arch)


def _demand_fitting(recipe: DetectorRecipe, arch: str) -> None:
    if isinstance(recipe, ViTDet):
        vitdet.demand_fitting(recipe, arch)
    if isinstance(recipe, Maps):
        maps.demand_fitting(recipe, arch)


def _fitting(recipe: DetectorRecipe) -> list[str]:
    """Architectures that messages name and that are taken, of the sizes that the protocol was published for."""
    found = []
    for arch in (arch for family in recipe.takes for arch in families()[family].offered):
        try:
            _demand_fitting(recipe, arch)
        except UserError:
            continue
        found.append(arch)
    return found


def notes(recipe: DetectorRecipe, arch: str) -> tuple[str, ...]:
    """What a reader of the number should know of how the weights were taken."""
    if isinstance(recipe, ViTDet):
        return vitdet.notes(arch, recipe)
    return maps.notes(arch, recipe) if isinstance(recipe, Maps) else ()


def gmacs_below_regions(recipe: OnTrunk, arch: str, height: float, width: float) -> float:
    """10⁹ multiply–accumulates of trunk, pyramid and proposals for one image; a canvas has its own size."""
    if isinstance(recipe, ViTDet):
        return vitdet.trunk_gmacs(arch, recipe) + vitdet.pyramid_gmacs(arch, recipe)
    assert isinstance(recipe, Maps)  # there are no others
    return maps.trunk_gmacs(arch, height, width) + maps.pyramid_gmacs(arch, recipe, height, width)
