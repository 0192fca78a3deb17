"""Weighted nearest neighbours on frozen features: no training, no choice, one number per k.

Protocol: DINO's evaluation (facebookresearch/dino: eval_knn.py) of InstDisc's classifier (arXiv 1805.01978, §3.4).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from transfer.classification.score import at_level, mean_per_class
from transfer.classification.task import ClassificationTask
from transfer.classification.views import Frozen, Precision, WholeView
from transfer.protocol import Protocol
from transfer.runtime.errors import UserError
from transfer.task import Run, TaskOutcome


@dataclass(frozen=True)
class KnnRecipe:
    """Neighbours that vote.

    Attributes:
        view: what the network sees of an image.
        pooling: which features: avg, max or grid of a ResNet; of others see docs/classification.md.
        ks: neighbours; each gives a metric of its own, `top1_k20`.
        temperature: of the votes.
        precision: of the backbone's arithmetic: fp32, or bf16 on a GPU that has it.
    """

    view: WholeView
    pooling: str
    ks: tuple[int, ...]
    temperature: float
    precision: Precision


PRIMARY = 20  # its help text calls 20 the k that usually works best: fixed beforehand, not chosen on the test set

_DINO = "facebookresearch/dino: eval_knn.py"
DINO = (
    Protocol(KnnRecipe)
    .but(f"{_DINO}, Resize(256)", resize=256)
    .but(f"{_DINO}, CenterCrop(224)", crop=224)
    .but(f"{_DINO}: the aspect ratio is kept", squash=False)
    .but(f"{_DINO}, interpolation=3 (bicubic)", interpolation="bicubic")
    .but(f"{_DINO}: a torchvision ResNet without its classifier, so global average", pooling="avg")
    .but(f"{_DINO}, --nb_knn", ks=(10, 20, 100, 200))
    .but(f"{_DINO}, --temperature", temperature=0.07)
    .but(f"{_DINO}: no autocast", precision="fp32")
)


class Knn(ClassificationTask):
    """Votes of the nearest training images."""

    seeded = False

    def demand(self, run: Run) -> None:
        """Refuse a recipe without the neighbours that the primary metric is named after."""
        recipe: KnnRecipe = run.recipe
        if PRIMARY not in recipe.ks:
            raise UserError(
                f"the primary metric is top1_k{PRIMARY}",
                found=f"--ks {' '.join(map(str, recipe.ks))}",
                todo=f"keep {PRIMARY} among them",
            )
        images = len(run.data.splits.train)
        if max(recipe.ks) > images or min(recipe.ks) < 1:
            raise UserError(
                f"there are not that many neighbours: {run.data.splits.train.name} has {images} images",
                found=f"--ks {' '.join(map(str, recipe.ks))}",
                todo=f"give --ks of 1 … {images}, {PRIMARY} among them" if images >= PRIMARY else "give more images",
            )

    def work(self, recipe: KnnRecipe, images: Mapping[str, int], arch: str) -> float | None:
        """Nothing is chosen, so the validation split is not looked at. See `Task`."""
        return super().work(recipe, {name: count for name, count in images.items() if name != "val"}, arch)

    def frozen(self, recipe: KnnRecipe) -> tuple[Frozen, ...]:
        """Nothing is chosen, so none of the validation split."""
        return (Frozen(recipe.view, (recipe.pooling,), recipe.precision, val=False),)

    def measure(self, run: Run) -> TaskOutcome:
        """Extract, vote, count."""
        import torch

        from transfer.classification.probes.knn import accuracy, knn, standard_error
        from transfer.classification.splits import frozen_splits

        recipe: KnnRecipe = run.recipe
        frozen = frozen_splits(run)
        train, test = frozen.train, frozen.test
        device, labels = torch.device(run.device), test.labels.astype(np.int64)
        votes = knn(
            torch.from_numpy(np.array(train.features[recipe.pooling])).to(device),
            torch.from_numpy(train.labels.astype(np.int64)),
            torch.from_numpy(np.array(test.features[recipe.pooling])),
            classes=len(train.images.classes),
            k=recipe.ks,
            temperature=recipe.temperature,
        )
        metrics = {f"top1_k{k}": accuracy(predicted, torch.from_numpy(labels)) for k, predicted in votes.items()}
        errors = {name: standard_error(value, len(labels)) for name, value in metrics.items()}
        nearest = votes[PRIMARY].numpy()
        metrics["mean_per_class_k20"] = mean_per_class(nearest, labels, len(train.images.classes))
        for name, level in test.images.levels.items():
            metrics[f"top1_k{PRIMARY}_{name}"] = at_level(nearest, labels, level)
        return TaskOutcome(
            metrics=metrics,
            details={"standard_error": errors, "test_images": len(labels)},
            verification=frozen.proof(),
            notes=frozen.notes(),
        )


TASK = Knn(
    dataset="imagenet",
    title="Weighted k nearest neighbours on frozen features (ImageNet, or any labelled images)",
    primary=f"top1_k{PRIMARY}",
    published={"dino": DINO},
    families={"dino": ("resnet", "vit")},  # eval_knn.py: the output of the network, which is the CLS token's
    presets={
        "cpu": (
            "two CPU cores: images at 128 pixels instead of 224",
            dataclasses.replace(DINO.recipe, view=WholeView(128, 128, interpolation="bicubic")),
        )
    },
)
