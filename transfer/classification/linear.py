"""Linear classifiers on a frozen backbone by SGD: what ImageNet, Places205 and iNaturalist share.

Two forms of one protocol. "crops", the published one, shows the backbone other random crops in every epoch. "cached"
shows every image once, as in evaluation, and trains on those features: minutes instead of days, another number.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from transfer.checkpoints.families import family_of
from transfer.classification.sgd.recipe import SgdRecipe
from transfer.classification.task import ClassificationTask, demand_sgd, fitted_and_held_out, gmacs_of, held_out
from transfer.classification.views import Frozen, Precision
from transfer.protocol import OURS, Protocol
from transfer.runtime.errors import UserError
from transfer.task import Run, Task, TaskOutcome

if TYPE_CHECKING:
    from torch import Tensor

    from transfer.checkpoints.verify import Proof
    from transfer.classification.sgd.bank import Bank, Head, Norm
    from transfer.classification.splits import Rows


@dataclass(frozen=True, kw_only=True)
class LinearSgdRecipe:
    """A published linear protocol, and how to search around it.

    Attributes:
        sgd: the optimiser, the crops and the evaluation.
        form: crops: published; cached: on features of whole images, not comparable with published numbers.
        lrs: learning rates to search, instead of the one of `sgd`; none: that one alone, as published.
        weight_decays: weight decays to search, instead of the one of `sgd`; none: that one alone.
        poolings: features: avg, max, grid of a ResNet; of others see docs/classification.md. Several are searched like
            rates and decays; if they alone are several, each is reported, the first as "top1", another as "top1_avg":
            as published, side by side.
        head: linear: a linear layer alone; batchnorm: a BatchNorm of the channels in front of it, with a scale and a
            shift; batchnorm_no_affine: without them.
        head_eps: of that BatchNorm.
        head_momentum: of its running statistics.
        holdout: share of the training images to choose on where several classifiers are trained and the set has no
            validation split; they are not trained on.
        precision: of the backbone's arithmetic in the cached form: fp32, or bf16 on a GPU that has it.
    """

    sgd: SgdRecipe
    form: Literal["crops", "cached"] = "crops"
    lrs: tuple[float, ...] = ()
    weight_decays: tuple[float, ...] = ()
    poolings: tuple[str, ...] = ("avg",)
    head: Literal["linear", "batchnorm", "batchnorm_no_affine"] = "linear"
    head_eps: float = 1e-5
    head_momentum: float = 0.1
    holdout: float = 0.1
    precision: Precision = "fp32"

    @property
    def searches(self) -> bool:
        """Whether one of several classifiers is chosen on held-out images."""
        return len(self.lrs) > 1 or len(self.weight_decays) > 1

    def norm(self, arch: str) -> Norm | None:
        """What stands in front of the classifiers of a backbone."""
        from transfer.classification.sgd.bank import Norm

        if self.head == "linear":
            return None
        return Norm(family_of(arch).map_channels(arch), self.head == "batchnorm", self.head_eps, self.head_momentum)

    def grid(self) -> list[Head]:
        """Every classifier of the search; a single one as published."""
        from transfer.classification.sgd.bank import Head

        rates, decays = self.lrs or (self.sgd.lr,), self.weight_decays or (self.sgd.weight_decay,)
        return [Head(*values) for values in itertools.product(rates, decays, self.poolings)]


PART = 1_024  # images whose scores are held at once: those of many classifiers of many classes fill memory
SEARCH = Protocol(LinearSgdRecipe).but(
    f"{OURS}: no published protocol searches or holds out", lrs=(), weight_decays=(), holdout=0.1
)
# What VICReg and Barlow Twins have in common with each other, and most others with them.
EVALUATE_PY = "evaluate.py of facebookresearch/vicreg and barlowtwins"
EVALUATE = (
    SEARCH.but(f"{EVALUATE_PY}: the backbone sees random crops", form="crops")
    .but(f"{EVALUATE_PY}: global average", poolings=("avg",))
    .but(f"{EVALUATE_PY}: no autocast", precision="fp32")
    .but(EVALUATE_PY, momentum=0.9)
    .but(f"{EVALUATE_PY}: frozen", lr_backbone=0.0)
    .but(f"{EVALUATE_PY}: RandomResizedCrop(224), CenterCrop(224)", crop=224)
    .but(f"{EVALUATE_PY}: Resize(256)", resize=256)
    .but(f"{EVALUATE_PY}: torchvision's default, bilinear", interpolation="bilinear")
    .but("epochs are given", steps=0)
    .but(f"{EVALUATE_PY}: torch.optim.SGD", optimizer="sgd", trust=0.0)
    .but(f"{EVALUATE_PY}: fc alone", head="linear", head_eps=1e-5, head_momentum=0.1)
    .but("a frozen backbone normalises with its own statistics: how many there were does not matter", processes=1)
)


_HEAD = "facebookresearch/vissl: vissl/models/heads/linear_eval_mlp.py"
_DEFAULTS = "facebookresearch/vissl: vissl/config/defaults.yaml"


def vissl(config: str) -> Protocol[LinearSgdRecipe]:
    """VISSL's linear evaluation with its BatchNorm, as a configuration file of its has it; epochs are to be given."""
    return (
        EVALUATE.but(f"{_HEAD}: channel_bn, then flatten, then linear", head="batchnorm")
        .but(f"{_DEFAULTS}: MODEL.HEAD.BATCHNORM_EPS", head_eps=1e-5)
        .but(f"{_DEFAULTS}: MODEL.HEAD.BATCHNORM_MOMENTUM", head_momentum=0.1)
        .but(
            config,
            optimizer="sgd",
            trust=0.0,
            momentum=0.9,
            nesterov=True,
            lr_backbone=0.0,
            smallest=0.08,
            crop=224,
            resize=256,
            interpolation="bilinear",
            schedule="steps",
            factor=0.1,
            per_epoch=False,
        )
        .but(f"{config}: 8 GPUs of 32 images, 0.01 per 256", batch=256, lr=0.01)
        .but(f"{config}: SYNC_BN_CONFIG, one BatchNorm over 8 GPUs", processes=1)
    )


# Small sets on two CPU cores: features once, then a search of a second. Not a published protocol in any part.
CPU_SEARCH = (
    "two CPU cores: features of whole images at 128 pixels, computed once; 33 classifiers, the best on held-out images",
    LinearSgdRecipe(
        sgd=SgdRecipe(
            epochs=100, batch=256, lr=0.3, weight_decay=0.0, momentum=0.9,
            schedule="cosine", smallest=0.2, crop=128, resize=128, interpolation="bicubic",
        ),
        form="cached",
        lrs=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0),
        weight_decays=(0.0, 1e-6, 1e-4),
    ),
)  # fmt: skip


class LinearTask(ClassificationTask):
    """Linear classifiers by SGD on a frozen backbone."""

    def demand(self, run: Run) -> None:
        """Refuse a recipe that cannot be trained, or would not end here."""
        recipe: LinearSgdRecipe = run.recipe
        if recipe.form == "crops" and recipe.precision != "fp32":
            raise UserError("--precision is of the cached form; random crops are seen in fp32", todo="leave it out")
        if recipe.form == "crops":
            demand_sgd(run, recipe.sgd, passes=1)
        else:
            recipe.sgd.check()  # on features it is trained in seconds

    def work(self, recipe: LinearSgdRecipe, images: Mapping[str, int], arch: str) -> float:
        """Forward passes of the frozen network. See `Task`."""
        train, test, out = images["train"], images["test"], 0
        looks = 1 if recipe.searches else len(recipe.poolings)  # at the test images
        if recipe.form == "cached":
            passes = sum(images.values()) if recipe.searches else train + test
        else:
            if recipe.searches:
                train, out = fitted_and_held_out(images, recipe.holdout)
            passes = recipe.sgd.images_seen(train) + out + looks * test
        return passes * gmacs_of(arch, recipe.sgd.crop)

    def frozen(self, recipe: LinearSgdRecipe) -> tuple[Frozen, ...]:
        """Of the cached form; of the validation split if it chooses."""
        if recipe.form == "crops":
            return ()
        return (Frozen(recipe.sgd.evaluation_view(), recipe.poolings, recipe.precision, val=recipe.searches),)

    def measure(self, run: Run) -> TaskOutcome:
        """Train the classifiers, choose one on held-out images if rates or decays are searched, report on test."""
        from transfer.classification.splits import report

        recipe: LinearSgdRecipe = run.recipe
        grid = recipe.grid()
        fitted = (_on_crops if recipe.form == "crops" else _on_features)(run, grid)
        sweep: list[dict[str, Any]] = [asdict(head) for head in grid]
        best, notes = 0, fitted.notes
        if fitted.held_out is not None:
            found = _accuracies(fitted.bank, *fitted.held_out)
            best = int(np.argmax(found))  # the first of equals
            notes += _edges(recipe, grid[best])
            for line, value, lost in zip(sweep, found, fitted.bank.lost.tolist(), strict=True):
                line["validation"] = None if lost else value
        metrics, details = report(fitted.scores(best), fitted.test)
        if not recipe.searches:
            for place, head in enumerate(grid[1:], 1):
                beside, _ = report(fitted.scores(place), fitted.test)
                metrics |= {f"{name}_{head.pooling}": value for name, value in beside.items()}
        details |= {
            "sweep": sweep,
            "chosen": sweep[best],
            "validation_images": 0 if fitted.held_out is None else len(fitted.held_out[1]),
        }
        return TaskOutcome(metrics=metrics, details=details, verification=fitted.proof, notes=notes)


@dataclass(frozen=True, eq=False)
class _Fitted:
    """Classifiers and what they say.

    Attributes:
        held_out: predicted classes [n, H] of the images to choose on, and their labels [n]; None for one classifier.
        scores: number of a classifier → its scores [n, classes] of the test images.
        test: the test images that could be read.
        notes: about images that could not.
        proof: of the frozen network, for the record.
    """

    bank: Bank
    held_out: tuple[Tensor, Tensor] | None
    scores: Callable[[int], NDArray[np.float32]]
    test: Rows
    notes: tuple[str, ...]
    proof: Proof


def _on_crops(run: Run, grid: list[Head]) -> _Fitted:
    """The published form."""
    import torch

    from transfer.classification.sgd.fit import evaluate, fit_linear
    from transfer.classification.splits import left_out_note, sgd_machine, whole_rows

    recipe: LinearSgdRecipe = run.recipe
    splits, machine, view = run.data.splits, sgd_machine(run), recipe.sgd.evaluation_view()
    train, val = splits.train, splits.val
    if recipe.searches and val is None:
        kept, out = held_out(len(train), train.name, recipe.holdout, run.seed)
        train, val = train.subset(kept, f"{train.name}_kept"), train.subset(out, f"{train.name}_held_out")
    fit = fit_linear(
        run.backbone,
        train,
        recipe.sgd,
        grid,
        norm=recipe.norm(run.backbone.arch),
        seed=run.seed,
        folder=run.workdir,
        machine=machine,
    )
    chosen_on = None
    if recipe.searches and val is not None:
        predicted = evaluate(fit, val, view, machine=machine, keep=lambda logits: logits.argmax(2))
        chosen_on = predicted, torch.from_numpy(val.labels.astype(np.int64))

    def scores(place: int) -> NDArray[np.float32]:
        seen = evaluate(fit, splits.test, view, machine=machine, keep=lambda logits: logits[:, place])
        found: NDArray[np.float32] = seen.numpy()
        return found

    notes = left_out_note(train.name, fit.left_out)
    return _Fitted(fit.bank, chosen_on, scores, whole_rows(splits.test), notes, fit.proof)


def _on_features(run: Run, grid: list[Head]) -> _Fitted:
    """The fast form."""
    import torch

    from transfer.classification.sgd.bank import train_on_features
    from transfer.classification.splits import frozen_splits

    recipe: LinearSgdRecipe = run.recipe
    frozen = frozen_splits(run)
    train, val = frozen.train, None
    if recipe.searches:
        train, val = frozen.to_choose(recipe.holdout, run.seed)
    bank = train_on_features(
        train.features, train.labels, grid, recipe.sgd,
        classes=len(train.images.classes), norm=recipe.norm(run.backbone.arch), seed=run.seed,
        device=torch.device(run.device),
    )  # fmt: skip
    chosen_on = None
    if val is not None:
        predicted = _seen(bank, val, lambda logits: logits.argmax(2))
        chosen_on = predicted, torch.from_numpy(val.labels.astype(np.int64))

    def scores(place: int) -> NDArray[np.float32]:
        found: NDArray[np.float32] = _seen(bank, frozen.test, lambda logits: logits[:, place]).numpy()
        return found

    return _Fitted(bank, chosen_on, scores, frozen.test, frozen.notes(), frozen.proof())


def _seen(bank: Bank, rows: Rows, keep: Callable[[Tensor], Tensor]) -> Tensor:
    """What the classifiers say of a split, a part at a time."""
    import torch

    device, parts = bank.lost.device, []
    for start in range(0, len(rows.labels), PART):
        part = {name: torch.from_numpy(x[start : start + PART].copy()).to(device) for name, x in rows.features.items()}
        parts.append(keep(bank.logits(part)).cpu())
    return torch.cat(parts)


def _accuracies(bank: Bank, predicted: Tensor, labels: Tensor) -> list[float]:
    """Of every classifier on the images to choose on, in percent; of a diverged one −1, so that it is never chosen."""
    found = 100 * (predicted == labels[:, None]).double().mean(0)
    return found.masked_fill(bank.lost.cpu(), -1.0).tolist()


def _edges(recipe: LinearSgdRecipe, head: Head) -> tuple[str, ...]:
    """A winner at the border of the search says that the search was too narrow."""
    said = []
    for name, values, value in (
        ("lrs", recipe.lrs, head.lr),
        ("weight decays", recipe.weight_decays, head.weight_decay),
    ):
        if len(values) > 1 and value in (min(values), max(values)):
            said.append(f"the chosen classifier lies at the edge of the {name} searched: {value:g}")
    return tuple(said)


def linear_task(
    dataset: str,
    title: str,
    protocols: Mapping[str, Protocol[LinearSgdRecipe]],
    version: int,
    families: Mapping[str, tuple[str, ...]] | None = None,
) -> Task:
    """The linear task of a set of `transfer.datasets.labels.catalogue`; its file declares it as `TASK`."""
    first = next(iter(protocols.values())).recipe
    line, small = CPU_SEARCH
    small = dataclasses.replace(small, head=first.head, head_eps=first.head_eps, head_momentum=first.head_momentum)
    return LinearTask(
        dataset=dataset,
        title=f"{title}, a linear classifier on frozen features",
        primary="top1",
        published=protocols,
        presets={"cpu": (line, small)},
        version=version,
        families=families or {},
    )
