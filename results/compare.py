"""Is one checkpoint better than another, or is it the seeds? Paired differences, seed by seed, task by task."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from results.frame import METRIC, metrics_of
from results.noise import about_conditions, repeat_noise
from results.render import MINUS, number, width
from results.statistics import LEVEL, Gap, Resampled, holm, least_gap, paired, resampled, seeds_to_settle
from results.words import ENGINES, data_name
from transfer.runtime.errors import UserError

# Expected standard deviation between fine-tuning runs of the full VOC07+12 protocol, means of 5 trials:
# facebookresearch/moco, detection/README.md, the note below its table.
MOCO_STD = {"AP": 0.2, "AP50": 0.2, "AP75": 0.4}

# The differences from the protocol are left out: they hold the architecture, which may be what is compared.
CONDITIONS = ["task", "task_version", "engine", "protocol", "recipe", "data_id"]


_BY_SIZE = re.compile(r"AP[sml]$|AR100$")


@dataclass(frozen=True)
class Metric:
    """One metric of two checkpoints on one task.

    Attributes:
        first, second: seed → value in percent, common seeds alone.
        corrected: p of the gap, by Holm over the primary metrics of all tasks; None for other metrics.
    """

    name: str
    first: Mapping[int, float]
    second: Mapping[int, float]
    gap: Gap
    more: Resampled | None
    corrected: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Two checkpoints on one task, under the same conditions.

    Attributes:
        where: task, engine and data in words.
        metrics: the primary one first.
        cautions: what a reader must know of these runs.
    """

    task: str
    where: str
    metrics: tuple[Metric, ...]
    cautions: tuple[str, ...]


def compare(
    frame: pd.DataFrame, first: str, second: str, metrics: Sequence[str] = (), trainings: bool = False
) -> list[Comparison]:
    """One comparison for every task, version, engine, protocol, recipe and data that both labels were run in.

    Args:
        frame: of `results.load`.
        first, second: labels.
        metrics: these alone; each task's primary one where it has none of them.
        trainings: a label may stand for several checkpoints, one a seed: pretrainings that differ in their seed.

    Raises:
        UserError: a label is unknown, stands for two checkpoints or two runs of one seed, or nothing is comparable.
    """
    if first == second:
        raise UserError(f"{first!r} is compared with itself", todo="name two checkpoints, as the table shows them")
    ours, theirs = _by_conditions(frame, first), _by_conditions(frame, second)
    found = []
    for conditions, mine in ours.items():
        if conditions in theirs:
            one, other = _by_seed(mine, trainings), _by_seed(theirs[conditions], trainings)
            made = _comparison(one, other, pd.concat([mine, theirs[conditions]]), metrics)
            found += [made] if made else []
    if not found:
        raise UserError(
            f"no finished runs of {first} and {second} differ in the checkpoint alone",
            found="\n".join(f"{label}: {_describe(side)}" for label, side in ((first, ours), (second, theirs))),
            todo="run both with the same engine, recipe, data and seeds",
        )
    corrected = holm([each.metrics[0].gap.p for each in found])
    return [
        Comparison(
            each.task, each.where,
            (Metric(**{**vars(each.metrics[0]), "corrected": p}), *each.metrics[1:]), each.cautions,
        )
        for each, p in zip(found, corrected, strict=True)
    ]  # fmt: skip


def _by_conditions(frame: pd.DataFrame, label: str) -> dict[Any, pd.DataFrame]:
    mine = frame[frame["label"] == label]
    if mine.empty:
        raise UserError(
            f"no record is of a checkpoint called {label!r}",
            found=", ".join(sorted(frame["label"].unique())),
            todo="name one of these",
        )
    mine = mine[~mine["authors_own"]]
    if mine.empty:
        raise UserError(
            f"every run of {label!r} followed the protocol of its own authors (--protocol auto)",
            todo="such runs are compared with nothing: run both checkpoints under one protocol, --protocol NAME",
        )
    return dict(iter(mine.groupby(CONDITIONS, sort=True)))


def _describe(side: Mapping[Any, pd.DataFrame]) -> str:
    parts = []
    for (task, version, engine, protocol, recipe, data), runs in side.items():
        seeds = sorted(runs.loc[runs["status"] == "finished", "seed"])
        done = f"seeds {', '.join(map(str, seeds))}" if seeds else "no finished run"
        named = (
            task,
            f"version {version}",
            engine or "no engine",
            protocol,
            f"recipe {recipe[:8]}",
            f"data {data[:8]}",
        )
        parts.append(", ".join((*named, done)))
    return "; ".join(parts)


def _by_seed(runs: pd.DataFrame, trainings: bool) -> pd.DataFrame:
    label, several = runs["label"].iloc[0], runs["identity"].nunique()
    if several > 1 and not trainings:
        raise UserError(
            f"{label!r} names {several} different checkpoints",
            found="; ".join(sorted(runs["checkpoint"].unique())),
            todo="compare within --records folders where a label means one checkpoint, or add --trainings if these are "
            "pretrainings that differ in their seed",
        )
    finished = runs[runs["status"] == "finished"].set_index("seed").sort_index()
    twice = finished[finished.index.duplicated(keep=False)]
    if len(twice):
        raise UserError(
            f"{label!r} has two runs of seed {twice.index[0]}, so nothing can be paired",
            found=" and ".join(twice["id"].iloc[:2]),
        )
    return finished


def _comparison(
    first: pd.DataFrame, second: pd.DataFrame, every: pd.DataFrame, wanted: Sequence[str]
) -> Comparison | None:
    seeds = sorted(set(first.index) & set(second.index))
    if not seeds:
        return None
    one, other = first.loc[seeds], second.loc[seeds]
    row = one.iloc[0]
    shared = [
        name for name in metrics_of(one)
        if one[METRIC + name].notna().all() and METRIC + name in other and other[METRIC + name].notna().all()
    ]  # fmt: skip
    sized = [name for name in shared if not _BY_SIZE.search(name)]  # a long list buries what it is about
    chosen = [name for name in wanted if name in shared] or sorted(sized, key=lambda name: name != row["primary"])
    metrics = []
    for name in chosen:
        ours, theirs = (
            {int(seed): float(value) for seed, value in side[METRIC + name].items()} for side in (one, other)
        )
        metrics.append(Metric(name, ours, theirs, paired(ours, theirs), resampled(ours, theirs)))
    engine = f", {ENGINES.get(row['engine'], row['engine'])}" if row["engine"] else ""
    preset = f", preset {row['preset']}" if row["preset"] else ""
    where = f"{row['task']}{engine}, {data_name(row['test'], row['test_sha256'])}, protocol {row['protocol']}{preset}"
    if not metrics:
        return None
    cautions = (*_cautions(first, second, seeds, every), *_by_rounding(row, metrics))
    return Comparison(row["task"], where, tuple(metrics), cautions)


def _by_rounding(row: pd.Series, metrics: Sequence[Metric]) -> list[str]:
    """Gaps that rounding alone could have made."""
    noise = repeat_noise(row["task"], row["engine"], row["test_sha256"])
    limits = {metric.name: noise.reach(metric.name, metric.gap.n) if noise else None for metric in metrics}
    within = [
        f"{metric.name} {limit:.1f}"
        for metric in metrics
        if (limit := limits[metric.name]) is not None and abs(metric.gap.difference) <= limit
    ]
    if not within:
        return []
    return [f"Within the repeat noise: of rounding alone, two standard deviations are {', '.join(within)}."]


def _cautions(first: pd.DataFrame, second: pd.DataFrame, seeds: Sequence[int], every: pd.DataFrame) -> list[str]:
    said = []
    unpaired = sorted(set(first.index) ^ set(second.index))
    if unpaired:
        said.append(f"Left out, run on one side only: seed {', '.join(map(str, unpaired))}.")
    failed = every[every["status"] == "failed"]
    if len(failed):
        runs = ", ".join(f"{row.label} seed {row.seed}" for row in failed.itertuples())
        said.append(f"Left out, failed: {runs}.")
    sides = [{each for differences in side["differences"] for each in differences} for side in (first, second)]
    if extra := sorted({what for what, _, _ in sides[0] ^ sides[1]}):
        said.append(f"The two sides also differ in: {', '.join(extra)}.")
    used = pd.concat([first.loc[seeds], second.loc[seeds]])
    if not used["proven"].all():
        said.append("The records of some runs hold no proof that the weights arrived.")
    if used["dirty"].any() or used["commit"].nunique() > 1:
        said.append("The runs were not all made by one committed state of the code.")
    if len({tuple(sorted(versions.items())) for versions in used["versions"]}) > 1:
        said.append("The runs were made with different package versions.")
    said += about_conditions(list(used["conditions"]))
    row = used.iloc[0]
    noise = repeat_noise(row["task"], row["engine"], row["test_sha256"])
    if noise is not None:
        said.append(noise.line())
    elif row["engine"]:
        said.append(
            "Repeat noise (one seed under other threads or instructions) was not measured on these data; where it was, "
            "it was as large as the noise of seeds (results/repeat_noise.csv)."
        )
    if any(side["sha256"].nunique() > 1 for side in (first, second)):
        said.append(
            "Each seed is of weights of its own: the interval covers their making too, not the choice of images."
        )
    else:
        said.append("The interval covers seeds only: not another pretraining run, nor another choice of images.")
    return said


# -- in words


def text(found: Sequence[Comparison], first: str, second: str) -> str:
    """What `python -m results compare` prints."""
    parts = [f"{first} {MINUS} {second}", summary(found, first, second), ""]
    for each in found:
        said = [f"· {sentence(each.metrics[0], first, second)}{_scale(each, each.metrics[0])}"]
        parts += [each.where, *_table(each, first, second)]
        for line in [*said, *each.cautions]:
            parts += textwrap.wrap(line, 118, initial_indent="  ", subsequent_indent="    ", break_long_words=False)
        parts.append("")
    return "\n".join(parts)


def summary(found: Sequence[Comparison], first: str, second: str) -> str:
    """Over all tasks, by their primary metrics, corrected for their number."""
    told = [
        each for each in found if (each.metrics[0].corrected or 0.0) <= LEVEL and each.metrics[0].corrected is not None
    ]
    above = sum(each.metrics[0].gap.difference > 0 for each in told)
    tasks = f"{len(found)} task{'' if len(found) == 1 else 's'}"
    words = [f"{first} is better in {above}"] * bool(above)
    words += [f"{second} in {len(told) - above}" if above else f"{second} is better in {len(told) - above}"] * (
        len(told) > above
    )
    words += [f"not told apart in {len(found) - len(told)}"] * (len(found) > len(told))
    line = f"Of {tasks}, by the primary metric: {', '.join(words)} (Holm over tasks, 5 %)."
    alone = [
        each.where.partition(", protocol")[0] for each in found if each not in told and each.metrics[0].gap.p <= LEVEL
    ]
    if alone:
        line += f" The interval of {'; '.join(alone)} excludes 0 by itself; over all tasks shown that is not enough."
    return line


def _table(each: Comparison, first: str, second: str) -> list[str]:
    """A line per metric, and below it the seeds of the first one."""
    main = each.metrics[0]
    rows: list[tuple[str, ...]] = [("", first, second, "gap", "95 % interval", "told apart", "seeds to settle")]
    for metric in each.metrics:
        gap, interval = metric.gap, metric.gap.interval()
        means = (sum(side.values()) / len(side) for side in (metric.first, metric.second))
        shown = "unknown" if interval is None else f"{signed(interval[0])} to {signed(interval[1])}"
        told = interval is not None and (interval[0] > 0 or interval[1] < 0)
        rows.append(
            (
                metric.name,
                *(number(mean, 2) for mean in means),
                signed(gap.difference),
                shown,
                "yes" if told else "no",
                "" if told else needed(gap),
            )
        )
    for seed, value in main.first.items():
        other = main.second[seed]
        rows.append(
            (f"{main.name}, seed {seed}", number(value, 2), number(other, 2), signed(value - other), "", "", "")
        )
    sizes = [max(width(row[place]) for row in rows) for place in range(len(rows[0]))]
    return [
        "  " + "  ".join(" " * (size - width(cell)) + cell for cell, size in zip(row, sizes, strict=True)).rstrip()
        for row in rows
    ]


def needed(gap: Gap) -> str:
    """How many seeds a gap of this size and noise takes, in words."""
    if gap.error is None or not gap.difference:
        return "unknown"
    needed = seeds_to_settle(gap.difference, gap.error * math.sqrt(gap.n))
    return f"about {needed}" if needed else "over 1000"


def signed(value: float) -> str:
    """Two decimals with their sign."""
    return ("+" if value > 0 else "") + number(value, 2)


def sentence(metric: Metric, first: str, second: str) -> str:
    """What the numbers of one metric say, and what they cannot."""
    gap = metric.gap
    side = "above" if gap.difference > 0 else "below"
    said = (
        f"{first} is {abs(gap.difference):.2f} {side} {second}" if gap.difference else f"{first} and {second} are equal"
    )
    said = f"{metric.name}: {said}"
    interval = gap.interval()
    if interval is None or gap.error is None:
        if gap.n < 2:
            said += " in one pair of runs. One pair cannot tell a gap from noise: run at least two more seeds of each."
            return said
        return f"{said} in each of {gap.n} pairs: these runs do not depend on their seed, which says nothing of noise."
    said += (
        f" (mean of {gap.n} pairs, standard error {gap.error:.2f}; 95 % interval {signed(interval[0])} to "
        f"{signed(interval[1])}, Student's t with {gap.degrees} degree{'s' if gap.degrees > 1 else ''} of freedom)."
    )
    if metric.more is not None:
        said += (
            f" Sign flips: p {metric.more.p:.3f}; bootstrap: {signed(metric.more.low)} to {signed(metric.more.high)}."
        )
    if interval[0] > 0 or interval[1] < 0:
        return f"{said} The interval excludes 0: the gap exceeds the noise between seeds."
    said += " The interval includes 0: the gap does not exceed the noise between seeds."
    spread = gap.error * math.sqrt(gap.n)
    said += f" {gap.n} seeds of this noise tell gaps from {least_gap(spread, gap.n):.1f} on"
    if gap.difference:
        said += f"; one as large as this, if it is real, takes {needed(gap)} (power .8)"
    return said + "."


def _scale(each: Comparison, metric: Metric) -> str:
    if metric.gap.n > 1 or each.task != "detection.voc" or metric.name not in MOCO_STD:
        return ""
    std = MOCO_STD[metric.name]
    return (
        f" For scale: runs of the full VOC07+12 protocol are expected to vary with a standard deviation of {std} "
        f"(facebookresearch/moco, detection/README.md), the difference of two runs then with {math.sqrt(2) * std:.1f}; "
        "shorter schedules vary more."
    )
