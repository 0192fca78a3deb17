"""One schema of curve: what each of the four writers leaves is drawn by `python -m results curves`; older files too."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from classification_runs import TINY_SGD, run, write_images

from detection.engines.progress import TrainingLog
from pretrain.curves import TimedCurve
from results.__main__ import main
from results.plots import read_curve
from transfer.runtime.curve import Curve, read
from transfer.runtime.errors import UserError


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished linear run on random crops, 3 batches long, and a finished fine-tuning of 2 steps."""
    folder = tmp_path_factory.mktemp("curves")
    one = ["--protocol", "vicreg"]  # one classifier, nothing held out
    images = ["--image-folder", str(write_images(folder / "images"))]
    run("transfer.imagenet_linear", "random:resnet18", *images, *TINY_SGD, "--sgd.epochs", "1", *one, runs=folder)
    tune = ["--sgd.steps", "2", "--lrs", "0.01", "--decays", "0"]
    run("finegrained.own_finetune", "random:resnet18", *images, *TINY_SGD, *tune, runs=folder)
    return folder


def drawn(runs: Path, monkeypatch: pytest.MonkeyPatch, task: str = "transfer.imagenet_linear") -> int:
    picture = runs / "curves.png"
    picture.unlink(missing_ok=True)
    command = ["curves", "--records", str(runs / "records"), "--work", str(runs / "work"), "--task", task]
    monkeypatch.setattr(sys, "argv", ["results", *command, "--out", str(picture)])
    status = main()
    assert picture.exists() == (status == 0)
    return status


def of_pretraining(path: Path) -> None:
    curves = TimedCurve(path, 0, 4, 2, images=8)
    curves.write(2, {"epoch": 0.5, "loss": 2.0, "lr": 0.1, "effective_rank": 3.0})
    curves.note(2, {"knn": 50.0})
    curves.write(4, {"epoch": 1.0, "loss": 1.0, "lr": 0.0, "effective_rank": 3.0})
    curves.close()


def of_an_engine(path: Path) -> None:
    log = TrainingLog(path, 0, 4, every=2)
    for iteration, loss in enumerate((3.0, 2.0, 1.5, 1.0)):
        log.step(iteration, 0.1, {"loss_cls": loss - 0.5, "loss_box": 0.5})
        if iteration == 1:
            log.evaluation(iteration, {"AP": 12.5})
    log.close()


def of_an_engine_long_ago(path: Path) -> None:
    """As the engines wrote it up to commit d9e98f9, taken from a run."""
    path.write_text(
        '{"iteration": 1, "lr": 0.1, "loss": 2.0, "loss_cls": 1.5, "seconds_per_iteration": 0.1}\n'
        '{"iteration": 1, "test/AP": 12.5}\n'
        '{"iteration": 3, "lr": 0.1, "loss": 1.0, "loss_cls": 0.5, "seconds_per_iteration": 0.1}\n',
        encoding="utf-8",
    )


@pytest.mark.parametrize("write", [of_pretraining, of_an_engine, of_an_engine_long_ago])
def test_the_curves_of_pretraining_and_engines_are_read(
    write: Callable[[Path], None], runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = (runs / "work" / "transfer.imagenet_linear").glob("*/metrics.jsonl")
    before = path.read_bytes()
    path.unlink()
    try:
        write(path)
        assert read_curve(path).to_dict("list") == {"step": [2, 4], "loss": [2.0, 1.0]}
        assert drawn(runs, monkeypatch) == 0
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize(
    ("task", "steps"), [("transfer.imagenet_linear", [3]), ("finegrained.own_finetune", [2])], ids=["linear", "tuned"]
)
def test_the_curves_of_sgd_are_read(
    task: str, steps: list[int], runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert drawn(runs, monkeypatch, task) == 0
    assert "not drawn" not in capsys.readouterr().err
    (path,) = (runs / "work" / task).rglob("metrics.jsonl")
    assert read_curve(path)["step"].tolist() == steps


def test_an_old_curve_of_an_engine_goes_on_in_the_new_schema(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    of_an_engine_long_ago(path)
    TrainingLog(path, 3, 5, every=1).step(3, 0.1, {"loss_cls": 0.75})
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in rows] == [2, 2, 4]
    assert not any("iteration" in row for row in rows)
    assert rows[0]["seconds"] == 0.1
    assert rows[2]["loss"] == 0.75


def test_a_line_that_is_none_is_named_and_a_cut_one_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo', encoding="utf-8")
    assert read(path) == [{"step": 1, "loss": 2.0}]
    path.write_text('{"step": 1, "loss": 2.0}\n{"loss": 1.0}\n', encoding="utf-8")
    with pytest.raises(UserError, match="line 2"):
        Curve(path, 1, 2, 1)


def test_every_process_knows_when_a_line_is_due_and_one_writes(tmp_path: Path) -> None:
    leader, other = Curve(tmp_path / "metrics.jsonl", 0, 5, 2), Curve(None, 0, 5, 2)
    assert [step for step in range(1, 6) if leader.due(step)] == [2, 4, 5]
    assert [step for step in range(1, 6) if other.due(step)] == [2, 4, 5]
    other.write(2, {"loss": torch.tensor(1.0).item()})
    assert read(tmp_path / "metrics.jsonl") == []
