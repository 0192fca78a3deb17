"""VOC07 classification from 1 to 96 images of a class: linear SVMs, several draws.

Protocol: Goyal et al., ICCV 2019, arXiv 1905.01235, §6.2 and appendix; facebookresearch/vissl: vissl/config/
defaults.yaml (SVM.low_shot), vissl/utils/svm_utils/svm_low_shot_trainer.py; draws as facebookresearch/
fair_self_supervision_benchmark: extra_scripts/create_voc_low_shot_samples.py makes them: for each class k images that
show it and 19 k that do not, all others ignored.

One thing differs, on purpose: there the cost is the one of the best mean over draws *on the test images*. Here it is
chosen on the training images that were not drawn, and the table on test images is kept in the record's details.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from transfer.classification.probes.grids import COSTS
from transfer.classification.score import average_precisions
from transfer.classification.task import ClassificationTask
from transfer.classification.views import Frozen, Precision, WholeView
from transfer.datasets.labels.labelled import ABSENT, DIFFICULT, PRESENT, LabelledImages
from transfer.protocol import Protocol
from transfer.runtime.errors import DataError, UserError
from transfer.task import Run, TaskOutcome

if TYPE_CHECKING:
    import torch


PRIMARY = 8  # tables show one k first: the middle of the published ones, which small sets reach too


@dataclass(frozen=True)
class LowShotRecipe:
    """Linear SVMs of few images.

    Attributes:
        view: what the network sees of an image.
        pooling: which features: avg, grid or max of a ResNet; of others see docs/classification.md.
        ks: images that show the class; each gives a metric, `mAP_k8`.
        draws: independent ones, whose mean is reported; their standard deviation is in the details.
        costs: candidates; one for all classes and draws of a k.
        positive_weight, negative_weight: of the losses of images that show the class, and of those that do not.
        normalise: divide features by (their length + 1e-5).
        precision: of the backbone's arithmetic: fp32, or bf16 on a GPU that has it.
    """

    view: WholeView
    pooling: str
    ks: tuple[int, ...]
    draws: int
    costs: tuple[float, ...]
    positive_weight: float
    negative_weight: float
    normalise: bool
    precision: Precision


_CONFIG = "facebookresearch/vissl: eval_resnet_8gpu_transfer_voc07_low_shot_svm.yaml"
_TRAINER = "facebookresearch/vissl: vissl/utils/svm_utils/svm_low_shot_trainer.py"
VISSL = (
    Protocol(LowShotRecipe)
    .but(f"{_CONFIG}: none before both sides (unlike its configuration for all images)", resize=0)
    .but(f"{_CONFIG}: Resize([224, 224])", crop=224)
    .but(f"{_CONFIG}: both sides to 224", squash=True)
    .but(f"{_CONFIG}: torchvision's default, bilinear", interpolation="bilinear")
    .but(f"{_CONFIG}: res5, AvgPool2d(6, stride 1)", pooling="grid")
    .but(f"{_CONFIG}: k_values", ks=(1, 2, 4, 8, 16, 32, 64, 96))
    .but(f"{_CONFIG}: sample_inds", draws=5)
    .but(f"{_CONFIG}: costs_list", costs=COSTS)
    .but(f"{_TRAINER}: class_weight", positive_weight=2.0, negative_weight=1.0)
    .but(f"{_CONFIG}: normalize", normalise=True)
    .but(f"{_TRAINER}: features in float64, networks in float32", precision="fp32")
)


def _refuse_too_few(train: LabelledImages, known: NDArray[Any], k: int) -> None:
    needed = {PRESENT: k, ABSENT: (len(train.classes) - 1) * k}
    for name, labels in zip(train.classes, known.T, strict=True):
        for value, what in ((PRESENT, "show"), (ABSENT, "do not show")):
            have = int((labels == value).sum())
            if have < needed[value]:
                raise DataError(
                    f"{train.name} has too few images that {what} {name}",
                    found=f"{have}; {needed[value]} are drawn for k = {k}",
                    todo="give smaller --ks, or a larger set",
                )
    # VOC07 has just 96 images with sheep: a class may be used up, not all.
    if not ((known == PRESENT).sum(0) > k).any():
        raise DataError(
            f"{train.name} has no image left to choose the cost on",
            found=f"k = {k} draws all",
            todo="give smaller --ks",
        )


def draw(labels: NDArray[np.int8], k: int, seed: tuple[int, ...]) -> NDArray[np.bool_]:
    """Bool [n, classes]: for each class k images that show it and (classes − 1) · k that do not; none is difficult."""
    rng, drawn = np.random.default_rng(seed), np.zeros(labels.shape, dtype=bool)
    for column in range(labels.shape[1]):
        for value, count in ((PRESENT, k), (ABSENT, (labels.shape[1] - 1) * k)):
            drawn[rng.choice(np.flatnonzero(labels[:, column] == value), count, replace=False), column] = True
    return drawn


def _draw_and_fit(
    run: Run,
    k: int,
    number: int,
    train: torch.Tensor,
    labels: torch.Tensor,
    test: torch.Tensor,
    test_labels: NDArray[Any],
) -> tuple[list[float], list[float]]:
    """mAP in percent for every cost: on the training images that were not drawn, and on the test images."""
    import torch

    from transfer.classification.probes.svm import fit_svms

    recipe: LowShotRecipe = run.recipe
    known = labels.cpu().numpy()
    drawn = draw(known, k, (run.seed, k, number))
    used, count = drawn.any(1), len(recipe.costs)  # what no class has drawn constrains nothing
    fit = fit_svms(
        train[torch.from_numpy(used)],
        torch.from_numpy(np.where(known[used] == PRESENT, 1, -1)).to(train).repeat(1, count),
        torch.tensor(recipe.costs).repeat_interleave(known.shape[1]),
        weights=(recipe.positive_weight, recipe.negative_weight),
        rows=torch.from_numpy(drawn[used]).to(train.device).repeat(1, count),
    )  # fmt: skip
    rest = np.where(drawn, DIFFICULT, known)  # difficult is ignored, and so is what was drawn
    on_rest, on_test = (
        [average_precisions(part, against.astype(np.int8)).metrics()["mAP"] for part in np.split(decisions, count, 1)]
        for decisions, against in (
            (fit.decisions(train).cpu().numpy(), rest),
            (fit.decisions(test).cpu().numpy(), test_labels),
        )
    )
    return on_rest, on_test


def _about(
    recipe: LowShotRecipe, best: int, chosen_on: NDArray[np.float64], reported: NDArray[np.float64]
) -> dict[str, Any]:
    of_draws = reported[:, best]
    return {
        "cost": recipe.costs[best],
        "draws": of_draws.tolist(),
        "std": float(of_draws.std(ddof=1)) if len(of_draws) > 1 else None,
        "sweep": {
            str(cost): {"not_drawn": float(a), "test": float(b)}
            for cost, a, b in zip(recipe.costs, chosen_on.mean(0), reported.mean(0), strict=True)
        },
        "as_published": float(reported.mean(0).max()),  # the cost chosen on the test images, which this does not report
    }


class LowShot(ClassificationTask):
    """SVMs on few images of a class."""

    def demand(self, run: Run) -> None:
        """Refuse a set that has too few images for the largest k."""
        recipe: LowShotRecipe = run.recipe
        if PRIMARY not in recipe.ks or min(recipe.ks) < 1 or recipe.draws < 1:
            raise UserError(
                f"the primary metric is mAP_k{PRIMARY}, the mean of at least one draw",
                found=f"--ks {' '.join(map(str, recipe.ks))} --draws {recipe.draws}",
            )
        _refuse_too_few(run.data.splits.train, run.data.splits.train.labels, max(recipe.ks))

    def frozen(self, recipe: LowShotRecipe) -> tuple[Frozen, ...]:
        """One pooling of one view."""
        return (Frozen(recipe.view, (recipe.pooling,), recipe.precision),)

    def measure(self, run: Run) -> TaskOutcome:
        """Extract; for every k and draw fit all classes and costs; choose the cost on what was not drawn; report."""
        import torch

        from transfer.classification.splits import frozen_splits

        recipe: LowShotRecipe = run.recipe
        frozen = frozen_splits(run)
        _refuse_too_few(frozen.train.images, frozen.train.labels, max(recipe.ks))  # of those that could be read
        train, labels, test = frozen.multilabel(recipe.pooling, torch.device(run.device))
        if recipe.normalise:
            train, test = (x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-5) for x in (train, test))
        metrics: dict[str, float] = {}
        details: dict[str, Any] = {}
        for k in recipe.ks:
            found = [
                _draw_and_fit(run, k, number, train, labels, test, frozen.test.labels) for number in range(recipe.draws)
            ]
            chosen_on, reported = (np.array(part) for part in zip(*found, strict=True))  # [draws, costs] each
            best = int(chosen_on.mean(0).argmax())  # the first of equals
            metrics[f"mAP_k{k}"] = float(reported[:, best].mean())
            details[f"k{k}"] = _about(recipe, best, chosen_on, reported)
        details |= {"features": train.shape[1], "test_images": len(frozen.test.labels)}
        return TaskOutcome(metrics, details, frozen.proof(), notes=frozen.notes())


TASK = LowShot(
    dataset="voc07",
    title="VOC07 classification from 1 to 96 images of a class, linear SVMs on frozen features",
    primary=f"mAP_k{PRIMARY}",
    published={"vissl": VISSL},
    presets={
        "cpu": (
            "two CPU cores: images at 128 pixels instead of 224, global average instead of the grid",
            dataclasses.replace(VISSL.recipe, view=WholeView(resize=0, crop=128, squash=True), pooling="avg"),
        )
    },
    multilabel=True,
    departures=(
        ("cost chosen on", "the test images", "training images that were not drawn"),
        ("solver", "LIBLINEAR, 2,000 iterations at most", "the optimum"),
    ),
)
