"""Published numbers, one value a row, each with the table it was read in. Never mixed with measured ones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from io import StringIO
from pathlib import Path

import pandas as pd

from transfer.runtime.errors import UserError

FOLDER = Path(__file__).resolve().parent / "reference"
COLUMNS = ("method", "epochs", "task", "metric", "value", "protocol", "source")


@cache
def load(folder: Path = FOLDER) -> pd.DataFrame:
    """All files as one frame of text: `COLUMNS` and `file`. Values are as printed; lines without one are left out.

    Raises:
        UserError: other columns, a value that is no percentage, a row without its source, or a value given twice.
    """
    frames = [_read(file) for file in sorted(folder.glob("*.csv"))]
    return pd.concat(frames, ignore_index=True)


def rows_of(columns: Sequence[tuple[str, str]]) -> list[tuple[str, list[str], str]]:
    """Published rows of a table.

    Args:
        columns: (task, metric) of each.

    Returns:
        (method, value of each column as printed or "", source), one for each file, method and length of pretraining. A
        row that only repeats what an earlier one of the same method says is left out.
    """
    frame = load()
    wanted = frame[[pair in set(columns) for pair in zip(frame["task"], frame["metric"], strict=True)]]
    found: list[tuple[str, list[str], str]] = []
    for (_, method, epochs), lines in wanted.groupby(["file", "method", "epochs"], sort=False):
        several = wanted.loc[(wanted["method"] == method) & (wanted["file"] == lines["file"].iloc[0]), "epochs"]
        values = {(line.task, line.metric): line.value for line in lines.itertuples()}
        shown = [values.get(column, "") for column in columns]
        name = f"{method}, {epochs} epochs" if several.nunique() > 1 and epochs else method
        if not any(name == other and _repeats(shown, theirs) for other, theirs, _ in found):
            found.append((name, shown, "; ".join(dict.fromkeys(lines["source"]))))
    return found


def _repeats(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    return all(not mine or mine == other for mine, other in zip(ours, theirs, strict=True))


def _read(file: Path) -> pd.DataFrame:
    try:
        text = [line for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if line[:1] != "#"]
        frame = pd.read_csv(StringIO("".join(text)), dtype="str", keep_default_na=False)
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise _fault(file, str(error)) from error
    if tuple(frame.columns) != COLUMNS:
        raise _fault(file, f"columns {', '.join(frame.columns)} instead of {', '.join(COLUMNS)}")
    frame = frame[frame["value"] != ""].assign(file=file.name)
    numbers = pd.to_numeric(frame["value"], errors="coerce")
    if not numbers.between(0, 100).all():
        raise _fault(file, f"value {frame['value'][~numbers.between(0, 100)].iloc[0]!r}, not a percentage")
    for name in ("method", "task", "metric", "source"):
        if (frame[name].str.strip() == "").any():
            raise _fault(file, f"a value has no {name}")
    twice = frame.duplicated(["method", "epochs", "task", "metric"])
    if twice.any():
        row = frame[twice].iloc[0]
        raise _fault(file, f"{row['method']} stands there twice for {row['metric']} of {row['task']}")
    return frame


def _fault(file: Path, found: str) -> UserError:
    return UserError(
        f"{file} is not a table of published numbers",
        found=found,
        todo="compare it with the README beside it, or take the file back from git",
    )
