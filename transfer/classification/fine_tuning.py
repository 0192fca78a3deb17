"""Fine-tuning as published, one training without a search: what all of ImageNet, parts of it and iNaturalist share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from transfer.classification.sgd.recipe import SgdRecipe
from transfer.classification.ssl_transfer import START_OF_CLASSIFIER
from transfer.classification.task import ClassificationTask, demand_sgd, gmacs_of
from transfer.protocol import Protocol
from transfer.runtime.provenance import Difference
from transfer.task import Run, Task, TaskOutcome


@dataclass(frozen=True, kw_only=True)
class TuningRecipe:
    """Fine-tuning with a rate for the backbone and another for the classifier.

    Attributes:
        sgd: all of it.
    """

    sgd: SgdRecipe


_DEFAULTS = "facebookresearch/vissl: vissl/config/defaults.yaml"


class TuningTask(ClassificationTask):
    """One training of backbone and classifier."""

    def demand(self, run: Run) -> None:
        """Refuse what cannot be trained, or would not end on this CPU."""
        recipe: TuningRecipe = run.recipe
        demand_sgd(run, recipe.sgd, passes=3)

    def work(self, recipe: TuningRecipe, images: Mapping[str, int], arch: str) -> float:
        """Of the training, and of looking at test. See `Task`."""
        passes = 3 * recipe.sgd.images_seen(images["train"]) + images["test"]
        return passes * gmacs_of(arch, recipe.sgd.crop)

    def measure(self, run: Run) -> TaskOutcome:
        """Fine-tune, report on test."""
        from transfer.classification.sgd.fit import evaluate, fine_tune
        from transfer.classification.splits import left_out_note, report, sgd_machine, whole_rows

        recipe: TuningRecipe = run.recipe
        splits, machine = run.data.splits, sgd_machine(run)
        model = fine_tune(run.backbone, splits.train, recipe.sgd, seed=run.seed, folder=run.workdir, machine=machine)
        scores = evaluate(model, splits.test, recipe.sgd.evaluation_view(), machine=machine).numpy()
        metrics, details = report(scores, whole_rows(splits.test))
        notes = left_out_note(splits.train.name, model.left_out)
        return TaskOutcome(metrics=metrics, details=details, verification=model.prove(), notes=notes)


CPU = "two CPU cores, small sets: 10 epochs at 96 pixels"


def vissl_task(dataset: str, title: str, config: str, epochs: int, milestones: tuple[int, ...]) -> Task:
    """VISSL's full fine-tuning, as a configuration file of its has it."""
    config = f"facebookresearch/vissl: {config}"
    protocol = (
        Protocol(TuningRecipe)
        .but("epochs are given", steps=0)
        .but(
            config,
            epochs=epochs,
            milestones=milestones,
            optimizer="sgd",
            trust=0.0,
            momentum=0.9,
            nesterov=True,
            weight_decay=0.0,
            schedule="steps",
            factor=0.1,
            per_epoch=False,
        )
        .but(f"{config}: 8 GPUs of 32 images", batch=256)
        .but(f"{config}: 0.1 per 256; head_optimizer_params are not set: one rate for all", lr=0.1, lr_backbone=0.1)
        .but(f"{config}: RandomResizedCrop(224) with torchvision's scale, CenterCrop(224)", crop=224, smallest=0.08)
        .but(f"{config}: Resize(256), torchvision's default filter", resize=256, interpolation="bilinear")
        .but(f"{config}: 8 GPUs; {_DEFAULTS}: CONVERT_BN_TO_SYNC_BN False", processes=8)
    )
    small = dataclasses.replace(
        protocol.recipe.sgd, epochs=10, milestones=(6, 8), batch=64, lr=0.025, lr_backbone=0.025, crop=96, resize=96,
        processes=2,
    )  # fmt: skip
    return tuning_task(dataset, title, {"vissl": protocol}, small, (START_OF_CLASSIFIER,))


def tuning_task(
    dataset: str,
    title: str,
    protocols: Mapping[str, Protocol[TuningRecipe]],
    small: SgdRecipe,
    departures: tuple[Difference, ...] = (),
    version: int = 1,
) -> Task:
    """The task of a set of `transfer.datasets.labels.catalogue`; its file declares it.

    Args:
        small: of the preset for two CPU cores.
        departures: see `ClassificationTask`.
    """
    return TuningTask(
        dataset=dataset,
        title=title,
        primary="top1",
        published=protocols,
        presets={"cpu": (CPU, TuningRecipe(sgd=small))},
        departures=departures,
        version=version,
    )
