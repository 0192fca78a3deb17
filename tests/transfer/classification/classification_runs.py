"""Shared by the tests of whole classification runs: small labelled images, and how to start a task on them."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from transfer.__main__ import main
from transfer.record import Record, read_record

CLASSES = ("blue", "green", "red")
SMALL = ["--view.resize", "32", "--view.crop", "32"]
TINY_SGD = ["--sgd.crop", "32", "--sgd.resize", "32", "--sgd.batch", "8"]


def write_images(root: Path, train: int = 8, test: int = 4, seed: int = 0) -> Path:
    """Folders train and test of noisy pictures, each class with a colour of its own: root/<split>/<class>/<n>.png."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("test", test)):
        for channel, label in enumerate(CLASSES):
            folder = root / split / label
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels = rng.integers(0, 120, (40, 40, 3))
                pixels[..., 2 - channel] += 120
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return root


def write_csv(root: Path, levels: dict[str, str]) -> Path:
    """A CSV of the images at `root`, with the column `kind` above the label."""
    lines = ["path,label,kind,split"]
    for split in ("train", "test"):
        for file in sorted((root / split).rglob("*.png")):
            label = file.parent.name
            lines.append(f"{file.relative_to(root)},{label},{levels[label]},{split}")
    path = root / "list.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def run(task: str, *arguments: str, runs: Path, status: int = 0) -> list[Record]:
    """Run a task as the command line does, and give the records that are there afterwards, by seed."""
    assert main(["run", task, *arguments, "--runs", str(runs), "--device", "cpu"]) == status
    found = [read_record(path) for path in (runs / "records" / task).glob("*.json")]
    return sorted(found, key=lambda record: record.seed)


def details_of(record: Record) -> dict:
    """As a reader of the file gets them."""
    return json.loads(json.dumps(record.details))


# One run of each kind of protocol: task, fixture of its images, options.
TINY_SEMI = [*TINY_SGD, "--sgd.epochs", "1", "--sgd.processes", "1"]
TINY_TUNE = [*TINY_SGD, "--sgd.steps", "1"]
ONE_PAIR = ["--lrs", "0.01", "--decays", "0"]
ONE = [*TINY_SGD, "--sgd.epochs", "1", "--protocol", "vicreg"]  # one classifier, nothing held out
FROZEN = {
    "knn": ("transfer.knn", "images", [*SMALL, "--ks", "20"]),
    "svm": ("transfer.voc07_svm", "voc", ["--costs", "1"]),
    "low-shot": ("transfer.voc07_lowshot", "voc", ["--ks", "1", "8", "--draws", "1", "--costs", "1"]),
    "logistic": ("transfer.voc07_logistic", "voc", ["--penalties", "1"]),
    "linear, cached": (
        "transfer.imagenet_linear",
        "images",
        [*TINY_SGD, "--sgd.epochs", "1", "--form", "cached", *ONE],
    ),
    "linear, crops": ("transfer.imagenet_linear", "images", [*TINY_SGD, "--sgd.epochs", "1", *ONE]),
    "fine-grained linear": ("finegrained.own_linear", "images", [*SMALL, "--penalties", "1"]),
}
TUNED = {
    "semi": ("transfer.imagenet_semi_10", "images", TINY_SEMI),
    "fine-tuning": ("finegrained.own_finetune", "images", [*TINY_TUNE, *ONE_PAIR]),
    "a search of fine-tunings": (
        "finegrained.own_finetune",
        "images",
        [*TINY_TUNE, *ONE_PAIR, "--lrs", "0.1", "0.01", "--holdout", "0.25"],
    ),
}
