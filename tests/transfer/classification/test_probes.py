"""Probes against plain loops and numpy, and the laws that any such probe keeps."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from transfer.classification.probes import knn as probes
from transfer.classification.probes.knn import accuracy, knn, linear_probe, standard_error
from transfer.runtime.errors import UserError

Set = tuple[Tensor, Tensor, Tensor]
SEEDS = st.integers(0, 10_000)
quick = settings(max_examples=15, deadline=None)


def sample(seed: int, train: int = 60, test: int = 25, width: int = 6, classes: int = 4) -> Set:
    """Train features, train labels (every class twice at least) and test features: overlapping clouds."""
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=g)
    labels = torch.cat([torch.arange(classes).repeat(2), torch.randint(classes, (train - 2 * classes,), generator=g)])
    x = centres[labels] + torch.randn(train, width, generator=g)
    return x, labels, torch.randn(test, width, generator=g)


def fitted(data: Set, classes: int = 4, strengths: tuple[float, ...] = (1e-3, 1e-2, 1e-1)) -> probes.LinearProbe:
    return linear_probe(*data, classes=classes, strengths=strengths)


def knn_by_loops(data: Set, classes: int, k: int, temperature: float) -> list[int]:
    train, labels, test = (part.double().numpy() if part.is_floating_point() else part.numpy() for part in data)
    answers = []
    for row in test:
        cosines = [float(row @ other) / (np.linalg.norm(row) * np.linalg.norm(other)) for other in train]
        votes = [0.0] * classes
        for place in sorted(range(len(train)), key=lambda i: -cosines[i])[:k]:
            votes[int(labels[place])] += math.exp(cosines[place] / temperature)
        answers.append(votes.index(max(votes)))
    return answers


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_knn_is_the_plain_loop(temperature: float) -> None:
    data = sample(0)
    found = knn(*data, classes=4, k=[1, 5, 20, 60], temperature=temperature)
    assert sorted(found) == [1, 5, 20, 60]
    for k, predicted in found.items():
        assert predicted.dtype == torch.int64
        assert predicted.tolist() == knn_by_loops(data, 4, k, temperature)
        assert torch.equal(predicted, knn(*data, classes=4, k=k, temperature=temperature)[k])


def test_weights_matter_as_published() -> None:
    """Cosines 1, 0.6, 0.6: e^(1/T) against 2 e^(0.6/T), which is the smaller where 0.4 / T > ln 2, T < 0.577."""
    train, labels = torch.tensor([[1.0, 0, 0], [0.6, 0.8, 0], [0.6, 0, 0.8]]), torch.tensor([1, 0, 0])
    for temperature, wanted in ((0.57, 1), (0.59, 0), (1e-4, 1)):
        assert knn(train, labels, train[:1], classes=2, k=3, temperature=temperature)[3].tolist() == [wanted]


def test_ties_go_to_the_earlier_row_and_the_smaller_class() -> None:
    same = torch.tensor([[1.0, 0]]).expand(300, 2)
    labels = torch.tensor([2, 1, 1] + [0] * 297)
    found = knn(same, labels, same[:2], classes=3, k=[1, 2, 3, 300])
    assert {k: predicted.tolist() for k, predicted in found.items()} == {1: [2, 2], 2: [1, 1], 3: [1, 1], 300: [0, 0]}
    apart = torch.eye(3)  # the last row is nearest; behind it two rows are equally far, the earlier one counts
    assert knn(apart, torch.tensor([1, 0, 2]), apart[2:], classes=3, k=2, temperature=1e9)[2].tolist() == [1]


def test_rows_of_zeros_are_equally_far_from_all() -> None:
    train = torch.tensor([[-1.0, 0], [0, 0], [1, 0]])
    labels = torch.tensor([2, 1, 0])
    assert knn(train, labels, torch.zeros(1, 2), classes=3, k=1)[1].tolist() == [2]  # all similar by 0: the first row
    assert knn(train[:2], labels[:2], torch.tensor([[1.0, 0]]), classes=3, k=1)[1].tolist() == [1]  # 0 is above −1


def test_test_rows_may_come_in_any_chunks_and_may_be_none() -> None:
    data = sample(3)
    whole = knn(*data, classes=4, k=7)[7]
    for chunk in (1, 4, 24, 25, 1000):
        assert torch.equal(knn(*data, classes=4, k=7, chunk=chunk)[7], whole)
    assert knn(*data[:2], data[2][:0], classes=4, k=7)[7].shape == (0,)
    assert fitted((*data[:2], data[2][:0])).predicted.shape == (0,)


def test_autocast_and_inference_mode_change_nothing() -> None:
    data = sample(4)
    near, linear = knn(*data, classes=4)[20], fitted(data)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(knn(*data, classes=4)[20], near)
        assert torch.equal(fitted(data).weight, linear.weight)


@pytest.mark.slow
@quick
@given(SEEDS, st.permutations(range(4)))
def test_names_of_classes_do_not_matter(seed: int, names: list[int]) -> None:
    train, labels, test = sample(seed)
    other = torch.tensor(names)
    assert torch.equal(knn(train, other[labels], test, classes=4)[20], other[knn(train, labels, test, classes=4)[20]])
    before, after = fitted((train, labels, test)), fitted((train, other[labels], test))
    assert (after.strength, after.held_out) == (before.strength, before.held_out)
    assert torch.equal(after.predicted, other[before.predicted])


@pytest.mark.slow
@quick
@given(SEEDS, st.sampled_from([2.0**-90, 2.0**-3, 4.0, 2.0**60]))
def test_scale_of_features_does_not_matter(seed: int, scale: float) -> None:
    """Powers of two, which are exact: the answers are then equal, not merely close."""
    train, labels, test = sample(seed)
    scaled = (scale * train, labels, scale * test)
    assert torch.equal(knn(*scaled, classes=4)[20], knn(train, labels, test, classes=4)[20])
    assert torch.equal(fitted(scaled).predicted, fitted((train, labels, test)).predicted)


@quick
@given(SEEDS, st.sampled_from([1e-4, 1e-2, 1.0]))
def test_linear_probe_is_at_the_optimum(seed: int, strength: float) -> None:
    """The gradient of the stated objective, written out in numpy, vanishes at the answer; predictions follow."""
    train, labels, test = sample(seed)
    probe = fitted((train, labels, test), strengths=(strength,))
    x, t, w, b = train.double().numpy(), test.double().numpy(), probe.weight.numpy(), probe.bias.numpy()
    mean, std = x.mean(0), x.std(0)
    x, t = (x - mean) / std, (t - mean) / std
    scores = np.exp(x @ w.T + b)
    error = scores / scores.sum(1, keepdims=True) - np.eye(4)[labels.numpy()]
    slopes = np.abs(error.T @ x / len(x) + strength * w).max(), np.abs(error.mean(0)).max()
    assert max(slopes) <= probes.GRADIENT
    assert probe.gradient == pytest.approx(max(slopes), abs=1e-12)
    assert np.abs(w).max() > 1e-3
    assert probe.predicted.tolist() == (t @ w.T + b).argmax(1).tolist()


def test_the_strength_is_chosen_on_rows_that_were_not_fitted() -> None:
    """Noise of many dimensions can be fitted wholly but not predicted: held-out accuracy stays near chance."""
    g = torch.Generator().manual_seed(0)
    x, labels = torch.randn(200, 300, generator=g), torch.randint(2, (200,), generator=g)
    probe = linear_probe(x, labels, x, classes=2, strengths=(1e-4,), holdout=0.5)
    assert accuracy(probe.predicted, labels) == 100
    assert 30 < probe.held_out[1e-4] < 70
    data = sample(1, train=400)
    several = fitted(data, strengths=(1e-4, 1e2, 1e-2))
    assert several.held_out[several.strength] == max(several.held_out.values())
    alone = fitted(data, strengths=(several.strength,))  # whatever the way there, the optimum is the same
    torch.testing.assert_close(several.weight, alone.weight, atol=5e-3, rtol=0)
    assert fitted(data, strengths=(1e7, 1e6)).strength == 1e7  # equally good: the strongest


def test_separable_classes_are_told_apart() -> None:
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat(40)
    x = 8 * torch.eye(3)[labels] + torch.randn(120, 3, generator=g)
    assert accuracy(fitted((x, labels, x), classes=3).predicted, labels) == 100
    assert accuracy(knn(x, labels, x, classes=3)[20], labels) == 100


def test_constant_features_and_absent_or_single_classes() -> None:
    train, labels, test = sample(5)
    wider = [torch.cat([part, torch.full((len(part), 1), value)], 1) for part, value in ((train, 0.1), (test, 7.0))]
    plain, padded = fitted((train, labels, test)), fitted((wider[0], labels, wider[1]))
    assert torch.equal(plain.predicted, padded.predicted)
    assert padded.weight[:, -1].abs().max() == 0
    more = linear_probe(train, labels, test, classes=6, strengths=(1e-3, 1e-2, 1e-1))
    assert torch.equal(more.predicted, plain.predicted)
    assert more.bias[4:].tolist() == [-math.inf] * 2
    assert fitted((train, torch.full_like(labels, 2), test)).predicted.unique().tolist() == [2]
    rare = torch.where(torch.arange(60) == 7, 3, labels % 3)  # one row of class 3: kept for fitting
    assert fitted((train, rare, test)).bias.isfinite().all()


def test_a_search_cut_short_is_reported(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(probes, "ITERATIONS", 1)
    with caplog.at_level(logging.WARNING, logger="transfer.classification.probes.knn"):
        assert fitted(sample(0), strengths=(1e-3,)).gradient > probes.GRADIENT
    assert "strength 0.001: not converged" in caplog.text


BAD = [
    ({"train_features": torch.full((60, 6), math.nan)}, r"train features are not finite(.|\n)* in 60 of 60 rows"),
    (
        {"test_features": torch.tensor([[1.0] * 6, [math.inf] * 6])},
        r"test features are not finite(.|\n)* in 1 of 2 rows",
    ),
    ({"train_labels": torch.arange(60)}, r"no class ids(.|\n)*0 … 59(.|\n)*0 … 3"),
    ({"train_labels": torch.zeros(60)}, r"no class ids(.|\n)*float32"),
    ({"train_labels": torch.zeros(59, dtype=torch.int64)}, r"do not fit(.|\n)*\[59\]"),
    ({"test_features": torch.zeros(5, 7)}, r"do not fit(.|\n)*\[5, 7\]"),
    ({"train_features": torch.zeros(60)}, r"do not fit(.|\n)*\[60\]"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_bad_input_is_named(change: dict[str, Tensor], message: str) -> None:
    data = dict(zip(("train_features", "train_labels", "test_features"), sample(0), strict=True)) | change
    with pytest.raises(UserError) as raised:
        knn(**data, classes=4)
    assert raised.match(message)
    with pytest.raises(UserError) as raised:
        linear_probe(**data, classes=4, strengths=(1.0,))
    assert raised.match(message)


def test_bad_options_are_named() -> None:
    data = sample(0)
    for k in (61, 0, [20, 61], []):
        with pytest.raises(UserError, match=r"neighbours(.|\n)*60 train rows"):
            knn(*data, classes=4, k=k)
    with pytest.raises(UserError, match="temperature"):
        knn(*data, classes=4, temperature=0)
    for strengths, holdout in (((), 0.1), ((0.0,), 0.1), ((1.0,), 0.0), ((1.0,), 1.0), ((math.nan,), 0.1)):
        with pytest.raises(UserError, match="strengths above 0"):
            linear_probe(*data, classes=4, strengths=strengths, holdout=holdout)
    with pytest.raises(UserError, match="held out"):
        linear_probe(data[0][:4], torch.arange(4), data[2], classes=4, strengths=(1.0,))


def test_accuracy_and_its_error() -> None:
    assert accuracy(torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 2, 0])) == 75
    assert standard_error(75, 300) == pytest.approx(2.5)
    for labels in (torch.zeros(3), torch.zeros(4, 1)):
        with pytest.raises(UserError, match="one prediction per label"):
            accuracy(torch.zeros(4), labels)
    with pytest.raises(UserError, match="one prediction per label"):
        accuracy(torch.zeros(0), torch.zeros(0))
