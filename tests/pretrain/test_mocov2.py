"""MoCo v2's queue and the companions of its BatchNorm. Its loss is tested beside those of other methods."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import normalize

from pretrain import checkpoint
from pretrain.methods import Outputs, mocov2
from pretrain.optimizers import build_optimizer
from pretrain.recipe import EncoderSpec, Recipe
from pretrain.step import Step
from transfer.runtime.errors import UserError

SETTINGS = mocov2.Settings(dimensions=6, ema=0.9, queue=20, groups=2)


def moco(**changes: Any) -> mocov2.MoCo:
    torch.manual_seed(0)
    return mocov2.build(EncoderSpec("resnet18"), replace(SETTINGS, **changes)).train()


def units(n: int) -> Tensor:
    return normalize(torch.randn(1, n, 6, generator=torch.Generator().manual_seed(0)), dim=-1)


def views(n: int = 8, seed: int = 0) -> list[Tensor]:
    return list(torch.randn(2, n, 3, 9, 9, generator=torch.Generator().manual_seed(seed)))


def train_step(method: mocov2.MoCo, seed: int = 0) -> Outputs:
    recipe = Recipe(batch=8, optimizer="sgd", lr=5.0)
    step = Step(method, build_optimizer(recipe, method), recipe, torch.device("cpu"))
    return step([views(8, seed)], None, 0, 0.5, None).outputs


@pytest.mark.usefixtures("tiny")
def test_keys_replace_the_oldest_and_wrap_around() -> None:
    method = moco(queue=5)
    start = method.queue.clone()
    stream = units(12)
    expected = list(start)
    place = 0
    for first, last in ((0, 4), (4, 8), (8, 9), (9, 12)):
        method.after_step(0.0, (stream[:, first:last], stream[:, first:last]))
        for key in stream[0, first:last]:
            expected[place] = key
            place = (place + 1) % 5
        assert torch.equal(method.queue, torch.stack(expected))
        assert method.position.item() == place
    assert {tuple(row.tolist()) for row in method.queue} == {tuple(row.tolist()) for row in stream[0, 7:]}


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.lists(st.integers(1, 12), max_size=8))
def test_the_queue_holds_the_latest_keys(size: int, batches: list[int]) -> None:
    method = mocov2.MoCo.__new__(mocov2.MoCo)
    nn.Module.__init__(method)
    method.settings = mocov2.Settings(queue=size)
    method.online, method.target = nn.Linear(1, 1), nn.Linear(1, 1)
    method.register_buffer("queue", torch.zeros(size, 1))
    method.register_buffer("position", torch.zeros((), dtype=torch.long))
    seen: list[float] = []
    for count in (min(count, size) for count in batches):
        keys = torch.arange(len(seen) + 1, len(seen) + 1 + count).float()
        seen += keys.tolist()
        method.after_step(0.0, (keys.view(1, -1, 1), keys.view(1, -1, 1)))
    latest = seen[-size:]
    assert sorted(method.queue.flatten().tolist()) == sorted([0.0] * (size - len(latest)) + latest)
    if len(seen) >= size:
        assert method.queue[method.position].item() == seen[-size]


@pytest.mark.usefixtures("tiny")
def test_the_batchs_own_keys_are_no_negatives() -> None:
    method = moco()
    during = []
    loss = method.loss
    method.loss = lambda outputs, labels: (during.append(method.queue.clone()), loss(outputs, labels))[1]
    outputs = train_step(method)
    keys = outputs[1][0]
    assert (during[0] @ keys.T).max() < 1 - 1e-4
    assert torch.equal(method.queue[:8], keys)
    assert method.position.item() == 8
    outputs = train_step(method, seed=1)
    assert torch.equal(during[1][:8], keys)
    assert torch.equal(method.queue[8:16], outputs[1][0])
    assert not method.queue.requires_grad


@pytest.mark.usefixtures("tiny")
def test_queue_and_position_are_saved_and_come_back() -> None:
    method = moco()
    train_step(method)
    kept = checkpoint.rest(method)
    assert kept.keys() == {"queue", "position"}
    other = mocov2.build(EncoderSpec("resnet18"), SETTINGS)
    other.load_state_dict(method.state_dict())
    assert torch.equal(other.queue, method.queue)
    assert other.position.item() == 8
    for one in (method, other.train()):
        train_step(one, seed=1)
    torch.testing.assert_close(other.queue, method.queue)


@pytest.mark.usefixtures("tiny")
def test_a_batch_larger_than_the_queue_is_refused() -> None:
    with pytest.raises(UserError, match="a batch of 7 does not fit into --queue 6"):
        moco(queue=6).loss((units(7), units(7)), None)


@given(st.integers(1, 8), st.integers(2, 20))
def test_companions_are_dealt_out(groups: int, size: int) -> None:
    together, apart = (part.tolist() for part in mocov2.companions(groups * size, groups))
    for part in (together, apart):
        assert [len(group) for group in part] == [size] * groups
        assert sorted(place for group in part for place in group) == list(range(groups * size))
    for queries in together:
        for keys in apart:
            assert len(set(queries) & set(keys)) <= math.ceil(size / groups)


def test_groups_do_not_depend_on_how_the_batch_is_cut_to_processes() -> None:
    """256 images in 8 groups, on one process or on two, whose SyncBatchNorm joins equal groups."""
    whole = mocov2.companions(256, 8)
    half = mocov2.companions(128, 8)
    for one, part in zip(whole, half, strict=True):
        joined = torch.cat([part, part + 128], dim=1)
        assert torch.equal(joined.sort(dim=1).values, one.sort(dim=1).values)


@pytest.mark.usefixtures("tiny")
def test_batchnorm_sees_a_group_at_a_time() -> None:
    """Queries and keys equal those of a network that is shown each group alone, put back in the images' order."""
    method = moco(groups=2)
    first, second = views(8)
    q, k = method(views(8))
    expected_q, expected_k = torch.empty(8, 6), torch.empty(8, 6)
    with torch.no_grad():
        for group in ([0, 2, 4, 6], [1, 3, 5, 7]):
            expected_q[group] = normalize(method.online(first[group]), dim=-1)
        for group in ([0, 3, 4, 7], [1, 2, 5, 6]):
            expected_k[group] = normalize(method.target(second[group]), dim=-1)
    torch.testing.assert_close(q[0].detach(), expected_q)
    torch.testing.assert_close(k[0], expected_k)
    whole = normalize(method.online(first), dim=-1)
    assert (whole - q[0]).abs().max() > 1e-3


@pytest.mark.usefixtures("tiny")
def test_another_companion_moves_the_query_or_the_key_but_seldom_both() -> None:
    """Images 0 and 2 are companions as queries, not as keys; 0 and 3 the other way round."""
    method = moco(groups=2)
    q, k = (o[0, 0].detach() for o in method(views(8)))
    for changed, moves_q, moves_k in ((2, True, False), (3, False, True)):
        other = views(8)
        for view in other:
            view[changed] += 1.0
        q2, k2 = (o[0, 0].detach() for o in method(other))
        assert (not torch.allclose(q, q2, atol=1e-5), not torch.allclose(k, k2, atol=1e-5)) == (moves_q, moves_k)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(("n", "groups"), [(8, 3), (8, 8), (6, 4)])
def test_images_that_do_not_divide_into_groups_are_refused(n: int, groups: int) -> None:
    with pytest.raises(UserError, match=f"{n} images at a time do not divide into --groups {groups}") as error:
        moco(groups=groups)(views(n))
    assert "lower --groups" in str(error.value)
