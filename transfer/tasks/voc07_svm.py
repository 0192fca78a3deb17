"""VOC07 classification: one linear SVM per class on frozen features.

Protocol: VISSL's (facebookresearch/vissl: vissl/utils/svm_utils/svm_trainer.py, configs/config/benchmark/
linear_image_classification/voc07/eval_resnet_8gpu_transfer_voc07_svm.yaml), after Goyal et al., ICCV 2019, arXiv
1905.01235. `difficult` images are negatives in training and ignored in the test, as there.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from transfer.classification.probes.grids import COSTS
from transfer.classification.score import AveragePrecisions, average_precisions
from transfer.classification.task import ClassificationTask
from transfer.classification.views import Frozen, Precision, WholeView
from transfer.datasets.labels.labelled import PRESENT
from transfer.protocol import OURS, Protocol
from transfer.task import Hardware, Run, TaskOutcome

if TYPE_CHECKING:
    from transfer.classification.probes.svm_costs import SvmProbe


@dataclass(frozen=True)
class SvmRecipe:
    """Linear SVMs. A run starts from a protocol with the batched solver, shown as a difference.

    Attributes:
        view: what the network sees of an image.
        pooling: which features: avg (2,048 of a ResNet-50), grid (8,192) or max; of others see docs/classification.md.
        costs: candidates; each class takes the one of the best average precision in cross validation.
        folds: of the cross validation.
        positive_weight, negative_weight: of the losses of images that show the class, and of those that do not.
        normalise: divide features by (their length + 1e-5).
        solver: batched: all problems together, to the optimum; liblinear: as published, 2,000 iterations at most.
        precision: of the backbone's arithmetic: fp32, or bf16 on a GPU that has it.
    """

    view: WholeView
    pooling: str
    costs: tuple[float, ...]
    folds: int
    positive_weight: float
    negative_weight: float
    normalise: bool
    solver: Literal["batched", "liblinear"]
    precision: Precision


_TRAINER = "facebookresearch/vissl: vissl/utils/svm_utils/svm_trainer.py"
_CONFIG = "facebookresearch/vissl: eval_resnet_8gpu_transfer_voc07_svm.yaml"
_OBOW = "valeoai/obow: README and utils/configs, on facebookresearch/fair_self_supervision_benchmark"
_VICREG = "VICReg, arXiv 2105.04906, app. C.3"

VISSL = (
    Protocol(SvmRecipe)
    .but(f"{_CONFIG}: Resize(256)", resize=256)
    .but(f"{_CONFIG}: then Resize([224, 224])", crop=224)
    .but(f"{_CONFIG}: both sides to 224", squash=True)
    .but(f"{_CONFIG}: torchvision's default, bilinear", interpolation="bilinear")
    .but(f"{_CONFIG}: res5, AvgPool2d(6, stride 1)", pooling="grid")
    .but(f"{_CONFIG}: costs_list", costs=COSTS)
    .but(f"{_CONFIG}: cross_val_folds", folds=3)
    .but(f"{_TRAINER}: class_weight", positive_weight=2.0, negative_weight=1.0)
    .but(f"{_CONFIG}: normalize; {_TRAINER}", normalise=True)
    .but(f"{_TRAINER}: LIBLINEAR, stopped after 2,000 iterations; a run takes batched unless told", solver="liblinear")
    .but(f"{_TRAINER}: features in float64, networks in float32", precision="fp32")
)
OBOW = (
    VISSL.but(f"{_OBOW}: scale, global_resize (by OpenCV's filter there)", resize=256, crop=224, squash=True)
    .but(f"{_OBOW}: global average", pooling="avg")
    .but(  # the README's list, to which parse_cost_list always adds 0.5⁴ … 0.5¹⁹
        f"{_OBOW}; tools/svm/svm_helper.py adds the powers of 1/2",
        costs=(0.05, 0.1, 0.3, 0.5, 1.0, 3.0, 5.0, *(0.5**power for power in range(4, 20))),
    )
)
VICREG = (
    VISSL.but(f"{_VICREG}: centre crop of 224", resize=256, crop=224, squash=False)
    .but(f"{_VICREG}: by VISSL, whose config gives 8,192 features", pooling="grid")
    .but(f"{_VICREG}: by VISSL; {_CONFIG}: costs_list", costs=COSTS)
)
VICREG_AVG = VICREG.but(f"{OURS}: app. C.3 names no number of features; the global average, 2,048", pooling="avg")


def _details(recipe: SvmRecipe, probe: SvmProbe, found: AveragePrecisions, classes: tuple[str, ...]) -> dict[str, Any]:
    """Each class's AP by both metrics, its cost, and the whole cross validation."""
    table = [dict(zip(map(str, recipe.costs), row, strict=True)) for row in (100 * probe.choice.table).tolist()]
    return {
        **found.by_class(classes),
        "costs": dict(zip(classes, probe.choice.costs.tolist(), strict=True)),
        "sweep": dict(zip(classes, table, strict=True)),
        "machines": probe.choice.fits,
        "not_converged": probe.choice.unconverged,
    }


def _notes(probe: SvmProbe) -> tuple[str, ...]:
    if not probe.choice.unconverged:
        return ()
    return (f"{probe.choice.unconverged} of {probe.choice.fits} machines stopped before they had converged",)


class Svm(ClassificationTask):
    """One SVM a class."""

    def scale(self, recipe: SvmRecipe, hardware: Hardware, batch: int | None) -> tuple[SvmRecipe, str]:
        """The solver that goes on to the optimum, on any hardware."""
        return dataclasses.replace(recipe, solver="batched"), ""

    def frozen(self, recipe: SvmRecipe) -> tuple[Frozen, ...]:
        """One pooling of one view."""
        return (Frozen(recipe.view, (recipe.pooling,), recipe.precision),)

    def measure(self, run: Run) -> TaskOutcome:
        """Extract, choose each class's cost, refit, report."""
        import torch

        from transfer.classification.probes.svm_costs import svm_one_vs_all
        from transfer.classification.splits import frozen_splits

        recipe: SvmRecipe = run.recipe
        frozen = frozen_splits(run)
        classes = frozen.train.images.classes
        train, labels, test = frozen.multilabel(recipe.pooling, torch.device(run.device))
        probe = svm_one_vs_all(
            train, labels, test, costs=recipe.costs, folds=recipe.folds, positive_weight=recipe.positive_weight,
            negative_weight=recipe.negative_weight, normalise=recipe.normalise, solver=recipe.solver, classes=classes,
            seed=run.seed,
        )  # fmt: skip
        found = average_precisions(probe.decisions.cpu().numpy(), frozen.test.labels.astype("int8"))
        details = _details(recipe, probe, found, classes) | {
            "features": train.shape[1],
            "test_images": len(frozen.test.labels),
            "positives": dict(zip(classes, (frozen.train.labels == PRESENT).sum(0).tolist(), strict=True)),
        }
        return TaskOutcome(found.metrics(), details, frozen.proof(), notes=(*frozen.notes(), *_notes(probe)))


TASK = Svm(
    dataset="voc07",
    title="VOC07 classification, linear SVMs on frozen features (or any multi-label set in VOC layout)",
    primary="mAP",
    published={"vissl": VISSL, "obow": OBOW, "vicreg": VICREG, "vicreg_avg": VICREG_AVG},
    presets={
        "cpu": (
            "two CPU cores: images at 128 pixels instead of 224, global average instead of the grid",
            dataclasses.replace(
                VISSL.recipe, view=WholeView(resize=146, crop=128, squash=True), pooling="avg", solver="batched"
            ),
        )
    },
    multilabel=True,
)
