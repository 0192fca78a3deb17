"""How often a column's best is a false one, and how often a true one is found: the rule of `results.statistics`.

    PYTHONPATH=. python tests/benchmarks/bench_marks.py [--columns 2000]

Columns are drawn by the model (value = checkpoint + seed + noise, of standard deviation 1 where nothing else is said).
Beside the rule stand its parts alone: pooled noise without the guard, and pairs by themselves, each with Holm.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

from results import statistics
from results.statistics import Column, Gap


class Pooled(Column[int]):
    """Without the guard."""

    def gap(self, first: int, second: int) -> Gap:
        """By the fit alone."""
        found = self.pooled(first, second)
        assert found is not None
        return found


class Pairs(Column[int]):
    """Without a common noise."""

    def gap(self, first: int, second: int) -> Gap:
        """By the two rows alone."""
        return statistics.paired(self.rows[first], self.rows[second])


def share_of_best(
    kind: type[Column[int]], means: Sequence[float], noise: Sequence[float], seeds: int, columns: int, draw: int = 0
) -> float:
    """Share of drawn columns in which row 0 or any other is called best."""
    generator = np.random.default_rng(draw)
    found = 0
    for _ in range(columns):
        common = generator.normal(size=seeds)
        values = (
            np.array(means)[:, None] + common + generator.normal(size=(len(means), seeds)) * np.array(noise)[:, None]
        )
        rows = {row: dict(enumerate(map(float, line))) for row, line in enumerate(values)}
        found += "*" in kind(rows).marks.values()
    return found / columns


CASES = {
    "8 equal rows": ([0] * 8, [1] * 8),
    "8 equal rows, one three times as noisy": ([0] * 8, [3] + [1] * 7),
    "2 equal rows far above 6": ([0, 0] + [-50] * 6, [1] * 8),
    "2 equal rows far above 6, three times as noisy": ([0, 0] + [-50] * 6, [3, 3] + [1] * 6),
    "3 rows of noise 3, 1, .5, two equal on top": ([0, 0, -50], [3, 1, 0.5]),
    "a true best, 4 above 7 equal rows": ([4] + [0] * 7, [1] * 8),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--columns", type=int, default=2000)
    options = parser.parse_args()
    print(f"{'share of columns with a best':<50}  seeds   rule  pooled alone  pairs alone")
    for name, (means, noise) in CASES.items():
        for seeds in (3, 5):
            shares = [
                share_of_best(kind, means, noise, seeds, options.columns) for kind in (Column[int], Pooled, Pairs)
            ]
            print(f"{name:<50}  {seeds:>5}  {shares[0]:5.3f}  {shares[1]:12.3f}  {shares[2]:11.3f}", flush=True)


if __name__ == "__main__":
    main()
