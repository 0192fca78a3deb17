"""A section of a Hugging Face model card: `model-index` metadata for the Hub, and the tables for people.

Layout of `model-index`: huggingface/hub-docs, modelcard.md (of a result, task.type, dataset.type and .name,
metrics.type and .value are required). Numbers are means over seeds, in percent.
"""

from __future__ import annotations

import json
import re

import pandas as pd

from results import blocks, render
from results.frame import METRIC, metrics_of
from results.model import Tables
from results.words import data_name, few
from transfer.runtime.errors import UserError

_KINDS = (
    ("segmentation.", "image-segmentation"),
    ("detection.", "object-detection"),
    ("", "image-classification"),
)


def card(frame: pd.DataFrame, label: str) -> str:
    """The section of one checkpoint: front matter between `---`, then a table for each block that it stands in.

    Args:
        frame: of `results.load`.
        label: the checkpoint's name in tables.

    Raises:
        UserError: nothing of that name has finished, or it stands for several checkpoints.
    """
    mine = frame[(frame["label"] == label) & (frame["status"] == "finished") & (frame["purpose"] == "")]
    if mine.empty:
        raise UserError(
            f"no finished run is of a checkpoint called {label!r}",
            found=", ".join(sorted(frame["label"].unique())),
            todo="name one of these",
        )
    if mine["identity"].nunique() > 1:
        raise UserError(
            f"{label!r} names {mine['identity'].nunique()} different checkpoints, and a card is of one",
            found="; ".join(sorted(sha[:12] for sha in mine["sha256"].unique())),
            todo="name the folder of one by --records, or run it again under --labels of its own",
        )
    lines = ["---", "model-index:", f"- name: {_text(label)}", "  results:"]
    groups = mine.groupby(["task", "task_version", "engine", "recipe", "data_id"], sort=True)
    for _, runs in groups:
        lines += _result(runs)
    lines += ["---", "", "## Transfer results", ""]
    row = mine.iloc[0]
    lines.append(
        f"Checkpoint sha256 `{row['sha256']}`, branch {render.escaped(row['branch'])}, {render.escaped(row['arch'])}. "
        "Mean ± sample standard deviation over seeds, in percent."
    )
    others = frame[frame["task"].isin(mine["task"])]
    tables = blocks.tables(others[(others["label"] == label) | (others["baseline"] != "")], everything=True)
    shown = [block for block in tables.blocks if any(each.label == label for each in block.rows)]
    tables = Tables(tuple(shown), (), len(mine))
    return "\n".join(lines) + "\n\n" + render.markdown(tables)


def _result(runs: pd.DataFrame) -> list[str]:
    row = runs.iloc[0]
    kind = next(kind for beginning, kind in _KINDS if row["task"].startswith(beginning))
    name = data_name(row["test"], row["test_sha256"])
    recipe = few(row["differences"]) or f"as published (protocol {row['protocol']})"
    engine = f", {row['engine']}" if row["engine"] else ""
    lines = [
        "  - task:",
        f"      type: {kind}",
        f"      name: {_text(row['task'] + ' version ' + str(row['task_version']) + engine)}",
        "    dataset:",
        f"      type: {_text(re.sub(r'[^a-z0-9]+', '-', name.casefold()).strip('-') or 'own')}",
        f"      name: {_text(name)}",
        f"      split: {_text(row['test'])}",
        "    metrics:",
    ]
    for metric in sorted(metrics_of(runs), key=lambda each: each != row["primary"]):
        values = runs[METRIC + metric].dropna()
        spread = f", standard deviation {values.std(ddof=1):.2f}" if len(values) > 1 else ""
        said = f"{metric}, mean of {len(values)} seed{'' if len(values) == 1 else 's'}{spread}; {recipe}"
        lines += [f"    - type: {_text(metric)}", f"      value: {values.mean():.4f}", f"      name: {_text(said)}"]
    return lines


def _text(value: str) -> str:
    """A YAML scalar; JSON's strings are YAML's double-quoted ones."""
    return json.dumps(value)
