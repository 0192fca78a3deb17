"""Help, lists and tables come at once: they import no torch, no engine and no plotting library.

How long that takes is measured by `tests/benchmarks/bench_startup.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = [
    "torch",
    "torchvision",
    "timm",
    "sklearn",
    "scipy.stats",
    "matplotlib",
    "mmengine",
    "mmcv",
    "mmdet",
    "detectron2",
    "fvcore",
]

# Runs command lines one after the other in one process and says after each what it has imported.
PROGRAM = """
import contextlib, io, json, runpy, sys
commands, heavy = json.loads(sys.argv[1]), set(json.loads(sys.argv[2]))
found = []
for words in commands:
    package, *sys.argv[1:] = words
    said, status = io.StringIO(), 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            runpy.run_module(package, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            status = end.code or 0
    loaded = sorted(heavy & set(sys.modules))
    found.append([" ".join(words), status, loaded, said.getvalue()[-300:]])
    if loaded or status:
        break
print(json.dumps(found))
"""


def run(commands: list[list[str]]) -> list[tuple[str, int, list[str], str]]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, json.dumps(commands), json.dumps(HEAVY)],
        cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=True,
    )  # fmt: skip
    found: list[tuple[str, int, list[str], str]] = [tuple(each) for each in json.loads(done.stdout)]
    return found


def assert_light(commands: list[list[str]]) -> None:
    found = run(commands)
    assert [(status, loaded) for _, status, loaded, _ in found] == [(0, [])] * len(commands), found[-1]


VERBS = ["inspect", "convert", "formats", "tasks", "data", "recipe", "cache", "reproduce", "score", "doctor", "toy"]


def test_help_of_every_verb_and_the_list_of_tasks() -> None:
    assert_light([["transfer", "--help"], *(["transfer", verb, "--help"] for verb in VERBS), ["transfer", "tasks"]])


def test_help_of_running_each_kind_of_task() -> None:
    tasks = (
        "detection.voc",
        "segmentation.coco_fpn",
        "transfer.knn",
        "transfer.imagenet_linear",
        "finegrained.pets_linear",
    )
    assert_light([["transfer", "run", task, "--help"] for task in tasks])


def test_protocols_of_a_task() -> None:
    assert_light([["transfer", "recipe", "detection.voc"], ["transfer", "recipe", "transfer.voc07_svm"]])


REST = ("compare", "rank", "explain", "plot", "curves", "export")


@pytest.mark.parametrize("verb", ["table", "report", *(pytest.param(verb, marks=pytest.mark.slow) for verb in REST)])
def test_help_of_results(verb: str) -> None:
    assert_light([["results", verb, "--help"]])


def test_a_table() -> None:
    assert_light([["results", "table", "--records", "results/records"]])


def test_help_of_pretraining() -> None:
    assert_light([["pretrain", "--help"], ["pretrain", "--method", "swav", "--help"], ["pretrain", "ablate", "--help"]])


def test_the_check_sees_an_import() -> None:
    (found,) = run([["timeit", "-n", "1", "-r", "1", "import matplotlib"]])
    assert found[2] == ["matplotlib"]
