"""Gaps and noise, in words."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import pytest
from sample_records import record

from results.compare import compare, sentence, text
from transfer.record import Record
from transfer.runtime.errors import UserError

Frame = Callable[..., pd.DataFrame]


def runs(label: str, values: dict[int, float | None], **changes: object) -> list[Record]:
    return [record(label, seed, value, **changes) for seed, value in values.items()]


def said(frame: pd.DataFrame, *words: str, **options: bool) -> str:
    return " ".join(text(compare(frame, "A", "B", words, **options), "A", "B").split())


def test_a_gap_beyond_the_noise_is_called_one(frame: Frame) -> None:
    found = frame(*runs("A", {0: 50.0, 1: 51.0, 2: 52.0}), *runs("B", {0: 40.0, 1: 41.1, 2: 41.9}))
    (comparison,) = compare(found, "A", "B")
    gap = comparison.metrics[0].gap
    assert gap.difference == pytest.approx(10.0)
    shown = said(found)
    assert "A is 10.00 above B (mean of 3 pairs, standard error 0.06; 95 % interval +9.75 to +10.25" in shown
    assert "the gap exceeds the noise" in shown
    assert "Of 1 task, by the primary metric: A is better in 1" in shown
    below = " ".join(text(compare(found, "B", "A", ["AP"]), "B", "A").split())
    assert "B is 10.00 below A" in below
    assert "A is better in 1" in below
    assert "AP50" not in below


def test_a_gap_within_the_noise_is_called_none_and_what_would_settle_it(frame: Frame) -> None:
    shown = said(frame(*runs("A", {0: 50.0, 1: 41.0, 2: 47.0}), *runs("B", {0: 40.0, 1: 45.0, 2: 44.0})))
    assert "does not exceed the noise" in shown
    # differences 10, −4, 3: mean 3, sd 7.0; t(2) 4.3027 · 7 / √3 = 17.39
    assert "3 seeds of this noise tell gaps from 17.4 on" in shown
    assert "takes about 45" in shown  # pwr.t.test(d = 3 / 7, power = .8, type = "paired"): 44.7


def test_one_pair_cannot_tell_and_moco_s_spread_is_quoted(frame: Frame) -> None:
    shown = said(frame(*runs("A", {0: 50.0}), *runs("B", {0: 40.0})))
    assert "One pair cannot tell a gap from noise" in shown
    assert "facebookresearch/moco, detection/README.md" in shown
    assert "exceeds" not in shown


def test_runs_that_do_not_depend_on_their_seed_say_nothing(frame: Frame) -> None:
    shown = said(frame(*runs("A", {0: 50.0, 1: 50.0}), *runs("B", {0: 40.0, 1: 40.0})))
    assert "says nothing of noise" in shown
    assert "not told apart in 1" in shown


def test_resampling_is_told_from_six_seeds_on(frame: Frame) -> None:
    def found(n: int) -> str:
        ours = {seed: 50.0 + seed % 3 for seed in range(n)}
        return said(frame(*runs("A", ours), *runs("B", {seed: 45.0 + seed % 2 for seed in range(n)})), "AP")

    assert "Sign flips" not in found(5)
    assert "Sign flips: p 0.0" in found(6)


def test_a_gap_that_does_not_survive_the_number_of_tasks_is_said(frame: Frame) -> None:
    found = []
    for task, theirs in (("t.one", [47.0, 49.2, 48.0]), ("t.two", [50.0, 48.0, 53.0]), ("t.three", [51.0, 48.0, 50.0])):
        found += runs("A", {0: 50.0, 1: 50.5, 2: 50.2}, task=task) + runs("B", dict(enumerate(theirs)), task=task)
    shown = said(frame(*found), "AP")
    assert "Of 3 tasks, by the primary metric: not told apart in 3" in shown
    assert "The interval of t.one, MMDetection, BCCD excludes 0 by itself" in shown


def test_only_common_seeds_are_paired_and_the_rest_is_named(frame: Frame) -> None:
    found = frame(*runs("A", {0: 50.0, 1: 51.0, 5: 99.0}), *runs("B", {0: 40.0, 1: 41.0, 2: None}))
    (comparison,) = compare(found, "A", "B")
    assert "Left out, run on one side only: seed 5." in comparison.cautions
    assert "Left out, failed: B seed 2." in comparison.cautions
    assert list(comparison.metrics[0].first) == [0, 1]


@pytest.mark.parametrize(
    "changes",
    [{"engine": "detectron2"}, {"recipe": {"lr": 1.0}}, {"task_version": 2}, {"data": {}}, {"protocol": "vicreg"}],
    ids=lambda changes: next(iter(changes)),
)
def test_runs_under_other_conditions_are_not_compared(frame: Frame, changes: dict[str, object]) -> None:
    with pytest.raises(UserError, match="differ in the checkpoint alone") as caught:
        compare(frame(*runs("A", {0: 50.0}), *runs("B", {0: 40.0}, **changes)), "A", "B")
    assert "seeds 0" in caught.value.found


def test_pretrainings_of_several_seeds_are_paired_on_request(frame: Frame) -> None:
    ours = [record("A", seed, 50.0 + seed, checkpoint_sha256=str(seed) * 64) for seed in range(3)]
    found = frame(*ours, *runs("B", {0: 49.0, 1: 50.0, 2: 50.5}))
    (comparison,) = compare(found, "A", "B", ["AP"], trainings=True)
    assert any("weights of its own" in line for line in comparison.cautions)
    metric = comparison.metrics[0]
    assert [metric.first[seed] - metric.second[seed] for seed in range(3)] == [1.0, 1.0, 1.5]
    twice = frame(*ours, record("A", 0, 51.0, checkpoint_sha256="9" * 64), record("B"))
    with pytest.raises(UserError, match="two runs of seed 0"):
        compare(twice, "A", "B", trainings=True)


def test_labels_must_mean_one_checkpoint(frame: Frame) -> None:
    found = frame(*runs("A", {0: 50.0}), record("A", 1, 51.0, checkpoint_sha256="9" * 64), record("B"))
    with pytest.raises(UserError, match="'A' names 2 different checkpoints"):
        compare(found, "A", "B")
    with pytest.raises(UserError, match="no record is of a checkpoint called 'C'") as caught:
        compare(found, "C", "B")
    assert caught.value.found == "A, B"
    with pytest.raises(UserError, match="with itself"):
        compare(found, "B", "B")


def test_equal_values_are_called_equal(frame: Frame) -> None:
    (found,) = compare(frame(*runs("A", {0: 40.0, 1: 41.0}), *runs("B", {0: 41.0, 1: 40.0})), "A", "B", ["AP"])
    assert sentence(found.metrics[0], "A", "B").startswith("AP: A and B are equal (mean of 2 pairs")


def test_runs_by_the_protocol_of_a_checkpoints_own_authors_are_compared_with_nothing(frame: Frame) -> None:
    marked = runs("A", {0: 50.0}, authors_own=True) + runs("B", {0: 40.0}, authors_own=True)
    with pytest.raises(UserError, match="every run of 'A' followed the protocol of its own authors"):
        compare(frame(*marked), "A", "B")
    (found,) = compare(frame(*marked, *runs("A", {1: 70.0}), *runs("B", {1: 40.0})), "A", "B", ["AP"])
    assert (found.metrics[0].gap.difference, found.metrics[0].gap.n) == (30.0, 1)
