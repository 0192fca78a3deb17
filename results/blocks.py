"""Tables as data: which runs stand in one row, which rows are compared, and what is marked. No text is laid out here.

One block has one engine; each of its columns one task, version, data and recipe. Runs of a row differ in their seed
alone (or, if asked, in the seed of the pretraining too). Competitors come first, in order of their mean rank; a row of
another recipe (†), baselines and published rows follow, and take no part in any comparison.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from results import reference
from results.frame import METRIC, metrics_of
from results.layouts import LAYOUTS, Group, TableLayout, layout_of
from results.model import LEGEND, Block, Cell, ColumnHead, Kind, Row, Tables
from results.statistics import LEVEL, Column, holm, paired
from results.words import ENGINES, Differences, against, architecture, data_name, few, own_data
from transfer.runtime.errors import UserError

_USED = [
    "id", "task", "task_version", "engine", "label", "arch", "identity", "sha256", "branch", "baseline", "seed",
    "status", "reason", "purpose", "protocol", "preset", "recipe", "differences", "primary", "data_id", "test",
    "test_sha256", "proven", "authors_own",
]  # fmt: skip


def tables(
    frame: pd.DataFrame,
    trainings: bool = False,
    metrics: Sequence[str] = (),
    everything: bool = False,
) -> Tables:
    """The blocks of a frame, in the order of the papers' tables.

    Args:
        frame: of `results.load`.
        trainings: several checkpoints of one label, one a seed, are one row.
        metrics: show these columns only; a task that has none of them keeps its primary one.
        everything: also runs that compare nothing.

    Raises:
        UserError: runs have finished, and none has any of `metrics`.
    """
    present = metrics_of(frame)
    if metrics and present and not set(metrics) & set(present):
        raise UserError(
            f"no run has the metric {' or '.join(metrics)}",
            found=", ".join(sorted(present)),
            todo="give --metrics some of these, or leave it out",
        )
    blocks: list[Block] = []
    hidden: list[tuple[str, str]] = []
    for layout in _layouts(frame):
        runs = frame.loc[frame["task"].isin({group.task for group in layout.groups})]
        runs = runs[[*_USED, *(METRIC + name for name in metrics_of(runs))]].copy()
        own = pd.Series([own_data(differences) for differences in runs["differences"]], index=runs.index)
        for (_, other), members in runs.groupby([runs["engine"], own], sort=True):
            made, left = _of_layout(layout, members, bool(other), trainings, metrics, everything)
            blocks += made
            hidden += left
    if not blocks and len(frame) and not everything:  # nothing can be compared yet: then what there is
        return tables(frame, trainings, metrics, True)
    return Tables(tuple(blocks), tuple(hidden), len(frame), () if trainings else _same_label(frame))


def _same_label(frame: pd.DataFrame) -> tuple[str, ...]:
    found = []
    for label, runs in frame[frame["purpose"] == ""].groupby("label"):
        by_seed = runs.groupby("seed")["identity"].nunique()
        if runs["identity"].nunique() > 1 and len(by_seed) > 1 and by_seed.max() == 1:
            found.append(str(label))
    return tuple(found)


def _layouts(frame: pd.DataFrame) -> list[TableLayout]:
    found: dict[str, TableLayout] = {}
    for task, runs in frame.groupby("task", sort=True):
        layout = layout_of(str(task), metrics_of(runs), runs["primary"].iloc[0])
        found[layout.key] = layout
    places = {layout.key: place for place, layout in enumerate(LAYOUTS)}
    return sorted(found.values(), key=lambda layout: places.get(layout.key, len(places)))


# -- which runs belong together


@dataclass(frozen=True, eq=False)
class _Variant:
    """Runs of one task, version, data and recipe, chosen in the same way, as rows: key → runs."""

    runs: pd.DataFrame
    rows: dict[Any, pd.DataFrame]

    @property
    def labels(self) -> set[str]:
        return set(self.runs["label"])

    @property
    def differences(self) -> Differences:
        """That all its runs have; the architecture may be what is compared."""
        lists = [dict.fromkeys(differences) for differences in self.runs["differences"]]
        return tuple(each for each in lists[0] if all(each in other for other in lists))

    @property
    def score(self) -> tuple[int, int, int, str]:
        """Which variant a table is about: most checkpoints that compete, then most rows, then least changed."""
        competing = self.runs[self.runs["baseline"] == ""]["label"].nunique()
        several = sum(len(runs) > 1 for runs in self.rows.values())
        return competing + len(self.labels), several, -len(self.differences), str(self.runs["recipe"].iloc[0])

    @property
    def why_hidden(self) -> str:
        """Why it is no comparison, "" if it is one."""
        purpose = str(self.runs["purpose"].iloc[0])
        if purpose:
            return {"overfitting": "made to overfit", "0 iterations": "of 0 iterations"}.get(purpose, purpose)
        if self.authors_own:
            return "by the protocol of a checkpoint's own authors"
        if len(self.labels) < 2:
            return "of one checkpoint alone"
        return ""

    @property
    def authors_own(self) -> bool:
        return bool(self.runs["authors_own"].iloc[0])

    @property
    def single(self) -> bool:
        return all(len(runs) == 1 for runs in self.rows.values())


def _rows_of(runs: pd.DataFrame, trainings: bool) -> dict[Any, pd.DataFrame]:
    found: dict[Any, pd.DataFrame] = {}
    for label, mine in runs.groupby("label", sort=True):
        together = trainings and mine.groupby("seed")["identity"].nunique().max() == 1
        for identity, members in mine.groupby("identity", sort=True):
            key = (label, "") if together else (label, identity)
            found[key] = pd.concat([found[key], members]) if key in found else members
    return {key: members.sort_values(["seed", "id"]) for key, members in found.items()}


def _of_layout(
    layout: TableLayout,
    runs: pd.DataFrame,
    own: bool,
    trainings: bool,
    metrics: Sequence[str],
    everything: bool,
) -> tuple[list[Block], list[tuple[str, str]]]:
    """Blocks of one engine, and what is not shown: the k-th block has the k-th best variant of every column group."""
    order = {group.task: place for place, group in reversed(list(enumerate(layout.groups)))}
    places: dict[tuple[str, int, str], list[_Variant]] = {}
    keys = ["task", "task_version", "data_id", "recipe", "authors_own"]
    for (task, version, data_id, *_), members in runs.groupby(keys, sort=True):
        places.setdefault((task, version, data_id), []).append(_Variant(members, _rows_of(members, trainings)))
    levels: list[dict[tuple[str, int, str], _Variant]] = []
    extra: dict[tuple[str, int, str], list[_Variant]] = {}
    hidden: list[tuple[str, str]] = []
    for place, variants in sorted(places.items(), key=lambda item: (order[item[0][0]], item[0][1:])):
        compared = sorted((each for each in variants if not each.why_hidden), key=lambda each: each.score, reverse=True)
        shown = [each for number, each in enumerate(compared) if everything or not number or not each.single]
        rest = sorted((each for each in variants if each not in shown), key=lambda each: each.score, reverse=True)
        for variant in rest:
            several = any(len(members) > 1 for members in variant.rows.values())
            if variant.runs["purpose"].iloc[0] == "" and shown and (several or variant.authors_own):
                extra.setdefault(place, []).append(variant)
            elif everything:
                shown.append(variant)
            else:
                reason = variant.why_hidden or "single, of another recipe"
                hidden += [(run, reason) for run in variant.runs["id"]]
        for level, variant in enumerate(shown):
            if level == len(levels):
                levels.append({})
            levels[level][place] = variant
    blocks = [
        _block(layout, chosen, extra if not level else {}, own, metrics, level) for level, chosen in enumerate(levels)
    ]
    return blocks, hidden


# -- one block


@dataclass(frozen=True, eq=False)
class _Part:
    """Columns of one group: their heads, and the runs that fill them."""

    heads: list[ColumnHead]
    place: tuple[str, int, str]
    variant: _Variant


def _block(
    layout: TableLayout,
    chosen: Mapping[tuple[str, int, str], _Variant],
    extra: Mapping[tuple[str, int, str], Sequence[_Variant]],
    own: bool,
    metrics: Sequence[str],
    level: int,
) -> Block:
    parts = [part for place, variant in chosen.items() for part in _parts(layout, place, variant, own, metrics)]
    heads = [head for part in parts for head in part.heads]
    every = pd.concat([variant.runs for variant in chosen.values()])
    archs = every["arch"].nunique()
    rows = [
        _row(key, parts, {place: variant.rows.get(key) for place, variant in chosen.items()}, every, archs, False)
        for key in dict.fromkeys(key for variant in chosen.values() for key in variant.rows)
    ]
    others, notes = [], []
    for place, variants in extra.items():
        for variant in variants:
            for key, members in variant.rows.items():
                row = _row(key, parts, {place: members}, every, archs, True)
                others.append(row)
                words = against(variant.differences, chosen[place].differences) if place in chosen else ""
                own_protocol = "the protocol of its own authors; " if variant.authors_own else ""
                notes.append(f"† {row.name}: {own_protocol}{words or 'values that explain tells'}")
    competitors = [row for row in rows if row.kind == "competitor"]
    heads, marked = _marked(heads, [*competitors, *(row for row in rows if row.kind == "baseline")], len(competitors))
    competitors, baselines = marked[: len(competitors)], marked[len(competitors) :]
    shown, sources = _published(heads, parts)
    ordered = _by_rank(competitors)
    best = {number: ordered.index(competitors[head.best]) for number, head in enumerate(heads) if head.best is not None}
    heads = [dataclasses.replace(head, best=best.get(number)) for number, head in enumerate(heads)]
    final = (*ordered, *others, *_by_rank(baselines), *shown)
    notes += _failures(final, every)
    title = layout.title
    if own:
        masks = any(part.place[0].startswith("segmentation.") for part in parts)
        kind = layout.kind if masks else layout.kind.removesuffix(" and segmentation")
        title = f"{kind}: {', '.join(dict.fromkeys(_data_of(part) for part in parts))}"
    suffix = "" if not level else f", recipe {level + 1}"
    engine = str(every["engine"].iloc[0])
    return Block(
        key="-".join([layout.key, *[engine] * bool(engine), *["own"] * own, *[str(level + 1)] * bool(level)]),
        layout=layout.key,
        title=title + suffix,
        sentence=_sentence(heads, ordered, baselines),
        setting=_setting(parts, engine, own),
        engine=engine,
        columns=tuple(heads),
        rows=final,
        published=sources,
        notes=tuple(dict.fromkeys(notes)),
        legend=_legend(heads, final),
    )


def _data_of(part: _Part) -> str:
    row = part.variant.runs.iloc[0]
    return data_name(row["test"], row["test_sha256"])


def _parts(
    layout: TableLayout, place: tuple[str, int, str], variant: _Variant, own: bool, metrics: Sequence[str]
) -> list[_Part]:
    task, version, data_id = place
    groups = [group for group in layout.groups if group.task == task]
    has = metrics_of(variant.runs)
    primary = variant.runs["primary"].iloc[0]
    if metrics:
        kept = [name for name in metrics if name in has] or [primary]
        groups = [Group(task, groups[0].heading, tuple((name, name) for name in kept))]
    parts = []
    for group in groups:
        shown = tuple(pair for pair in group.metrics if pair[0] in has)
        if own and not metrics and has and task == "detection.voc":
            shown += tuple((name, f"COCO {name[5:]}") for name in ("coco_AP", "coco_AP50") if name in has)
        if not shown and group is groups[0]:
            shown = ((primary, primary),)
        heads = [
            ColumnHead(task, version, data_id, metric, group.heading, name, first=not number)
            for number, (metric, name) in enumerate(shown)
        ]
        part = _Part(heads, place, variant)
        if own:
            named = " ".join(word for word in (_data_of(part), _kind_of(group, layout)) if word)
            part = dataclasses.replace(part, heads=[dataclasses.replace(head, group=named) for head in heads])
        if heads:
            parts.append(part)
    return parts


def _kind_of(group: Group, layout: TableLayout) -> str:
    """What tells this group's columns from others of the same images."""
    if len(layout.groups) == 1 or group.task.startswith(("finegrained.", "detection.")):
        return ""
    return group.heading.removeprefix("COCO ").casefold()


def _row(
    key: Any,
    parts: Sequence[_Part],
    members: Mapping[tuple[str, int, str], pd.DataFrame | None],
    every: pd.DataFrame,
    archs: int,
    differs: bool,
) -> Row:
    runs = pd.concat([found for found in members.values() if found is not None])
    first = runs.iloc[0]
    identities = tuple(dict.fromkeys(runs["identity"]))
    label = str(first["label"])
    name = label
    if first["baseline"] != "random" and key[1]:
        twins = every[every["label"] == label]
        name += f" {first['sha256'][:6]}" if twins["identity"].nunique() > 1 else ""
        name += f" {first['branch']}" if twins[twins["sha256"] == first["sha256"]]["branch"].nunique() > 1 else ""
    if archs > 1:
        name += f" ({architecture(first['arch'])})"
    if len(identities) > 1:
        name += f" ({len(identities)} trainings)"
    cells = tuple(_cell(members.get(part.place), head.metric) for part in parts for head in part.heads)
    kind: Kind = "other recipe" if differs else "baseline" if first["baseline"] else "competitor"
    finished = runs[runs["status"] == "finished"]
    return Row(kind, name, label, identities, cells, len(identities), bool((~finished["proven"]).any()))


def _cell(runs: pd.DataFrame | None, metric: str) -> Cell:
    if runs is None:
        return Cell("not run")
    column = METRIC + metric
    values = runs[column] if column in runs else pd.Series(math.nan, index=runs.index)
    found = tuple(
        (int(seed), None if pd.isna(value) else float(value), str(run))
        for seed, value, run in zip(runs["seed"], values, runs["id"], strict=True)
    )
    n = int(values.notna().sum())
    if not n:
        failed = (runs["status"] == "failed").all()
        return Cell("failed" if failed else "not run", total=len(runs), runs=found)
    std = float(values.std(ddof=1)) if n > 1 else None
    return Cell("measured", float(values.mean()), std, n, len(runs), runs=found)


def _marked(heads: Sequence[ColumnHead], rows: Sequence[Row], competing: int) -> tuple[list[ColumnHead], list[Row]]:
    """Digits of every column, and marks of the rows that compete (the first ones)."""
    cells = [list(row.cells) for row in rows]
    made = []
    for number, head in enumerate(heads):
        spreads = [row.cells[number].std for row in rows]
        known = [std**2 for std in spreads if std is not None]
        noise = math.sqrt(sum(known) / len(known)) if known else 0.0
        column = Column({place: row.cells[number].values for place, row in enumerate(rows[:competing])})
        for place, mark in column.marks.items():
            cells[place][number] = dataclasses.replace(cells[place][number], mark=mark)
        best = next((place for place, mark in column.marks.items() if mark == "*"), None)
        made.append(
            dataclasses.replace(
                head, decimals=0 if noise >= 1 else 1, best=best, undecided="≈" in column.marks.values()
            )
        )
    return made, [dataclasses.replace(row, cells=tuple(own)) for row, own in zip(rows, cells, strict=True)]


def _by_rank(rows: Sequence[Row]) -> list[Row]:
    """By mean rank over the columns that a row has, then by name."""
    if not rows:
        return []
    means = pd.DataFrame([[cell.mean for cell in row.cells] for row in rows], dtype="float64")
    ranks = means.rank(ascending=False).mean(axis=1).fillna(math.inf)
    return [rows[place] for place in sorted(range(len(rows)), key=lambda place: (ranks[place], rows[place].name))]


def _published(heads: Sequence[ColumnHead], parts: Sequence[_Part]) -> tuple[list[Row], str]:
    """Published rows of the columns whose runs follow the protocol, and their sources."""
    follows = {part.place: not part.variant.differences for part in parts}
    return _published_rows(
        [
            (head.task, head.metric) if follows[head.task, head.task_version, head.data_id] else ("", "")
            for head in heads
        ]
    )


def _published_rows(columns: Sequence[tuple[str, str]]) -> tuple[list[Row], str]:
    rows, sources = [], []
    for method, values, source in reference.rows_of(columns):
        cells = tuple(Cell("published", text=text) if text else Cell("not run") for text in values)
        rows.append(Row("published", method, method, (), cells))
        sources.append(source)
    return rows, "; ".join(dict.fromkeys(part for source in sources for part in source.split("; ")))


def published(tasks: Iterable[str]) -> list[Block]:
    """What is published for these tasks, in blocks of its own."""
    found, wanted = [], set(tasks)
    for layout in LAYOUTS:
        heads = [
            ColumnHead(group.task, 0, "", metric, group.heading, name)
            for group in layout.groups
            for metric, name in group.metrics
            if wanted & {each.task for each in layout.groups}
        ]
        rows, sources = _published_rows([(head.task, head.metric) for head in heads])
        if rows:
            sentence = "As printed in the sources, whose recipes differ."
            legend = (("–", LEGEND["–"]),) if any(cell.state == "not run" for row in rows for cell in row.cells) else ()
            found.append(
                Block(
                    f"published-{layout.key}",
                    layout.key,
                    f"Published: {layout.title}",
                    sentence,
                    "",
                    "",
                    tuple(heads),
                    tuple(rows),
                    sources,
                    legend=legend,
                )
            )
    return found


# -- what is said


def _setting(parts: Sequence[_Part], engine: str, own: bool) -> str:
    """Engine, preset and recipe, said once if all columns share them."""
    presets = dict.fromkeys(part.variant.runs["preset"].iloc[0] for part in parts)
    lead = [ENGINES.get(engine, engine)] if engine else []
    said: dict[str, list[str]] = {}
    several = len({part.place for part in parts}) > 1
    for part in parts:
        differences = part.variant.differences
        protocols = dict.fromkeys(part.variant.runs["protocol"])
        words = few(differences, data=not own or not several) if differences else ""
        words = words or f"as published (protocol {', '.join(protocols)})"
        said.setdefault(words, []).append(part.heads[0].group)
    if len(presets) == 1 and (preset := next(iter(presets))):
        lead.append(f"preset {preset}")
    if len(said) == 1:
        recipe = next(iter(said))
    else:
        recipe = "; ".join(f"{', '.join(dict.fromkeys(groups))}: {words}" for words, groups in said.items())
    return ": ".join(word for word in (", ".join(lead), recipe) if word)


def _sentence(heads: Sequence[ColumnHead], competitors: Sequence[Row], baselines: Sequence[Row]) -> str:
    tested = [head for head in heads if head.best is not None or head.undecided]
    columns = f"{len(heads)} column{'' if len(heads) == 1 else 's'}"
    if tested:
        won: dict[int, int] = {}
        for head in heads:
            if head.best is not None:
                won[head.best] = won.get(head.best, 0) + 1
        if not won:
            return f"No column of {len(tested)} is decided: the gaps are within the noise."
        first, *rest = sorted(won.items(), key=lambda item: (-item[1], item[0]))
        said = [f"{competitors[first[0]].name} is best in {first[1]} of {columns}, beyond the noise"]
        said += [f"{competitors[place].name} in {count}" for place, count in rest]
        undecided = sum(head.undecided for head in heads)
        return "; ".join([*said, *([f"{undecided} undecided"] if undecided else [])]) + "."
    several = [row for row in competitors if not row.single]
    if len(several) == 1 and any(not row.single for row in baselines):
        return _against_baselines(several[0], [row for row in baselines if not row.single], len(heads))
    if competitors and not several:
        return "Single runs: nothing is known about the noise of seeds."
    return "Nothing to compare: one checkpoint that competes." if competitors else "Baselines alone."


def _against_baselines(row: Row, baselines: Sequence[Row], columns: int) -> str:
    """One competitor: how it stands to each baseline, by paired t over common seeds, Holm over all that is said."""
    gaps = [
        (other.name, paired(row.cells[number].values, other.cells[number].values))
        for other in baselines
        for number in range(columns)
        if row.cells[number].n > 1 and other.cells[number].n > 1
    ]
    counts = {other.name: {"above": 0, "below": 0, "not told from": 0} for other in baselines}
    for (name, gap), p in zip(gaps, holm([gap.p for _, gap in gaps]), strict=True):
        counts[name]["not told from" if p > LEVEL else "above" if gap.difference > 0 else "below"] += 1
    said = []
    for name, found in counts.items():
        total = sum(found.values())
        words = [f"{word} {name} in {count} of {total}" for word, count in found.items() if count]
        said.append(", ".join(words))
    return f"{row.name}: {'; '.join(said)} columns (paired seeds)."


def _failures(rows: Iterable[Row], every: pd.DataFrame) -> list[str]:
    notes = []
    reasons = every[every["status"] == "failed"].set_index("id")["reason"]
    for row in rows:
        failed: dict[str, list[int]] = {}
        for cell in row.cells:
            for seed, _, run in cell.runs:
                if run in reasons.index and seed not in failed.setdefault(str(reasons[run]), []):
                    failed[str(reasons[run])].append(seed)
        notes += [
            f"× {row.name}, seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}: {reason}"
            for reason, seeds in failed.items()
        ]
    return notes


def _legend(heads: Sequence[ColumnHead], rows: Sequence[Row]) -> tuple[tuple[str, str], ...]:
    cells = [cell for row in rows for cell in row.cells]
    measured = [cell for cell in cells if cell.state == "measured"]
    part = next((cell for cell in measured if cell.n < cell.total), None)
    occurs = {
        "*": any(cell.mark == "*" for cell in cells),
        "+": any(cell.mark == "+" for cell in cells),
        "≈": any(cell.mark == "≈" for cell in cells),
        "(n)": any(cell.n > 1 for cell in measured),
        "(2/3)": part is not None,
        "(1)": any(cell.n == 1 for cell in measured),
        "–": any(cell.state == "not run" for cell in cells),
        "×": any(cell.state == "failed" for cell in cells),
        "?": any(row.unproven for row in rows),
        "†": any(row.differs for row in rows),
    }
    found = {mark: meaning for mark, meaning in LEGEND.items() if occurs[mark]}
    if part is not None and "(2/3)" in found:
        found = {(f"({part.n}/{part.total})" if mark == "(2/3)" else mark): meaning for mark, meaning in found.items()}
        found[f"({part.n}/{part.total})"] = f"{part.n} of {part.total} seeds finished"
    return tuple(found.items())
