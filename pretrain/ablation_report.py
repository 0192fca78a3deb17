"""Table and figure of an ablation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from transfer.runtime.curve import FILE, read
from transfer.runtime.files import write_atomically, write_text

MOST = 24  # settings that a panel has room for
MARKS = {"knn": "o", "linear": "s"}
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
    """Write `out`/table.csv (a row a run), table.md (a row a setting, mean ± standard deviation over seeds), figure.png
    and, of the trainings whose curves lie there, curves.png; returns their paths."""
    frame = pd.DataFrame(rows).sort_values("name", ignore_index=True)
    table = over_seeds(frame)
    paths = [out / "table.csv", out / "table.md", out / "figure.png"]
    write_text(paths[0], frame.to_csv(index=False))
    write_text(paths[1], readable(table))
    figures = {paths[2]: draw(frame)}
    curves = {row["name"]: read(out / row["name"] / FILE) for row in rows if row["method"] != "random"}
    if any(curves.values()):
        figures[out / "curves.png"] = draw_curves(frame, curves)
    for path, figure in figures.items():
        write_atomically(path, partial(figure.savefig, format="png", dpi=110))
    return [*paths[:2], *figures]


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
    """Accuracy over λ_s and λ_b for every K, of their combinations, over λ_s for every batch and dimension, and more.

    A panel without runs is left out.
    """
    figure = Figure(figsize=(17, 7.5), layout="constrained")
    axes = figure.subplots(2, 4)
    ours = frame[(frame["method"] == "msbreg") & (frame["centroid"] == "others")]
    usual_size = ours if len(ours) else frame
    n, d = usual_size["batch"].mode()[0], usual_size["dimensions"].mode()[0]
    usual = ours[(ours["batch"] == n) & (ours["dimensions"] == d)]
    still, alone = usual[usual["brownian"] == 0], usual[usual["singular"] == 0]
    _over(axes[0, 0], still[_nuclear(still)], "singular", "λ_s, nuclear form")
    _over(axes[0, 1], alone[alone["brownian_per"] == "view"], "brownian", "λ_b, drawn per view")
    image = alone[(alone["brownian_per"] == "image") | (alone["brownian"] == 0)]
    _over(axes[0, 2], image, "brownian", "λ_b, drawn per image")
    _combined(axes[0, 3], usual[_nuclear(usual) & (usual["brownian_per"] == "view")])
    covariance = (still["singular_form"] == "covariance") | (still["singular"] == 0)
    _over(axes[1, 1], still[covariance & (still["views"] == 2)], "singular", "λ_s, covariance form")
    _centroids(axes[1, 2], frame[(frame["method"] == "msbreg") & (frame["batch"] == n) & (frame["dimensions"] == d)])
    _methods(axes[1, 3], frame[(frame["batch"] == n) & ~frame["method"].isin(["msbreg", "random"])])
    untrained = frame[frame["method"] == "random"]["knn"]
    for panel in axes.flat:
        if panel.has_data() and len(untrained):
            panel.axhline(untrained.mean(), color="grey", linestyle=":", label="untrained")
            panel.legend(fontsize=8)
    _scaled(axes[1, 0], ours[_nuclear(ours) & (ours["brownian"] == 0) & (ours["views"] == 2)])
    for panel in axes.flat:
        panel.grid(alpha=0.3)
        if not panel.has_data():
            panel.set_axis_off()
            panel.set_title("")
    return figure


def draw_curves(frame: pd.DataFrame, curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Effective rank and loss over the forwarded views, a line a run; beside them the accuracies of every setting.

    Args:
        curves: name of a run → its curve.
    """
    figure = Figure(figsize=(19, 5.5), layout="constrained")
    trained = frame[frame["name"].isin(curves)]
    settings = list(dict.fromkeys(_in_words(row) for row in trained.to_dict("records")))
    rank, loss, right = figure.subplots(1, 3, width_ratios=(1, 1, 0.8))
    for axes, number, title in ((rank, "effective_rank", "effective rank of the embeddings"), (loss, "loss", "loss")):
        for row in trained.to_dict("records"):
            place = settings.index(_in_words(row))
            line = [each for each in curves[row["name"]] if number in each]
            views = [each["step"] * row["batch"] * row["views"] for each in line]
            style, colour = "-" if place < 10 else "--", f"C{place % 10}"
            axes.plot(views, [each[number] for each in line], style, color=colour, linewidth=1)
        axes.set_title(title)
        axes.set_xlabel("forwarded views")
        axes.grid(alpha=0.3)
    if len(settings) <= MOST:
        _dots(right, trained, settings, frame[frame["method"] == "random"])
    else:
        right.set_axis_off()
    return figure


def _dots(axes: Axes, trained: pd.DataFrame, settings: Sequence[str], untrained: pd.DataFrame) -> None:
    """Accuracies of the settings, a mark a run; their colours are those of the curves."""
    for row in trained.to_dict("records"):
        place = settings.index(_in_words(row))
        for metric, mark in MARKS.items():
            axes.plot(row[metric], place, mark, color=f"C{place % 10}", markerfacecolor="none" if mark == "s" else None)
    for metric, mark in MARKS.items():
        if len(untrained):
            axes.axvline(untrained[metric].mean(), color="grey", linestyle=":" if mark == "o" else "-.", linewidth=1)
    axes.set_yticks(range(len(settings)), settings, fontsize=8)
    axes.invert_yaxis()
    lines = [
        Line2D([], [], color="grey", marker=mark, linestyle=":" if mark == "o" else "-.") for mark in MARKS.values()
    ]
    names = ["kNN; line: untrained", "linear; line: untrained"]
    axes.legend(lines, names, fontsize=7)
    axes.set_title("accuracy of the frozen network, %")
    axes.grid(alpha=0.3)


def _in_words(row: Mapping[str, Any]) -> str:
    """A setting, by what is not the usual: "λ_s 0.004, λ_b 0.5, K = 4"; "no forces"."""
    forces = [f"{sign} {row[name]:g}" for name, sign in (("singular", "λ_s"), ("brownian", "λ_b")) if row[name]]
    drawn = ["noise per image"] if row["brownian"] and row["brownian_per"] == "image" else []
    usual = {"method": "msbreg", "centroid": "others", "singular_form": "nuclear", "views": 2}
    words = {"method": "{}", "centroid": "centroid {}", "singular_form": "{}", "views": "K = {}"}
    other = [words[name].format(row[name]) for name, value in usual.items() if row[name] != value]
    return ", ".join([*(forces or ["no forces"]), *drawn, *other])


def _combined(axes: Axes, frame: pd.DataFrame) -> None:
    """Where both terms were tried: without, each alone, both; a dot a seed."""
    both = frame[(frame["singular"] > 0) & (frame["brownian"] > 0)]
    if both.empty:
        return
    s, b = both["singular"].mode()[0], both["brownian"].mode()[0]
    combinations = ((0.0, 0.0, "none"), (0.0, b, f"λ_b = {b:g}"), (s, 0.0, f"λ_s = {s:g}"), (s, b, "both"))
    views = sorted(both["views"].unique())
    for place, k in enumerate(views):
        for index, (singular, brownian, label) in enumerate(combinations):
            same = (frame["views"] == k) & (frame["singular"] == singular) & (frame["brownian"] == brownian)
            found = frame[same]["knn"]
            colour = f"C{index}"
            x = place + 0.2 * (index - 1.5)
            axes.bar([x], [found.mean()], 0.18, color=colour, alpha=0.4, label=label if place == 0 else None)
            axes.plot([x] * len(found), found, "o", color=colour, markersize=4)
    axes.set_title("BYOL's centroid force, and the two others")
    axes.set_ylabel(METRICS["knn"])
    axes.set_xticks(range(len(views)), [f"K = {k}" for k in views])
    axes.set_ylim(bottom=max(0.0, frame["knn"].min() - 4))


def _centroids(axes: Axes, frame: pd.DataFrame) -> None:
    """The variants of the centroid, with the other settings of those runs that are not the default one."""
    varied = frame[frame["centroid"] != "others"]
    if varied.empty:
        return
    same = (frame["singular"] == varied["singular"].iloc[0]) & (frame["brownian"] == varied["brownian"].iloc[0])
    for centroid, part in frame[same].groupby("centroid"):
        table = part.groupby("views")["knn"].agg(["mean", "std"])
        axes.errorbar(table.index, table["mean"], table["std"].fillna(0), marker="o", capsize=3, label=centroid)
    axes.set_title("centroid of the …")
    axes.set_xlabel("K")
    axes.set_xticks(sorted(frame["views"].unique()))
    axes.set_ylabel(METRICS["knn"])


def _nuclear(frame: pd.DataFrame) -> pd.Series:
    chosen: pd.Series = (frame["singular_form"] == "nuclear") | (frame["singular"] == 0)
    return chosen


def _over(axes: Axes, frame: pd.DataFrame, weight: str, title: str) -> None:
    if frame[weight].nunique() < 2:
        return
    axes.set_title(title)
    axes.set_ylabel(METRICS["knn"])
    lowest = frame[weight][frame[weight] > 0].min()
    places: dict[float, float] = {}
    for views, part in frame.groupby("views"):
        table = part.groupby(weight)["knn"].agg(["mean", "std"])
        # 0 has no place on a logarithmic axis: it stands half as far left as the lowest weight.
        here = {float(value): float(value) if value > 0 else lowest / 2 for value in table.index}
        places |= here
        error = table["std"].fillna(0)
        axes.errorbar(
            list(here.values()), table["mean"], error, marker="o", markersize=4, capsize=3, label=f"K = {views}"
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(places.values()), [f"{value:g}" for value in places], fontsize=8)
    axes.minorticks_off()


def _scaled(axes: Axes, frame: pd.DataFrame) -> None:
    axes.set_title("does the peak lie at one λ_s·√(n·min(n, d))?")
    axes.set_xlabel("λ_s·√(n·min(n, d)), K = 2")
    axes.set_ylabel("kNN accuracy above λ_s = 0, points")
    for (n, d), part in frame.groupby(["batch", "dimensions"]):
        means = part.groupby("singular")["knn"].mean()
        if 0.0 not in means.index or len(means) < 3:  # one weight has no peak
            continue
        gains = means[means.index > 0] - means[0.0]
        axes.plot([w * math.sqrt(n * min(n, d)) for w in gains.index], gains, marker="o", label=f"n = {n}, d = {d}")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.legend(fontsize=8)


def _methods(axes: Axes, frame: pd.DataFrame) -> None:
    if frame.empty:
        return
    axes.set_title("the terms added to other methods, K = 2")
    axes.set_ylabel(METRICS["knn"])
    names = sorted(frame["method"].unique())
    for offset, label, with_forces in ((-0.2, "alone", False), (0.2, "with λ_s and λ_b", True)):
        part = frame[((frame["singular"] > 0) | (frame["brownian"] > 0)) == with_forces]
        table = part.groupby("method")["knn"].agg(["mean", "std"]).reindex(names)
        axes.bar([i + offset for i in range(len(names))], table["mean"], 0.4, yerr=table["std"].fillna(0), label=label)
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
    axes.set_ylim(bottom=max(0.0, frame["knn"].min() - 5))
