"""The papers' tables: which tasks and metrics stand side by side. A task that no table has gets one of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Metrics = tuple[tuple[str, str], ...]  # (metric, heading)


@dataclass(frozen=True)
class Group:
    """Columns under one heading: metrics of one task."""

    task: str
    heading: str
    metrics: Metrics


@dataclass(frozen=True)
class TableLayout:
    """One table of the papers.

    Attributes:
        key: for `explain` and links.
        title: of runs on the protocols' own data.
        kind: the title's beginning for runs on other data, whose names follow.
    """

    key: str
    title: str
    kind: str
    groups: tuple[Group, ...]


_TOP = (("top1", "top-1"), ("top5", "top-5"))
_VOC = (("AP50", "AP50"), ("AP", "AP"), ("AP75", "AP75"))
_APS = (("AP", "AP"), ("AP50", "AP50"), ("AP75", "AP75"))
_BOXES: Metrics = tuple((f"box_{metric}", name) for metric, name in _APS)
_MASKS: Metrics = tuple((f"mask_{metric}", name) for metric, name in _APS)
_SETS = (
    ("cub200", "CUB-200", "top1"), ("cars196", "Cars", "top1"), ("aircraft", "Aircraft", "mean_per_class"),
    ("pets", "Pets", "mean_per_class"), ("flowers102", "Flowers", "mean_per_class"), ("dtd", "DTD", "top1"),
    ("food101", "Food-101", "top1"), ("birdsnap", "Birdsnap", "top1"), ("caltech101", "Caltech-101", "mean_per_class"),
    ("cifar10", "CIFAR-10", "top1"), ("cifar100", "CIFAR-100", "top1"), ("sun397", "SUN397", "top1"),
)  # fmt: skip


def _fine(end: str) -> tuple[Group, ...]:
    named = {"top1": "top-1", "mean_per_class": "mean"}
    sets = tuple(
        Group(f"finegrained.{name}_{end}", heading, ((metric, named[metric]),)) for name, heading, metric in _SETS
    )
    return (*sets, Group(f"finegrained.own_{end}", "", _TOP))


# Detectors of transformers and ConvNeXts, none of which shares a table with another's
_TRUNKS = (
    ("vitdet", "ViTDet"),
    ("vit_fpn", "ViT-FPN"),
    ("convnext_fpn", "ConvNeXt-FPN"),
    ("swin_fpn", "Swin-FPN"),
)
LAYOUTS = (
    TableLayout(
        "imagenet", "ImageNet: linear and semi-supervised", "Linear and semi-supervised",
        (
            Group("transfer.imagenet_linear", "Linear", _TOP),
            Group("transfer.imagenet_semi_1", "1 % labels", _TOP),
            Group("transfer.imagenet_semi_10", "10 % labels", _TOP),
        ),
    ),
    TableLayout(
        "linear", "Linear transfer", "Linear transfer",
        (
            Group("transfer.places205_linear", "Places205", _TOP[:1]),
            Group("transfer.voc07_svm", "VOC07", (("mAP", "mAP"),)),
            Group("finegrained.inat18_linear", "iNat18", _TOP[:1]),
        ),
    ),
    TableLayout(
        "voc07", "VOC07 classification", "Multi-label classification",
        (
            Group("transfer.voc07_logistic", "Logistic", (("mAP_11point", "mAP 11-point"), ("mAP", "mAP"))),
            Group("transfer.voc07_finetune", "Fine-tuned", (("mAP_11point", "mAP 11-point"), ("mAP", "mAP"))),
            Group("transfer.voc07_lowshot", "Low-shot SVM", (("mAP_k8", "8 a class"), ("mAP_k96", "96 a class"))),
        ),
    ),
    TableLayout(
        "detection-c4", "Detection and segmentation, R50-C4", "Detection and segmentation",
        (
            Group("detection.voc", "VOC07+12", _VOC),
            Group("segmentation.coco_c4", "COCO box", _BOXES),
            Group("segmentation.coco_c4", "COCO mask", _MASKS),
        ),
    ),
    TableLayout(
        "detection-fpn", "Detection and segmentation, R50-FPN", "Detection and segmentation",
        (
            Group("detection.voc_fpn", "VOC07+12", _VOC),
            Group("segmentation.coco_fpn", "COCO box", _BOXES),
            Group("segmentation.coco_fpn", "COCO mask", _MASKS),
        ),
    ),
    *(
        TableLayout(
            f"detection-{word.replace('_', '-')}", f"Detection and segmentation, {name}", "Detection and segmentation",
            (
                Group(f"detection.voc_{word}", "VOC07+12", _VOC),
                Group(f"segmentation.coco_{word}", "COCO box", _BOXES),
                Group(f"segmentation.coco_{word}", "COCO mask", _MASKS),
            ),
        )
        for word, name in _TRUNKS
    ),
    TableLayout(
        "finegrained-linear", "Fine-grained, linear", "Linear classification", _fine("linear"),
    ),
    TableLayout(
        "finegrained-finetune", "Fine-grained, fine-tuned", "Fine-tuned classification", _fine("finetune"),
    ),
    TableLayout(
        "knn", "ImageNet, k nearest neighbours", "k nearest neighbours",
        (Group("transfer.knn", "", (("top1_k20", "top-1, k = 20"), ("top1_k200", "k = 200"))),),
    ),
    TableLayout("voc-07", "Detection, R50-C4, VOC07 alone", "Detection", (Group("detection.voc_07", "VOC07", _VOC),)),
    TableLayout(
        "coco-c4", "Detection without masks, R50-C4", "Detection", (Group("detection.coco_c4", "COCO box", _APS),)
    ),
    TableLayout(
        "coco-fpn", "Detection without masks, R50-FPN", "Detection",
        (Group("detection.coco_fpn", "COCO box", _APS),),
    ),
    *(
        TableLayout(
            f"coco-{word.replace('_', '-')}", f"Detection without masks, {name}", "Detection",
            (Group(f"detection.coco_{word}", "COCO box", _APS),),
        )
        for word, name in _TRUNKS
    ),
    TableLayout(
        "dense", "One-stage detection, R50-FPN", "One-stage detection",
        (
            Group("detection.coco_retinanet", "RetinaNet", _APS),
            Group("detection.coco_fcos", "FCOS", _APS),
        ),
    ),
)  # fmt: skip


def layout_of(task: str, metrics: Sequence[str] = (), primary: str = "") -> TableLayout:
    """The table that a task stands in; of its own, with its primary metric first, if no paper's table has it."""
    for layout in LAYOUTS:
        if any(group.task == task for group in layout.groups):
            return layout
    names = sorted(metrics, key=lambda name: (name != primary, name))[:6]
    return TableLayout(task, task, task, (Group(task, "", tuple((name, name) for name in names)),))
