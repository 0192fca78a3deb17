"""Table and figure of an ablation."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from transfer.atomic import write_atomically, write_text

METRICS = {"knn": "kNN accuracy, %", "linear": "linear accuracy, %"}
SETTINGS = (
    "method",
    "views",
    "batch",
    "dimensions",
    "singular",
    "singular_form",
    "brownian",
    "brownian_per",
    "centroid",
)
PLAIN = {"method": "msbreg", "centroid": "others", "singular_form": "nuclear", "brownian_per": "view"}


def report(rows: Sequence[Mapping[str, Any]], out: Path) -> list[Path]:
    """Write `out`/table.csv (a row a run), table.md (a row a setting, mean ± standard deviation over seeds) and
    figure.png; returns their paths."""
    frame = pd.DataFrame(rows).sort_values("name", ignore_index=True)
    table = over_seeds(frame)
    paths = [out / "table.csv", out / "table.md", out / "figure.png"]
    write_text(paths[0], frame.to_csv(index=False))
    write_text(paths[1], readable(table))
    picture = io.BytesIO()
    draw(frame).savefig(picture, format="png", dpi=110)
    write_atomically(paths[2], lambda file: file.write(picture.getbuffer()))
    return paths


def over_seeds(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation (n − 1; empty for one seed) over the seeds of every setting."""
    grouped = frame.groupby(list(SETTINGS), sort=True)
    table = grouped[[*METRICS]].agg(["mean", "std"])
    table.columns = pd.Index([f"{metric}_{what}" for metric, what in table.columns])
    table["seeds"] = grouped["seed"].nunique()
    table["effective_rank"] = grouped["effective_rank"].mean() if "effective_rank" in frame else math.nan
    table["gain"] = [mean_difference(frame, setting) for setting in table.index]
    return table.reset_index()


def mean_difference(frame: pd.DataFrame, setting: tuple[Any, ...]) -> str:
    """kNN accuracy above that of the same setting without the forces, paired by seed: "mean ± standard error"."""
    wanted = dict(zip(SETTINGS, setting, strict=True))
    if not (wanted["singular"] or wanted["brownian"]):
        return ""
    without = wanted | {"singular": 0.0, "brownian": 0.0, "singular_form": "nuclear", "brownian_per": "view"}
    difference = (_by_seed(frame, wanted) - _by_seed(frame, without)).dropna()
    if difference.empty:
        return ""
    error = f" ± {difference.std() / math.sqrt(len(difference)):.2f}" if len(difference) > 1 else ""
    return f"{difference.mean():+.2f}{error}"


def _by_seed(frame: pd.DataFrame, setting: Mapping[str, Any]) -> pd.Series:
    same = pd.Series(True, index=frame.index)
    for name, value in setting.items():
        same &= frame[name] == value
    found: pd.Series = frame[same].set_index("seed")["knn"]
    return found


def readable(table: pd.DataFrame) -> str:
    """The table in Markdown."""
    shown = table[[*SETTINGS]].rename(
        columns={"views": "K", "batch": "n", "dimensions": "d", "singular": "λ_s", "brownian": "λ_b"}
    )
    for metric, title in METRICS.items():
        shown[title] = [
            f"{mean:.2f}" + ("" if math.isnan(std) else f" ± {std:.2f}")
            for mean, std in zip(table[f"{metric}_mean"], table[f"{metric}_std"], strict=True)
        ]
    shown["kNN gain over no forces"] = table["gain"]
    shown["effective rank"] = [("" if math.isnan(rank) else f"{rank:.1f}") for rank in table["effective_rank"]]
    shown["seeds"] = table["seeds"]
    text: str = shown.to_markdown(index=False)
    note = (
        "± beside an accuracy: standard deviation over seeds; beside a gain: standard error of the paired difference."
    )
    return f"{text}\n\n{note}\n"


def draw(frame: pd.DataFrame) -> Figure:
    """Accuracy over λ_s and λ_b for every K, over the scaled λ_s for every batch and dimension, and of the methods."""
    figure = Figure(figsize=(13, 7.5), layout="constrained")
    axes = figure.subplots(2, 3)
    ours = frame[(frame["method"] == "msbreg") & (frame["centroid"] == "others")]
    n, d = ours["batch"].mode()[0], ours["dimensions"].mode()[0]
    usual = ours[(ours["batch"] == n) & (ours["dimensions"] == d)]
    _over(axes[0, 0], usual[_nuclear(usual) & (usual["brownian"] == 0)], "singular", "λ_s (nuclear)")
    _over(axes[0, 1], usual[(usual["singular"] == 0) & (usual["brownian_per"] == "view")], "brownian", "λ_b (per view)")
    image = usual[(usual["singular"] == 0) & ((usual["brownian_per"] == "image") | (usual["brownian"] == 0))]
    _over(axes[0, 2], image, "brownian", "λ_b (per image)")
    _scaled(axes[1, 0], ours[_nuclear(ours) & (ours["brownian"] == 0) & (ours["views"] == 2)])
    covariance = (usual["singular_form"] == "covariance") | (usual["singular"] == 0)
    _over(
        axes[1, 1], usual[covariance & (usual["brownian"] == 0) & (usual["views"] == 2)], "singular", "λ_s (covariance)"
    )
    _methods(axes[1, 2], frame, n, d)
    for panel in axes.flat:
        panel.grid(alpha=0.3)
        for _, row in frame[frame["method"] == "random"].groupby("method")[["knn"]].mean().iterrows():
            panel.axhline(row["knn"], color="grey", linestyle=":", label="untrained")
    return figure


def _nuclear(frame: pd.DataFrame) -> pd.Series:
    chosen: pd.Series = (frame["singular_form"] == "nuclear") | (frame["singular"] == 0)
    return chosen


def _over(axes: Axes, frame: pd.DataFrame, weight: str, title: str) -> None:
    axes.set_title(title)
    axes.set_ylabel(METRICS["knn"])
    for views, part in frame.groupby("views"):
        _line(axes, part.groupby(weight)["knn"], f"K = {views}", lowest=frame[weight][frame[weight] > 0].min())
    if len(frame):
        axes.legend(fontsize=8)


def _line(axes: Axes, grouped: Any, label: str, lowest: float) -> None:
    table = grouped.agg(["mean", "std", "count"])
    # 0 has no place on a logarithmic axis: it stands half as far left as the lowest weight.
    places = [value if value > 0 else lowest / 2 for value in table.index]
    axes.errorbar(places, table["mean"], table["std"].fillna(0), marker="o", markersize=4, capsize=3, label=label)
    if lowest == lowest:
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted({*places, *axes.get_xticks(minor=False)} & set(places)))
        axes.set_xticks(places, [f"{value:g}" for value in table.index], fontsize=8)


def _scaled(axes: Axes, frame: pd.DataFrame) -> None:
    axes.set_title("λ_s·√(n·min(n, d)), K = 2")
    axes.set_ylabel("kNN accuracy above λ_s = 0, points")
    for (n, d), part in frame.groupby(["batch", "dimensions"]):
        means = part.groupby("singular")["knn"].mean()
        if 0.0 not in means.index or len(means) < 2:
            continue
        gains = means[means.index > 0] - means[0.0]
        axes.plot([w * math.sqrt(n * min(n, d)) for w in gains.index], gains, marker="o", label=f"n = {n}, d = {d}")
        axes.set_xscale("log", base=2)
        axes.legend(fontsize=8)


def _methods(axes: Axes, frame: pd.DataFrame, n: int, d: int) -> None:
    axes.set_title("the terms added to other methods, K = 2")
    axes.set_ylabel(METRICS["knn"])
    others = frame[~frame["method"].isin(["msbreg", "random"]) & (frame["batch"] == n)]
    names = sorted(others["method"].unique())
    for offset, label, with_forces in ((-0.2, "alone", False), (0.2, "with λ_s, λ_b", True)):
        part = others[((others["singular"] > 0) | (others["brownian"] > 0)) == with_forces]
        table = part.groupby("method")["knn"].agg(["mean", "std"]).reindex(names)
        axes.bar([i + offset for i in range(len(names))], table["mean"], 0.4, yerr=table["std"].fillna(0), label=label)
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
    if names:
        low = others["knn"].min()
        axes.set_ylim(bottom=max(0.0, low - 5))
        axes.legend(fontsize=8)
