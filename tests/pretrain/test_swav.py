"""SwAV: assignments, prototypes and the queue, against the authors' loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_methods import make, numbers, some_views
from torch import Tensor
from torch.nn.functional import normalize

from pretrain.methods import Method, swav


def test_sinkhorn_is_the_authors_loop() -> None:
    scores = numbers(2, 6, 4) / 3
    for iterations in (1, 3):
        found = swav.sinkhorn(scores, 0.05, iterations)
        for view, codes in zip(scores.numpy(), found.numpy(), strict=True):
            q = np.exp(view / 0.05).T  # [P, n]
            q /= q.sum()
            for _ in range(iterations):
                for p in range(4):
                    q[p] /= q[p].sum() * 4
                for m in range(6):
                    q[:, m] /= q[:, m].sum() * 6
            np.testing.assert_allclose(codes, (q * 6).T, rtol=1e-9, atol=1e-14)


@given(st.integers(2, 9), st.integers(2, 9), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_sinkhorn_marginals(n: int, prototypes: int, seed: int) -> None:
    scores = torch.tanh(numbers(n, prototypes, seed=seed))
    codes = swav.sinkhorn(scores, 0.5, 300)
    torch.testing.assert_close(codes.sum(-1), torch.ones(n, dtype=torch.float64))
    share = torch.full((prototypes,), n / prototypes, dtype=torch.float64)
    torch.testing.assert_close(codes.sum(0), share, rtol=1e-5, atol=1e-6)


def test_sinkhorn_survives_a_tiny_epsilon_in_float32() -> None:
    scores = normalize(numbers(32, 8).float(), dim=-1) @ normalize(numbers(8, 16, seed=1).float(), dim=0)
    codes = swav.sinkhorn(scores, 1e-3)
    assert codes.isfinite().all()
    torch.testing.assert_close(codes.sum(-1), torch.ones(32))


def test_swapped_loss_is_equation_2_over_all_views() -> None:
    scores, codes = numbers(4, 5, 3), numbers(2, 5, 3, seed=1).softmax(-1)
    s, q = scores.numpy(), codes.numpy()
    expected = 0.0
    for i in range(2):
        for v in range(4):
            if v == i:
                continue
            for m in range(5):
                logits = s[v, m] / 0.1
                log_p = logits - logits.max() - math.log(np.exp(logits - logits.max()).sum())
                expected -= float(np.dot(q[i, m], log_p)) / 5 / 3 / 2
    assert swav.swapped_loss(scores, codes, 0.1).item() == pytest.approx(expected, rel=1e-10)


def test_no_gradient_flows_through_the_codes(tiny: None) -> None:
    method = make("swav", queue=0)
    z, scores = (output.detach() for output in method(some_views(method)))
    leaf = scores.double().requires_grad_()
    loss, _ = method.loss((z, leaf), None)
    (gradient,) = torch.autograd.grad(loss, leaf)
    codes = swav.sinkhorn(scores.double()[:2])
    predicted = (scores.double() / 0.1).softmax(-1)
    expected = torch.zeros_like(gradient)
    for v in range(4):
        for i in range(2):
            if i != v:  # cross-entropy's gradient, (p − q) / τ, for each of the 2 codes, 3 other views and 8 images
                expected[v] += (predicted[v] - codes[i]) / 0.1 / (2 * 3 * 8)
    torch.testing.assert_close(gradient, expected)


def test_swav_collapse_is_log_of_the_prototypes(tiny: None) -> None:
    method = make("swav", queue=0)
    loss, _ = method.loss((torch.zeros(4, 8, 6), torch.zeros(4, 8, 5)), None)
    assert loss.item() == pytest.approx(math.log(5))
    same = method.prototypes(normalize(numbers(1, 1, 6).float(), dim=-1)).expand(4, 8, 5).detach()
    torch.testing.assert_close(swav.sinkhorn(same), torch.full((4, 8, 5), 1 / 5))
    assert method.loss((torch.zeros(4, 8, 6), same), None)[0].item() > math.log(5)


def test_views_of_one_size_go_through_the_encoder_together(tiny: None) -> None:
    method = make("swav")
    method(some_views(method))
    assert method.online.encoder.bn.num_batches_tracked.item() == 2  # large, small
    assert method.online.projector[1].num_batches_tracked.item() == 1


def test_swav_scores_stay_float32_under_autocast(tiny: None) -> None:
    method = make("swav")
    with torch.autocast("cpu", torch.bfloat16):
        z, scores = method(some_views(method))
    assert z.dtype == scores.dtype == torch.float32
    torch.testing.assert_close(scores, z @ method.prototypes.weight.T)


def step(method: Method, optimizer: torch.optim.Optimizer, number: int, of: int = 10) -> tuple[Tensor, ...]:
    optimizer.zero_grad(set_to_none=True)
    outputs = method(some_views(method, seed=10 * number))
    method.total(outputs, None, None)[0].backward()
    method.after_backward(number)
    optimizer.step()
    detached = tuple(output.detach() for output in outputs)
    method.after_step(number / of, detached)
    return detached


def test_prototypes_rest_at_the_start_and_stay_on_the_sphere(tiny: None) -> None:
    method = make("swav", freeze=2)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.5, momentum=0.9, weight_decay=0.1)
    start = method.prototypes.weight.detach().clone()
    torch.testing.assert_close(start.norm(dim=1), torch.ones(5))
    moved = []
    for number in range(3):
        encoder = method.online.encoder.conv.weight.detach().clone()
        step(method, optimizer, number)
        assert not torch.equal(encoder, method.online.encoder.conv.weight)
        moved.append((method.prototypes.weight - start).abs().max().item() > 1e-5)
        torch.testing.assert_close(method.prototypes.weight.norm(dim=1), torch.ones(5))
    assert moved == [False, False, True]


def test_the_queue_starts_late_fills_newest_first_and_is_used_when_full(tiny: None) -> None:
    # 10 steps, the queue of two batches of 8 fills from step 2 on, before which 0.2 is done.
    method = make("swav", queue=16, queue_from=0.2)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.01)
    seen = []
    for number in range(5):
        outputs = step(method, optimizer, number)
        seen.append(outputs[0][:2])
        assert method.queued.item() == [0, 0, 8, 16, 16][number]
    torch.testing.assert_close(method.queue, torch.cat([seen[4], seen[3]], dim=1))
    scores = numbers(4, 8, 5).float() / 3
    found, _ = method.loss((outputs[0], scores), None)
    earlier = method.queue @ method.prototypes.weight.detach().T
    codes = swav.sinkhorn(torch.cat([earlier, scores[:2]], dim=1))[:, 16:]
    torch.testing.assert_close(found, swav.swapped_loss(scores, codes))
    method.load_state_dict({**method.state_dict(), "queued": torch.tensor(15)})
    assert method.loss((outputs[0], scores), None)[0] != found
    torch.testing.assert_close(
        method.loss((outputs[0], scores), None)[0], swav.swapped_loss(scores, swav.sinkhorn(scores[:2]))
    )


def test_the_queue_and_prototypes_are_remembered_outside_the_branch(tiny: None) -> None:
    method = make("swav")
    optimizer = torch.optim.SGD(method.parameters(), lr=0.01)
    step(method, optimizer, 0)
    state = method.state_dict()
    outside = {name for name in state if not name.startswith("online.")}
    assert outside == {"prototypes.weight", "queue", "queued"}
    other = make("swav")
    other.load_state_dict(state)
    assert torch.equal(other.queue, method.queue)
    assert other.queued.item() == 8
    outputs = tuple(output.detach() for output in method.eval()(some_views(method)))
    assert torch.equal(other.loss(outputs, None)[0], method.loss(outputs, None)[0])


def test_a_batch_larger_than_the_queue_fills_it(tiny: None) -> None:
    method = make("swav", queue=5)
    z = normalize(numbers(4, 8, 6).float(), dim=-1)
    assert method.after_step(0.5, (z, z)) == {"queued": 5.0}
    assert torch.equal(method.queue, z[:2, :5])


def test_without_a_queue_nothing_is_kept(tiny: None) -> None:
    method = make("swav", queue=0)
    z = numbers(4, 8, 6).float()
    assert method.after_step(0.9, (z, z)) == {}
    assert method.queue.shape == (2, 0, 6)


@pytest.mark.parametrize("epochs", [200, 400])
def test_the_published_queue_starts_with_epoch_15(tiny: None, epochs: int) -> None:
    recipe, options = swav.PROTOCOLS[f"{epochs}-batch256"]
    assert (recipe.batch, options.queue, options.freeze) == (256, 15 * 256, 5005)
    method = make("swav", queue=8, queue_from=options.queue_from)
    per_epoch = 1_281_167 // 256
    z = numbers(4, 8, 6).float()
    method.after_step((15 * per_epoch - 1) / (epochs * per_epoch), (z, z))  # the last step of epoch 14, from 0
    assert method.queued.item() == 0
    method.after_step(15 * per_epoch / (epochs * per_epoch), (z, z))
    assert method.queued.item() == 8
