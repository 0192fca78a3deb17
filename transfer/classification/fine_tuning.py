"""Fine-tuning as published, one training without a search: what all of ImageNet, parts of it and iNaturalist share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transfer.classification.sgd.layerwise_recipe import LayerwiseRecipe, demand_transformer
from transfer.classification.sgd.recipe import SgdRecipe
from transfer.classification.ssl_transfer import START_OF_CLASSIFIER
from transfer.classification.task import ClassificationTask, demand_sgd, gmacs_of, refuse_on_cpu
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


@dataclass(frozen=True, kw_only=True)
class LayerwiseTuningRecipe:
    """Fine-tuning of a transformer with a rate for every block.

    Attributes:
        tuning: all of it.
    """

    tuning: LayerwiseRecipe


_DEFAULTS = "facebookresearch/vissl: vissl/config/defaults.yaml"


class TuningTask(ClassificationTask):
    """One training of backbone and classifier."""

    def demand(self, run: Run) -> None:
        """Refuse what cannot be trained, or would not end on this CPU."""
        recipe: TuningRecipe | LayerwiseTuningRecipe = run.recipe
        if isinstance(recipe, TuningRecipe):
            demand_sgd(run, recipe.sgd, passes=3)
            return
        recipe.tuning.check()
        demand_transformer(run.backbone.arch, recipe.tuning.pooling)
        seen = recipe.tuning.images_seen(len(run.data.splits.train))
        refuse_on_cpu(run, f"{seen:,} crops of {recipe.tuning.crop} pixels, 3 passes each")

    def data_differences(self, run: Run) -> tuple[Difference, ...]:
        """The classifier's start is a departure from VISSL's; a transformer's is as published. See `Task`."""
        found = super().data_differences(run)
        if isinstance(run.recipe, TuningRecipe):
            return found
        return tuple(each for each in found if each not in self.departures)

    def work(self, recipe: TuningRecipe | LayerwiseTuningRecipe, images: Mapping[str, int], arch: str) -> float:
        """Of the training, and of looking at test. See `Task`."""
        own = recipe.sgd if isinstance(recipe, TuningRecipe) else recipe.tuning
        return (3 * own.images_seen(images["train"]) + images["test"]) * gmacs_of(arch, own.crop)

    def measure(self, run: Run) -> TaskOutcome:
        """Fine-tune, report on test."""
        from transfer.classification.sgd.fit import FineTuned, evaluate, fine_tune, fine_tune_layerwise
        from transfer.classification.splits import left_out_note, report, sgd_machine, whole_rows

        recipe: TuningRecipe | LayerwiseTuningRecipe = run.recipe
        splits, machine = run.data.splits, sgd_machine(run)
        train = splits.train
        model: FineTuned
        if isinstance(recipe, TuningRecipe):
            model = fine_tune(run.backbone, train, recipe.sgd, seed=run.seed, folder=run.workdir, machine=machine)
            view = recipe.sgd.evaluation_view()
        else:
            model = fine_tune_layerwise(
                run.backbone, train, recipe.tuning, seed=run.seed, folder=run.workdir, machine=machine
            )
            view = recipe.tuning.evaluation_view()
        scores = evaluate(model, splits.test, view, machine=machine).numpy()
        metrics, details = report(scores, whole_rows(splits.test))
        notes = left_out_note(splits.train.name, model.left_out)
        fresh = [group for group in model.backbone.dropped if group not in run.backbone.dropped]
        notes += tuple(f"left out of the checkpoint: {', '.join(group.names)}: {group.reason}" for group in fresh)
        return TaskOutcome(metrics=metrics, details=details, verification=model.prove(), notes=notes)


CPU = "two CPU cores, small sets: 10 epochs at 96 pixels"


def vissl_task(
    dataset: str,
    title: str,
    config: str,
    epochs: int,
    milestones: tuple[int, ...],
    more: Mapping[str, Protocol[Any]] | None = None,
) -> Task:
    """VISSL's full fine-tuning, as a configuration file of its has it, and `more` protocols, of transformers."""
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
    protocols: dict[str, Protocol[Any]] = {"vissl": protocol, **(more or {})}
    return tuning_task(
        dataset, title, protocols, small, (START_OF_CLASSIFIER,), families=dict.fromkeys(more or {}, ("vit",))
    )


def tuning_task(
    dataset: str,
    title: str,
    protocols: Mapping[str, Protocol[Any]],
    small: SgdRecipe,
    departures: tuple[Difference, ...] = (),
    version: int = 1,
    families: Mapping[str, tuple[str, ...]] | None = None,
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
        families=families or {},
    )
