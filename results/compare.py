"""Is one checkpoint better than another, or is it the seeds? Paired differences, seed by seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from results.layout import Block
from results.noise import RepeatNoise, about_conditions, repeat_noise
from results.rows import Row, group, metric_names
from transfer.errors import UserError
from transfer.record import Record

# Expected standard deviation between fine-tuning runs of the full VOC07+12 protocol, means of 5 trials:
# facebookresearch/moco, detection/README.md, the note below its table.
MOCO_STD = {"AP": 0.2, "AP50": 0.2, "AP75": 0.4}


@dataclass(frozen=True)
class Paired:
    """Differences first − second over seeds that both have, in percentage points.

    Attributes:
        n: pairs.
        mean: of the differences.
        error: standard error of the mean, sample standard deviation / √n; None for a single pair.
        low, high: 95 % confidence interval by Student's t with n − 1 degrees of freedom; None for a single pair.
    """

    n: int
    mean: float
    error: float | None
    low: float | None
    high: float | None

    @property
    def exceeds_noise(self) -> bool | None:
        """Whether the interval excludes zero; None if nothing can be said."""
        if self.low is None or self.high is None:
            return None
        return self.low > 0 or self.high < 0


def paired(first: Sequence[float], second: Sequence[float]) -> Paired:
    """Paired comparison of values [n] and [n], matched by position; n is at least 1."""
    differences = np.asarray(first, float) - np.asarray(second, float)
    n, mean = len(differences), float(differences.mean())
    if n < 2:
        return Paired(n, mean, None, None, None)
    error = float(differences.std(ddof=1)) / math.sqrt(n)
    reach = student_quantile(n - 1) * error
    return Paired(n, mean, error, mean - reach, mean + reach)


@cache
def student_quantile(degrees: int, confidence: float = 0.95) -> float:
    """The t with P(|T| ≤ t) = `confidence` for Student's distribution.

    With t = √degrees · tan θ the density becomes proportional to cos(θ)^(degrees − 1), whose integral is smooth.
    """
    angles = np.linspace(0.0, math.pi / 2, 20_001)
    density = np.cos(angles) ** (degrees - 1)
    inside = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return math.sqrt(degrees) * math.tan(float(np.interp(confidence * inside[-1], inside, angles)))


def compare(
    records: Sequence[Record], first: str, second: str, metrics: Sequence[str] = (), trainings: bool = False
) -> list[Block]:
    """One block for every task, version, engine, protocol, recipe and data that both labels were run in.

    Args:
        trainings: a label may stand for several checkpoints, one a seed: pretrainings that differ in their seed.

    Raises:
        UserError: a label is unknown, stands for two checkpoints or two runs of one seed, or nothing is comparable.
    """
    rows = group(records)
    ours, theirs = _by_conditions(rows, first), _by_conditions(rows, second)
    shared = [conditions for conditions in ours if conditions in theirs]
    candidates = [_block(ours[conditions], theirs[conditions], metrics, trainings) for conditions in shared]
    blocks = [block for block in candidates if block is not None]
    if not blocks:
        found = [f"{label}: {_describe(side)}" for label, side in ((first, ours), (second, theirs))]
        raise UserError(
            f"no finished runs of {first} and {second} differ in the checkpoint alone",
            found="\n".join(found),
            todo="run both with the same engine, recipe, data and seeds",
        )
    return blocks


Conditions = tuple[str, int, str, str, str, str]


def _by_conditions(rows: Sequence[Row], label: str) -> dict[Conditions, list[Row]]:
    mine = [row for row in rows if row.label == label]
    if not mine:
        known = sorted({row.label for row in rows})
        raise UserError(
            f"no record is of a checkpoint called {label!r}", found=", ".join(known), todo="name one of these"
        )
    comparable = [row for row in mine if not any(record.authors_own for record in row.records)]
    if not comparable:
        raise UserError(
            f"every run of {label!r} followed the protocol of its own authors (--protocol auto)",
            todo="such runs are compared with nothing: run both checkpoints under one protocol, --protocol NAME",
        )
    found: dict[Conditions, list[Row]] = {}
    for row in comparable:
        kind = row.variant
        # The differences are left out: they hold the architecture, which may be what is compared.
        conditions = (kind.task, kind.task_version, kind.engine, kind.protocol, kind.recipe, kind.data)
        found.setdefault(conditions, []).append(row)
    return found


def _describe(side: dict[Conditions, list[Row]]) -> str:
    parts = []
    for (task, version, engine, protocol, recipe, data), rows in side.items():
        seeds = sorted(record.seed for row in rows for record in row.finished)
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


def _by_seed(rows: Sequence[Row], trainings: bool) -> dict[int, Record]:
    label = rows[0].label
    if len({row.identity for row in rows}) > 1 and not trainings:
        raise UserError(
            f"{label!r} names {len({row.identity for row in rows})} different checkpoints",
            found="; ".join(sorted({record.checkpoint["path"] for row in rows for record in row.records})),
            todo="compare within --records folders where a label means one checkpoint, or add --trainings if these are "
            "pretrainings that differ in their seed",
        )
    found: dict[int, Record] = {}
    for record in (record for row in rows for record in row.finished):
        if record.seed in found:
            raise UserError(
                f"{label!r} has two runs of seed {record.seed}, so nothing can be paired",
                found=f"{found[record.seed].run_id} and {record.run_id}",
            )
        found[record.seed] = record
    return found


def _block(ours: Sequence[Row], theirs: Sequence[Row], wanted: Sequence[str], trainings: bool) -> Block | None:
    first, second = _by_seed(ours, trainings), _by_seed(theirs, trainings)
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    a, b = ours[0].label, theirs[0].label
    variant = ours[0].variant
    names = [
        name for name in metric_names([*ours, *theirs], wanted)
        if all(name in side[seed].metrics for side in (first, second) for seed in seeds)
    ]  # fmt: skip
    rows, sentences = [], []
    noise = repeat_noise(first[seeds[0]])
    for name in names:
        values = [[side[seed].metrics[name] for seed in seeds] for side in (first, second)]
        result = paired(*values)
        for seed, one, other in zip(seeds, *values, strict=True):
            rows.append((name, str(seed), f"{one:6.2f}", f"{other:6.2f}", f"{one - other:+6.2f}"))
        rows.append((name, "mean", f"{np.mean(values[0]):6.2f}", f"{np.mean(values[1]):6.2f}", f"{result.mean:+6.2f}"))
        sentences.append(("·", f"{name}: {sentence(a, b, result)}{_noise(variant.task, name, result, noise)}"))
    lines = (
        f"{variant.task} version {variant.task_version}, {variant.engine or 'no engine'}, protocol {variant.protocol}, "
        f"recipe {variant.recipe[:8]}; equal data. Percent; pairs share their seed.",
        *_cautions(first, second, seeds, ours, theirs),
    )
    return Block(f"{a} − {b}", lines, ("metric", "seed", a, b, "difference"), tuple(rows), tuple(sentences))


def sentence(first: str, second: str, result: Paired) -> str:
    """What the numbers say, in words."""
    side = "above" if result.mean > 0 else "below"
    gap = f"{first} is {abs(result.mean):.2f} {side} {second}" if result.mean else f"{first} and {second} are equal"
    if result.error is None or result.low is None or result.high is None:
        return f"{gap} in one pair of runs. One pair cannot tell a gap from noise: run at least two more seeds of each."
    computed = (
        f"{gap} (mean of {result.n} pairs, standard error {result.error:.2f}; 95 % interval {result.low:+.2f} to "
        f"{result.high:+.2f}, Student's t with {result.n - 1} degree{'s' if result.n > 2 else ''} of freedom)."
    )
    if result.exceeds_noise:
        return f"{computed} The interval excludes 0: the gap exceeds the noise between seeds."
    return f"{computed} The interval includes 0: the gap does not exceed the noise between seeds."


def _noise(task: str, metric: str, result: Paired, repeated: RepeatNoise | None) -> str:
    """Whether rounding alone could have made the difference, and what is published on the noise of seeds."""
    reach = repeated.reach(metric, result.n) if repeated is not None else None
    if reach is None or abs(result.mean) > reach:
        return _published_noise(task, metric, result)
    said = f" It lies within the repeat noise: of rounding alone, two standard deviations are {reach:.1f}."
    return said + _published_noise(task, metric, result)


def _published_noise(task: str, metric: str, result: Paired) -> str:
    if result.n > 1 or task != "detection.voc" or metric not in MOCO_STD:
        return ""
    std = MOCO_STD[metric]
    return (
        f" For scale: runs of the full VOC07+12 protocol are expected to vary with a standard deviation of {std} "
        f"(facebookresearch/moco, detection/README.md), the difference of two runs then with {math.sqrt(2) * std:.1f}; "
        "shorter schedules vary more."
    )


def _cautions(
    first: dict[int, Record],
    second: dict[int, Record],
    seeds: Sequence[int],
    ours: Sequence[Row],
    theirs: Sequence[Row],
) -> list[str]:
    said = []
    unpaired = sorted(first.keys() ^ second.keys())
    if unpaired:
        said.append(f"Left out, run on one side only: seed {', '.join(map(str, unpaired))}.")
    failed = [record for row in (*ours, *theirs) for record in row.failed]
    if failed:
        said.append("Left out, failed: " + ", ".join(f"{record.label} seed {record.seed}" for record in failed) + ".")
    extra = {difference for row in ours for difference in row.variant.differences} ^ {
        difference for row in theirs for difference in row.variant.differences
    }
    if extra:
        said.append("The two sides also differ in: " + ", ".join(sorted({what for what, _, _ in extra})) + ".")
    pairs = [record for seed in seeds for record in (first[seed], second[seed])]
    if len({(record.git_commit, record.git_dirty) for record in pairs}) > 1 or any(r.git_dirty for r in pairs):
        said.append("The runs were not all made by one committed state of the code.")
    if len({tuple(sorted(record.versions.items())) for record in pairs}) > 1:
        said.append("The runs were made with different package versions.")
    said += about_conditions(pairs)
    noise = repeat_noise(pairs[0])
    if noise is not None:
        said.append(noise.line())
    elif pairs[0].engine:
        said.append(
            "Repeat noise (one seed under other threads or instructions) was not measured on these data; where it was, "
            "it was as large as the noise of seeds (results/repeat_noise.csv)."
        )
    if max(len({record.checkpoint["sha256"] for record in side.values()}) for side in (first, second)) > 1:
        said.append(
            "Each seed is of weights of its own: the interval covers their making too, not the choice of images."
        )
    else:
        said.append("The interval covers seeds only: not another pretraining run, nor another choice of images.")
    return said
