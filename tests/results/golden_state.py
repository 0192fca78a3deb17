"""A fixed set of records in which every mark of a table occurs, and the tables of it as they are kept in `golden/`.

PYTHONPATH=.:tests/results python tests/results/golden_state.py     writes them anew; look at the difference
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
from sample_records import record

import results
from results import blocks, latex, render, tidy
from transfer.record import Record, write_record

GOLDEN = Path(__file__).with_name("golden")
OWN = [{"what": "data", "protocol": "ImageNet-1k", "run": "own images: pets"}]
CPU = [
    {"what": "data", "protocol": "VOC trainval07+12 → test2007", "run": "BCCD train → test"},
    {"what": "detector.neck", "protocol": "c4", "run": "fpn"},
    {"what": "detector.test_size", "protocol": "800", "run": "256"},
    {"what": "detector.iterations", "protocol": "24000", "run": "300"},
    {"what": "architecture", "protocol": "resnet50", "run": "resnet18"},
    {"what": "detector.lr", "protocol": "0.02", "run": "0.005"},
]
# Deviations of seeds 0, 1, 2 from a mean: one for each row, all of the size that rows of a benchmark have.
NOISE = [(0.1, -0.1, 0.02), (-0.05, 0.1, -0.06), (0.0, 0.08, -0.1), (0.12, -0.04, -0.07), (-0.1, 0.0, 0.11)]


def runs(label: str, row: int, means: dict[str, float], seeds: int = 3, **changes: Any) -> list[Record]:
    """Runs of one checkpoint on one task."""
    found = []
    for seed in range(seeds):
        metrics = {name: mean + NOISE[row][seed] for name, mean in means.items()}
        primary = next(iter(means))
        given = {"engine": "", "protocol": "vicreg", "primary_metric": primary, "metrics": metrics} | changes
        found.append(record(label, seed, 0.0, **given))
    return found


def imagenet() -> list[Record]:
    """As published: best, second, ties, holes, a row of another recipe, an unproven one, baselines, a single run."""
    linear = {"task": "transfer.imagenet_linear"}
    tenth = {"task": "transfer.imagenet_semi_10"}
    found = runs("MSBReg", 0, {"top1": 74.0, "top5": 91.9}, **linear) + runs("MSBReg", 0, {"top1": 69.0}, **tenth)
    found += runs("VICReg", 1, {"top1": 73.2, "top5": 91.1}, **linear) + runs("VICReg", 1, {"top1": 69.0}, **tenth)
    found += runs("Barlow & <i>Twins</i>", 2, {"top1": 72.1, "top5": 90.4}, **linear)
    found += runs("my_run", 3, {"top1": 71.0, "top5": 89.9}, verification={}, **linear)
    found += runs("שלום", 4, {"top1": 70.1, "top5": 89.0}, **linear) + runs("שלום", 4, {"top1": 61.0}, **tenth)
    changed = [{"what": "sgd.batch", "protocol": "256", "run": "64"}]
    found += runs("my_run", 1, {"top1": 74.9, "top5": 92.0}, recipe={"batch": 64}, differences=changed, **linear)
    found += runs("Supervised", 2, {"top1": 76.5, "top5": 93.0}, **linear)
    return found + runs("Supervised", 2, {"top1": 56.4}, seeds=1, **tenth)


def detection() -> list[Record]:
    """On own data, by two engines: failures of one seed and of all, several trainings, noise without decimals."""
    common = {"task": "detection.voc", "protocol": "moco", "primary_metric": "AP50", "differences": CPU}
    typed = {"command": "python -m transfer run detection.voc x.pth --preset cpu"}
    found = []
    for seed, (ours, theirs, drawn) in enumerate([(64.5, 62.0, 40.0), (67.1, None, 44.0), (65.6, 60.0, 38.0)]):
        for label, value in (("msbreg", ours), ("moco", theirs), ("random", drawn)):
            weights = {"checkpoint_sha256": f"{label}{seed}".encode().hex().ljust(64, "0")} if label == "msbreg" else {}
            kind = {"checkpoint_format": "random"} if label == "random" else {}
            found.append(record(label, seed, value, **common, **typed, **weights, **kind))
    found += [record("simclr", seed, None, **common, **typed) for seed in range(3)]
    found.append(record("msbreg", 0, 66.0, **(common | {"engine": "detectron2"}), **typed))
    return [*found, record("overfit", 0, 99.0, **common, recipe={"overfit": 8})]


def tables() -> blocks.Tables:
    """All of them, several trainings as one row."""
    with tempfile.TemporaryDirectory() as folder:
        for one in (*imagenet(), *detection()):
            write_record(one, Path(folder))
        return blocks.tables(results.load(folder), trainings=True)


def forms(found: blocks.Tables) -> dict[str, str]:
    """Name of a golden file → what it holds."""
    wide: pd.DataFrame = tidy.grid(found, "wide")
    return {
        "paper.txt": render.text(found),
        "narrow.txt": render.text(found, columns=52),
        "paper.md": render.markdown(found),
        "paper.tex": latex.latex(found),
        "paper.html": latex.html(found),
        "long.csv": tidy.long(found).to_csv(index=False),
        "wide.txt": tidy.show(wide, "text"),
    }


if __name__ == "__main__":
    for name, text in forms(tables()).items():
        (GOLDEN / name).write_text(text, encoding="utf-8")
