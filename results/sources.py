"""What the report shows beside numbers, from files that are still there: curves, health of pretrainings, pictures."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from results.export import shortened
from results.model import Block, Row
from results.panels import curves, scatter
from results.words import ENGINES
from transfer.runtime import curve
from transfer.runtime.errors import UserError

SHEET = "contact_sheet.png"  # of a detection run, in its work folder
SHEETS = 12  # pictures on a page
WIDE = 1100  # pixels of a picture

# Signs of life of a pretraining → (title, logarithmic, level below which its monitor warns). The levels are those of
# pretrain.health, which imports torch.
HEALTH: Mapping[str, tuple[str, bool, float | None]] = {
    "effective_rank": ("Effective rank of the embeddings", True, 2.0),
    "std": ("Spread; 1 is uniform on the sphere", False, 0.1),
    "uniformity": ("Uniformity; lower is more even", False, None),
    "alignment": ("Distance of two views; lower is closer", False, None),
}


@dataclass
class Gathered:
    """Panels and pictures for the template, and one message for each file that could not be read."""

    curves: list[dict[str, Any]] = field(default_factory=list)
    health: list[dict[str, Any]] = field(default_factory=list)
    ablations: list[dict[str, Any]] = field(default_factory=list)
    sheets: list[dict[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def gather(
    blocks: Sequence[Block], work: Path | None, pretraining: Sequence[Path], records: Sequence[Path], pictures: bool
) -> Gathered:
    """Read what there is; see `results.report.write`.

    Args:
        records: folders of records, whose `pretrain/*.csv` are rows of ablations and whose *contact_sheet* pictures.

    Raises:
        UserError: a folder of `pretraining` holds no curve.
    """
    found = Gathered()
    if work is not None:
        for block in blocks:
            for title, rows in _tasks(block):
                found.curves += _of_task(title, rows, work, found.problems)
    series = dict(_pretrainings(pretraining, found.problems))
    for name, (title, log, floor) in HEALTH.items():
        points = {run: _points(rows, name, above=0.0 if log else -math.inf) for run, rows in series.items()}
        if points := {run: each for run, each in points.items() if each}:
            found.health.append(curves(title, points, log, floor))
    for folder in records:
        found.ablations += _ablations(folder, found.problems)
    if pictures:
        found.sheets += _sheets(blocks, work, records, found.problems)
    return found


def _tasks(block: Block) -> Iterator[tuple[str, list[tuple[Row, str, str, str]]]]:
    """Tasks of a block: title → (row, task, metric, run id of the lowest finished seed)."""
    for place, head in enumerate(block.columns):
        if head.first and not any(
            same.task == head.task and same.data_id == head.data_id for same in block.columns[:place]
        ):
            rows = []
            for row in block.of("competitor", "baseline"):
                runs = [run for _, value, run in row.cells[place].runs if value is not None]
                rows += [(row, head.task, head.metric, runs[0])] if runs else []
            words = (block.title.partition(":")[0], head.group, ENGINES.get(block.engine, block.engine))
            yield ", ".join(word for word in words if word), rows


def _of_task(
    title: str, rows: Sequence[tuple[Row, str, str, str]], work: Path, problems: list[str]
) -> Iterator[dict[str, Any]]:
    """The loss of the training, and the task's metric during it where it was evaluated on the way."""
    loss: dict[str, list[tuple[float, float]]] = {}
    scores: dict[str, list[tuple[float, float]]] = {}
    for row, task, metric, run in rows:
        folder = work / task / run
        path = folder / curve.FILE
        path = path if path.is_file() else folder / "final" / curve.FILE  # of the last training of a search
        lines = _read(path, problems)
        if points := _points(lines, "loss"):
            loss[row.name] = points
        if points := _points(lines, f"test/{metric}") or _points(lines, metric):
            scores[row.name] = points
    if loss:
        yield curves(f"Training loss: {title}", loss)
    if any(len(points) > 1 for points in scores.values()):
        yield curves(f"{rows[0][2]} during training: {title}", scores)


def _points(rows: Sequence[Mapping[str, Any]], name: str, above: float = -math.inf) -> list[tuple[float, float]]:
    """(step, value) of the lines that have a finite number of that name, above a bound."""
    found = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), (int, float))]
    return [(step, value) for step, value in found if math.isfinite(value) and value > above]


def _read(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    try:
        return curve.read(path)
    except UserError as error:  # one bad curve must not cost the report
        problems.append(str(error))
        return []


def _pretrainings(folders: Sequence[Path], problems: list[str]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for folder in folders:
        paths = sorted(folder.rglob(curve.FILE))
        if not paths:
            raise UserError(f"no {curve.FILE} in {folder}", todo="give --pretraining the --out folder of a pretraining")
        for path in paths:
            yield (
                (path.parent.name if path.parent == folder else str(path.parent.relative_to(folder))),
                _read(path, problems),
            )


def _ablations(folder: Path, problems: list[str]) -> Iterator[dict[str, Any]]:
    """kNN accuracy over effective rank, a point a pretraining."""
    for path in sorted((folder / "pretrain").glob("*.csv")):
        try:
            rows = pd.read_csv(path)
        except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
            problems.append(f"{path} is not a table of an ablation\n  found: {error}")
            continue
        if not {"effective_rank", "knn", "views", "name"} <= set(rows.columns):
            continue
        known = rows[rows["effective_rank"].gt(0) & rows["knn"].notna()].sort_values("views")
        points = [
            (
                row.effective_rank,
                row.knn,
                f"{row.views} views",
                f"{row.name_}: rank {row.effective_rank:.1f}, kNN {row.knn:.1f}",
            )
            for row in known.rename(columns={"name": "name_"}).itertuples()
        ]
        if points:
            title = f"{path.stem}: {len(points)} pretrainings of an ablation"
            untrained = rows.loc[rows["method"] == "random", "knn"] if "method" in rows else rows["knn"][:0]
            level = (float(untrained.mean()), f"random weights {untrained.mean():.1f}") if len(untrained) else None
            yield scatter(title, points, "effective rank", "kNN accuracy, %", level)


def _sheets(
    blocks: Sequence[Block], work: Path | None, records: Sequence[Path], problems: list[str]
) -> Iterator[dict[str, str]]:
    """Contact sheets of the rows' lowest seeds, then those that lie beside the records; `SHEETS` at most."""
    paths: dict[Path, str] = {}
    for block in blocks if work is not None else ():
        for title, rows in _tasks(block):
            paths |= {work / task / run / SHEET: f"{row.name}, {title}" for row, task, _, run in rows}  # type: ignore[operator]
    paths |= {
        path: path.stem.replace("_", " ") for folder in records for path in sorted(folder.glob("*contact_sheet.*"))
    }
    shown = {path: text for path, text in paths.items() if path.is_file()}
    for path, text in list(shown.items())[:SHEETS]:
        try:
            yield {"text": shortened(text), "source": _smaller(path)}
        except (OSError, SyntaxError) as error:  # Pillow's, of a file that is cut short or no picture
            problems.append(f"{path} is not a picture\n  found: {error}")


def _smaller(path: Path) -> str:
    """The picture as a data URI: JPEG, `WIDE` pixels wide at most."""
    from PIL import Image

    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((WIDE, 10 * WIDE))
    written = io.BytesIO()
    picture.save(written, "JPEG", quality=72, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(written.getvalue()).decode()
