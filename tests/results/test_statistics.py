"""Statistics: equal to independent computations, and right about as often as they say."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from results.statistics import (
    Column,
    Gap,
    holm,
    least_gap,
    paired,
    rank,
    resampled,
    seeds_to_settle,
    student_quantile,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from bench_marks import CASES, Pairs, share_of_best

DRAWN = np.random.default_rng(3)


def seeds(values: object) -> dict[int, float]:
    return dict(enumerate(map(float, np.asarray(values))))


@pytest.mark.parametrize("n", [2, 3, 5, 9])
def test_two_rows_are_the_paired_t_test(n: int) -> None:
    one, other = DRAWN.normal(50, 1, n), DRAWN.normal(49, 1, n)
    expected = stats.ttest_rel(one, other)
    low, high = expected.confidence_interval()
    column = Column({"a": seeds(one), "b": seeds(other)})
    # the two-way fit of two rows is the same test, by another way
    for gap in (paired(seeds(one), seeds(other)), column.gap("a", "b"), column.pooled("a", "b")):
        assert gap is not None
        assert gap.p == pytest.approx(expected.pvalue, rel=1e-9)
        assert gap.interval() == pytest.approx((low, high), rel=1e-9)
        assert (gap.n, gap.degrees) == (n, n - 1)


def test_the_fit_of_a_full_table_is_the_two_way_analysis_by_hand() -> None:
    values = DRAWN.normal(size=(6, 4))
    column = Column({row: seeds(line) for row, line in enumerate(values)})
    residual = values - values.mean(1, keepdims=True) - values.mean(0) + values.mean()
    variance = (residual**2).sum() / (5 * 3)
    assert column.degrees == 15
    assert column.variance == pytest.approx(variance)
    gap = column.pooled(0, 1)
    assert gap is not None
    assert gap.difference == pytest.approx(values[0].mean() - values[1].mean())
    assert gap.error == pytest.approx(math.sqrt(2 * variance / 4))


def test_rows_that_lack_seeds_are_fitted_by_least_squares() -> None:
    values = {
        "a": {0: 1.0, 1: 2.5, 2: 3.0},
        "b": {0: 0.5, 1: 1.0},
        "c": {1: 4.0, 2: 4.1, 3: 6.0},
        "d": {2: 1.0, 3: 2.0},
    }
    column = Column(values)
    # reference cells instead of the generalised inverse
    entries = [(row, seed, value) for row, found in values.items() for seed, value in found.items()]
    design = np.array(
        [[1.0, *(row == name for name in "bcd"), *(seed == number for number in (1, 2, 3))] for row, seed, _ in entries]
    )
    observed = np.array([value for *_, value in entries])
    solved, squares, order, _ = np.linalg.lstsq(design, observed, rcond=None)
    variance = squares[0] / (len(entries) - order)
    inverse = np.linalg.inv(design.T @ design)
    gap = column.pooled("c", "b")
    assert gap is not None
    assert gap.difference == pytest.approx(solved[2] - solved[1])
    assert gap.degrees == len(entries) - order
    assert gap.error == pytest.approx(math.sqrt(variance * (inverse[1, 1] + inverse[2, 2] - 2 * inverse[1, 2])))


def test_rows_without_a_chain_of_common_seeds_are_not_compared() -> None:
    column = Column({"a": {0: 1.0, 1: 2.0}, "b": {0: 1.5, 1: 2.1}, "c": {5: 9.0, 6: 9.5}, "d": {5: 9.1, 6: 9.9}})
    assert column.pooled("a", "c") is None
    assert column.gap("a", "c") == Gap(-7.75, 0, None, 0, "nothing")
    assert column.pooled("a", "b") is not None
    assert set(column.marks.values()) == {"≈"}


def test_runs_that_do_not_depend_on_their_seed_decide_nothing() -> None:
    column = Column({"a": {0: 50.0, 1: 50.0, 2: 50.0}, "b": {0: 40.0, 1: 40.0, 2: 40.0}})
    assert column.gap("a", "b").interval() is None
    assert column.marks == {"a": "≈", "b": "≈"}


def test_the_guard() -> None:
    quiet = {f"q{row}": seeds(10 * row + DRAWN.normal(0, 0.01, 3)) for row in range(14)}
    column = Column(quiet | {"loud": seeds([90.0, 99.0, 84.0])})
    alone = column.gap("loud", "q1")
    assert (alone.basis, alone.degrees) == ("own pairs", 2)
    assert alone.error == pytest.approx(paired(column.rows["loud"], column.rows["q1"]).error)
    assert column.gap("q0", "q1").basis == "pooled noise"
    for one, other in itertools.permutations(column.rows, 2):
        own = paired(column.rows[one], column.rows[other]).error
        found = column.gap(one, other).error
        assert own is not None
        assert found is not None
        assert found >= own * (1 - 1e-12)


def test_few_rows_are_tested_pair_by_pair() -> None:
    rows = {row: seeds(DRAWN.normal(size=3)) for row in range(4)}
    column = Column(rows)
    assert column.gap(0, 1) == paired(column.rows[0], column.rows[1])
    assert Column(rows | {4: seeds(DRAWN.normal(size=3))}).gap(0, 1).basis == "pooled noise"


def test_holm_by_a_published_example() -> None:
    # en.wikipedia.org/wiki/Holm–Bonferroni_method, "Example": p .01, .04, .03, .005; the 4th and the 1st are rejected
    corrected = holm([0.01, 0.04, 0.03, 0.005])
    assert corrected == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [p <= 0.05 for p in corrected] == [True, False, False, True]


@given(st.lists(st.floats(0, 1), max_size=7))
def test_holm_is_the_closed_test_of_bonferroni(p: list[float]) -> None:
    """A hypothesis is rejected if every intersection that it is part of is (Marcus, Peritz & Gabriel 1976)."""
    numbers = range(len(p))
    families = [chosen for size in numbers for chosen in itertools.combinations(numbers, size + 1)]
    closed = [
        max(min(1.0, len(family) * min(p[each] for each in family)) for family in families if number in family)
        for number in numbers
    ]
    assert holm(p) == pytest.approx(closed)


def test_marks_by_hand() -> None:
    noise = [[0.0, 0.1, -0.1], [0.1, -0.1, 0.0], [-0.1, 0.0, 0.1], [0.05, -0.05, 0.0], [0.0, 0.05, -0.05]]

    def marked(*means: float) -> list[str]:
        rows = {row: seeds(mean + np.array(noise[row])) for row, mean in enumerate(means)}
        return list(Column(rows).marks.values())

    assert marked(50, 40, 30, 20, 10) == ["*", "+", "", "", ""]
    assert marked(10, 20, 30, 40, 50) == ["", "", "", "+", "*"]
    assert marked(50, 49.95, 30, 20, 10) == ["≈", "≈", "", "", ""]
    assert marked(50, 40, 39.95, 20, 10) == ["*", "", "", "", ""]
    assert Column({"a": seeds([1.0, 2.0]), "alone": {0: 99.0}}).marks == {"a": ""}


@given(st.permutations(range(5)), st.floats(0.1, 100), st.floats(-100, 100))
@settings(max_examples=25, deadline=None)
def test_marks_depend_neither_on_order_nor_on_scale(order: list[int], scale: float, shift: float) -> None:
    values = {row: seeds(np.random.default_rng(row).normal(row // 2, 0.2, 3)) for row in range(5)}
    expected = Column(values).marks
    moved = {row: {s: scale * value + shift for s, value in values[row].items()} for row in order}
    assert Column(moved).marks == expected


@pytest.mark.parametrize("case", ["8 equal rows", "8 equal rows, one three times as noisy", "2 equal rows far above 6"])
def test_a_false_best_is_rare(case: str) -> None:
    assert share_of_best(Column[int], *CASES[case], seeds=3, columns=150) <= 0.06


def test_a_true_best_is_found() -> None:
    case = CASES["a true best, 4 above 7 equal rows"]
    assert share_of_best(Column[int], *case, seeds=3, columns=100) > 0.7
    assert share_of_best(Pairs, *case, seeds=3, columns=100) < 0.2


@pytest.mark.parametrize(("effect", "n"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_seeds_to_settle_equals_the_tables_of_power(effect: float, n: int) -> None:
    """pwr.t.test(d, power=.8, type="paired") of R's package pwr: 198.15, 33.37, 14.30, 9.94 pairs."""
    assert seeds_to_settle(effect * 3.0, 3.0) == n
    assert seeds_to_settle(-effect, 1.0) == n
    assert seeds_to_settle(0.0, 1.0) is None
    assert seeds_to_settle(0.001, 1.0) is None


def test_the_least_gap_is_where_the_interval_touches_zero() -> None:
    differences = DRAWN.normal(size=4)
    spread = float(differences.std(ddof=1))
    differences += least_gap(spread, 4) - differences.mean()
    interval = paired(seeds(differences), seeds(np.zeros(4))).interval()
    assert interval is not None
    assert interval[0] == pytest.approx(0, abs=1e-12)
    assert student_quantile(2) == pytest.approx(stats.t.ppf(0.975, 2))


def test_resampling_from_six_seeds_on() -> None:
    one, other = DRAWN.normal(1, 1, 7), DRAWN.normal(size=7)
    assert resampled(seeds(one[:5]), seeds(other[:5])) is None
    found = resampled(seeds(one), seeds(other))
    assert found is not None
    differences = one - other
    signs = np.array(list(itertools.product([1, -1], repeat=7)))
    extreme = abs((signs * differences).mean(1)) >= abs(differences.mean()) - 1e-12
    assert found.p == pytest.approx(extreme.mean())
    assert found.low < differences.mean() < found.high


def test_mean_ranks_by_hand_and_their_intervals() -> None:
    def task(*means: float, noise: float = 0.01) -> dict[str, dict[int, float]]:
        return {
            name: seeds(mean + noise * np.random.default_rng(place).normal(size=3))
            for place, (name, mean) in enumerate(zip("abcd", means, strict=False))
        }

    tasks = {"one": task(9, 8, 7), "two": task(8, 9, 7), "three": task(9, 8, 7)}
    found = rank(tasks | {"only d": {"d": seeds([1.0, 2.0, 3.0])}})
    assert [(each.row, each.mean) for each in found.rows] == [("a", 4 / 3), ("b", 5 / 3), ("c", 3.0)]
    assert found.left_out == ("d",)
    for each in found.rows:
        assert each.wide_low <= each.low <= each.mean <= each.high <= each.wide_high
    assert (found.rows[0].low, found.rows[0].high) == (4 / 3, 4 / 3)  # gaps far beyond the noise
    assert found.rows[0].wide_low == 1.0
    blurred = rank({name: task(*range(3), noise=50.0) for name in "xyz"})
    assert all(each.high - each.low > 0.9 for each in blurred.rows)
    assert rank({name: {"a": rows["a"], "b": rows["b"]} for name, rows in tasks.items()}).rows == ()
