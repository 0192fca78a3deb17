"""`load`: records as one pandas frame, one row a run. Everything that this package shows is made of it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from results.index import read_folder
from transfer.record import Record, content_hash, leaves
from transfer.runtime.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
RECORD_FOLDERS = (ROOT / "runs" / "records", ROOT / "results" / "records")
WORK_FOLDER = ROOT / "runs" / "work"

# column → (dtype, what it holds). Text that is not known is "", never a missing value.
COLUMNS: Mapping[str, tuple[str, str]] = {
    "id": ("str", "run id: 16 hexadecimal characters, a hash of all that decides the number"),
    "task": ("str", 'name, for example "detection.voc"'),
    "task_version": ("int64", "raised whenever the same options would give other numbers"),
    "engine": ("str", '"detectron2", "mmdet", or "" for tasks without engines'),
    "label": ("str", "the checkpoint's name in tables"),
    "arch": ("str", 'architecture, for example "resnet50"'),
    "identity": ("str", "which training: sha256, branch and architecture; random weights of one architecture are one"),
    "sha256": ("str", "of the checkpoint file"),
    "branch": ("str", "which network of the file"),
    "format": ("str", 'layout of the file; "random" for random weights'),
    "checkpoint": ("str", "path of the file, as typed (only its name in published records)"),
    "baseline": ("str", '"random" or "supervised" weights, which give the scale; "" for what is compared'),
    "seed": ("int64", "of everything random in the run"),
    "status": ("str", '"finished" or "failed"'),
    "reason": ("str", 'first line of why a run failed, "Kind: message"; "" for a finished one'),
    "purpose": ("str", '"" for a comparison; "0 iterations" or "overfitting" for runs that are none'),
    "protocol": ("str", "published protocol that the recipe is measured against"),
    "preset": ("str", 'recipe for smaller hardware that was typed; "" for none'),
    "recipe": ("str", "hash of every value that moves the number"),
    "authors_own": ("bool", "the protocol was chosen as that of the checkpoint's authors: compared with nothing"),
    "differences": ("object", "tuple of (what, in the protocol, in the run)"),
    "primary": ("str", "name of the metric that comes first"),
    "value": ("float64", "the primary metric in percent; NaN for a failed run"),
    "data": ("object", "dict: split → fingerprint {name, sha256, images, …}"),
    "data_id": ("str", "hash of `data`: equal data, equal hash"),
    "test": ("str", "name of the test split's images"),
    "test_sha256": ("str", "of the test split"),
    "conditions": ("object", "dict: threads, instructions, …, see transfer.runtime.conditions; {} if not recorded"),
    "proven": ("bool", "whether the record proves that every tensor of the checkpoint arrived"),
    "verification": ("object", "dict: that proof"),
    "commit": ("str", 'of the code; "unknown" outside a repository'),
    "dirty": ("bool", "whether the code differed from that commit"),
    "versions": ("object", "dict: package → version"),
    "device": ("str", "for people"),
    "command": ("str", "as typed"),
    "notes": ("object", "tuple of what a reader should know about checkpoint and data"),
    "seconds": ("float64", "wall-clock duration"),
    "utc": ("datetime64[us, UTC]", "end of the run; NaT if the record holds no date"),
    "path": ("str", "the record file"),
}
METRIC = "metric."  # beginning of the metrics' columns, float64 in percent; NaN where the run has none of that name

_FINISHED_SPLITS = ("test", "val", "train")


@dataclass(frozen=True)
class Problem:
    """Something about a file that a reader must hear of.

    Attributes:
        kind: "unreadable" (not in the frame), "conflict" (one of two with the same id is), "caution" (it is in).
        path: the file.
        text: one message.
    """

    kind: str
    path: str
    text: str

    def __str__(self) -> str:
        return self.text


def load(folders: str | Path | Sequence[str | Path] = (), tasks: Sequence[str] = ()) -> pd.DataFrame:
    """Records as a frame, one row a run, in order of task, label, engine and seed.

    A run that lies in several folders counts once: a finished record goes before a failed one, then the later one.
    An index beside the records (`results.index`) spares reading files again that have not changed.

    Args:
        folders: one or several, searched with all below; default: runs/records and results/records of this checkout,
            as far as they exist.
        tasks: keep these tasks only; all if empty.

    Returns:
        The columns of `COLUMNS` with their dtypes, then one `metric.<name>` of float64 in percent for each metric.
        `attrs["problems"]` is a tuple of `Problem`, empty if there are none; `attrs["folders"]` what was searched.

    Raises:
        UserError: a folder that was named does not exist.
    """
    named = (folders,) if isinstance(folders, (str, Path)) else tuple(folders)
    searched = tuple(Path(folder) for folder in named) or tuple(each for each in RECORD_FOLDERS if each.is_dir())
    for folder in searched:
        if not folder.is_dir():
            raise UserError(
                f"there is no folder {folder}", todo="give --records the folder that holds <task>/<run>.json"
            )
    problems: list[Problem] = []
    columns: dict[str, list[Any]] = {}
    for folder in dict.fromkeys(searched):
        found, faults = read_folder(folder, row_of)
        problems += [Problem("unreadable", path, text) for path, text in faults]
        for name, values in found.items():
            columns.setdefault(name, []).extend(values)
    chosen, conflicts = _once(columns)
    problems += conflicts
    if tasks:
        chosen = [place for place in chosen if columns["task"][place] in tasks]
    frame = _frame(columns, chosen)
    problems += _cautions(frame)
    frame.attrs["problems"] = tuple(problems)
    frame.attrs["folders"] = tuple(map(str, searched))
    return frame


def metrics_of(frame: pd.DataFrame) -> list[str]:
    """Names of the metrics that some run of the frame has, in the frame's order."""
    some = frame[[name for name in frame.columns if name.startswith(METRIC)]].notna().any()
    return [name.removeprefix(METRIC) for name in some.index[some]]


def row_of(record: Record) -> dict[str, Any]:
    """A record as a row: plain JSON values, of which the index is made. `metrics` and `path` become columns later."""
    checkpoint = record.checkpoint
    random = checkpoint["format"] == "random"
    identity = checkpoint["arch"] if random else f"{checkpoint['sha256']} {checkpoint['branch']} {checkpoint['arch']}"
    test = next((record.data[split] for split in _FINISHED_SPLITS if split in record.data), {"name": "", "sha256": ""})
    return {
        "id": record.run_id,
        "task": record.task,
        "task_version": record.task_version,
        "engine": record.engine,
        "label": checkpoint["label"],
        "arch": checkpoint["arch"],
        "identity": f"random {identity}" if random else identity,
        "sha256": checkpoint["sha256"],
        "branch": checkpoint["branch"],
        "format": checkpoint["format"],
        "checkpoint": checkpoint["path"],
        "baseline": baseline(checkpoint["label"], checkpoint["format"]),
        "seed": record.seed,
        "status": record.status,
        "reason": _reason(record),
        "purpose": _purpose(record.recipe),
        "protocol": record.protocol,
        "preset": _preset(record.command),
        "recipe": content_hash(record.recipe),
        "authors_own": record.authors_own,
        "differences": [[item["what"], item["protocol"], item["run"]] for item in record.differences],
        "primary": record.primary_metric,
        "metrics": record.metrics,
        "data": record.data,
        "data_id": content_hash(record.data),
        "test": str(test["name"]),
        "test_sha256": str(test["sha256"]),
        "conditions": record.conditions,
        "proven": _proven(record.verification),
        "verification": record.verification,
        "commit": record.git_commit,
        "dirty": record.git_dirty,
        "versions": record.versions,
        "device": record.device,
        "command": record.command,
        "notes": record.notes,
        "seconds": record.seconds,
        "utc": record.utc,
    }


def baseline(label: str, form: str = "") -> str:
    """What a checkpoint gives the scale of: "random", "supervised", or "" for one that competes.

    By the file's format where the weights are random; else by its name in tables, if that is "random", "scratch" or
    "supervised", alone or before a colon, comma or bracket. "Supervised contrastive" competes.
    """
    found = re.fullmatch(r"(random|scratch|supervised)(\s*[:,(].*)?", label.strip().casefold(), re.DOTALL)
    if form == "random":
        return "random"
    return "" if found is None else "supervised" if found[1] == "supervised" else "random"


def _reason(record: Record) -> str:
    if not record.failure:
        return ""
    lines = record.failure["message"].strip().splitlines()
    return f"{record.failure['kind']}: {lines[0]}" if lines else record.failure["kind"]


def _purpose(recipe: Mapping[str, Any]) -> str:
    """Whether the run was made to compare checkpoints, or to see that a training works."""
    values = dict(leaves(recipe))
    if any(name.rpartition(".")[2] == "overfit" and value for name, value in values.items()):
        return "overfitting"
    detector = values.get("detector.iterations", values.get("iterations"))
    return "0 iterations" if detector == 0 else ""


def _preset(command: str) -> str:
    """The value of --preset in a command line; the last one counts, as with the parser."""
    try:
        words = shlex.split(command)
    except ValueError:  # an unclosed quote: not a shell's command line
        words = command.split()
    found = ""
    for word, after in zip(words, [*words[1:], ""], strict=True):
        if word == "--preset":
            found = after
        elif word.startswith("--preset="):
            found = word.partition("=")[2]
    return found


def _proven(verification: Mapping[str, Any]) -> bool:
    """As many tensors compared as the checkpoint has, and at least one forward pass beside them."""
    expected = verification.get("expected")
    return (
        isinstance(expected, int)
        and expected > 0
        and verification.get("tensors") == expected
        and bool(verification.get("stage_error"))
    )


def _once(columns: Mapping[str, list[Any]]) -> tuple[list[int], list[Problem]]:
    """Places of the rows to show, one for each run id; what two records of one run contradict each other in."""
    best: dict[str, int] = {}
    problems: list[Problem] = []

    def worth(place: int) -> tuple[bool, str, str]:
        return columns["status"][place] == "finished", columns["utc"][place], columns["path"][place]

    for place, run in enumerate(columns.get("id", ())):
        other = best.setdefault(run, place)
        if other != place:
            shown, hidden = sorted((place, other), key=worth, reverse=True)
            best[run] = shown
            problems += _conflict(
                *({name: values[each] for name, values in columns.items()} for each in (shown, hidden))
            )
    return list(best.values()), problems


def _conflict(shown: Mapping[str, Any], hidden: Mapping[str, Any]) -> list[Problem]:
    """Two finished records of one run that hold other numbers."""
    ours, theirs = shown["metrics"], hidden["metrics"]
    if hidden["status"] != "finished" or ours == theirs:
        return []
    first, *more = [name for name in sorted(ours.keys() | theirs.keys()) if ours.get(name) != theirs.get(name)]
    values = " and ".join(_number(each.get(first)) for each in (ours, theirs))
    others = f", {len(more)} more" if more else ""
    return [
        Problem(
            "conflict",
            hidden["path"],
            f"two records of run {shown['id']} ({shown['task']}, {shown['label']}, seed {shown['seed']}) hold other "
            f"numbers\n  found: {first} {values}{others}\n         {shown['path']} ({shown['utc']}), which is shown\n"
            f"         {hidden['path']} ({hidden['utc']})\n"
            "  to do: remove the one that is not to count; `python -m results explain` says how each was made",
        )
    ]


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _frame(columns: Mapping[str, list[Any]], chosen: Sequence[int]) -> pd.DataFrame:
    def of(name: str) -> list[Any]:
        values = columns.get(name, [])
        return [values[place] for place in order]

    order = list(chosen)
    keys = list(zip(*(of(name) for name in ("task", "label", "engine", "seed", "id")), strict=True))
    order = [order[place] for place in sorted(range(len(order)), key=keys.__getitem__)]
    metrics = of("metrics")
    made: dict[str, Any] = {}
    for name, (dtype, _) in COLUMNS.items():
        if name == "value":
            values = zip(metrics, made["primary"], strict=True)
            made[name] = np.array([found.get(primary, np.nan) for found, primary in values], dtype=np.float64)
        elif name == "utc":
            made[name] = pd.to_datetime(pd.Series(of(name), dtype="str"), utc=True, errors="coerce").astype(dtype)
        elif name == "differences":
            made[name] = _objects(_shared(of(name), lambda value: tuple(map(tuple, value))))
        elif name == "notes":
            made[name] = _objects(_shared(of(name), tuple))
        else:
            made[name] = _objects(of(name)) if dtype == "object" else pd.Series(of(name), dtype=dtype)
    numbers: dict[str, Any] = {}
    for place, found in enumerate(metrics):
        for name, value in found.items():
            if name not in numbers:
                numbers[name] = np.full(len(order), np.nan)
            numbers[name][place] = value
    return pd.DataFrame(made | {METRIC + name: values for name, values in numbers.items()})


def _shared(values: Sequence[Any], convert: Callable[[Any], Any]) -> list[Any]:
    """`convert` of each; of one and the same object only once."""
    known: dict[int, Any] = {}
    return [known[id(value)] if id(value) in known else known.setdefault(id(value), convert(value)) for value in values]


def _objects(values: Sequence[Any]) -> pd.Series:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return pd.Series(array, dtype=object)


def _cautions(frame: pd.DataFrame) -> list[Problem]:
    """What is in the frame and looks wrong."""
    return [*_future(frame), *_fractions(frame), *_cases(frame)]


def _future(frame: pd.DataFrame) -> Iterator[Problem]:
    now = pd.Timestamp(datetime.now(UTC)) + pd.Timedelta(days=1)  # no clock of a time zone is further off
    for row in frame[frame["utc"] > now].itertuples():
        yield Problem(
            "caution",
            row.path,
            f"{row.path} says that its run ended in the future, {row.utc:%Y-%m-%d %H:%M} UTC: "
            "the clock of its machine was wrong, and of two records of that run this one counts as the later",
        )


def _fractions(frame: pd.DataFrame) -> Iterator[Problem]:
    """Runs whose numbers all lie in (0, 1], beside others of their task that are many times as large."""
    largest = frame[[name for name in frame.columns if name.startswith(METRIC)]].max(axis=1)
    small = (largest <= 1.0) & (largest > 0.0) & (frame["purpose"] == "")
    for task, runs in frame[small].groupby("task"):
        others = frame["value"][(frame["task"] == task) & (largest > 1.0)]
        if len(others) and others.median() > 10.0:
            row = runs.iloc[0]
            more = f" and {len(runs) - 1} more" if len(runs) > 1 else ""
            yield Problem(
                "caution",
                row["path"],
                f"{row['path']}{more} look like fractions, and records hold percent\n"
                f"  found: {row['primary']} {row['value']:.3g}, where other runs of {task} have {others.median():.1f}\n"
                "  to do: if it is a fraction, remove the record and repeat the run",
            )


def _cases(frame: pd.DataFrame) -> Iterator[Problem]:
    spelled: dict[str, set[str]] = {}
    for label in frame["label"].unique():
        spelled.setdefault(label.casefold(), set()).add(label)
    for labels in spelled.values():
        if len(labels) > 1:
            names = " and ".join(sorted(labels))
            first = frame[frame["label"].isin(labels)].iloc[0]
            yield Problem(
                "caution",
                first["path"],
                f"{names} differ only in their letters' case, and are different rows\n"
                "  to do: if they are one checkpoint, run the task again with one --labels; finished runs are found",
            )
