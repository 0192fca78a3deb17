"""Gaps and noise."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from results.compare import compare, paired, sentence, student_quantile
from results.layout import as_text
from transfer.errors import UserError
from transfer.record import Record

MakeRecord = Callable[..., Record]


@pytest.mark.parametrize(
    ("degrees", "value"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (29, 2.045), (1000, 1.962)],
)
def test_student_quantile_is_the_printed_table(degrees: int, value: float) -> None:
    assert student_quantile(degrees) == pytest.approx(value, abs=6e-4)


def test_paired_by_hand() -> None:
    # differences 1, 2, 3: mean 2, standard deviation 1, standard error 1/√3; reach 4.3027/√3 = 2.4841
    result = paired([41.0, 42.0, 43.0], [40.0, 40.0, 40.0])
    assert (result.n, result.mean) == (3, 2.0)
    assert result.error == pytest.approx(1 / math.sqrt(3))
    assert result.low == pytest.approx(2 - 2.4841, abs=1e-3)
    assert result.high == pytest.approx(2 + 2.4841, abs=1e-3)
    assert result.exceeds_noise is False


values = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=1, max_size=8)


@settings(deadline=None)
@given(values)
def test_swapping_sides_changes_the_sign_alone(pairs: list[tuple[float, float]]) -> None:
    first, second = zip(*pairs, strict=True)
    one, other = paired(first, second), paired(second, first)
    assert one.mean == -other.mean
    assert one.error == other.error
    assert one.exceeds_noise == other.exceeds_noise


def test_the_interval_covers_no_gap_in_95_of_100_cases() -> None:
    draw = np.random.default_rng(0).normal(size=(400, 2, 4))
    false_alarms = sum(bool(paired(first, second).exceeds_noise) for first, second in draw)
    assert 8 <= false_alarms <= 34  # 20 expected, standard deviation 4.4


def runs(record: MakeRecord, label: str, values: dict[int, float | None], **changes: object) -> list[Record]:
    return [record(label, seed, value, **changes) for seed, value in values.items()]


def test_a_gap_beyond_the_noise_is_called_one(record: MakeRecord) -> None:
    records = runs(record, "A", {0: 50.0, 1: 51.0, 2: 52.0}) + runs(record, "B", {0: 40.0, 1: 41.1, 2: 41.9})
    (block,) = compare(records, "A", "B")
    text = as_text([block])
    assert "the gap exceeds the noise" in text
    assert "A is 10.00 above B (mean of 3 pairs" in text
    assert ("AP", "mean", " 51.00", " 41.00", "+10.00") in block.rows
    below = as_text(compare(records, "B", "A", ["AP"]))
    assert "B is 10.00 below A" in below
    assert "AP50" not in below


def test_a_gap_within_the_noise_is_called_none(record: MakeRecord) -> None:
    records = runs(record, "A", {0: 50.0, 1: 41.0}) + runs(record, "B", {0: 40.0, 1: 45.0})
    assert "does not exceed the noise" in as_text(compare(records, "A", "B"))


def test_one_pair_cannot_tell_and_moco_s_spread_is_quoted(record: MakeRecord) -> None:
    text = " ".join(as_text(compare(runs(record, "A", {0: 50.0}) + runs(record, "B", {0: 40.0}), "A", "B")).split())
    assert "One pair cannot tell a gap from noise" in text
    assert "facebookresearch/moco, detection/README.md" in text
    assert "exceeds" not in text


def test_only_common_seeds_are_paired_and_the_rest_is_named(record: MakeRecord) -> None:
    records = runs(record, "A", {0: 50.0, 1: 51.0, 5: 99.0}) + runs(record, "B", {0: 40.0, 1: 41.0, 2: None})
    (block,) = compare(records, "A", "B")
    assert "Left out, run on one side only: seed 5." in block.lines
    assert "Left out, failed: B seed 2." in block.lines
    assert [row[1] for row in block.rows if row[0] == "AP"] == ["0", "1", "mean"]


@pytest.mark.parametrize(
    "changes",
    [{"engine": "detectron2"}, {"recipe": {"lr": 1.0}}, {"task_version": 2}, {"data": {}}, {"protocol": "vicreg"}],
    ids=lambda changes: next(iter(changes)),
)
def test_runs_under_other_conditions_are_not_compared(record: MakeRecord, changes: dict[str, object]) -> None:
    records = runs(record, "A", {0: 50.0}) + runs(record, "B", {0: 40.0}, **changes)
    with pytest.raises(UserError, match="differ in the checkpoint alone") as caught:
        compare(records, "A", "B")
    assert "seeds 0" in caught.value.found


def test_runs_by_the_protocol_of_a_checkpoints_own_authors_are_compared_with_nothing(record: MakeRecord) -> None:
    marked = runs(record, "A", {0: 50.0}, authors_own=True) + runs(record, "B", {0: 40.0}, authors_own=True)
    with pytest.raises(UserError, match="every run of 'A' followed the protocol of its own authors"):
        compare(marked, "A", "B")
    (block,) = compare([*marked, *runs(record, "A", {0: 70.0}), *runs(record, "B", {0: 40.0})], "A", "B")
    assert [row[-1] for row in block.rows if row[0] == "AP"] == ["+30.00", "+30.00"]
    assert "†" not in " ".join(block.lines)


def test_pretrainings_of_several_seeds_are_paired_on_request(record: MakeRecord) -> None:
    ours = [record("A", seed, 50.0 + seed, checkpoint_sha256=str(seed) * 64) for seed in range(3)]
    (block,) = compare([*ours, *runs(record, "B", {0: 49.0, 1: 50.0, 2: 50.5})], "A", "B", trainings=True)
    assert any("weights of its own" in line for line in block.lines)
    assert [row[-1] for row in block.rows if row[0] == "AP"][:3] == [" +1.00", " +1.00", " +1.50"]
    twice = record("A", 0, 51.0, checkpoint_sha256="9" * 64)
    with pytest.raises(UserError, match="two runs of seed 0"):
        compare([*ours, twice, record("B")], "A", "B", trainings=True)


def test_labels_must_mean_one_checkpoint(record: MakeRecord) -> None:
    records = [*runs(record, "A", {0: 50.0}), record("A", 1, 51.0, checkpoint_sha256="9" * 64), record("B")]
    with pytest.raises(UserError, match="'A' names 2 different checkpoints"):
        compare(records, "A", "B")
    with pytest.raises(UserError, match="no record is of a checkpoint called 'C'") as caught:
        compare(records, "C", "B")
    assert caught.value.found == "A, B"


def test_equal_values_are_called_equal() -> None:
    assert sentence("A", "B", paired([40.0, 41.0], [40.0, 41.0])).startswith("A and B are equal")
