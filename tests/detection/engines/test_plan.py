"""The image order: endless, complete, oriented groups, the same after a resume."""

import itertools
from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detection.engines.plan import (
    PlannedDataset,
    PlanSampler,
    plan_batches,
    planned_loader,
    seed_for_iteration,
)
from transfer.datasets.boxes.detection import DetectionDataset, DetectionImage


def dataset(sizes: list[tuple[int, int]]) -> DetectionDataset:
    images = tuple(
        DetectionImage(
            image_id=i + 1,
            name=str(i),
            path=Path(f"{i}.jpg"),
            width=w,
            height=h,
            boxes=np.zeros((1, 4), np.float32),
            labels=np.zeros(1, np.int64),
            difficult=np.zeros(1, bool),
        )
        for i, (w, h) in enumerate(sizes)
    )
    return DetectionDataset("t", ("a",), images)


@settings(deadline=None, max_examples=30)
@given(
    wide=st.integers(1, 12),
    tall=st.integers(0, 9),
    iterations=st.integers(0, 25),
    per_group=st.sampled_from([1, 2, 3]),
    groups=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 5),
)
def test_every_group_has_one_orientation(wide, tall, iterations, per_group, groups, seed):
    data = dataset([(20, 10)] * wide + [(10, 20)] * tall)
    plan = plan_batches(data, iterations, per_group * groups, seed, group=per_group)
    assert plan.shape == (iterations, per_group * groups)
    orientation = plan < wide
    for group in orientation.reshape(-1, per_group):
        assert group.all() or not group.any()


def test_each_pass_shows_every_image_once():
    data = dataset([(20, 10)] * 12)
    plan = plan_batches(data, iterations=9, batch=4, seed=3)
    for epoch in plan.reshape(3, 12):
        assert sorted(epoch) == list(range(12))
    assert plan.reshape(3, 12)[0].tolist() != plan.reshape(3, 12)[1].tolist()


def test_a_longer_plan_begins_with_the_shorter_one():
    data = dataset([(20, 10)] * 7 + [(10, 20)] * 3)
    assert (plan_batches(data, 50, 2, 0)[:20] == plan_batches(data, 20, 2, 0)).all()
    assert (plan_batches(data, 20, 2, 1) != plan_batches(data, 20, 2, 0)).any()


def load(image: DetectionImage) -> tuple[int, float, float]:
    return image.image_id, float(np.random.rand()), float(torch.rand(()))


def test_resumed_loader_goes_on_with_the_same_images_and_the_same_augmentation():
    data = dataset([(20, 10)] * 5)
    plan = plan_batches(data, 10, 2, 0)
    whole = list(planned_loader(data, load, plan, 7, 0, 0, list))
    rest = list(planned_loader(data, load, plan, 7, 6, 0, list))
    assert rest == whole[6:]
    assert list(planned_loader(data, load, plan, 7, 6, 2, list)) == rest  # and whatever the number of workers
    draws = [draw for batch in whole for draw in batch]
    assert len({numbers for _, *numbers in map(tuple, draws) for numbers in numbers}) == 2 * len(draws)


def test_loading_in_the_training_process_leaves_its_random_stream_alone():
    data = dataset([(20, 10)])
    seed_for_iteration(0, 4)
    before = torch.rand(3)
    seed_for_iteration(0, 4)
    PlannedDataset(data, load, 0)[(0, 99)]
    assert torch.equal(torch.rand(3), before)


def test_sampler_numbers_draws_over_the_whole_training():
    plan = np.array([[3, 1], [0, 2]])
    assert list(PlanSampler(plan)) == [[(3, 0), (1, 1)], [(0, 2), (2, 3)]]
    assert list(PlanSampler(plan, start=1)) == [[(0, 2), (2, 3)]]


@given(processes=st.sampled_from([1, 2, 4]), start=st.integers(0, 3))
def test_processes_share_every_row_without_overlap_and_keep_its_draw_numbers(processes, start):
    plan = np.arange(3 * 8).reshape(3, 8)
    shares = [list(PlanSampler(plan, start, rank, processes)) for rank in range(processes)]
    assert [list(itertools.chain(*parts)) for parts in zip(*shares, strict=True)] == list(PlanSampler(plan, start))


def test_processes_sample_differently_and_each_the_same_again():
    drawn = []
    for rank in (0, 1, 0):
        seed_for_iteration(5, 9, rank)
        drawn.append(torch.rand(4).tolist())
    assert drawn[0] == drawn[2] != drawn[1]
