"""`python -m results`: tables, comparisons and plots of records; choosing records as published evidence."""

from __future__ import annotations

from transfer.interrupts import NOTHING_CHANGED, on_interrupt, say

if __name__ == "__main__":
    # before the imports that take long
    on_interrupt(NOTHING_CHANGED)

import logging
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from results import compare, evidence, export, layout, reference, rows, table
from transfer.atomic import write_text
from transfer.errors import UserError
from transfer.record import Record

# An empty hint keeps "(default: )" and "(default: None)" out of the help: the text says what happens by default.
Folders = Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DIR [DIR …]", help_behavior_hint="")]
Names = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME …]", help_behavior_hint="")]
Flag = Annotated[bool, tyro.conf.arg(help_behavior_hint="")]
File = Annotated[Path, tyro.conf.arg(metavar="FILE")]
MaybeFile = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]


@dataclass(frozen=True, kw_only=True)
class _Selection(ABC):
    records: Folders = ()
    """Folders with records. Default: runs/records and results/records of this checkout."""
    task: Names = ()
    """Only these tasks, for example detection.voc."""
    debug: Flag = False
    """Show tracebacks."""

    def run(self) -> int:
        """Show the records; name the files that are none. Exit status 1 if there are such files."""
        found = evidence.load(self.records, self.task)
        try:
            if found.records:
                self.show(found.records)
        finally:  # a broken file may be why something else is missing: name it in any case, and last
            for problem in found.problems:
                print(f"\n{problem}", file=sys.stderr)
        if found.problems:
            files = "1 file is" if len(found.problems) == 1 else f"{len(found.problems)} files are"
            print(f"\n{files} not in what is shown: see above", file=sys.stderr)
        return 1 if found.problems else 0

    @abstractmethod
    def show(self, records: Sequence[Record]) -> None:
        """Do what the command is for."""


@dataclass(frozen=True, kw_only=True)
class Table(_Selection):
    """Print the table: mean ± standard deviation over seeds, one row per checkpoint, engine, recipe and data.

    Failed runs are shown and never averaged in. Exit status 1: some files in the folders are not records.
    """

    metrics: Names = ()
    """Only these metrics, for example AP AP50 AP75."""
    reference: Flag = False
    """Show the published numbers below, each with protocol and source."""
    csv: MaybeFile = None
    """Also write one line per row and metric, in full precision."""
    markdown: MaybeFile = None
    """Also write what is printed, as markdown."""

    def show(self, records: Sequence[Record]) -> None:
        """Print and write."""
        grouped = rows.group(records)
        blocks = table.blocks(grouped, self.metrics)
        if self.reference:
            blocks += reference.blocks(sorted({row.variant.task for row in grouped}))
        print(layout.as_text(blocks), end="")
        if self.csv:
            write_text(self.csv, rows.tidy(grouped, self.metrics).to_csv(index=False))
        if self.markdown:
            write_text(self.markdown, layout.as_markdown(blocks))


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

    def show(self, records: Sequence[Record]) -> None:
        """Print."""
        blocks = compare.compare(records, self.first, self.second, self.metrics, self.trainings)
        print(layout.as_text(blocks), end="")


@dataclass(frozen=True, kw_only=True)
class Plot(_Selection):
    """Draw a metric of every row of the table, with its seeds as points."""

    out: File
    """The picture: png, pdf or svg."""
    metric: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """Instead of each task's primary metric."""

    def show(self, records: Sequence[Record]) -> None:
        """Draw."""
        from results import plots  # matplotlib takes half a second, which a table need not wait for

        plots.plot_metric(rows.group(records), self.out, self.metric)
        print(self.out)


@dataclass(frozen=True, kw_only=True)
class Curves(_Selection):
    """Draw the training loss of every run whose metrics.jsonl is still there."""

    out: File
    """The picture: png, pdf or svg."""
    work: Annotated[Path, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = evidence.WORK_FOLDER
    """Folder with <task>/<run id>/metrics.jsonl. Default: runs/work of this checkout."""

    def show(self, records: Sequence[Record]) -> None:
        """Draw."""
        from results import plots

        for line in plots.plot_curves(rows.group(records), self.work, self.out):
            print(f"not drawn: {line}", file=sys.stderr)
        print(self.out)


@dataclass(frozen=True, kw_only=True)
class Export:
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
    debug: Flag = False
    """Show tracebacks."""

    def run(self) -> int:
        """Copy."""
        for path in export.export(self.chosen, self.to, self.allow_dirty, self.overwrite):
            print(path)
        return 0


def main() -> int:
    """Exit status: 0 done, 1 shown but some files are not records, 2 not done, 130 interrupted."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    command = tyro.cli(
        Table | Compare | Plot | Curves | Export,
        prog="python -m results",
        description="Tables, comparisons and plots of records; published numbers beside them.",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    try:
        return int(command.run())
    except UserError as error:
        if command.debug:
            traceback.print_exc()
        print(f"{error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return say(NOTHING_CHANGED)


if __name__ == "__main__":
    sys.exit(main())
