"""`python -m pretrain ablate`: the paper's ablation, λ_s, λ_b and K on a frozen ResNet-18, and what belongs beside it.

Moon et al. (WACV 2023) report the accuracy of a frozen ResNet-18 over λ_s and λ_b for K = 4 and 8 views, and the two
terms added to other methods; it rises until λ_s = 0.004 and λ_b = 0.5. The grid points are our choice (the paper's were
not available to us). All runs of a grid forward equally many views (`budget`): more views an image mean fewer steps.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from pretrain.forces import Centroid, Direction, Forces, SingularForm
from pretrain.machine import Machine, prepare
from pretrain.presets import find_presets
from pretrain.recipe import Recipe
from transfer.runtime.command import Debug
from transfer.runtime.conditions import differences as other_conditions
from transfer.runtime.curve import FILE, read
from transfer.runtime.errors import TrainingError, UserError
from transfer.runtime.files import write_json
from transfer.runtime.interrupts import children_left_alone

logger = logging.getLogger(__name__)
Study = Literal["singular", "covariance", "brownian", "scale", "centroid", "compare", "both", "factors", "methods"]
ROW = "row.json"
LAST = ("knn", "linear", "knn_error", "linear_error")


@dataclass(frozen=True)
class GridCell:
    """One run of the grid.

    Attributes:
        method: a file of `pretrain.presets`, or "random": the encoder as it was initialised.
        views: K. batch: n, images a step. dimensions: d.
        singular, singular_form, brownian, brownian_per, centroid: see `pretrain.losses`.
        seed: of everything random.
    """

    method: str = "msbreg"
    views: int = 2
    singular: float = 0.0
    singular_form: SingularForm = "nuclear"
    brownian: float = 0.0
    brownian_per: Direction = "view"
    centroid: Centroid = "others"
    batch: int = 256
    dimensions: int = 256
    seed: int = 0

    @property
    def name(self) -> str:
        """A folder name that differs where the cell does; what a weight of 0 makes meaningless is left out."""
        parts = [self.method, f"k{self.views}", f"n{self.batch}", f"d{self.dimensions}"]
        parts += [f"{self.singular_form}{self.singular:g}"] if self.singular else []
        parts += [f"brownian{self.brownian:g}-{self.brownian_per}"] if self.brownian else []
        parts += [self.centroid] if self.centroid != "others" else []
        return "-".join([*parts, f"seed{self.seed}"])


@dataclass(frozen=True)
class Grid:
    """What is run.

    Attributes:
        studies: singular: λ_s for every K. covariance: the same with that form, K = 2. brownian: λ_b for every K, drawn
            per view and per image. scale: λ_s for other batches and dimensions. centroid: its variants for every K.
            compare: BYOL, and MSBReg with both terms and with each. both: BYOL, and MSBReg with both terms, K = 2.
            factors: from MSBReg with both terms and K = 2, one change at a time. methods: other methods with and
            without the terms.
        views: values of K.
        singular: values of λ_s.
        covariance: values of λ_s in the covariance form.
        brownian: values of λ_b.
        sizes: batch x dimensions of the study scale.
        methods: of the study methods.
        weights: λ_s and λ_b where both terms are on.
        seeds: each cell is run with all of them.
        budget: views that every run forwards through the online network.
    """

    studies: tuple[Study, ...] = ("singular", "brownian", "compare", "methods")
    views: tuple[int, ...] = (2, 4, 8)
    singular: tuple[float, ...] = (0.0, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064)
    covariance: tuple[float, ...] = (0.004, 0.04, 0.4)
    brownian: tuple[float, ...] = (0.0, 0.125, 0.25, 0.5, 1.0)
    sizes: tuple[tuple[int, int], ...] = ((1024, 256), (256, 64))
    methods: tuple[str, ...] = ("byol", "simsiam", "simclr", "mocov2", "barlow_twins", "vicreg", "wmse", "swav")
    weights: tuple[float, float] = (0.004, 0.5)
    seeds: tuple[int, ...] = (0, 1, 2)
    budget: int = 100_000

    def cells(self, batch: int, dimensions: int) -> list[GridCell]:
        """All runs, each once, in the order of the seeds: one seed of everything comes before the next."""
        cells: dict[GridCell, None] = {}
        for seed in self.seeds:
            base = GridCell(batch=batch, dimensions=dimensions, seed=seed)
            cells[replace(base, method="random", views=1)] = None
            for study in self.studies:
                cells |= dict.fromkeys(getattr(self, f"_{study}")(base))
        return list({cell.name: cell for cell in cells}.values())

    def _singular(self, base: GridCell) -> Iterator[GridCell]:
        for views in self.views:
            for weight in self.singular:
                yield replace(base, views=views, singular=weight)

    def _covariance(self, base: GridCell) -> Iterator[GridCell]:
        for weight in self.covariance:
            yield replace(base, singular=weight, singular_form="covariance")

    def _brownian(self, base: GridCell) -> Iterator[GridCell]:
        for views in self.views:
            for weight in self.brownian:
                yield replace(base, views=views, brownian=weight)
                if weight:
                    yield replace(base, views=views, brownian=weight, brownian_per="image")

    def _scale(self, base: GridCell) -> Iterator[GridCell]:
        for batch, dimensions in self.sizes:
            for weight in self.singular:
                yield replace(base, batch=batch, dimensions=dimensions, singular=weight)

    def _centroid(self, base: GridCell) -> Iterator[GridCell]:
        for views in self.views:
            for centroid in ("others", "all", "pair"):
                yield replace(base, views=views, centroid=centroid, singular=self.weights[0], brownian=self.weights[1])

    def _compare(self, base: GridCell) -> Iterator[GridCell]:
        singular, brownian = self.weights
        for views in self.views:
            for s, b in ((0.0, 0.0), (singular, 0.0), (0.0, brownian), (singular, brownian)):
                yield replace(base, views=views, singular=s, brownian=b)

    def _both(self, base: GridCell) -> Iterator[GridCell]:
        singular, brownian = self.weights
        yield base
        yield replace(base, singular=singular, brownian=brownian)

    def _factors(self, base: GridCell) -> Iterator[GridCell]:
        singular, brownian = self.weights
        yield base
        ours = replace(base, singular=singular, brownian=brownian)
        for change in (
            {},
            {"singular": 4 * singular},
            {"singular": 8 * singular},
            {"brownian": 0.0},
            {"brownian_per": "image"},
            {"centroid": "all"},
            {"centroid": "pair"},
            {"views": 4},
        ):
            yield replace(ours, **change)

    def _methods(self, base: GridCell) -> Iterator[GridCell]:
        for method in self.methods:
            for s, b in ((0.0, 0.0), self.weights):
                yield replace(base, method=method, singular=s, brownian=b)


@dataclass(frozen=True)
class Ablation(Debug):
    """Options.

    Attributes:
        data: images to train on (see python -m pretrain --help).
        probe_train: labelled images, for kNN and linear evaluation of the frozen network.
        probe_test: labelled images, on which they are tested.
        grid: what is run.
        recipe: shared by all runs. --batch is that of all studies but scale; --steps, --epochs and --seed come from the
            grid. Methods other than msbreg and byol keep optimiser and learning rate of their demo.
        out: where runs, table and figure go; finished runs are found there.
        hidden: units of the hidden layers of projector and predictor.
        dimensions: d, length of an embedding.
        ema: decay of the target network at the start.
        device: cpu, cuda or auto.
        jobs: runs at a time, each with its part of the cores.
        workers: processes per run that decode and augment.
        keep: keep the checkpoint of every run (0.1 GB each for a ResNet-18).
    """

    data: Positional[Path]
    probe_train: Path
    probe_test: Path
    grid: OmitArgPrefixes[Grid] = field(default_factory=Grid)
    recipe: OmitArgPrefixes[Recipe] = field(
        default_factory=lambda: Recipe(
            arch="resnet18", crop=32, batch=256, optimizer="sgd", lr=0.1, weight_decay=1e-4, warmup_steps=20
        )
    )
    out: Path = Path("runs/ablation")
    hidden: int = 512
    dimensions: int = 256
    ema: float = 0.99
    device: str = "auto"
    jobs: int = 1
    workers: int = 0
    keep: bool = False


DESCRIPTION = """Run a grid of short trainings and evaluate each frozen encoder: one table, one figure.

Every run forwards the same number of views (--budget), so that K = 8 gets a quarter of the steps of K = 2. Interrupted,
it goes on where it was; with other --studies or --seeds it adds runs. The defaults are sized for CIFAR-10 at 32 pixels
on a CPU: no published protocol. Writes table.csv, table.md, figure.png and curves.png to OUT."""


def main(arguments: Sequence[str]) -> list[Path]:
    """Run the grid that the command line describes, then write table and figure; returns their paths.

    Raises:
        UserError: bad input, or a run failed (the others are done first).
    """
    command = tyro.cli(Ablation, args=list(arguments), prog="python -m pretrain ablate", description=DESCRIPTION)
    from pretrain.ablation_report import report  # pandas and matplotlib, not for --help

    check(command)
    cells = command.grid.cells(command.recipe.batch, command.dimensions)
    data = fingerprints(command)
    waiting = [cell for cell in cells if not finished(command, cell, data)]
    logger.info("%d runs, %d of them are done", len(cells), len(cells) - len(waiting))
    failed = _run_all(command, waiting, data)
    rows = read_rows(command.out)
    written = report(rows, command.out) if rows else []
    if failed:
        raise TrainingError(f"{len(failed)} of {len(cells)} runs failed", found="\n".join(failed))
    return written


def check(command: Ablation) -> None:
    """Refuse options that would be ignored or make no sense.

    Raises:
        UserError: says which.
    """
    if command.jobs < 1 or command.grid.budget < 1:
        raise UserError("--jobs and --budget must be 1 or more")
    usual = Recipe()
    for name in ("steps", "epochs", "seed", "warmup_epochs"):
        if getattr(command.recipe, name) != getattr(usual, name):
            option = "--" + name.replace("_", "-")
            raise UserError(f"{option} has no effect on a grid", todo="use --budget, --seeds and --warmup-steps")


def fingerprints(command: Ablation) -> dict[str, str]:
    """SHA-256 of the three sets of images."""
    from pretrain.sources import open_source

    return {
        "data": open_source(command.data).fingerprint(),
        "probe_train": open_source(command.probe_train, labelled=True).fingerprint(),
        "probe_test": open_source(command.probe_test, labelled=True).fingerprint(),
    }


def config_of(command: Ablation, cell: GridCell, data: Mapping[str, str]) -> dict[str, Any]:
    """All that decides a cell's row, as plain values."""
    config: dict[str, Any] = {"recipe": asdict(recipe_of(command, cell)), "data": dict(data)}
    if cell.method != "random":
        config["settings"] = asdict(settings_of(command, cell))
    plain: dict[str, Any] = json.loads(json.dumps(config))
    return plain


def finished(command: Ablation, cell: GridCell, data: Mapping[str, str]) -> bool:
    """Whether the cell's row is there; says in what the conditions differ under which it was made.

    Raises:
        TrainingError: it is, but of other settings or images.
    """
    from pretrain.checkpoint import differences

    path = command.out / cell.name / ROW
    if not path.exists():
        return False
    row = json.loads(path.read_text(encoding="utf-8"))
    lines = differences(row["config"], config_of(command, cell, data), "in the row")
    if lines:
        raise TrainingError(
            f"{path} belongs to a grid with other settings",
            found="\n".join(lines),
            todo="repeat its settings, or choose another --out",
        )
    now = prepare(Machine(device=command.device).torch_device()).plain()
    for line in other_conditions(row.get("conditions", {}), now):
        logger.warning("%s is finished, compared with which %s", cell.name, line)
    return True


def _run_all(command: Ablation, cells: Sequence[GridCell], data: Mapping[str, str]) -> list[str]:
    """Run the cells, `jobs` at a time; returns a line for each that failed. An interrupt ends them all at once."""
    failed, began = [], time.monotonic()
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(command.jobs, context, initializer=_start)
    with children_left_alone():
        running = {pool.submit(run_cell, command, cell, dict(data)): cell for cell in cells}
    try:
        for count, future in enumerate(as_completed(running), 1):
            cell = running[future]
            try:
                row = future.result()
            except UserError as error:
                failed.append(f"{cell.name}: {error}")
                logger.warning("%s failed: %s", cell.name, error)
                continue
            left = (time.monotonic() - began) / count * (len(cells) - count)
            logger.info("%s  kNN %.2f  linear %.2f  (%d min left)", cell.name, row["knn"], row["linear"], left / 60)
    except BaseException:
        # Without this the pool would first run everything that waits.
        for future in running:
            future.cancel()
        for worker in multiprocessing.active_children():
            worker.terminate()
        raise
    finally:
        pool.shutdown(wait=False)
    return failed


def _start() -> None:
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()  # returns when it was killed; a pool's process would wait for its next cell for ever
    os._exit(1)


def run_cell(command: Ablation, cell: GridCell, data: Mapping[str, str]) -> dict[str, Any]:
    """Train and evaluate one cell; its row is written when all is done."""
    folder = command.out / cell.name
    began = time.monotonic()
    conditions = prepare(Machine(device=command.device).torch_device())
    found = _untrained(command, cell) if cell.method == "random" else _trained(command, cell, folder)
    kept = {"config": config_of(command, cell, data), "conditions": conditions.plain()}
    row = {**asdict(cell), "name": cell.name, **found, "seconds": round(time.monotonic() - began, 1), **kept}
    write_json(folder / ROW, row)
    if not command.keep:
        (folder / "checkpoint.pth").unlink(missing_ok=True)
    return row


def _trained(command: Ablation, cell: GridCell, folder: Path) -> dict[str, Any]:
    from pretrain.train import pretrain

    recipe, settings = recipe_of(command, cell), settings_of(command, cell)
    machine = Machine(
        device=command.device,
        workers=command.workers,
        probe_train=command.probe_train,
        probe_test=command.probe_test,
        probe_every=10**9,
    )
    pretrain(command.data, folder, cell.method, recipe, settings, machine)
    rows = read(folder / FILE)
    last = {name: [row[name] for row in rows if name in row][-1] for name in (*LAST, "std", "effective_rank")}
    return {**last, "steps": recipe.steps, "forwarded_views": recipe.steps * recipe.batch * cell.views}


def _untrained(command: Ablation, cell: GridCell) -> dict[str, Any]:
    import torch

    from pretrain.monitor import Monitor
    from pretrain.networks import build_encoder

    device = Machine(device=command.device).torch_device()
    torch.manual_seed(cell.seed)
    encoder, _ = build_encoder(command.recipe.network())
    encoder.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    probes = Monitor(command.probe_train, command.probe_test, command.recipe.crop, device, workers=command.workers)
    return {**probes(encoder), "steps": 0, "forwarded_views": 0}


def recipe_of(command: Ablation, cell: GridCell) -> Recipe:
    """The shared recipe with as many steps as the budget allows; warm-up shrinks when the steps do."""
    steps = max(1, command.grid.budget // (cell.batch * cell.views))
    warmup = min(command.recipe.warmup_steps, steps // 5)
    recipe = replace(command.recipe, batch=cell.batch, seed=cell.seed, steps=steps, warmup_steps=warmup)
    if cell.method in ("msbreg", "byol", "random"):
        return recipe
    # A learning rate means nothing to another loss: theirs are those that their demo was tried with.
    theirs, _ = find_presets(cell.method).PRESETS["demo"]
    taken = ("optimizer", "lr", "bias_lr", "momentum", "weight_decay", "decay_all", "final_lr", "trust")
    return replace(recipe, **{name: getattr(theirs, name) for name in taken})


def settings_of(command: Ablation, cell: GridCell) -> Any:
    """The method's settings with the cell's values, heads as wide as the command says, and no small views."""
    module = find_presets(cell.method)
    _, settings = module.PRESETS["demo"]
    forces = Forces(cell.singular, cell.brownian, cell.singular_form, cell.brownian_per)
    wanted = {"views": cell.views, "forces": forces, "centroid": cell.centroid, "ema": command.ema, "small_views": 0}
    wanted |= {"hidden": command.hidden, "dimensions": cell.dimensions, "width": cell.dimensions}
    if cell.method == "wmse":
        # Whitening d dimensions takes more than d images, twice as many as published.
        d = min(cell.dimensions, cell.batch // 4)
        wanted |= {"dimensions": d, "whitening_size": 2 * d}
    known = {f.name for f in fields(settings)}
    return replace(settings, **{name: value for name, value in wanted.items() if name in known})


def read_rows(out: Path) -> list[dict[str, Any]]:
    """The rows of all finished cells under `out`, sorted by name, without config and conditions."""
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob(f"*/{ROW}"))]
    return [{name: value for name, value in row.items() if name not in ("config", "conditions")} for row in rows]
