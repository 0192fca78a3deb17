"""`bash finegrained/run.sh SET …` starts the task of a set; the scripts that each set once had say what to type now."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from transfer.cli import _script
from transfer.task import task_names

ROOT = Path(__file__).resolve().parents[2]
SETS = sorted({name.partition(".")[2].rpartition("_")[0] for name in task_names() if name.startswith("finegrained.")})
# Those that had a script of their own before there was one for all: their names must go on being answered.
ONCE = (
    *("aircraft", "birdsnap", "caltech101", "cars196", "cifar10", "cifar100", "cub200", "dtd", "flowers102"),
    *("food101", "inat18", "own", "pets", "sun397"),
)


def typed(line: str, python: str = "echo") -> subprocess.CompletedProcess[str]:
    """What a line says, typed in another folder; with `echo` for Python: the line that it would start."""
    environment = {**os.environ, "PYTHON": python, "TORCHRUN": ""}
    return subprocess.run(shlex.split(line), env=environment, cwd="/", capture_output=True, text=True, check=False)


@pytest.mark.parametrize("word", ["linear", "finetune"])
def test_set_and_word_name_the_task(word: str) -> None:
    script = ROOT / "finegrained/run.sh"
    assert typed(f"bash {script} pets {word} CKPT --seeds 1").stdout.split() == [
        *("-m", "transfer", "run", f"finegrained.pets_{word}", "CKPT", "--seeds", "1")
    ]
    assert _script(f"finegrained.inat18_{word}") == f"finegrained/run.sh inat18 {word} CKPT"


def test_without_a_word_it_is_the_linear_task() -> None:
    said = typed(f"bash {ROOT}/finegrained/run.sh inat18 CKPT").stdout.split()
    assert said == ["-m", "transfer", "run", "finegrained.inat18_linear", "CKPT"]


def test_help_lists_the_sets() -> None:
    said = typed(f"bash {ROOT}/finegrained/run.sh --help", sys.executable)
    assert said.returncode == 0
    usage, *rows = [line.split() for line in said.stdout.splitlines()]
    assert usage[:3] == ["usage:", "bash", "finegrained/run.sh"]
    assert sorted({name for name, *_ in rows}) == SETS
    assert {word for _, word, *_ in rows} == {"linear", "finetune"}


def test_without_a_set_it_says_how_and_fails() -> None:
    said = typed(f"bash {ROOT}/finegrained/run.sh")
    assert said.returncode == 2
    assert said.stdout.startswith("usage: bash finegrained/run.sh SET")


def test_a_set_that_there_is_not_is_refused() -> None:
    said = typed(f"bash {ROOT}/finegrained/run.sh pet finetune CKPT", sys.executable)
    assert said.returncode == 2
    assert "finegrained.pets_finetune" in said.stderr


@pytest.mark.parametrize("name", ONCE)
def test_an_old_script_answers_with_the_line_that_does_it_now(name: str) -> None:
    said = typed(f"bash {ROOT}/finegrained/run_{name}.sh finetune 'my checkpoint.pth' --labels a b")
    assert said.returncode == 2
    assert said.stdout == ""
    _, _, line = said.stderr.rstrip("\n").partition("type  ")
    assert "\n" not in line
    assert f"run.sh {name} finetune" in line
    assert typed(line).stdout == f"-m transfer run finegrained.{name}_finetune my checkpoint.pth --labels a b\n"
