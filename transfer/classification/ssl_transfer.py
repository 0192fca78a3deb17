"""The two protocols of "How Well Do Self-Supervised Models Transfer?", which all fine-grained sets share.

Source: Ericsson, Gouk and Hospedales, CVPR 2021, arXiv 2011.13377; linusericsson/ssl-transfer: linear.py, finetune.py.
They follow Kornblith et al., CVPR 2019, arXiv 1805.08974.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from transfer.classification.probes.grids import PENALTIES
from transfer.classification.sgd.recipe import SgdRecipe
from transfer.classification.task import ClassificationTask, demand_sgd, fitted_and_held_out, gmacs_of, held_out
from transfer.classification.views import Frozen, Precision, WholeView
from transfer.datasets.labels.catalogue import Metric
from transfer.datasets.labels.labelled import ImageSplits, LabelledImages
from transfer.protocol import Protocol
from transfer.runtime.errors import Diverged, TrainingError, UserError
from transfer.runtime.files import write_json
from transfer.task import Run, TaskOutcome

if TYPE_CHECKING:
    from torch import Tensor

    from transfer.classification.probes.penalty import Choice, SharedChoice
    from transfer.classification.score import Scores
    from transfer.classification.splits import Rows

logger = logging.getLogger(__name__)
SEARCH = TypeVar("SEARCH", bound="SearchRecipe")
Report = tuple[dict[str, float], dict[str, Any]]  # metrics in percent, and details for the record

_LINEAR = "linusericsson/ssl-transfer: linear.py"
_TUNE = "linusericsson/ssl-transfer: finetune.py"


@dataclass(frozen=True, kw_only=True)
class LogisticRecipe:
    """Logistic regression on frozen features, by whatever metric its penalty is chosen.

    Attributes:
        view: what the network sees of an image.
        pooling: which features: avg, max or grid of a ResNet; of others see docs/classification.md.
        penalties: of the weights, in the sum of the losses: Σ CE + penalty/2 · ‖W‖²; the best on the validation part
            is taken.
        holdout: share of the training images to choose on, where the set has no validation split of its own.
        precision: of the backbone's arithmetic: fp32, or bf16 on a GPU that has it.
    """

    view: WholeView
    pooling: str
    penalties: tuple[float, ...]
    holdout: float
    precision: Precision


@dataclass(frozen=True, kw_only=True)
class LinearRecipe(LogisticRecipe):
    """Logistic regression on frozen features.

    Attributes:
        metric: that the penalty is chosen by and that is the set's convention.
    """

    metric: Metric


LINEAR = (
    Protocol(LinearRecipe)
    .but(f"{_LINEAR}, Resize(224)", resize=224)
    .but(f"{_LINEAR}, CenterCrop(224)", crop=224)
    .but(f"{_LINEAR}: the aspect ratio is kept", squash=False)
    .but(f"{_LINEAR}, PIL.Image.BICUBIC", interpolation="bicubic")
    .but(f"{_LINEAR}, ResNetBackbone: avgpool", pooling="avg")
    .but(f"{_LINEAR}, wd_range = logspace(-6, 5, 45)", penalties=PENALTIES)
    .but(f"{_LINEAR}, valid_size=0.2", holdout=0.2)
    .but(f"{_LINEAR}: no autocast", precision="fp32")
)


class LogisticTask(ClassificationTask):
    """A task of logistic regressions on frozen features, whose penalty is chosen on held-out images."""

    @abstractmethod
    def choose(self, run: Run, fit: Rows, val: Rows, test: Rows) -> Choice | SharedChoice:
        """Fit with every penalty, take the best on `val`, fit both with it, and score `test`."""

    @abstractmethod
    def report(self, recipe: Any, scores: Scores, test: Rows) -> Report:
        """Metrics and details of the test images' scores [n, classes]."""

    def demand(self, run: Run) -> None:
        """Refuse penalties that are none."""
        recipe: LogisticRecipe = run.recipe
        if not recipe.penalties or min(recipe.penalties) <= 0:
            raise UserError("penalties must be above 0", found=f"--penalties {recipe.penalties}")

    def frozen(self, recipe: LogisticRecipe) -> tuple[Frozen, ...]:
        """Of all splits: the penalty is chosen on the validation split."""
        return (Frozen(recipe.view, (recipe.pooling,), recipe.precision),)

    def measure(self, run: Run) -> TaskOutcome:
        """Extract, choose the penalty on the validation part, refit on all training images, report on test."""
        from transfer.classification.splits import frozen_splits

        recipe: LogisticRecipe = run.recipe
        frozen = frozen_splits(run)
        fit, val = frozen.to_choose(recipe.holdout, run.seed)
        chosen = self.choose(run, fit, val, frozen.test)
        metrics, details = self.report(recipe, chosen.scores.cpu().numpy(), frozen.test)
        details |= {
            "penalty": chosen.penalty,
            "sweep": [{"penalty": penalty, "validation": value} for penalty, value in chosen.table.items()],
            "validation_images": len(val.labels),
        }
        unconverged = [f"not converged: {what}" for what in chosen.unconverged]
        notes = (*frozen.notes(), *([chosen.note] if chosen.note else []), *unconverged)
        return TaskOutcome(metrics=metrics, details=details, verification=frozen.proof(), notes=notes)


class Linear(LogisticTask):
    """One regression for all classes."""

    def choose(self, run: Run, fit: Rows, val: Rows, test: Rows) -> Choice:
        """By the recipe's metric."""
        import torch

        from transfer.classification.probes.penalty import choose_penalty
        from transfer.classification.splits import scorer

        recipe: LinearRecipe = run.recipe
        device, classes = torch.device(run.device), len(fit.images.classes)
        return choose_penalty(
            *fit.tensors(recipe.pooling, device), *val.tensors(recipe.pooling, device),
            test.tensors(recipe.pooling, device)[0],
            classes=classes, penalties=recipe.penalties, score=scorer(recipe.metric, classes),
        )  # fmt: skip

    def report(self, recipe: LinearRecipe, scores: Scores, test: Rows) -> Report:
        """See `transfer.classification.splits.report`."""
        from transfer.classification.splits import report

        return report(scores, test)


@dataclass(frozen=True, kw_only=True)
class SearchRecipe:
    """Backbone and classifier trained together, rate and decay searched, by whatever metric they are chosen.

    Attributes:
        sgd: everything but the two.
        lrs: learning rates to search, of backbone and classifier alike.
        decays: weight decay times learning rate to search: a decay of w/lr is used with each rate lr.
        holdout: share of the training images to choose on, where the set has no validation split of its own.
    """

    sgd: SgdRecipe
    lrs: tuple[float, ...]
    decays: tuple[float, ...]
    holdout: float

    def grid(self) -> list[SgdRecipe]:
        """Every training of the search."""
        pairs = itertools.product(self.lrs, self.decays)
        return [dataclasses.replace(self.sgd, lr=lr, lr_backbone=lr, weight_decay=decay / lr) for lr, decay in pairs]


@dataclass(frozen=True, kw_only=True)
class FineTuneRecipe(SearchRecipe):
    """Backbone and classifier trained together, rate and decay searched.

    Attributes:
        metric: that rate and decay are chosen by and that is the set's convention.
    """

    metric: Metric


FINE_TUNE = (
    Protocol(FineTuneRecipe)
    .but("steps are given", epochs=0)
    .but(f"{_TUNE}, FinetuneModel.tune: torch.optim.SGD", optimizer="sgd", trust=0.0)
    .but(f"{_TUNE}, --steps", steps=5_000)
    .but(f"{_TUNE}, --batch-size", batch=64)
    .but(f"{_TUNE}, FinetuneModel.tune", momentum=0.9, nesterov=True)
    .but(f"{_TUNE}, CosineAnnealingLR over the steps", schedule="cosine")
    .but(f"{_TUNE}: none", milestones=(), factor=1.0)
    .but(f"{_TUNE}: scheduler.step() after every batch", per_epoch=False)
    .but("searched: see lrs", lr=0.0, lr_backbone=0.0)
    .but("searched: see decays", weight_decay=0.0)
    .but(f"{_TUNE}, RandomResizedCrop with torchvision's default", smallest=0.08)
    .but(f"{_TUNE}, --image-size", crop=224)
    .but(f"{_TUNE}, Resize(image_size)", resize=224)
    .but(f"{_TUNE}, PIL.Image.BICUBIC", interpolation="bicubic")
    .but(f"{_TUNE}: one GPU", processes=1)
    .but(f"{_TUNE}, logspace(-4, -1, 4), the largest first", lrs=(0.1, 0.01, 0.001, 0.0001))
    .but(f"{_TUNE}, 0 and logspace(-6, -3, 4), each divided by the rate", decays=(0.0, 1e-6, 1e-5, 1e-4, 1e-3))
    .but(f"{_TUNE}, valid_size=0.2", holdout=0.2)
)


@dataclass(frozen=True)
class Judge:
    """What a network's logits are worth on a set.

    Attributes:
        metric: name of the one that is chosen by.
        keep: what it takes of a batch's logits; None: all of them.
        score: (what was kept of every validation image, the images) → percent.
        report: (logits of every test image, the images) → metrics, and details of the record.
    """

    metric: str
    keep: Callable[[Tensor], Tensor] | None
    score: Callable[[Tensor, LabelledImages], float]
    report: Callable[[Scores, LabelledImages], Report]


class SearchTask(ClassificationTask):
    """A task of fine-tuning, whose rate and decay are chosen on held-out images."""

    @abstractmethod
    def judge(self, recipe: Any) -> Judge:
        """What logits are worth by this recipe's metric."""

    def demand(self, run: Run) -> None:
        """Refuse a search that makes no sense or would not end."""
        recipe: SearchRecipe = run.recipe
        if recipe.sgd.lr or recipe.sgd.lr_backbone or recipe.sgd.weight_decay:
            raise UserError(
                "rates and decays of fine-tuning are searched", todo="give --lrs and --decays, not those of --sgd"
            )
        if not recipe.lrs or not recipe.decays or min(recipe.lrs) <= 0 or min(recipe.decays) < 0:
            raise UserError(
                "fine-tuning needs learning rates above 0 and weight decays from 0",
                found=f"--lrs {recipe.lrs}, --decays {recipe.decays}",
            )
        grid = recipe.grid()
        trainings = len(grid) + 1 if len(grid) > 1 else 1  # and the final one
        demand_sgd(run, grid[0], passes=3 * trainings)

    def work(self, recipe: SearchRecipe, images: Mapping[str, int], arch: str) -> float:
        """Of every training of the search and the last one, and of looking at what they are judged by. See `Task`."""
        fit, out = fitted_and_held_out(images, recipe.holdout)
        trainings, seen = len(recipe.lrs) * len(recipe.decays), recipe.sgd.images_seen
        search = trainings * (3 * seen(fit) + out) if trainings > 1 else 0
        return (search + 3 * seen(fit + out) + images["test"]) * gmacs_of(arch, recipe.sgd.crop)

    def measure(self, run: Run) -> TaskOutcome:
        """Train with every rate and decay, choose on the validation part, train again on all, report on test."""
        from transfer.classification.sgd.fit import evaluate, fine_tune
        from transfer.classification.splits import left_out_note, sgd_machine

        recipe: SearchRecipe = run.recipe
        judge, grid, machine = self.judge(recipe), recipe.grid(), sgd_machine(run)
        fit, val, whole = _to_fine_tune(run.data.splits, recipe, run.seed)
        test, view, sweep = run.data.splits.test, recipe.sgd.evaluation_view(), []
        for place, sgd in enumerate(grid if len(grid) > 1 else []):
            value = _validation(run, fit, val, sgd, judge, place)
            sweep.append({"lr": sgd.lr, "weight_decay": sgd.weight_decay, "validation": value})
            logger.info("lr %g, weight decay %g: %s %s", sgd.lr, sgd.weight_decay, judge.metric, _percent(value))
        best = _best(sweep) if sweep else 0
        model = fine_tune(run.backbone, whole, grid[best], seed=run.seed, folder=run.workdir / "final", machine=machine)
        metrics, details = judge.report(evaluate(model, test, view, machine=machine).numpy(), test)
        details |= {
            "sweep": sweep,
            "chosen": {"lr": grid[best].lr, "weight_decay": grid[best].weight_decay},
            "validation_images": len(val) if sweep else 0,
        }
        notes = left_out_note(whole.name, model.left_out)
        return TaskOutcome(metrics=metrics, details=details, verification=model.prove(), notes=notes)


class FineTune(SearchTask):
    """Images of one label each."""

    def judge(self, recipe: Any) -> Judge:
        """See `SearchTask`."""
        import torch

        from transfer.classification.splits import report, scorer, whole_rows

        metric: Metric = recipe.metric
        return Judge(
            metric,
            functools.partial(torch.argmax, dim=1),
            lambda kept, val: scorer(metric, len(val.classes))(kept, torch.from_numpy(val.labels.astype(np.int64))),
            lambda logits, test: report(logits, whole_rows(test)),
        )


def _to_fine_tune(
    splits: ImageSplits, recipe: SearchRecipe, seed: int
) -> tuple[LabelledImages, LabelledImages, LabelledImages]:
    """What to fit on while searching, what to choose on, and what to fit on in the end: both."""
    train = splits.train
    if splits.val is not None:
        return train, splits.val, train.joined(splits.val, f"{train.name}+val")
    kept, out = held_out(len(train), train.name, recipe.holdout, seed)
    return train.subset(kept, f"{train.name}_kept"), train.subset(out, f"{train.name}_held_out"), train


def _validation(
    run: Run, fit: LabelledImages, val: LabelledImages, sgd: SgdRecipe, judge: Judge, place: int
) -> float | None:
    """What training number `place` of the search reaches on the validation part, in percent; None if it diverged.

    Kept in a small file of its own: the weights of a search's trainings would fill the disk. It names the weights that
    the network was proved to hold before its training; a file without them, of an older version, is not believed.
    """
    from transfer.classification.sgd.fit import evaluate, fine_tune
    from transfer.classification.splits import sgd_machine
    from transfer.runtime.training import FILE

    folder, weights = run.workdir / f"search_{place}", run.backbone.weights
    known = folder / "validation.json"
    kept = json.loads(known.read_text(encoding="utf-8")) if run.world.together(known.exists) else None
    if isinstance(kept, dict) and kept["weights"] == weights:
        found: float | None = kept["validation"]
        return found
    if kept is not None:
        logger.warning("%s does not say that these weights were proved: this training is done again", known)
    machine, value = sgd_machine(run), None
    try:
        model = fine_tune(run.backbone, fit, sgd, seed=run.seed, folder=folder, machine=machine)
        kept_logits = evaluate(model, val, sgd.evaluation_view(), machine=machine, keep=judge.keep)
        if not bool(kept_logits.isfinite().all()):
            raise Diverged(f"logits of {val.name} are not finite", todo="lower the learning rates")
        value = judge.score(kept_logits, val)
    except Diverged as error:
        logger.warning("lr %g, weight decay %g is out of the search: %s", sgd.lr, sgd.weight_decay, error.what)
    run.world.wait()
    if run.world.leads:
        write_json(known, {"validation": value, "weights": weights})
        (folder / FILE).unlink(missing_ok=True)
    return value


def _best(sweep: list[dict[str, Any]]) -> int:
    """The first of the best, as the published search keeps it.

    Raises:
        TrainingError: every training diverged.
    """
    known = [line["validation"] for line in sweep if line["validation"] is not None]
    if not known:
        raise TrainingError(
            "every training of the search has diverged",
            found="learning rates " + ", ".join(f"{line['lr']:g}" for line in sweep),
            todo="give lower ones with --lrs",
        )
    return [line["validation"] for line in sweep].index(max(known))


def _percent(value: float | None) -> str:
    return "diverged" if value is None else f"{value:.2f}"


CPU_VIEW = WholeView(resize=128, crop=128, interpolation="bicubic")
CPU_LINEAR = "two CPU cores: images at 128 pixels instead of 224"
CPU_FINE_TUNE = "two CPU cores, small sets: 300 steps at 96 pixels, two rates, no decay"
# What all tasks of these protocols do otherwise than published.
END_OF_FIT = ("end of the fit", "100 iterations of L-BFGS at most", "the optimum")
START_OF_CLASSIFIER = ("start of the classifier", "PyTorch's default", "N(0, 0.01²), biases 0")


def for_cpu(recipe: SEARCH) -> SEARCH:
    """The search as two CPU cores can do it."""
    small = dataclasses.replace(recipe.sgd, steps=300, batch=32, crop=96, resize=96)
    return dataclasses.replace(recipe, sgd=small, lrs=(0.1, 0.01), decays=(0.0,))
