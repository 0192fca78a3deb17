"""`python -m results explain`: everything that a table leaves out, of a task, a table or one run."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

import pandas as pd

from results.frame import METRIC, metrics_of
from results.layouts import LAYOUTS, layout_of
from results.noise import about_conditions, repeat_noise
from results.words import ENGINES
from transfer.record import begins_run_id
from transfer.runtime.errors import UserError, printable


def explain(frame: pd.DataFrame, name: str) -> str:
    """All that the records say of a run, or of every checkpoint of a task or table.

    Args:
        frame: of `results.load`.
        name: a run id or its beginning (four characters or more), a task, or the key that a table ends with.

    Raises:
        UserError: it is none of these, or stands for several runs.
    """
    if begins_run_id(name):
        runs = frame[frame["id"].str.startswith(name)]
        if len(runs) > 1:
            raise UserError(f"{name} begins several run ids", found=", ".join(runs["id"]), todo="type more of it")
        if len(runs):
            return printable("\n".join(_run(runs.iloc[0]))) + "\n"
    tasks = {name} | {group.task for layout in LAYOUTS if layout.key == name for group in layout.groups}
    runs = frame[frame["task"].isin(tasks)]
    if runs.empty:
        keys = dict.fromkeys(layout_of(task).key for task in sorted(frame["task"].unique()))
        raise UserError(
            f"nothing is called {name!r}",
            found=f"tasks {', '.join(sorted(frame['task'].unique()))}; tables {', '.join(keys)}",
            todo="name one of these, or a run id",
        )
    conditions = ["task", "task_version", "engine", "test", "recipe"]
    parts = [_variant(members) for _, members in runs.groupby(conditions, sort=True)]
    return printable("\n\n".join(parts)) + "\n"


def _variant(runs: pd.DataFrame) -> str:
    row = runs.iloc[0]
    engine = f", {ENGINES.get(row['engine'], row['engine'])}" if row["engine"] else ""
    head = f"{row['task']} version {row['task_version']}{engine}, protocol {row['protocol']}"
    head += f", preset {row['preset']}" if row["preset"] else ""
    lines = [head, f"  recipe {row['recipe']}", *_data(row)]
    lists = list(runs["differences"])
    common = [each for each in lists[0] if all(each in other for other in lists)]
    lines += ["  differs from the protocol in", *grouped(common)] if common else ["  as published"]
    noise = repeat_noise(row["task"], row["engine"], row["test_sha256"])
    lines += [f"  {noise.line()}"] if noise else []
    lines += [f"  {line}" for line in about_conditions(list(runs["conditions"]))]
    for (label, identity), mine in runs.groupby(["label", "identity"], sort=True):
        lines += ["", *_checkpoint(str(label), str(identity), mine, common)]
    return "\n".join(lines)


def _checkpoint(label: str, identity: str, runs: pd.DataFrame, common: Sequence[tuple[str, str, str]]) -> list[str]:
    row = runs.iloc[0]
    weights = f"sha256 {row['sha256'][:16]}…, branch {row['branch']}, {row['arch']}, read as {row['format']}"
    lines = [f"  {label}", f"    weights   {identity if row['format'] == 'random' else weights}: {_proof(runs)}"]
    own = dict.fromkeys(each for differences in runs["differences"] for each in differences if each not in common)
    lines += ["    also differs in", *grouped(own, "      ")] if own else []
    commits = ", ".join(
        sorted(
            {f"{commit[:12]}{' (dirty)' * dirty}" for commit, dirty in zip(runs["commit"], runs["dirty"], strict=True)}
        )
    )
    versions = dict.fromkeys(
        f"{name} {version}" for found in runs["versions"] for name, version in sorted(found.items())
    )
    lines += [f"    code      commit {commits}", f"    packages  {', '.join(versions)}"]
    lines += [f"    machine   {'; '.join(dict.fromkeys(runs['device']))}, {runs['seconds'].median():.0f} s a run"]
    lines += [f"    note      {note}" for note in dict.fromkeys(note for notes in runs["notes"] for note in notes)]
    for run in runs.sort_values("seed").itertuples():
        numbers = "  ".join(f"{name} {runs.at[run.Index, METRIC + name]:.2f}" for name in _first(runs, run))
        lines.append(f"    seed {run.seed}  {numbers or 'FAILED: ' + run.reason}   run {run.id}")
    lines += [f"    again     {command}" for command in dict.fromkeys(runs["command"])]
    return lines


def _first(runs: pd.DataFrame, run: object) -> list[str]:
    """Names of the first metrics of a run, the primary one before the others."""
    mine = runs.loc[[run.Index]]  # type: ignore[attr-defined]
    primary = mine["primary"].iloc[0]
    return sorted(metrics_of(mine), key=lambda name: name != primary)[:4]


def _run(row: pd.Series) -> list[str]:
    lines = [
        f"run {row['id']}: {row['task']} version {row['task_version']}, {row['label']}, seed {row['seed']}",
        f"  {row['status']}{'' if pd.isna(row['utc']) else format(row['utc'], ' %Y-%m-%d %H:%M UTC')}, "
        f"{row['seconds']:.0f} s",
    ]
    lines += [f"  {row['reason']}"] * bool(row["reason"])
    numbers = row[[name for name in row.index if name.startswith(METRIC)]].dropna()
    lines += [f"  {name.removeprefix(METRIC):<22}{value:8.3f}" for name, value in numbers.items()]
    engine = ENGINES.get(row["engine"], row["engine"])
    lines += [f"  engine    {engine}"] * bool(engine)
    lines += [f"  protocol  {row['protocol']}" + (f", preset {row['preset']}" if row["preset"] else "")]
    lines += [f"  recipe    {row['recipe']}", *_data(row)]
    lines += (
        ["  differs from the protocol in", *grouped(row["differences"])] if row["differences"] else ["  as published"]
    )
    lines += [
        f"  weights   {row['checkpoint']}, sha256 {row['sha256']}, branch {row['branch']}, {row['arch']}",
        f"            {_proof(pd.DataFrame([row]))}",
        f"  code      commit {row['commit']}{', with changes that no commit holds' * bool(row['dirty'])}",
        f"  packages  {', '.join(f'{name} {version}' for name, version in sorted(row['versions'].items()))}",
        f"  machine   {row['device']}",
    ]
    conditions = ", ".join(f"{name} {value}" for name, value in row["conditions"].items()) or "not recorded"
    lines += [f"  computed  {conditions}", *(f"  note      {note}" for note in row["notes"])]
    return [
        *lines,
        f"  record    {row['path']}",
        f"  again     {row['command']}",
        f"            python -m transfer reproduce {row['id']}",
    ]


def _data(row: pd.Series) -> list[str]:
    lines = []
    for split, fingerprint in row["data"].items():
        facts = [f"{value} {name}" for name, value in fingerprint.items() if name not in ("name", "sha256")]
        facts.append(f"sha256 {fingerprint['sha256'][:12]}…")
        lines.append(f"  data      {split} {fingerprint['name']}: {', '.join(facts)}")
    return lines


def _proof(runs: pd.DataFrame) -> str:
    proven = runs[runs["proven"]]
    if len(proven) < len(runs[runs["status"] == "finished"]):
        return "no proof in the record that they arrived"
    if proven.empty:
        return "nothing was computed with them"
    found = list(proven["verification"])
    worst = max(max(each["stage_error"].values()) for each in found)
    return f"all {found[0]['tensors']} tensors arrived, forward pass equal to {worst:.0e}"


def grouped(differences: Iterable[tuple[str, str, str]], indent: str = "    ") -> list[str]:
    """Differences by what they are of, a paragraph for each part of the recipe: "what theirs → ours"."""
    parts: dict[str, list[str]] = {}
    for what, theirs, ours in differences:
        part, _, name = what.rpartition(".")
        plain = len(what) + len(theirs) + len(ours) < 60 and "→" not in theirs + ours
        said = f"{name} {theirs} → {ours}" if plain else f"{name}: {ours} (protocol: {theirs})"
        parts.setdefault(part or "run", []).append(said.replace(" ", "\u00a0") if plain else said)
    lines = []
    for part, said_ in parts.items():
        lead = f"{indent}{part:<10}"
        lines += textwrap.wrap(" · ".join(said_), 120, initial_indent=lead, subsequent_indent=" " * len(lead))
    return [line.replace("\u00a0", " ") for line in lines]
