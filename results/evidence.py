"""Which records a table is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transfer.errors import UserError
from transfer.record import Record, RecordError, read_records

ROOT = Path(__file__).resolve().parent.parent
RECORD_FOLDERS = (ROOT / "runs" / "records", ROOT / "results" / "records")
WORK_FOLDER = ROOT / "runs" / "work"


@dataclass(frozen=True)
class Evidence:
    """Records without repetitions, and one problem per file that is not a record."""

    records: tuple[Record, ...]
    problems: tuple[RecordError, ...]


def load(folders: Sequence[Path] = (), tasks: Sequence[str] = ()) -> Evidence:
    """Read the records of `folders` (default: `RECORD_FOLDERS`, wherever this is called from).

    A run that lies in several folders counts once: a finished record goes before a failed one, then the later one.

    Args:
        folders: each must exist; of the default folders, those that do are read.
        tasks: keep these tasks only; all if empty.

    Raises:
        UserError: a folder does not exist, or there are no records (of these tasks) and no problems to report either.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UserError(
                f"there is no folder {folder}", todo="give --records the folder that holds <task>/<run>.json"
            )
    best: dict[str, Record] = {}
    problems: list[RecordError] = []
    searched = tuple(folders) or RECORD_FOLDERS
    for folder in searched:
        found = read_records(folder)
        problems.extend(found.problems)
        for record in found.records:
            if record.run_id not in best or _worth(record) > _worth(best[record.run_id]):
                best[record.run_id] = record
    records = tuple(record for record in best.values() if not tasks or record.task in tasks)
    if best and not records:
        raise UserError(
            f"no records of {', '.join(tasks)}",
            found="there are records of " + ", ".join(sorted({record.task for record in best.values()})),
            todo="give --task one of these, or leave it out",
        )
    if not records and not problems:
        raise UserError(
            "there are no records to show",
            found="nothing in " + " or ".join(map(str, searched)),
            todo="bash detection/run_voc.sh CHECKPOINT makes one; make demo makes a few in minutes;\n"
            "--records DIR reads another folder",
        )
    return Evidence(records, tuple(problems))


def _worth(record: Record) -> tuple[bool, str]:
    return record.status == "finished", record.utc
