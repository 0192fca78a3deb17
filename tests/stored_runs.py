"""Runs of seconds whose numbers are stored to every digit, so that a change of numbers is noticed where it is made.

    PYTHONPATH=. python tests/stored_runs.py [NAME …]

does them again and stores numbers under conditions (processor, instruction set, threads, versions) that have none yet.
It replaces a number in one case alone: the task's version was raised, which is the reason; then all entries of the
lower version go. `tests/test_stored_runs.py` compares.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
for folder in (
    "tests/transfer/classification",
    "tests/transfer/datasets",
    "tests/detection",
    "tests/detection/engines",
):
    sys.path.append(str(ROOT / folder))

import classification_runs  # noqa: E402
import coco_runs  # noqa: E402
import voc_runs  # noqa: E402

from transfer.__main__ import main  # noqa: E402
from transfer.datasets.toy import ToySizes, make_toy  # noqa: E402
from transfer.record import Record, read_record  # noqa: E402

STORED = Path(__file__).with_name("stored_runs.json")
# Of losses and sums of features made under other conditions; what follows from them (AP, choices) may move at will.
# Without vector instructions no loss here was further than 2e-4 from AVX2's, with AVX-512 one was 2e-3 away: a region
# proposal more or less among sixteen. A third step of fine-tuning was 8e-2 away.
TOLERANCE = 1e-2
SIZES = ToySizes(12, 4, 4, 12, 4, 8, 4, (96, 128), 48)


@dataclass(frozen=True)
class Short:
    """A run of seconds.

    Attributes:
        task: its name.
        options: (folder with the toy data, runs folder) → the rest of the command line.
    """

    task: str
    options: Callable[[Path, Path], list[str]]

    @property
    def engine(self) -> str:
        """What must be installed; "" if nothing."""
        given = self.options(Path("data"), Path("runs"))
        return given[given.index("--engine") + 1] if "--engine" in given else ""


def _voc(engine: str, data: Path, runs: Path) -> list[str]:
    return voc_runs.tiny(data / "voc", runs, "--engine", engine)


def _coco(engine: str, regions: bool, data: Path, runs: Path) -> list[str]:
    return coco_runs.tiny(data / "coco", runs, "--engine", engine, regions=regions)


def _images(*options: str, data: Path, runs: Path) -> list[str]:
    folder = ["--image-folder", str(data / "labelled"), "--device", "cpu"]
    return [*folder, *options, "--runs", str(runs)]


def _multilabel(*options: str, data: Path, runs: Path) -> list[str]:
    folder = ["--image-folder", str(data / "voc"), "--train", "train", *classification_runs.SMALL]
    return [*folder, "--pooling", "avg", "--device", "cpu", *options, "--runs", str(runs)]


def _classification(task: str, *options: str, several: bool = False) -> Short:
    made = _multilabel if several else _images
    return Short(task, lambda data, runs: made(*options, data=data, runs=runs))


ENGINES = ("mmdet", "detectron2")
SGD = [*classification_runs.TINY_SGD, "--sgd.epochs", "2"]
RUNS = {
    **{f"detection.voc {engine}": Short("detection.voc", partial(_voc, engine)) for engine in ENGINES},
    **{
        f"detection.coco_fcos {engine}": Short("detection.coco_fcos", partial(_coco, engine, False))
        for engine in ENGINES
    },
    **{
        f"segmentation.coco_fpn {engine}": Short("segmentation.coco_fpn", partial(_coco, engine, True))
        for engine in ENGINES
    },
    "transfer.knn": _classification("transfer.knn", *classification_runs.SMALL, "--ks", "3", "20"),
    "transfer.imagenet_linear crops": _classification(
        "transfer.imagenet_linear", *SGD, "--lrs", "0.1", "--holdout", "0.25"
    ),
    "transfer.imagenet_linear cached": _classification(
        "transfer.imagenet_linear", *SGD, "--form", "cached", "--lrs", "0.1", "--holdout", "0.25"
    ),
    "finegrained.own_linear": _classification(
        "finegrained.own_linear", *classification_runs.SMALL, "--holdout", "0.25", "--penalties", "0.1", "1"
    ),
    "finegrained.own_finetune": _classification(
        *("finegrained.own_finetune", "--sgd.crop", "32", "--sgd.resize", "32", "--sgd.batch", "8"),
        *("--sgd.steps", "2", "--lrs", "0.01", "--decays", "0", "--holdout", "0.25"),
    ),
    "transfer.voc07_svm": _classification("transfer.voc07_svm", "--costs", "0.1", "1", several=True),
}


def make_data(folder: Path) -> Path:
    """The toy sets, smaller, and coloured noise in `labelled`."""
    data = folder / "data"
    make_toy(data, seed=0, sizes=SIZES)
    classification_runs.write_images(data / "labelled")
    return data


def do(short: Short, data: Path, runs: Path, threads: int | None = None) -> Record:
    """Do the run in this process and give its record."""
    more = ["--threads", str(threads)] if threads else []
    assert main(["run", short.task, "random:resnet18", *short.options(data, runs), *more]) == 0
    (path,) = (runs / "records" / short.task).glob("*.json")
    return read_record(path)


def numbers(record: Record, runs: Path) -> dict[str, float]:
    """All that a run computed, in full precision: metrics, details, curves, sums over features and detections."""
    computed = {name: value for name, value in record.details.items() if name != "objects"}  # those are of the data
    found: dict[str, float] = {**record.metrics, **dict(_leaves("details", computed))}
    work = runs / "work" / record.task / record.run_id
    for path in sorted(work.rglob("metrics.jsonl")):
        for place, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
            losses = {name: value for name, value in json.loads(line).items() if "loss" in name}
            found |= dict(_leaves(f"curve/{path.parent.relative_to(work)}/{place}", losses))
    for meta in (runs / "features").glob("*/meta.json"):
        identity = json.loads(meta.read_text(encoding="utf-8"))["identity"]
        features = np.load(meta.with_name("features.npy")).astype(np.float64)
        name = f"features/{identity['images']['name']}/{identity['pooling']}"
        found |= {f"{name}/sum": float(features.sum()), f"{name}/squares": float((features**2).sum())}
    for path in work.glob("detections.json"):
        rows = json.loads(path.read_text(encoding="utf-8"))
        found["detections/scores"] = math.fsum(row["score"] for row in rows)
        found["detections/boxes"] = math.fsum(value for row in rows for value in row["bbox"])
    return dict(sorted(found.items()))


def _leaves(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """The numbers within plain containers, by their places."""
    if isinstance(value, (dict, list)):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(f"{name}/{key}", part)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield name, float(value)


def conditions_of(record: Record) -> dict[str, Any]:
    """What numbers are stored under: the record's conditions and the versions of what computes."""
    return record.conditions | {name: version for name, version in record.versions.items() if name != "python"}


def read_stored() -> dict[str, dict[str, Any]]:
    """Name of the run → {"version": of the task, "entries": [{"conditions": …, "numbers": …}, …]}."""
    stored: dict[str, dict[str, Any]] = json.loads(STORED.read_text(encoding="utf-8")) if STORED.exists() else {}
    return stored


def exactly(numbers: Mapping[str, float], expected: Mapping[str, float]) -> list[str]:
    """Each number that is not the stored one in every digit."""
    return [
        f"{name}: {expected.get(name, 'absent')} stored, {numbers.get(name, 'absent')} now"
        for name in sorted(numbers.keys() | expected.keys())
        if numbers.get(name) != expected.get(name)
    ]


def roughly(numbers: Mapping[str, float], expected: Mapping[str, float]) -> list[str]:
    """Each loss and sum of features that is further from the stored one than `TOLERANCE`."""
    early = [name for name in expected if name.startswith(("features/", "curve/"))]
    return [
        f"{name}: {expected[name]} stored, {numbers.get(name, 'absent')} now"
        for name in early
        if name not in numbers or not math.isclose(numbers[name], expected[name], rel_tol=TOLERANCE)
    ]


def store(name: str, record: Record, found: Mapping[str, float]) -> str:
    """Keep the numbers of a run; returns what was done, in words.

    Raises:
        SystemExit: other numbers are stored under these conditions and this version of the task.
    """
    stored, entry = read_stored(), {"conditions": conditions_of(record), "numbers": dict(found)}
    known = stored.setdefault(name, {"version": record.task_version, "entries": []})
    if known["version"] > record.task_version:
        raise SystemExit(
            f"{name}: numbers of version {known['version']} are stored, the task says {record.task_version}"
        )
    if raised := known["version"] < record.task_version:
        known.update(version=record.task_version, entries=[])
    same = [each["numbers"] for each in known["entries"] if each["conditions"] == entry["conditions"]]
    if same:
        if moved := exactly(found, same[0]):
            lines = "\n    ".join(moved)
            raise SystemExit(
                f"{name}: other numbers are stored under these very conditions:\n    {lines}\n"
                f"Either this is a fault, or the task {record.task} has to say so: raise its version (now "
                f"{record.task_version}; see `version` in the task's file), then type the same command again."
            )
        return f"{name}: unchanged"
    known["entries"].append(entry)
    text = json.dumps(dict(sorted(stored.items())), indent=1, sort_keys=True, ensure_ascii=False)
    STORED.write_text(text + "\n", encoding="utf-8")
    return f"{name}: " + (f"stored anew, as version {record.task_version}" if raised else "stored")


def renew(names: Sequence[str]) -> None:
    """Do the runs of these names, or all whose engine is installed, and keep their numbers."""
    from detection.engines.choose import load_engine

    with tempfile.TemporaryDirectory() as folder:
        data = make_data(Path(folder))
        for count, name in enumerate(names or RUNS):
            short = RUNS[name]
            if short.engine and (problem := load_engine(short.engine).missing()):
                print(f"{name}: left out, {problem}")
                continue
            runs = Path(folder) / f"runs{count}"
            record = do(short, data, runs)
            print(store(name, record, numbers(record, runs)), flush=True)


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    renew(sys.argv[1:])
