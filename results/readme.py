"""`python -m results readme`: the published records as `results/README.md`, stale as soon as one of them changes."""

from __future__ import annotations

import hashlib
import re
import tempfile
from pathlib import Path

import pandas as pd

from results import blocks, compare, picture, render, report
from results.export import PUBLISHED
from results.frame import load
from results.model import Block, Tables
from results.statistics import LEVEL

FILE = PUBLISHED.parent / "README.md"
PICTURE = PUBLISHED.parent / "report.png"
_COMMENT = re.compile(r"<!-- records ([0-9a-f]{64}) -->")


def records_hash(folder: Path = PUBLISHED) -> str:
    """sha256 over the names and contents of all record files below `folder`."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.json")):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{file.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def hash_in(text: str) -> str:
    """The hash of the records that a rendered file was made of; "" if it names none."""
    found = _COMMENT.search(text)
    return found[1] if found else ""


def render_readme(folder: Path = PUBLISHED) -> str:
    """The file's text. Trainings that differ in their seed stand in one row.

    Args:
        folder: the published records.
    """
    frame = load(folder)
    tables = blocks.tables(frame, trainings=True)
    parts = [
        "# Results of this project",
        f"<!-- records {records_hash(folder)} -->",
        "Rendered by `python -m results readme` from `records/`, not edited by hand; a test fails when it is stale. "
        "`python -m results table --records results/records --trainings` prints the same tables, "
        "`python -m results explain TABLE` all that they leave out.",
        "Small data, small networks and short trainings on a CPU: they show how the harness tells a gap from noise, "
        "and nothing about methods at their published length. Where a row says *3 trainings*, each seed has weights of "
        "its own; in no case is the choice of test images covered.",
        f"`python -m results report --records results/records --trainings` writes them as a page:\n\n"
        f"![The first screen of the report of these records]({PICTURE.name})",
        *(f"## {block.title}\n\n```text\n{_text(block)}\n```" for block in tables.blocks),
        tables.hidden_line.replace("--all", "`--all`"),
        "## msbreg − random\n\n" + _compared(frame),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _text(block: Block) -> str:
    return render.text(Tables((block,), (), 0)).partition("\n")[2].strip("\n")


def _compared(frame: pd.DataFrame) -> str:
    found = compare.compare(frame, "msbreg", "random", trainings=True)
    lines = [compare.summary(found, "msbreg", "random"), ""]
    lines += ["| task | metric | gap | 95 % interval | told apart | seeds to settle |"]
    lines += ["| --- | --- | --: | --- | --- | --- |"]
    for each in found:
        metric = each.metrics[0]
        interval = metric.gap.interval()
        shown = "unknown" if interval is None else f"{compare.signed(interval[0])} to {compare.signed(interval[1])}"
        alone = interval is not None and not interval[0] <= 0 <= interval[1]
        both = alone and metric.corrected is not None and metric.corrected <= LEVEL
        told = "yes" if both else "by itself, not over all tasks" if alone else "no"
        cells = [each.where, metric.name, compare.signed(metric.gap.difference), shown, told]
        lines.append(
            "| " + " | ".join([*map(render.escaped, cells), "" if alone else compare.needed(metric.gap)]) + " |"
        )
    return "\n".join(lines)


def draw_report(out: Path = PICTURE, folder: Path = PUBLISHED) -> None:
    """Take the picture of the records' report; see `results.picture.take`."""
    with tempfile.TemporaryDirectory() as made:
        page = report.write(load(folder), Path(made) / "report.html", trainings=True, pictures=False)
        picture.take(page, out, records_hash(folder))
