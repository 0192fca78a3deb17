"""Time of the path of 45 logistic regressions beside 45 separate fits, by scikit-learn and by the same solver.

    PYTHONPATH=. python tests/benchmarks/bench_logistic.py [--rows 3680 --width 2048 --classes 37] [--sample 5] \
        [--cap 300]

The separate fits are those of a sample of the 45 penalties, evenly spread; their mean times 45 is what is compared
with the whole path (made before and after them, the mean taken), and printed as such. Beside each is how far its
objective, evaluated in float64, lies above the path's, relative to it.

- converged: scikit-learn's L-BFGS in float64 with its `tol`, the largest entry of the mean objective's gradient, at
  the gradient that the path reached for that penalty. `--cap` bounds its iterations: where it is met (or the line
  search gives up), the fit was ended short of that, and the ratio is a lower bound.
- published: float64, 100 iterations, tol 1e-4 of the sum objective's gradient, as scikit-learn understood it when the
  protocol was published (before scikit-learn/scikit-learn#26721, merged in October 2023).
- defaults: float32, 100 iterations, tol 1e-4 of the mean objective's gradient, as scikit-learn understands it now.
- cold: this project's solver, each penalty alone with a basis and a start of its own.

Features are made: a few directions dominate, entries are positive with many near 0, as pooled ones after a ReLU are.
Wall seconds, and processor seconds in brackets: these are what to look at on a machine that does other things too.
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from collections.abc import Callable

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from tests.benchmarks.turns import measured
from transfer.classification.probes.grids import PENALTIES
from transfer.classification.probes.logistic import Fit, logistic_path

Fitted = tuple[np.ndarray, np.ndarray, int]  # weight, bias, iterations


def made_features(rows: int, width: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Float32 [rows, width] and labels; the i-th direction's standard deviation falls as 1 / √i."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (rows,), generator=g)
    spectrum = torch.arange(1, width + 1) ** -0.5
    hidden = 0.35 * torch.randn(classes, width, generator=g)[labels] + torch.randn(rows, width, generator=g)
    mixed = (hidden * spectrum) @ torch.linalg.qr(torch.randn(width, width, generator=g))[0]
    return torch.nn.functional.softplus(2 * (mixed * width**0.5 / spectrum.norm() - 0.5)) / 4, labels


def objective(weight: np.ndarray, bias: np.ndarray, x: Tensor, labels: Tensor, penalty: float) -> float:
    w, b = torch.as_tensor(weight).double(), torch.as_tensor(bias).double()
    losses = torch.nn.functional.cross_entropy(x.double() @ w.T + b, labels, reduction="sum")
    return float(losses + penalty / 2 * w.square().sum())


def by_sklearn(x: Tensor, labels: Tensor, penalty: float, dtype: type, tol: float, iterations: int) -> Fitted:
    model = LogisticRegression(C=1 / penalty, tol=tol, max_iter=iterations)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(x.numpy().astype(dtype), labels.numpy())
    return model.coef_, model.intercept_, int(model.n_iter_[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("rows", 3680), ("width", 2048), ("classes", 37), ("sample", 5), ("cap", 300)):
        parser.add_argument(f"--{name}", type=int, default=value)
    a = parser.parse_args()
    x, labels = made_features(a.rows, a.width, a.classes)
    print(f"{a.rows} rows, {a.width} features, {a.classes} classes, {torch.get_num_threads()} threads")

    path: list[Fit] = []

    def whole() -> None:
        path[:] = logistic_path(x, labels, classes=a.classes)

    def cold(penalty: float) -> Fitted:
        (fit,) = logistic_path(x, labels, classes=a.classes, penalties=[penalty])
        return fit.weight.numpy(), fit.bias.numpy(), 0

    path_times = [measured(whole, 1)]
    print("path: {:.1f} s ({:.1f})".format(*path_times[0]), flush=True)
    fits = {fit.penalty: fit for fit in path}
    contestants: dict[str, Callable[[float], Fitted]] = {
        "converged": lambda p: by_sklearn(x, labels, p, np.float64, fits[p].gradient, a.cap),
        "published": lambda p: by_sklearn(x, labels, p, np.float64, 1e-4 / a.rows, 100),
        "defaults": lambda p: by_sklearn(x, labels, p, np.float32, 1e-4, 100),
        "cold": cold,
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for penalty in [PENALTIES[round((i + 0.5) * 45 / a.sample - 0.5)] for i in range(a.sample)]:
        fit = fits[penalty]
        least = objective(fit.weight.numpy(), fit.bias.numpy(), x, labels, penalty)
        for name, contestant in contestants.items():
            found: list[Fitted] = []
            times[name].append(measured(lambda c=contestant, p=penalty, to=found: to.append(c(p)), 1))  # type: ignore[misc]
            weight, bias, iterations = found[0]
            above = objective(weight, bias, x, labels, penalty) / least - 1
            wall, processor = times[name][-1]
            short = " (cap met)" if name == "converged" and iterations >= a.cap else ""
            print(
                f"penalty {penalty:8.1e} {name:10} {wall:7.2f} s ({processor:.2f}), {iterations} iterations{short}, "
                f"objective above by {above:.1e}",
                flush=True,
            )
    path_times.append(measured(whole, 1))
    print("path: {:.1f} s ({:.1f})".format(*path_times[-1]))
    print(f"all converged: {all(fit.converged for fit in path)}")
    ours = [statistics.mean(column) for column in zip(*path_times, strict=True)]
    for name, column in times.items():
        wall, processor = (45 * statistics.mean(part) for part in zip(*column, strict=True))
        ratios = f"{wall / ours[0]:.1f}× ({processor / ours[1]:.1f}×)"
        print(f"45 × {name}: {wall:.0f} s ({processor:.0f}) extrapolated from {a.sample}: {ratios} the path's time")


if __name__ == "__main__":
    main()
