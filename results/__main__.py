"""`python -m results`: tables, comparisons, ranks and plots of records; choosing records as published evidence."""

from __future__ import annotations

from transfer.runtime.interrupts import NOTHING_CHANGED, on_interrupt

if __name__ == "__main__":
    # before the imports that take long
    on_interrupt(NOTHING_CHANGED)

import dataclasses
import logging
import os
import shutil
import sys
import traceback
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
import tyro

from results import blocks, compare, explain, export, frame, ranking, render
from transfer.runtime.command import REFUSED, Debug, answer
from transfer.runtime.errors import UserError, printable
from transfer.runtime.files import write_text

# An empty hint keeps "(default: )" and "(default: None)" out of the help: the text says what happens by default.
Folders = Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DIR [DIR …]", help_behavior_hint="")]
Names = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME …]", help_behavior_hint="")]
Flag = Annotated[bool, tyro.conf.arg(help_behavior_hint="")]
File = Annotated[Path, tyro.conf.arg(metavar="FILE")]
MaybeFile = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]


@dataclass(frozen=True, kw_only=True)
class _Selection(Debug, ABC):
    records: Folders = ()
    """Folders with records. Default: runs/records and results/records of this checkout."""
    task: Names = ()
    """Only these tasks, for example detection.voc."""

    def run(self) -> int:
        """Show the records; name the files that are none. Exit status 1 if some are not in what is shown."""
        found = frame.load(self.records, self.task)
        problems: tuple[frame.Problem, ...] = found.attrs["problems"]
        missing = [problem for problem in problems if problem.kind != "caution"]
        try:
            if len(found):
                self.show(found)
            elif not missing:
                raise self._nothing(found)
        finally:  # a broken file may be why something else is missing: name it in any case, and last
            for problem in problems:
                print(f"\n{printable(problem.text)}", file=sys.stderr)
        if missing:
            files = "1 file is" if len(missing) == 1 else f"{len(missing)} files are"
            print(f"\n{files} not in what is shown: see above", file=sys.stderr)
        return 1 if missing else 0

    def _nothing(self, found: pd.DataFrame) -> UserError:
        every = frame.load(self.records)
        if len(every):
            return UserError(
                f"no records of {', '.join(self.task)}",
                found="there are records of " + ", ".join(sorted(every["task"].unique())),
                todo="give --task one of these, or leave it out",
            )
        return UserError(
            "there are no records to show",
            found="nothing in " + " or ".join(found.attrs["folders"] or map(str, frame.RECORD_FOLDERS)),
            todo="bash detection/run_voc.sh CHECKPOINT makes one; make demo makes a few in minutes;\n"
            "--records DIR reads another folder",
        )

    @abstractmethod
    def show(self, found: pd.DataFrame) -> None:
        """Do what the command is for."""


@dataclass(frozen=True, kw_only=True)
class Table(_Selection):
    """Print the papers' tables: mean ± standard deviation over seeds, best and second where they exceed the noise.

    Failed runs are shown and never averaged in; engines, recipes and data never share a cell. Exit status 1: some files
    in the folders are not records.
    """

    layout: Literal["paper", "long", "wide"] = "paper"
    """paper: the papers' tables; long: a line per checkpoint and metric; wide: checkpoints × tasks."""
    format: Literal["text", "md", "csv", "latex", "html"] = "text"
    """csv: a line per checkpoint and metric, in full precision, whatever the layout."""
    trainings: Flag = False
    """Several checkpoints of one name, one a seed, are one row: pretrainings that differ in their seed."""
    metrics: Names = ()
    """Only these metrics, for example AP AP50 AP75."""
    all: Flag = False
    """Also runs that compare nothing: single ones, of 0 iterations, overfitting tests."""
    reference: Flag = False
    """Show all published numbers of these tasks below, each with its source."""
    csv: MaybeFile = None
    """Also write a line per row and metric, in full precision."""
    markdown: MaybeFile = None
    """Also write the papers' tables as markdown."""

    def show(self, found: pd.DataFrame) -> None:
        """Print and write."""
        from results import latex, tidy

        tables = blocks.tables(found, self.trainings, self.metrics, self.all)
        if self.reference:
            below = blocks.published(found["task"].unique())
            tables = dataclasses.replace(tables, blocks=(*tables.blocks, *below))
        if self.format == "csv":
            shown = tidy.long(tables).to_csv(index=False)
        elif self.layout != "paper":
            shown = tidy.show(tidy.grid(tables, self.layout), self.format)
        elif self.format == "text":
            attached = sys.stdout.isatty()
            columns = shutil.get_terminal_size((120, 24)).columns if attached else 120
            shown = render.text(tables, columns, attached and "NO_COLOR" not in os.environ)
        else:
            shown = {"md": render.markdown, "latex": latex.latex, "html": latex.html}[self.format](tables)
        print(shown, end="")
        if self.csv:
            write_text(self.csv, tidy.long(tables).to_csv(index=False))
        if self.markdown:
            write_text(self.markdown, render.markdown(tables))


@dataclass(frozen=True, kw_only=True)
class Explain(_Selection):
    """Print everything that a table leaves out: differences in full, weights and their proof, versions, commands."""

    name: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="TASK|TABLE|RUN")]]
    """A task, the word below a table, or a run id (or its beginning)."""

    def show(self, found: pd.DataFrame) -> None:
        """Print."""
        print(explain.explain(found, self.name), end="")


@dataclass(frozen=True, kw_only=True)
class Rank(_Selection):
    """Print mean ranks of checkpoints over tasks, with intervals over seeds and over the choice of tasks."""

    trainings: Flag = False
    """Several checkpoints of one name, one a seed, are one row."""

    def show(self, found: pd.DataFrame) -> None:
        """Print."""
        print(ranking.text(ranking.of_tables(blocks.tables(found, self.trainings))), end="")


@dataclass(frozen=True, kw_only=True)
class Compare(_Selection):
    """Tell a gap between two checkpoints from the noise of seeds.

    Pairs their runs by seed where engine, recipe and data are the same; 95 % interval by Student's t.
    """

    first: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="A")]]
    """Name of a checkpoint, as the table shows it."""
    second: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="B")]]
    """Name of the other one."""
    metrics: Names = ()
    """Only these metrics, for example AP."""
    trainings: Flag = False
    """A name may stand for several checkpoints, one a seed: pretrainings that differ in their seed."""

    def show(self, found: pd.DataFrame) -> None:
        """Print."""
        pairs = compare.compare(found, self.first, self.second, self.metrics, self.trainings)
        print(printable(compare.text(pairs, self.first, self.second)), end="")


@dataclass(frozen=True, kw_only=True)
class Plot(_Selection):
    """Draw a metric of every row of the table, with its seeds as points."""

    out: File
    """The picture: png, pdf or svg."""
    metric: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """Instead of each task's primary metric."""

    trainings: Flag = False
    """Several checkpoints of one name, one a seed, are one row."""

    def show(self, found: pd.DataFrame) -> None:
        """Draw."""
        from results import plots  # matplotlib takes half a second, which a table need not wait for

        metrics = (self.metric,) if self.metric else ()
        plots.plot_metric(blocks.tables(found, self.trainings, metrics), self.out)
        print(self.out)


@dataclass(frozen=True, kw_only=True)
class Curves(_Selection):
    """Draw the training loss of every run whose metrics.jsonl is still there."""

    out: File
    """The picture: png, pdf or svg."""
    work: Annotated[Path, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = frame.WORK_FOLDER
    """Folder with <task>/<run id>/metrics.jsonl. Default: runs/work of this checkout."""

    def show(self, found: pd.DataFrame) -> None:
        """Draw."""
        from results import plots

        for line in plots.plot_curves(found, self.work, self.out):
            print(f"not drawn: {line}", file=sys.stderr)
        print(self.out)


@dataclass(frozen=True, kw_only=True)
class Report(_Selection):
    """Write one HTML file with the answer, tables, plots and what is behind every number. It needs no network."""

    out: Annotated[Path, tyro.conf.arg(metavar="FILE", aliases=("-o",), help_behavior_hint="")] = (
        frame.ROOT / "runs" / "report.html"
    )
    """Default: runs/report.html of this checkout."""
    trainings: Flag = False
    """Several checkpoints of one name, one a seed, are one row."""
    work: Annotated[Path, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = frame.WORK_FOLDER
    """Folder with <task>/<run id>/, for learning curves and pictures. Default: runs/work of this checkout."""
    pretraining: Folders = ()
    """Folders of pretrainings (their --out), for the health of their embeddings."""
    no_pictures: Flag = False
    """Leave contact sheets out: each takes about 100 kB."""

    def show(self, found: pd.DataFrame) -> None:
        """Write."""
        from results import report

        print(report.write(found, self.out, self.trainings, self.work, self.pretraining, not self.no_pictures))


@dataclass(frozen=True, kw_only=True)
class Export(Debug):
    """Copy chosen records to results/records, as evidence that is published with the code.

    Absolute paths are shortened. Runs of code that no commit holds are refused.
    """

    chosen: tyro.conf.Positional[
        Annotated[tuple[str, ...], tyro.conf.arg(metavar="RECORD [RECORD …]", help_behavior_hint="")]
    ]
    """Record files, or run ids (or their beginnings) of records in runs/records."""
    to: Annotated[Path, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = export.PUBLISHED
    """Where the evidence lies. Default: results/records of this checkout."""
    allow_dirty: Flag = False
    """Also take runs of code that no commit holds; the table shows it."""
    overwrite: Flag = False
    """Replace a finished record by a failed one."""

    def run(self) -> int:
        """Copy."""
        for path in export.export(self.chosen, self.to, self.allow_dirty, self.overwrite):
            print(path)
        return 0


@dataclass(frozen=True, kw_only=True)
class Bundle(_Selection):
    """Write records, their tables and curves to one zip, for another machine: no weights, no path of this one."""

    out: Annotated[Path, tyro.conf.arg(metavar="FILE", aliases=["-o"])]
    """The zip."""
    work: Annotated[Path, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = frame.WORK_FOLDER
    """Folder with <task>/<run id>/metrics.jsonl. Default: runs/work of this checkout."""

    def show(self, found: pd.DataFrame) -> None:
        """Write."""
        from results.bundle import bundle

        count = bundle(found, self.work, self.out)
        print(
            f"{count} record{'' if count == 1 else 's'} in {self.out}; there: python -m results merge {self.out.name}"
        )


@dataclass(frozen=True, kw_only=True)
class Merge(Debug):
    """Take in bundles of another machine: the same run twice is one, one with other numbers is shown and left out.

    Exit status 1: something was left out.
    """

    bundles: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE [FILE …]")]]
    """Zips that `python -m results bundle` wrote."""
    to: Annotated[Path, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = frame.RECORD_FOLDERS[0]
    """Where the records go. Default: runs/records of this checkout."""
    work: Annotated[Path, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = frame.WORK_FOLDER
    """Where the curves go. Default: runs/work of this checkout."""

    def run(self) -> int:
        """Take in one after the other."""
        from results.bundle import merge

        status = 0
        for file in self.bundles:
            found = merge(file, self.to, self.work)
            print(printable(f"{file}: {found.line()}"))
            for message in (*found.conflicts, *found.faults):
                print(f"\n{printable(message)}", file=sys.stderr)
                status = 1
        return status


@dataclass(frozen=True, kw_only=True)
class Card(_Selection):
    """Print a section of a Hugging Face model card: model-index metadata and the checkpoint's tables."""

    label: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="LABEL")]]
    """Name of the checkpoint, as the table shows it."""

    def show(self, found: pd.DataFrame) -> None:
        """Print."""
        from results.card import card

        print(card(found, self.label), end="")


@dataclass(frozen=True, kw_only=True)
class Readme(Debug):
    """Write results/README.md and the picture of the report anew from the published records; needs a Chromium."""

    def run(self) -> int:
        """Write."""
        from results import readme

        write_text(readme.FILE, readme.render_readme())
        print(readme.FILE)
        readme.draw_report()
        print(readme.PICTURE)
        return 0


def main() -> int:
    """Exit status: 0 done, 1 shown but some files are not records, 2 not done, 130 interrupted."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    command = tyro.cli(
        Table | Compare | Rank | Explain | Report | Plot | Curves | Export | Bundle | Merge | Card | Readme,
        prog="python -m results",
        description="Tables, comparisons and plots of records; published numbers beside them.",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    try:
        return answer(lambda: int(command.run()), command.debug, NOTHING_CHANGED, lead="")
    except UserError:  # with --debug
        traceback.print_exc()
        return REFUSED


if __name__ == "__main__":
    sys.exit(main())
