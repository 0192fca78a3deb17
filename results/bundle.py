"""Results in one file: `bundle` writes records, tables and curves to a zip, `merge` takes them in on another machine.

No weights, no images, no path of the machine: records are those of `results.export.without_machine`. Equal records give
equal bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from results import blocks, latex, render, tidy
from results.export import without_machine
from transfer.record import SCHEMA, Record, RecordError, parse_record, read_record, write_record
from transfer.runtime.curve import read as read_curve
from transfer.runtime.errors import UserError
from transfer.runtime.files import write_atomically, write_text

MANIFEST = "bundle.json"
LARGEST = 64 << 20  # bytes of one member, unpacked: no record and no curve comes near it
_RECORD = re.compile(r"records/([A-Za-z0-9_][A-Za-z0-9_.-]*)/([0-9a-f]{16})\.json")
_CURVE = re.compile(r"curves/([A-Za-z0-9_][A-Za-z0-9_.-]*)/([0-9a-f]{16})\.jsonl")
_DATE = (1980, 1, 1, 0, 0, 0)


def bundle(frame: pd.DataFrame, work: Path, out: Path) -> int:
    """Write a zip of the frame's records, their tables and the curves that are still there; return how many records.

    Args:
        frame: of `results.load`.
        work: the folder with <task>/<run id>/metrics.jsonl.
        out: the file.

    Raises:
        UserError: the file cannot be written, or a record is gone.
    """
    members: dict[str, bytes] = {}
    for row in frame.sort_values(["task", "id"]).itertuples():
        record = without_machine(read_record(Path(row.path)))
        content = {"schema": SCHEMA, **vars(record)}
        members[f"records/{row.task}/{row.id}.json"] = _json(content)
        curve = work / row.task / row.id / "metrics.jsonl"
        if not curve.is_file():
            curve = curve.parent / "final" / curve.name
        if curve.is_file():
            lines = "".join(json.dumps(line) + "\n" for line in read_curve(curve))
            members[f"curves/{row.task}/{row.id}.jsonl"] = lines.encode()
    tables = blocks.tables(frame)
    members["tables/tables.txt"] = render.text(tables).encode()
    members["tables/tables.md"] = render.markdown(tables).encode()
    members["tables/tables.tex"] = latex.latex(tables).encode()
    members["tables/tables.csv"] = tidy.long(tables).to_csv(index=False).encode()
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}
    members[MANIFEST] = _json({"bundle": 1, "sha256": digests})
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for name in sorted(members):
            file.writestr(zipfile.ZipInfo(name, _DATE), members[name], zipfile.ZIP_DEFLATED)
    write_atomically(out, lambda opened: opened.write(packed.getvalue()))
    return len(frame)


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


@dataclass
class Merged:
    """What became of a bundle's records.

    Attributes:
        new, same: run ids that were added, or were there with the same numbers.
        conflicts, faults: one message each; the folder keeps what it had.
    """

    new: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def line(self) -> str:
        """For people."""
        parts = [f"{len(self.new)} new", f"{len(self.same)} already there"]
        parts += [f"{len(self.conflicts)} in conflict"] * bool(self.conflicts)
        parts += [f"{len(self.faults)} unreadable"] * bool(self.faults)
        return f"runs: {', '.join(parts)}"


def merge(file: Path, to: Path, work: Path) -> Merged:
    """Take in a bundle: each record is checked as any other, its run id included.

    A run that is there with the same numbers stays as it is; one with other numbers is a conflict and changes nothing;
    a failed one gives way to a finished one, never the other way round. A curve goes to the folder of its run's work,
    where there is none.

    Args:
        file: of `bundle`.
        to: records folder, for example runs/records.
        work: folder of the runs' work.

    Raises:
        UserError: it is no bundle, or it was damaged on the way.
    """
    members = _members(file)
    found = Merged()
    for name, content in members.items():
        named = _RECORD.fullmatch(name)
        if named is None:
            continue
        try:
            record = parse_record(content, Path(f"{file}/{name}"))
        except RecordError as error:
            found.faults.append(str(error))
            continue
        if (record.task, record.run_id) != named.groups():
            found.faults.append(f"{file}: {name} holds run {record.run_id} of {record.task}")
            continue
        _take(record, to, found)
        curve = members.get(f"curves/{record.task}/{record.run_id}.jsonl")
        target = work / record.task / record.run_id / "metrics.jsonl"
        if curve is not None and not target.parent.exists():
            write_text(target, curve.decode())
    return found


def _take(record: Record, to: Path, found: Merged) -> None:
    path = to / record.task / f"{record.run_id}.json"
    if not path.exists():
        write_record(record, to)
        found.new.append(record.run_id)
        return
    ours = read_record(path)
    if ours.status == "failed" and record.status == "finished":
        write_record(record, to)
        found.new.append(record.run_id)
    elif record.status == "failed" or ours.metrics == record.metrics:
        found.same.append(record.run_id)
    else:
        first, *more = [name for name in sorted(ours.metrics) if ours.metrics[name] != record.metrics.get(name)] or [
            "?"
        ]
        values = " and ".join(f"{each.metrics.get(first, float('nan')):.3f}" for each in (ours, record))
        found.conflicts.append(
            f"run {record.run_id} ({record.task}, {record.label}, seed {record.seed}) is there with other numbers\n"
            f"  found: {first} {values}{f', {len(more)} more' if more else ''}; here of {ours.utc} on {ours.device}, "
            f"in the bundle of {record.utc} on {record.device}\n"
            f"  to do: nothing was changed; remove {path} to take the bundle's"
        )


def _members(file: Path) -> dict[str, bytes]:
    """Name → content of what the manifest names, checked against it."""
    try:
        with zipfile.ZipFile(file) as opened:
            names = {info.filename: info for info in opened.infolist()}
            large = [name for name, info in names.items() if info.file_size > LARGEST]
            if large:
                raise _no_bundle(file, f"{large[0]} is {names[large[0]].file_size >> 20} MB large")
            if MANIFEST not in names:
                raise _no_bundle(file, f"no {MANIFEST} in it")
            digests = json.loads(opened.read(MANIFEST))["sha256"]
            wanted = [name for name in digests if _RECORD.fullmatch(name) or _CURVE.fullmatch(name)]
            contents = {name: opened.read(name) for name in wanted}
    except (OSError, zipfile.BadZipFile, zipfile.LargeZipFile, ValueError, KeyError, TypeError, EOFError) as error:
        raise _no_bundle(file, str(error)) from error
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != digests[name]:
            raise _no_bundle(file, f"{name} was changed or damaged on the way")
    return contents


def _no_bundle(file: Path, found: str) -> UserError:
    return UserError(
        f"{file} is no whole bundle of results",
        found=found,
        todo="copy it again; `python -m results bundle` writes one. Nothing was taken in",
    )
