"""Is a gap real? Gaps between checkpoints over common seeds, marks of a table's column, mean ranks over tasks.

The model of a column is the randomised-block layout (Fisher, The Design of Experiments, 1935; Montgomery, Design and
Analysis of Experiments, ch. 4): value of checkpoint c with seed s = a_c + b_s + e, errors e of one variance. With two
checkpoints its test is the paired t test. Noise here is that of seeds: not of other pretraining runs, unless each seed
has its own, and not of other test images (Bouthillier et al., Accounting for Variance in Machine Learning Benchmarks,
MLSys 2021, arXiv 2103.03098). All numbers are percentage points.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import special  # scipy.stats takes a second to import, which a table need not wait for

LEVEL = 0.05
POOLED_FROM = 5  # rows; with fewer, one of them decides the common noise
STANDS_ALONE = 2.0  # a pair whose own standard error exceeds so many times the pooled one
RESAMPLED_FROM = 6  # seeds
RANKED_SHARE = 0.7  # of the tasks, that a row must have to be ranked
RANKED_ROWS = 3
_EQUAL = 1e-9  # percentage points; a spread below it is that of sums in another order

R = TypeVar("R", bound=Hashable)
Values = Mapping[int, float]  # seed → value


@dataclass(frozen=True)
class Gap:
    """First − second.

    Attributes:
        difference: of the two, over what `basis` says.
        n: seeds that both have.
        error: standard error of `difference`; None if nothing is known of the noise: fewer than two common seeds and
            no pooled noise, or runs that do not depend on their seed at all.
        degrees: of freedom of the noise's estimate; 0 without `error`.
        basis: "own pairs", "pooled noise" or "nothing".
    """

    difference: float
    n: int
    error: float | None
    degrees: int
    basis: str

    @property
    def p(self) -> float:
        """Two-sided p of no gap, by Student's t (Student, The probable error of a mean, 1908); 1 without `error`."""
        if self.error is None:
            return 1.0
        return float(2 * special.stdtr(self.degrees, -abs(self.difference) / self.error))

    def interval(self, level: float = LEVEL) -> tuple[float, float] | None:
        """Confidence interval of the gap at 1 − `level`; None without `error`."""
        if self.error is None:
            return None
        reach = student_quantile(self.degrees, level) * self.error
        return self.difference - reach, self.difference + reach


def student_quantile(degrees: int, level: float = LEVEL) -> float:
    """The t with P(|T| > t) = `level` for Student's distribution."""
    return float(special.stdtrit(degrees, 1 - level / 2))


def paired(first: Values, second: Values) -> Gap:
    """The gap by the differences of common seeds alone: mean, standard deviation / √n, n − 1 degrees of freedom.

    Student's paired t test; without common seeds the difference is that of the means, and nothing is known of noise.
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return Gap(fmean(first.values()) - fmean(second.values()), 0, None, 0, "nothing")
    differences = np.array([first[seed] - second[seed] for seed in seeds])
    mean = float(differences.mean())
    spread = float(differences.std(ddof=1)) if len(seeds) > 1 else 0.0
    if spread <= _EQUAL:
        return Gap(mean, len(seeds), None, 0, "nothing")
    return Gap(mean, len(seeds), spread / math.sqrt(len(seeds)), len(seeds) - 1, "own pairs")


@dataclass(frozen=True, eq=False)
class _Fit(Generic[R]):
    """Least squares of the two-way layout by the pseudo-inverse of XᵀX, which has no inverse.

    Attributes:
        places: row → its place among the effects; those of the seeds follow.
        effects, inverse: a solution, and the pseudo-inverse that gave it.
        determined: projection on what of the effects the data determine.
        variance, degrees: of the residuals.
        squares: row → sum of its squared residuals.
    """

    places: dict[R, int]
    effects: NDArray[np.float64]
    inverse: NDArray[np.floating]
    determined: NDArray[np.floating]
    variance: float
    degrees: int
    squares: dict[R, float]


class Column(Generic[R]):
    """One column of a table: the values of its rows by seed, and the gaps between them.

    From `POOLED_FROM` rows on, the noise of a gap is that of the whole column: its standard error comes from the
    residual variance of the two-way fit with its N − rank degrees of freedom (Searle, Linear Models, 1971, ch. 5, for
    rows that lack seeds). Guard: it is never below the pair's own, and a pair whose own is over `STANDS_ALONE` times
    the pooled one is tested by itself, with n − 1 degrees. With fewer rows each pair is tested by itself.

    Simulated (tests/benchmarks/bench_marks.py), three seeds, eight rows: a false best in .001 of columns of equal rows,
    .04 where two equal ones stand far above the rest; a true gap of four standard deviations is found in .83 (by pairs
    alone with Holm: .04). The price: where those two are three times as noisy as the rest, a false best in about .12
    (without the guard .24, by pairs alone .05). Who doubts that the noise is alike compares the two by themselves.

    Args:
        rows: row → seed → value. Rows of fewer than two runs take no part.
    """

    def __init__(self, rows: Mapping[R, Values]) -> None:
        self.rows = {row: dict(values) for row, values in rows.items() if len(values) > 1}

    def mean(self, row: R) -> float:
        """Over the row's own seeds, as the table shows it."""
        return fmean(self.rows[row].values())

    @property
    def order(self) -> list[R]:
        """Rows from the highest mean down."""
        return sorted(self.rows, key=self.mean, reverse=True)

    @cached_property
    def _fit(self) -> _Fit[R]:
        seeds = sorted({seed for values in self.rows.values() for seed in values})
        row_place = {row: place for place, row in enumerate(self.rows)}
        seed_place = {seed: len(row_place) + place for place, seed in enumerate(seeds)}
        entries = [(row_place[row], seed_place[seed]) for row, values in self.rows.items() for seed in values]
        observed = np.array([value for values in self.rows.values() for value in values.values()])
        design = np.zeros((len(entries), len(row_place) + len(seed_place)))
        for line, places in enumerate(entries):
            design[line, places] = 1.0
        normal = design.T @ design
        inverse = np.linalg.pinv(normal, rcond=1e-9, hermitian=True)
        effects = inverse @ (design.T @ observed)
        residuals = observed - design @ effects
        degrees = len(entries) - int(np.linalg.matrix_rank(normal, rtol=1e-9, hermitian=True))
        variance = float(residuals @ residuals) / degrees if degrees else 0.0
        squares = {
            row: float(np.sum(residuals[[line for line, (place, _) in enumerate(entries) if place == at]] ** 2))
            for row, at in row_place.items()
        }
        return _Fit(row_place, effects, inverse, normal @ inverse, variance, degrees, squares)

    @property
    def variance(self) -> float:
        """Residual variance of the fit: what is left when checkpoint and seed are accounted for. 0: none is known."""
        return self._fit.variance if self.rows and self._fit.variance > _EQUAL**2 else 0.0

    @property
    def degrees(self) -> int:
        """Degrees of freedom of `variance`."""
        return self._fit.degrees if self.rows else 0

    def gap(self, first: R, second: R) -> Gap:
        """First − second, by the rule above."""
        own = paired(self.rows[first], self.rows[second])
        if len(self.rows) < POOLED_FROM or not self.variance:
            return own
        pooled = self.pooled(first, second)
        if pooled is None or (own.error is not None and pooled.error and own.error > STANDS_ALONE * pooled.error):
            return own
        if own.error is not None and pooled.error and own.error > pooled.error:
            return Gap(pooled.difference, own.n, own.error, pooled.degrees, "pooled noise")
        return pooled

    def pooled(self, first: R, second: R) -> Gap | None:
        """The gap by the fit alone, without the guard; None where no chain of common seeds connects the two."""
        fit = self._fit
        contrast = np.zeros(len(fit.effects))
        contrast[fit.places[first]], contrast[fit.places[second]] = 1.0, -1.0
        if not fit.degrees or not np.allclose(fit.determined @ contrast, contrast, atol=1e-6):
            return None
        error = math.sqrt(fit.variance * float(contrast @ fit.inverse @ contrast))
        n = len(self.rows[first].keys() & self.rows[second].keys())
        return Gap(float(contrast @ fit.effects), n, error, fit.degrees, "pooled noise")

    def told(self, top: R, others: Iterable[R]) -> dict[R, bool]:
        """Which of the others lie below `top` beyond the noise: Holm at `LEVEL` over all of them."""
        gaps = {row: self.gap(top, row) for row in others}
        corrected = holm([gap.p for gap in gaps.values()])
        return {row: p <= LEVEL and gap.difference > 0 for (row, gap), p in zip(gaps.items(), corrected, strict=True)}

    @cached_property
    def marks(self) -> dict[R, str]:
        """Row → "*" best, "+" second, "≈" not told from the highest, or "".

        The row of the highest mean is tested against all others. If all are told from it, it is best, and the same is
        asked of the rest for second; if not, nobody is best, and the highest and those not told from it are marked.
        """
        found = dict.fromkeys(self.rows, "")
        if len(found) < 2:
            return found
        top, *rest = self.order
        told = self.told(top, rest)
        if not all(told.values()):
            return found | {row: "≈" for row in self.order if row == top or not told[row]}
        found[top] = "*"
        if len(rest) > 1 and all(self.told(rest[0], rest[1:]).values()):
            found[rest[0]] = "+"
        return found


def holm(p: Sequence[float]) -> list[float]:
    """P-values corrected for their number, in the order given.

    Step-down: the k-th smallest of m is multiplied by m − k + 1, and none is below one before it (Holm, A simple
    sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6, 1979, 65–70).
    """
    corrected = [0.0] * len(p)
    reached = 0.0
    for place, number in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        reached = max(reached, min(1.0, p[number] * (len(p) - place)))
        corrected[number] = reached
    return corrected


# -- what so many seeds can say


def seeds_to_settle(gap: float, spread: float, power: float = 0.8, most: int = 1000) -> int | None:
    """How many seeds of both a paired t test needs to find `gap` with probability `power`; None if over `most`.

    Smallest n for which a noncentral t of n − 1 degrees, noncentrality |gap| √n / spread, exceeds the critical value
    (Cohen, Statistical Power Analysis for the Behavioral Sciences, 2nd ed., 1988, ch. 2; the tail on the other side,
    below .001 at this power, is left out). It takes gap and spread for true: an estimate from few seeds is a guess.

    Args:
        gap: percentage points.
        spread: standard deviation of the differences between pairs, above 0.
    """
    if not gap:
        return None
    for n in range(2, most + 1):
        critical = student_quantile(n - 1)
        if 1 - float(special.nctdtr(n - 1, abs(gap) * math.sqrt(n) / spread, critical)) >= power:
            return n
    return None


def least_gap(spread: float, n: int) -> float:
    """The smallest gap whose 95 % interval excludes 0 over n ≥ 2 pairs whose differences have this spread."""
    return student_quantile(n - 1) * spread / math.sqrt(n)


@dataclass(frozen=True)
class Resampled:
    """What resampling says of a paired gap.

    Attributes:
        p: two-sided, of the sign-flip permutation test.
        low, high: 95 % interval of the mean difference by the bootstrap.
    """

    p: float
    low: float
    high: float


def resampled(first: Values, second: Values, seed: int = 0) -> Resampled | None:
    """Sign-flip permutation test and bootstrap of the differences over common seeds; None below `RESAMPLED_FROM`.

    Fewer pairs cannot carry either: n pairs have 2ⁿ signs, so that the smallest two-sided p is 2 / 2ⁿ (.25 for three),
    and of three values there are ten bootstrap samples, their variance short by (n − 1) / n.

    Permutation: Fisher 1935, ch. 3, by `scipy.stats.permutation_test`. Bootstrap: bias-corrected and accelerated
    (Efron, Better Bootstrap Confidence Intervals, JASA 82, 1987), by `scipy.stats.bootstrap`, 9,999 samples.
    """
    seeds = sorted(first.keys() & second.keys())
    if len(seeds) < RESAMPLED_FROM:
        return None
    from scipy import stats

    differences = np.array([first[each] - second[each] for each in seeds])
    if float(differences.std()) <= _EQUAL:
        return None
    drawn = np.random.default_rng(seed)
    flips = stats.permutation_test((differences,), _average, permutation_type="samples", rng=drawn, vectorized=True)
    interval = stats.bootstrap((differences,), _average, rng=drawn, vectorized=True).confidence_interval
    return Resampled(float(flips.pvalue), float(interval.low), float(interval.high))


def _average(values: NDArray[np.float64], axis: int = -1) -> Any:
    return np.mean(values, axis=axis)


# -- ranks


@dataclass(frozen=True)
class Ranked(Generic[R]):
    """A row's mean rank over tasks; 1 is best.

    Attributes:
        mean: of the ranks by mean value, ties sharing theirs.
        low, high: 95 % interval over seeds, for these tasks.
        wide_low, wide_high: over seeds and over which tasks were taken.
    """

    row: R
    mean: float
    low: float
    high: float
    wide_low: float
    wide_high: float


@dataclass(frozen=True)
class Ranking(Generic[R]):
    """Mean ranks.

    Attributes:
        rows: from the best mean rank down; empty if fewer than `RANKED_ROWS` rows can be ranked.
        tasks: that were counted: those that all ranked rows have.
        left_out: rows with fewer than `RANKED_SHARE` of the tasks.
    """

    rows: tuple[Ranked[R], ...]
    tasks: tuple[str, ...]
    left_out: tuple[R, ...]


def rank(tasks: Mapping[str, Mapping[R, Values]], draws: int = 4000, seed: int = 0) -> Ranking[R]:
    """Mean rank of every row over the tasks that all ranked rows have, with two intervals.

    Each draw takes a task's noise variance as s² ν / χ²(ν), then each mean as normal with that variance over its
    number of seeds, and ranks: the posterior of the model under the usual flat prior (Gelman et al., Bayesian Data
    Analysis, 3rd ed., ch. 14.2). A row whose own residuals are larger than the column's has its own s². The wide
    interval draws the tasks too, with replacement (Efron 1979). Interval: 2.5 % and 97.5 % of the draws.

    Args:
        tasks: task → row → seed → value; one metric a task. Rows of single runs have no such task.
        draws: how many.
        seed: equal seeds give equal intervals.
    """
    from scipy.stats import rankdata

    columns = {task: Column(rows) for task, rows in tasks.items()}
    columns = {task: column for task, column in columns.items() if column.degrees and column.variance}
    every = list(dict.fromkeys(row for rows in tasks.values() for row in rows))
    counts = {row: sum(row in column.rows for column in columns.values()) for row in every}
    ranked = [row for row in every if columns and counts[row] >= RANKED_SHARE * len(columns)]
    shared = [task for task, column in columns.items() if all(row in column.rows for row in ranked)]
    left_out = tuple(row for row in every if row not in ranked)
    if len(ranked) < RANKED_ROWS or not shared:
        return Ranking((), (), tuple(every))
    generator = np.random.default_rng(seed)
    means = np.array([[columns[task].mean(row) for row in ranked] for task in shared])
    drawn = np.empty((draws, len(shared), len(ranked)))
    for place, task in enumerate(shared):
        scale = columns[task].degrees / generator.chisquare(columns[task].degrees, size=(draws, 1))
        sizes = np.array([len(columns[task].rows[row]) for row in ranked])
        spread = np.sqrt(scale * _variances(columns[task], ranked) / sizes)
        noise = spread * generator.standard_normal((draws, len(ranked)))
        drawn[:, place] = rankdata(-means[place] - noise, axis=-1)
    chosen = generator.integers(len(shared), size=(draws, len(shared)))
    tight = np.percentile(drawn.mean(axis=1), [2.5, 97.5], axis=0)
    loose = np.percentile(np.take_along_axis(drawn, chosen[:, :, None], axis=1).mean(axis=1), [2.5, 97.5], axis=0)
    own = rankdata(-means, axis=-1).mean(axis=0)
    rows = [
        Ranked(row, float(own[n]), *map(float, tight[:, n]), *map(float, loose[:, n])) for n, row in enumerate(ranked)
    ]
    return Ranking(tuple(sorted(rows, key=lambda each: each.mean)), tuple(shared), left_out)


def _variances(column: Column[R], rows: Sequence[R]) -> NDArray[np.float64]:
    """The column's residual variance, or a row's own where that is larger.

    Own: its sum of squared residuals over its share, by number of runs, of the degrees of freedom.
    """
    fit, total = column._fit, sum(map(len, column.rows.values()))
    own = [fit.squares[row] * total / (len(column.rows[row]) * fit.degrees) for row in rows]
    return np.maximum(own, fit.variance)
