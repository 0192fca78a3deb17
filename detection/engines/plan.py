"""Which image is seen when: decided before training, by the seed alone, equally for every engine."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from transfer.datasets.boxes.detection import DetectionDataset, DetectionImage
from transfer.runtime.loader import Loader
from transfer.runtime.world import ALONE, World

Draw = tuple[int, int]  # (index of the image, number of the draw: 0, 1, 2, … over the whole training)


def plan_batches(
    dataset: DetectionDataset, iterations: int, batch: int, seed: int, group: int | None = None
) -> NDArray[np.int64]:
    """Image indices for every iteration, int64 [iterations, batch].

    Endless shuffled passes over the data, images of like orientation put together in groups of `group` (default: the
    batch; under data parallelism the images per process), as Detectron2's AspectRatioGroupedDataset does:
    landscape and portrait images collect in two buckets, a full bucket is emitted.

    Knowing the plan in advance makes resuming O(1): a run that restarts at iteration i begins at row i.
    """
    group = group or batch
    if batch % group:
        raise ValueError(f"a batch of {batch} cannot be made of groups of {group}")
    wide = np.array([image.width > image.height for image in dataset.images])
    if not len(wide):
        raise ValueError("no images to plan for")
    groups_needed = iterations * batch // group
    buckets: dict[bool, list[int]] = {True: [], False: []}
    planned: list[list[int]] = []
    shuffle = np.random.default_rng([seed, 0xB47C4])
    while len(planned) < groups_needed:
        for index in shuffle.permutation(len(wide)):
            bucket = buckets[bool(wide[index])]
            bucket.append(int(index))
            if len(bucket) == group:
                planned.append(bucket.copy())
                bucket.clear()
    return np.array(planned[:groups_needed], dtype=np.int64).reshape(iterations, batch)


def seed_for_draw(seed: int, draw: int) -> None:
    """Seed every generator that augmentations use, so that draw number `draw` looks the same in every run."""
    state = np.random.SeedSequence([seed, 0xD4A3, draw]).generate_state(3)
    random.seed(int(state[0]))
    np.random.seed(int(state[1]))
    torch.manual_seed(int(state[2]))


def seed_for_iteration(seed: int, iteration: int, rank: int = 0) -> None:
    """Seed what the model samples (proposals, regions) at `iteration` in process `rank`.

    Seeding anew at every iteration makes a resumed run continue with the numbers of the uninterrupted one.
    """
    entropy = [seed, 0x17E4, iteration] + ([rank] if rank else [])
    state = np.random.SeedSequence(entropy).generate_state(3)
    random.seed(int(state[0]))
    np.random.seed(int(state[1]))
    torch.manual_seed(int(state[2]))


class PlannedDataset(Dataset[Any]):
    """Maps a `Draw` to `load(image)` with all generators seeded for that draw."""

    def __init__(self, dataset: DetectionDataset, load: Callable[[DetectionImage], Any], seed: int) -> None:
        self.dataset, self.load, self.seed = dataset, load, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> Any:
        index, number = draw
        states = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
        seed_for_draw(self.seed, number)
        item = self.load(self.dataset.images[index])
        # Without workers this runs in the training process, whose own stream must not notice.
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.random.set_rng_state(states[2])
        return item


class PlanSampler:
    """Batch sampler: the rows of a plan from iteration `start` on, each index with its draw number.

    Of several processes, number `rank` gets the rank-th equal share of every row. Draw numbers are those of the whole
    row, so a draw does not depend on who does it.
    """

    def __init__(self, plan: NDArray[np.int64], start: int = 0, rank: int = 0, processes: int = 1) -> None:
        self.plan, self.start = plan, start
        share = plan.shape[1] // processes
        self.columns = range(rank * share, (rank + 1) * share)

    def __len__(self) -> int:
        return len(self.plan) - self.start

    def __iter__(self) -> Iterator[list[Draw]]:
        batch = self.plan.shape[1]
        for iteration in range(self.start, len(self.plan)):
            row = self.plan[iteration].tolist()
            yield [(row[column], iteration * batch + column) for column in self.columns]


def planned_loader(
    dataset: DetectionDataset,
    load: Callable[[DetectionImage], Any],
    plan: NDArray[np.int64],
    seed: int,
    start: int,
    workers: int,
    collate: Callable[[Sequence[Any]], Any],
    world: World = ALONE,
) -> Loader[Any]:
    """A loader over this process's share of rows `start`, `start` + 1, … of the plan."""
    return Loader(
        PlannedDataset(dataset, load, seed),
        batch_sampler=PlanSampler(plan, start, world.rank, world.size),
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=False,
    )
