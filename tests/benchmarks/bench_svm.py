"""VOC07's support vector machines beside scikit-learn's LinearSVC: time, decision values, mAP.

    PYTHONPATH=. python tests/benchmarks/bench_svm.py [--per-cost 1] [--pairs 1] [--full] [--width 512 --rows 1000]

The features are synthetic: non-negative, of unit length, most of their variance in one direction and the rest decaying
as a power of the rank, with 20 imbalanced classes (5 to 40 % positive) that a linear machine tells apart at an average
precision of about 0.7 to 0.95.

1. Time: `svm_one_vs_all` with the batched solver (normalising, cross validation of all classes and costs, scores of the
   folds, refits, decision values) beside the published solver's cross validation. Of the latter a random sample is run,
   the three folds of `--per-cost` classes for each cost, on all cores at once, and the sum over the grid is
   extrapolated cost by cost; its refits are counted to neither. `--full` runs all of it.
2. The cross-validation scores of those cells in both.
3. Decision values of the test rows beside LIBLINEAR's primal solver run to tolerance 1e-10, one random class per cost
   (`--full`: every class).
4. mAP (area under the monotone precision-recall curve) of both. Without `--full` the published solver is given the
   costs that the batched one has chosen, since its own choice needs the whole grid.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from dataclasses import dataclass

import joblib
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.svm import LinearSVC
from torch import Tensor

from transfer.classification.probes import svm_costs as selection
from transfer.classification.probes.grids import COSTS
from transfer.classification.probes.svm import TOLERANCE, fit_svms
from transfer.classification.probes.svm_costs import SvmProbe, svm_one_vs_all
from transfer.classification.score import average_precisions

WEIGHTS = (2.0, 1.0)
FOLDS = 3


@dataclass
class Sample:
    """Rows of unit length (float64), labels ±1."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


def make_features(rows: int, test_rows: int, width: int, classes: int, seed: int = 0) -> Sample:
    g = torch.Generator().manual_seed(seed)
    n, factors = rows + test_rows, 512
    latent, decay = torch.randn(n, factors, generator=g), torch.arange(1, factors + 1)[:, None] ** -0.5
    directions = torch.randn(factors, classes, generator=g) * decay
    score = latent @ (directions / directions.norm(dim=0)) + 0.12 * torch.randn(n, classes, generator=g)
    share = torch.logspace(np.log10(0.05), np.log10(0.4), classes)
    labels = torch.stack([score[:, c] > score[:, c].quantile(1 - float(share[c])) for c in range(classes)], 1)
    mixed = 0.25 * latent @ (torch.randn(factors, width, generator=g) * decay) + 0.1 * torch.randn(
        n, width, generator=g
    )
    x = torch.relu(0.7 + mixed + 0.3 * torch.randn(width, generator=g)).double()
    x, y = x / (x.norm(dim=1, keepdim=True) + 1e-5), torch.where(labels, 1, -1)
    print(
        f"features {n} × {width}, {float((x == 0).double().mean()):.0%} zeros; "
        f"positives {share[0]:.0%} to {share[-1]:.0%}"
    )
    return Sample(x[:rows], y[:rows], x[rows:], y[rows:])


def ours(data: Sample) -> tuple[SvmProbe, float]:
    began = time.perf_counter()
    probe = svm_one_vs_all(data.train, data.train_labels, data.test, normalise=False)
    return probe, time.perf_counter() - began


def timed_fold(*arguments: object) -> tuple[float, bool, float]:
    began = time.perf_counter()
    score, converged = selection._liblinear_fold(*arguments)  # type: ignore[arg-type]
    return score, converged, time.perf_counter() - began


def published_cells(data: Sample, cells: list[tuple[int, int]]) -> tuple[NDArray[np.float64], float]:
    """Score, convergence and seconds [cells, folds, 3] of (class, cost) cells, on all cores, and seconds in all."""
    x, y = data.train.numpy(), data.train_labels.numpy()
    held_out = selection._held_out(data.train_labels, FOLDS).numpy()
    began = time.perf_counter()
    fits = joblib.Parallel(n_jobs=-1)(
        joblib.delayed(timed_fold)(x, y[:, c], held_out[:, c * FOLDS + fold], COSTS[place], WEIGHTS, 0)
        for c, place in cells
        for fold in range(FOLDS)
    )
    wall = time.perf_counter() - began
    return np.array(fits, dtype=float).reshape(len(cells), FOLDS, 3), wall


def sampled_cells(classes: int, per_cost: int) -> list[tuple[int, int]]:
    rng = np.random.default_rng(0)
    cells = [(int(c), place) for place in range(len(COSTS)) for c in rng.permutation(classes)[:per_cost]]
    return [cells[place] for place in rng.permutation(len(cells))]  # so that slow fits do not all come last


def report_time(cells: list[tuple[int, int]], fits: NDArray[np.float64], wall: float, classes: int) -> float:
    """Seconds of the published solver over the whole grid on all cores."""
    places, cores = np.array([place for _, place in cells]), os.cpu_count() or 1
    total = 0.0
    for place, cost in enumerate(COSTS):
        some = fits[places == place].reshape(-1, 3)
        total += some[:, 2].mean() * classes * FOLDS
        print(
            f"  C {cost:g}: {some[:, 2].mean():.2f} s a fit, "
            f"{int((some[:, 1] == 0).sum())} of {len(some)} stopped at 2000"
        )
    whole = len(cells) == classes * len(COSTS)
    print(f"published: {fits.shape[0] * FOLDS} fits in {wall:.0f} s on {cores} cores", end="; ")
    seconds = wall if whole else total / cores
    print(f"{'the whole grid' if whole else f'extrapolated to {classes * len(COSTS) * FOLDS} fits'}: {seconds:.0f} s")
    return seconds


def report_decisions(data: Sample, every: bool) -> None:
    rng, m = np.random.default_rng(1), data.train_labels.shape[1]
    problems = [(c, cost) for cost in COSTS for c in (range(m) if every else rng.permutation(m)[:1])]
    fit = fit_svms(data.train, data.train_labels[:, [c for c, _ in problems]], [cost for _, cost in problems])
    found, x, test = fit.decisions(data.test).numpy(), data.train.numpy(), data.test.numpy()

    def apart(place: int, c: int, cost: float) -> float:
        options = {"dual": False, "tol": 1e-10, "max_iter": 10**6, "class_weight": {1: 2, -1: 1}}
        machine = LinearSVC(C=cost, **options).fit(x, data.train_labels[:, c].numpy())
        return float(np.abs(machine.decision_function(test) - found[:, place]).max())

    worst = [apart(place, c, cost) for place, (c, cost) in enumerate(problems)]
    print(f"decision values of {len(problems)} machines, largest difference to LIBLINEAR at 1e-10: {max(worst):.1e}")
    by_cost = {cost: max(gap for (_, each), gap in zip(problems, worst, strict=True) if each == cost) for cost in COSTS}
    print("  by cost: " + ", ".join(f"{cost:g}: {gap:.0e}" for cost, gap in by_cost.items()))


def mean_ap(decisions: Tensor, data: Sample) -> float:
    return average_precisions(decisions.numpy(), data.test_labels.numpy().astype(np.int8)).metrics()["mAP"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5011)
    parser.add_argument("--test-rows", type=int, default=4952)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--per-cost", type=int, default=1, help="classes sampled for each cost, three folds each")
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--full", action="store_true", help="the published solver's whole grid")
    arguments = parser.parse_args()
    data = make_features(arguments.rows, arguments.test_rows, arguments.width, arguments.classes)
    per_cost = arguments.classes if arguments.full else arguments.per_cost
    cells, ratios = sampled_cells(arguments.classes, per_cost), []
    for pair in range(arguments.pairs):
        probe, seconds = ours(data)
        choice = probe.choice
        print(
            f"pair {pair}: batched {seconds:.1f} s with {torch.get_num_threads()} threads, "
            f"load {os.getloadavg()[0]:.1f}"
        )
        fits, wall = published_cells(data, cells)
        theirs = report_time(cells, fits, wall, arguments.classes)
        ratios.append(theirs / seconds)
        print(f"  ratio {ratios[-1]:.1f}, load {os.getloadavg()[0]:.1f}", flush=True)
    print(f"published over batched, median of {len(ratios)}: {statistics.median(ratios):.1f}")
    gaps = [fits[i, :, 0].mean() - float(choice.table[c, place]) for i, (c, place) in enumerate(cells)]
    print(f"cross-validation AP of {len(cells)} cells: largest difference {100 * np.abs(gaps).max():.3f} points")
    left = choice.unconverged + probe.fit.unconverged
    print(
        f"batched: {left} of {choice.fits + arguments.classes} unconverged at {TOLERANCE:g}, "
        f"costs {choice.costs.tolist()}"
    )
    costs = choice.costs
    if arguments.full:
        table = np.zeros_like(choice.table.numpy())
        for i, (c, place) in enumerate(cells):
            table[c, place] = fits[i, :, 0].mean()
        costs = torch.tensor([COSTS[place] for place in table.argmax(1)], dtype=torch.float64)
        print(f"costs that the published solver chooses otherwise: {int((costs != choice.costs).sum())}")
    published = selection._fit_liblinear(data.train, data.train_labels, costs, WEIGHTS, 0)
    a, b = mean_ap(probe.decisions, data), mean_ap(published.decisions(data.test), data)
    print(f"mAP: batched {a:.4f}, published {b:.4f}, difference {a - b:+.4f} points", flush=True)
    report_decisions(data, arguments.full)


if __name__ == "__main__":
    main()
